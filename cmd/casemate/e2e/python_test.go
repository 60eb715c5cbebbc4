//go:build e2e

package e2e

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pythonIndex is the index that clients are configured for.
const pythonIndex = "https://wheels.k8s.io/simple/"

// makeWheel makes a wheel with one module whose version says which wheel it is of.
func makeWheel(t testing.TB, name, version, tag string, metadata ...string) (file string, content []byte) {
	t.Helper()
	dist := strings.NewReplacer("-", "_", ".", "_").Replace(name)
	info := dist + "-" + version + ".dist-info/"
	files := [][2]string{
		{strings.ToLower(dist) + ".py", fmt.Sprintf("version = %q\n", version)},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n" +
			strings.Join(append(metadata, ""), "\n") + "\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: " + tag + "\n"},
	}
	record := ""
	for _, f := range files {
		record += f[0] + ",,\n"
	}
	files = append(files, [2]string{info + "RECORD", record + info + "RECORD,,\n"})
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		part, err := w.Create(f[0])
		if err == nil {
			_, err = io.WriteString(part, f[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dist + "-" + version + "-" + tag + ".whl", b.Bytes()
}

// TestPythonAcrossTheGap imports a directory of wheels and installs them with Debian's pip from the original index by
// DNS and the system's trust, in both forms of the index, and from the bastions' own name.
func TestPythonAcrossTheGap(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	dir := t.TempDir()
	for _, w := range [][]string{
		{"Tiny.App", "1.0", "py3-none-any", "Requires-Dist: tiny-lib (>=2)", "Requires-Python: >=3.6"},
		{"Tiny.App", "2.0", "py3-none-any", "Requires-Dist: tiny-lib (>=2)", "Requires-Python: >=99"},
		{"tiny-lib", "2.1", "py3-none-any"},
	} {
		file, content := makeWheel(t, w[0], w[1], w[2], w[3:]...)
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.casemate(t, "import", dir, "--python-index", pythonIndex)

	pip := func(args ...string) []string {
		return append([]string{"env", "PIP_CONFIG_FILE=/dev/null", "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_RETRIES=0",
			"/usr/bin/python3", "-m", "pip"}, args...)
	}
	for _, index := range []string{pythonIndex, "https://packages.casemate.internal/simple/",
		"https://files.casemate.internal/wheels.k8s.io/simple/"} {
		t.Run(index, func(t *testing.T) {
			to := n.path("got/" + fmt.Sprintf("%x", sha256.Sum256([]byte(index)))[:8])
			n.must(t, pip("download", "--no-cache-dir", "--index-url", index, "-d", to, "tiny_app")...)
			for _, want := range []string{"Tiny_App-1.0-py3-none-any.whl", "tiny_lib-2.1-py3-none-any.whl"} {
				if _, err := os.Stat(filepath.Join(to, want)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	page := func(accept string) string {
		return n.must(t, "curl", "-sSf", "-H", "Accept: "+accept, pythonIndex+"tiny-app/")
	}
	if p := page("text/html"); !strings.Contains(p, `data-requires-python="&gt;=3.6"`) {
		t.Errorf("HTML: %s", p)
	}
	if p := page("application/vnd.pypi.simple.v1+json"); !strings.Contains(p, `"api-version":"1.1"`) {
		t.Errorf("JSON: %s", p)
	}

	t.Run("in a virtual environment", func(t *testing.T) {
		n.must(t, "/usr/bin/python3", "-m", "venv", n.path("venv"))
		python := n.path("venv/bin/python")
		n.must(t, "env", "PIP_CONFIG_FILE=/dev/null", "PIP_DISABLE_PIP_VERSION_CHECK=1",
			"PIP_CERT=/etc/ssl/certs/ca-certificates.crt", python, "-m", "pip", "install", "--no-cache-dir",
			"--index-url", pythonIndex, "Tiny-App")
		out := n.must(t, python, "-c", "import tiny_app, tiny_lib; print(tiny_app.version, tiny_lib.version)")
		if strings.TrimSpace(out) != "1.0 2.1" {
			t.Errorf("got %q", out)
		}
	})
	if out := b.casemate(t, "missing", "-o", "files"); strings.Contains(out, "http") {
		t.Errorf("the missing book should be empty:\n%s", out)
	}

	t.Run("a package that is not here", func(t *testing.T) {
		n.fails(t, "No matching distribution", pip("download", "--no-cache-dir", "--index-url", pythonIndex, "-d",
			n.path("none"), "Other.App")...)
		if out := b.casemate(t, "missing"); !strings.Contains(out, pythonIndex+"other-app/") {
			t.Errorf("the missing book should name it:\n%s", out)
		}
	})
}
