package foreign_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"casemate/bundle"
	"casemate/bundle/input"
)

// FuzzRead reads arbitrary bytes, as a pipe and as a regular file. Both ways must agree where the pipe can be read at
// all; the regular file may know more.
func FuzzRead(f *testing.F) {
	l := newLayout()
	l.top(l.index(platformed(l.image("amd64", "a"), "amd64")), "io.containerd.image.name", "nginx:1")
	docker := dockerArchive(map[string][]string{"nginx:1": {layer("a"), string(gz([]byte(layer("b"))))}})
	kubespray := tree{
		"container-images/a.tar":                string(docker.tar()),
		"container-images/container-images.txt": "a.tar nginx:1\n",
	}
	for _, files := range []tree{l.tree(), docker, haul(), kubespray, {"offline-files/dl.k8s.io/a": "a",
		"offline-files/dl.k8s.io/b": "-> a", "x": "=> offline-files/dl.k8s.io/a"}} {
		f.Add(files.tar())
		f.Add(gz(files.tar()))
		f.Add(zst(files.tar()))
	}
	scratch, err := os.Create(f.TempDir() + "/input")
	must(err)
	f.Cleanup(func() { scratch.Close() })
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, scratch, b) })
}

// agree reads bytes as a pipe and as a file.
func agree(t *testing.T, scratch *os.File, b []byte) {
	opt := bundle.ReadOptions{Repository: "example.com/unnamed"}
	s := newMemorySink(t)
	c, err := input.Read(t.Context(), []bundle.Input{piped(b)}, s, opt)
	if err == nil {
		check(t, s, c)
	}
	must(scratch.Truncate(0))
	_, werr := scratch.WriteAt(b, 0)
	must(werr)
	s2 := newMemorySink(t)
	c2, err2 := input.Read(t.Context(), []bundle.Input{{Name: "input", File: scratch}}, s2, opt)
	if err2 == nil {
		check(t, s2, c2)
	}
	if err == nil && strings.Contains(strings.Join(c.Notes, " "), "a link to a file under no host's name") {
		return // a pipe cannot know that a file will be asked for by such a link
	}
	if err == nil && err2 != nil {
		t.Errorf("as a pipe it is\n%s\nas a file %v", shown(c), err2)
	} else if err == nil && c.ID != c2.ID {
		t.Errorf("as a pipe it is\n%s\nas a file\n%s", shown(c), shown(c2))
	}
}

// FuzzEntries reads tars of arbitrary files and links, one a line: "NAME|CONTENT", where "-> " and "=> " before the
// content make links of it, and "tar:" and "gz:" archives of one file.
func FuzzEntries(f *testing.F) {
	f.Add("dl.k8s.io/a|1\ndl.k8s.io/b|-> a\ndl.k8s.io/c|=> dl.k8s.io/a\nwrap/d|-> ../dl.k8s.io")
	f.Add("a/get.k3s.io/x/index.html?q=1%2|1\na/get.k3s.io/y|-> x\na/get.k3s.io/x/z|-> ../..")
	f.Add("index.json|{}\noci-layout|{}\nmanifest.json|[]")
	f.Add("images/a.tar|tar:manifest.json\nimages/b.tgz|gz:dl.k8s.io\nimages/container-images.txt|a.tar x:1")
	scratch, err := os.Create(f.TempDir() + "/input")
	must(err)
	f.Cleanup(func() { scratch.Close() })
	f.Fuzz(func(t *testing.T, script string) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for line := range strings.SplitSeq(script, "\n") {
			name, content, _ := strings.Cut(line, "|")
			h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}
			if to, ok := strings.CutPrefix(content, "-> "); ok {
				h.Typeflag, h.Linkname, content = tar.TypeSymlink, to, ""
			} else if to, ok := strings.CutPrefix(content, "=> "); ok {
				h.Typeflag, h.Linkname, content = tar.TypeLink, to, ""
			} else if inner, ok := strings.CutPrefix(content, "tar:"); ok && inner != "" && strings.Trim(inner,
				"abcdefghijklmnopqrstuvwxyz0123456789-.") == "" {
				content = string(tree{inner: "[]"}.tar())
			} else if inner, ok := strings.CutPrefix(content, "gz:"); ok && inner != "" && strings.Trim(inner,
				"abcdefghijklmnopqrstuvwxyz0123456789-.") == "" {
				content = string(gz(tree{inner + "/x": "x"}.tar()))
			}
			h.Size = int64(len(content))
			if w.WriteHeader(h) != nil {
				return // no such tar can be
			}
			_, err := io.WriteString(w, content)
			must(err)
		}
		must(w.Close())
		agree(t, scratch, b.Bytes())
	})
}

// FuzzLayoutDocuments reads a layout with arbitrary documents.
func FuzzLayoutDocuments(f *testing.F) {
	for _, files := range []tree{haul(), newLayout().tree()} {
		for name, content := range files {
			if strings.HasPrefix(content, "{") {
				f.Add(files["index.json"], content, name)
			}
		}
	}
	f.Add(
		`{"manifests":[{"digest":"MANIFEST","size":SIZE,"annotations":{"kind":"dev.hauler/sigs"}}]}`,
		`{"schemaVersion":2,"layers":[]}`,
		"[]",
	)
	f.Fuzz(func(t *testing.T, index, manifest, docker string) {
		files := tree{
			"oci-layout": "{}",
			"blobs/" + strings.Replace(digestOf([]byte(manifest)), ":", "/", 1): manifest,
			"manifest.json": docker,
		}
		files["index.json"] = strings.NewReplacer("MANIFEST", digestOf([]byte(manifest)), "SIZE",
			object(len(manifest))).
			Replace(index)
		s := newMemorySink(t)
		if c, err := input.Read(t.Context(), []bundle.Input{{Name: "dir", FS: files.mapFS()}}, s,
			bundle.ReadOptions{Repository: "example.com/unnamed:1"}); err == nil {
			check(t, s, c)
		}
	})
}

// FuzzDockerDocuments reads a docker-archive with arbitrary documents.
func FuzzDockerDocuments(f *testing.F) {
	l := layer("a")
	f.Add(`[{"Config":"config","RepoTags":["nginx:1"],"Layers":["layer.tar"]}]`, config(l), l)
	f.Add(
		`[{"Config":"config","Layers":["layer.tar","layer.tar"]},{"Config":"../x"}]`,
		config(l, l),
		string(gz([]byte(l))),
	)
	f.Fuzz(func(t *testing.T, manifest, config, layer string) {
		files := tree{"manifest.json": manifest, "config": config, "layer.tar": layer, "container-images.txt": manifest}
		s := newMemorySink(t)
		if c, err := input.Read(t.Context(), []bundle.Input{{Name: "pipe",
			File: pipe{io.Reader(bytes.NewReader(files.tar())), "pipe"}}}, s,
			bundle.ReadOptions{Repository: "example.com/unnamed:1"}); err == nil {
			check(t, s, c)
		}
	})
}
