package foreign_test

import (
	"archive/zip"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"casemate/bundle"
	"casemate/bundle/input"
)

const pythonIndex = "https://index.test/simple/"

// wheel returns a wheel with some metadata.
func wheel(t testing.TB, dist, name, more string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for file, content := range map[string]string{
		dist + ".dist-info/METADATA": "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n" + more + "\n",
		dist + ".dist-info/WHEEL":    "Wheel-Version: 1.0\n",
	} {
		f, err := w.Create(file)
		if err == nil {
			_, err = io.WriteString(f, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func sdist(dir, name, version string) string {
	return string(gz(tree{
		dir + "/README":   "text",
		dir + "/PKG-INFO": "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n\n",
	}.tar()))
}

func TestPythonPackages(t *testing.T) {
	files := tree{
		"tiny_x-1.0-py3-none-any.whl":    wheel(t, "tiny_x-1.0", "Tiny.X", "Requires-Python: >=3.8\n"),
		"python-dateutil-2.8.2.tar.gz":   sdist("python-dateutil-2.8.2", "python-dateutil", "2.8.2"),
		"deep/foo-1.0+cpu-py3-a-b.whl":   wheel(t, "foo-1.0+cpu", "foo", ""),
		"requirements.txt":               "tiny.x==1.0\n",
		"notes-1.0.tar.gz":               string(gz(tree{"notes/text": "no package"}.tar())),
		"deep/old-1.0-1.tar.gz":          sdist("old-1.0-1", "old", "1.0-1"),
		"deep/tiny_x-1.0-py2-none-a.whl": wheel(t, "tiny_x-1.0", "tiny-x", ""),
	}
	sameInAllWays(t, files, bundle.KindPython, strings.TrimSpace(`
https://index.test/simple/foo/foo-1.0+cpu-py3-a-b.whl
https://index.test/simple/foo/foo-1.0+cpu-py3-a-b.whl.metadata
https://index.test/simple/old/old-1.0-1.tar.gz
https://index.test/simple/old/old-1.0-1.tar.gz.metadata
https://index.test/simple/python-dateutil/python-dateutil-2.8.2.tar.gz
https://index.test/simple/python-dateutil/python-dateutil-2.8.2.tar.gz.metadata
https://index.test/simple/tiny-x/tiny_x-1.0-py2-none-a.whl
https://index.test/simple/tiny-x/tiny_x-1.0-py2-none-a.whl.metadata
https://index.test/simple/tiny-x/tiny_x-1.0-py3-none-any.whl
https://index.test/simple/tiny-x/tiny_x-1.0-py3-none-any.whl.metadata`), bundle.ReadOptions{PythonIndex: pythonIndex})

	t.Run("single files", func(t *testing.T) {
		for _, name := range []string{"tiny_x-1.0-py3-none-any.whl", "python-dateutil-2.8.2.tar.gz"} {
			in := regular(t, []byte(files[name]))
			in.Name = name
			c := read(t, newMemorySink(t), bundle.ReadOptions{PythonIndex: pythonIndex}, in)
			if c.Kind != bundle.KindPython || len(c.Index.Files) != 2 {
				t.Errorf("%s: %s %v", name, c.Kind, c.Index.Files)
			}
		}
	})
}

func TestPythonPackagesThatAreRefused(t *testing.T) {
	good := wheel(t, "foo-1.0", "foo", "")
	for _, c := range []struct{ name, content, why string }{
		{"foo-1.0-py3-none-any.whl", wheel(t, "bar-1.0", "bar", ""), "no metadata"},
		{"foo-1.0-py3-none-any.whl", wheel(t, "foo-1.0", "bar", ""), "another project"},
		{"foo-1.0-py3-none-any.whl", good[:len(good)-30], "truncated"},
		{"foo-1.0-py3-none-any.whl", "text", "no zip"},
		{"foo-1.0.whl", good, "not the name of a wheel"},
		{"foo-1.0-py3-none-<any>.whl", good, "tags"},
	} {
		err := readErr(t, bundle.ReadOptions{PythonIndex: pythonIndex},
			bundle.Input{Name: "dir", FS: tree{c.name: c.content}.mapFS()})
		if err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s: %v, want %s", c.name, err, c.why)
		}
	}
	err := readErr(t, bundle.ReadOptions{},
		bundle.Input{Name: "dir", FS: tree{"foo-1.0-py3-none-any.whl": good}.mapFS()})
	if err == nil || !strings.Contains(err.Error(), "--python-index") {
		t.Errorf("without an index: %v", err)
	}
	files := tree{"foo-1.0-py3-none-any.whl": good, "bad-1.0-py3-none-any.whl": "text"}
	c := read(t, newMemorySink(t), bundle.ReadOptions{PythonIndex: pythonIndex, Partial: true},
		bundle.Input{Name: "dir", FS: files.mapFS()})
	if len(c.Refused) != 1 || len(c.Index.Files) != 2 ||
		slices.ContainsFunc(c.Index.Files, func(f bundle.File) bool { return strings.Contains(f.URL, "bad") }) {
		t.Errorf("partial: %v %v", c.Refused, c.Index.Files)
	}
}

func readErr(t *testing.T, opt bundle.ReadOptions, in bundle.Input) error {
	_, err := input.Read(t.Context(), []bundle.Input{in}, newMemorySink(t), opt)
	return err
}
