package foreign_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"casemate/bundle"
	"casemate/bundle/foreign"
	"casemate/bundle/input"
)

// TestRefused reads inputs that are refused. Every error names the input and says what is wrong.
func TestRefused(t *testing.T) {
	docker := dockerArchive(map[string][]string{"nginx:1": {layer("a"), string(gz([]byte(layer("b"))))}})
	damaged := func(suffix string, change func(string) string) tree {
		out := docker.with(nil)
		for name, content := range out {
			if strings.HasSuffix(name, suffix) && (suffix != "layer.tar" || !strings.HasPrefix(content, "\x1f")) {
				out[name] = change(content)
			}
		}
		return out
	}
	flip := func(s string) string { return strings.Replace(s, "amd64", "amd46", 1) }
	one := newLayout()
	one.top(one.image("amd64", "x"), "io.containerd.image.name", "nginx:1")
	flipped := one.tree()
	for name, content := range flipped {
		if strings.HasPrefix(name, "blobs/") && !strings.HasPrefix(content, "{") {
			flipped[name] = strings.Replace(content, "content", "CONTENT", 1)
		}
	}
	otherManifest := one.tree()
	for name, content := range otherManifest {
		if strings.Contains(content, `"layers"`) {
			otherManifest[name] = strings.Replace(content, "image.layer", "IMAGE.layer", 1)
		}
	}
	nameless := newLayout()
	nameless.top(nameless.image("amd64", "x"), "org.opencontainers.image.ref.name", "3.10")
	gone := newLayout()
	gone.top(gone.image("amd64", "x"), "io.containerd.image.name", "nginx:1")
	gone.files = tree{"oci-layout": "{}"}
	both := newLayout()
	both.top(
		both.blob(
			ociIndex,
			`{"schemaVersion":2,"manifests":[],"config":{"digest":"sha256:`+strings.Repeat("0", 64)+`","size":1}}`,
		),
		"io.containerd.image.name",
		"nginx:1",
	)
	old := newLayout()
	old.top(old.blob(ociManifest, `{"schemaVersion":1}`), "io.containerd.image.name", "nginx:1")
	rotten := docker.with(nil)
	for name, content := range rotten {
		if strings.HasPrefix(content, "\x1f") {
			rotten[name] = string(gz([]byte(layer("c"))))
		}
	}

	for _, test := range []struct {
		what string
		in   bundle.Input
		want string // in the error
		is   error
	}{
		{"nothing of note", regular(t, tree{"a.txt": "a", "b/c.txt": "c"}.tar()),
			`has 2 files ("a.txt", "b/c.txt"), but no index.json of an OCI layout`, nil},
		{"the same, streamed", regular(t, gz(tree{"a.txt": "a", "b/c.txt": "c"}.tar())),
			`has 2 files ("a.txt", "b/c.txt"), but no index.json of an OCI layout`, nil},
		{"an empty tar", regular(t, tree{}.tar()), "contains no files; import takes", nil},
		{"an empty file", regular(t, nil), "is empty; import takes", nil},
		{"text", regular(t, []byte("hello")), "is no archive; import takes", nil},
		{"JSON", piped([]byte(`{"a":1}`)), "pipe is a JSON document; import takes", nil},
		{"zip", regular(t, []byte("PK\x03\x04....")), "is a zip archive", nil},
		{"xz", regular(t, []byte("\xfd7zXZ\x00....")), "decompress it first", nil},
		{"gzip of text", regular(t, gz([]byte("hello"))), "truncated", io.ErrUnexpectedEOF},
		{"gzip of long text", regular(t, gz(bytes.Repeat([]byte("hello"), 1000))), "damaged", tar.ErrHeader},
		{"gzip cut off", regular(t, gz(docker.tar())[:600]), "one of several parts", io.ErrUnexpectedEOF},
		{"tar cut off", regular(t, docker.tar()[:2000]), "one of several parts", io.ErrUnexpectedEOF},
		{"two tars in one", regular(t, append(docker.tar(), docker.tar()...)), "there is data after the end of " +
			"the tar", nil},
		{"a tree cut off between files", regular(t, cutTree()), "no end marker after 1 files", io.ErrUnexpectedEOF},
		{"a tree cut off between files, streamed", piped(cutTree()), "no end marker after 1 files",
			io.ErrUnexpectedEOF},
		{"a changed plain layer", regular(t, damaged("layer.tar", func(s string) string {
			return s[:512] + "!" +
				s[513:]
		}).tar()), "layer.tar: it is damaged", syscall.EBADMSG},
		{"a changed plain layer, streamed", regular(t, gz(damaged("layer.tar", func(s string) string {
			return s[:512] +
				"!" + s[513:]
		}).tar())), "layer.tar should have sha256:", syscall.EBADMSG},
		{"another compressed layer", regular(t, rotten.tar()), "and should have sha256:", syscall.EBADMSG},
		{"a changed config", regular(t, damaged(".json", flip).tar()), ".json does not have " +
			"its digest", syscall.EBADMSG},
		{"a layer missing", regular(t, withoutLayer(docker).tar()), "it is incomplete", fs.ErrNotExist},
		{"a layer missing, streamed", piped(withoutLayer(docker).tar()), "it is incomplete", fs.ErrNotExist},
		{"a changed blob of a layout", regular(t, flipped.tar()), "it is damaged", syscall.EBADMSG},
		{"a changed blob of a layout, streamed", piped(flipped.tar()), "it is damaged", syscall.EBADMSG},
		{"a changed manifest of a layout", regular(t, otherManifest.tar()), "does not have its digest", nil},
		{"a tag without a name", regular(t, nameless.tree().tar()), "--repository registry.k8s.io/pause", nil},
		{"a docker-archive without names", regular(t, dockerArchive(map[string][]string{"": {layer("a")}}).tar()),
			"(no RepoTags); name its repository with --repository", nil},
		{"a manifest missing", regular(t, gone.tree().tar()), "it is incomplete", fs.ErrNotExist},
		{"an index that is an image", regular(t, both.tree().tar()), "both an index and an image", nil},
		{"schema 1", regular(t, old.tree().tar()), "schema 1", nil},
		{"an index.json that is none", regular(t, tree{"oci-layout": "{}", "index.json": "[]"}.tar()),
			"index.json: json:", nil},
		{"an empty layout", regular(t, newLayout().tree().tar()), "no image", nil},
		{"a huge document", regular(t, tree{"oci-layout": "{}", "index.json": strings.Repeat(" ", 4<<20+1)}.tar()),
			"more than the 4194304", nil},
		{"a huge document, streamed", piped(tree{"oci-layout": "{}", "index.json": strings.Repeat(" ",
			4<<20+1)}.tar()), "", nil},
		{"more layers than the config", regular(t,
			tree{"manifest.json": `[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`, "c": "{}",
				"l": layer("x")}.tar()), "1 layers for c, its config has 0", nil},
		{"a layer outside", regular(t, tree{"manifest.json": `[{"Config":"../c","RepoTags":["a:1"],"Layers":["l"]}]`,
			"c": "{}"}.tar()), "it is incomplete", fs.ErrNotExist},
		{"a name that is none", regular(t, dockerArchive(map[string][]string{"UPPER CASE": {layer("a")}}).tar()),
			"not an image reference", nil},
		{"skopeo's dir:", bundle.Input{Name: "dir", FS: tree{"manifest.json": "{}", "version": "Directory Transport " +
			"Version: 1.1", "0000": "{}"}.mapFS()}, "no index.json of an OCI layout", nil},
		{"a link to itself", bundle.Input{Name: "dir", FS: tree{"index.json": "-> index.json",
			"oci-layout": "{}"}.mapFS()}, "no index.json", nil},
	} {
		t.Run(test.what, func(t *testing.T) {
			c, err := input.Read(t.Context(), []bundle.Input{test.in}, newMemorySink(t), bundle.ReadOptions{})
			if err == nil {
				t.Fatalf("read as %s:\n%s", c.Kind, shown(c))
			}
			if !strings.Contains(err.Error(), test.in.Name) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %q is not %v", err, test.is)
			}
		})
	}
}

// cutTree is a tar of two files that ends after the first, where a header should follow.
func cutTree() []byte {
	return tree{"dl.k8s.io/a": "a", "dl.k8s.io/b": "b"}.tar()[:1024]
}

func withoutLayer(files tree) tree {
	out := files.with(nil)
	for name := range out {
		if strings.HasSuffix(name, "layer.tar") {
			delete(out, name)
			return out
		}
	}
	return out
}

// TestHostilePaths reads a tar that leads outside in every way. What is inside is taken, the rest is left out and said.
func TestHostilePaths(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "dl.k8s.io/good", Typeflag: tar.TypeReg, Size: 1},
		{Name: "dl.k8s.io/../dl.k8s.io/./clean", Typeflag: tar.TypeReg, Size: 1},
		{Name: "dl.k8s.io/doubled", Typeflag: tar.TypeReg, Size: 1},
		{Name: "dl.k8s.io/doubled", Typeflag: tar.TypeReg, Size: 1},
		{Name: "../dl.k8s.io/up", Typeflag: tar.TypeReg, Size: 1},
		{Name: "/dl.k8s.io/absolute", Typeflag: tar.TypeReg, Size: 1},
		{Name: "dl.k8s.io/hard", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"},
		{Name: "dl.k8s.io/hard2", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"},
		{Name: "dl.k8s.io/soft", Typeflag: tar.TypeSymlink, Linkname: "../../etc/shadow"},
		{Name: "dl.k8s.io/cycle", Typeflag: tar.TypeSymlink, Linkname: "cycle2"},
		{Name: "dl.k8s.io/cycle2", Typeflag: tar.TypeSymlink, Linkname: "cycle"},
		{Name: "dl.k8s.io/dir/self", Typeflag: tar.TypeSymlink, Linkname: "."},
		{Name: "dl.k8s.io/fifo", Typeflag: tar.TypeFifo},
		{Name: "dl.k8s.io/disk", Typeflag: tar.TypeBlock, Devmajor: 8},
	} {
		must(w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := w.Write([]byte{h.Name[len(h.Name)-1]})
			must(err)
		}
	}
	must(w.Close())
	for way, in := range map[string]bundle.Input{"tar": regular(t, b.Bytes()), "pipe": piped(b.Bytes())} {
		c := read(t, newMemorySink(t), bundle.ReadOptions{}, in)
		if got, want := shown(c), "https://dl.k8s.io/clean\nhttps://dl.k8s.io/doubled\nhttps://"+
			"dl.k8s.io/good"; got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", way, got, want)
		}
		if notes := strings.Join(c.Notes, " "); !strings.Contains(
			notes,
			`"../dl.k8s.io/up" (its path leads outside)`,
		) ||
			!strings.Contains(notes, "and 4 more") {
			t.Errorf("%s: notes %q", way, c.Notes)
		}
	}
}

// TestLinksInDirectory follows links in a real directory only to targets inside.
func TestLinksInDirectory(t *testing.T) {
	top := t.TempDir()
	must(os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600))
	dir := filepath.Join(top, "tree")
	must(os.MkdirAll(filepath.Join(dir, "deb.example.org/debian/dists/bookworm/main"), 0o755))
	must(
		os.WriteFile(
			filepath.Join(dir, "deb.example.org/debian/dists/bookworm/main/Release"),
			[]byte("release"),
			0o644,
		),
	)
	for name, to := range map[string]string{
		"deb.example.org/debian/dists/stable":        "bookworm",
		"deb.example.org/debian/dists/newest":        "stable",
		"deb.example.org/debian/dists/bookworm/loop": ".",
		"deb.example.org/secret":                     "../../secret",
		"deb.example.org/absolute":                   filepath.Join(top, "secret"),
		"ftp.example.org":                            "deb.example.org",
	} {
		must(os.Symlink(to, filepath.Join(dir, name)))
	}
	root, err := os.OpenRoot(dir)
	must(err)
	defer root.Close()
	for _, dir := range []fs.FS{root.FS(), os.DirFS(dir)} {
		s := newMemorySink(t)
		c := read(t, s, bundle.ReadOptions{}, bundle.Input{Name: "dir", FS: dir})
		got := shown(c)
		for _, want := range []string{"deb.example.org/debian/dists/bookworm/main", "deb.example.org/debian/dists/" +
			"stable/main", "deb.example.org/debian/dists/newest/main",
			"ftp.example.org/debian/dists/bookworm/main"} {
			if !strings.Contains(got, "https://"+want+"/Release\n") {
				t.Errorf("no %s in\n%s", want, got)
			}
		}
		if !strings.Contains(got, "/bookworm/loop/main/Release") || strings.Contains(got, "loop/loop") {
			t.Errorf("the directory in itself is not there once, but\n%s", got)
		}
		if strings.Contains(got, "secret") || strings.Contains(got, "absolute") || len(c.Notes) != 1 {
			t.Errorf("got\n%s\nnotes %q", got, c.Notes)
		}
		if s.puts != 1 || s.whole != 1 {
			t.Errorf("%d puts, %d of the file itself; the file is one", s.puts, s.whole)
		}
	}
}

// TestSparse reads a tar with a sparse file, whose content is not contiguous in the tar.
func TestSparse(t *testing.T) {
	// archive/tar writes none, so this is GNU tar's format 1.0 by hand: a map of the data, then the data.
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	table := "1\n1024\n4\n"
	table += strings.Repeat("\x00", 512-len(table)) + "data"
	h := &tar.Header{
		Name:     "dl.k8s.io/GNUSparseFile.0/f",
		Typeflag: tar.TypeReg,
		Size:     int64(len(table)),
		Format:   tar.FormatPAX,
		PAXRecords: map[string]string{
			"XYZ.sparse.major":    "1",
			"XYZ.sparse.minor":    "0",
			"XYZ.sparse.name":     "dl.k8s.io/f",
			"XYZ.sparse.realsize": "2048",
		},
	}
	must(w.WriteHeader(h))
	_, err := io.WriteString(w, table)
	must(err)
	must(w.Close())
	s := newMemorySink(t)
	// The writer refuses the real keyword; its header has a checksum only around the record, not in it.
	c := read(
		t,
		s,
		bundle.ReadOptions{},
		regular(t, bytes.ReplaceAll(b.Bytes(), []byte("XYZ.sparse"), []byte("GNU.sparse"))),
	)
	want := strings.Repeat("\x00", 1024) + "data" + strings.Repeat("\x00", 1020)
	if got := shown(c); got != "https://dl.k8s.io/f" || string(s.blobs[c.Index.Files[0].Digest]) != want {
		t.Errorf("got %s with %q", got, s.blobs[c.Index.Files[0].Digest])
	}
}

func TestTwoMeanings(t *testing.T) {
	a, b := dockerArchive(
		map[string][]string{"nginx:1": {layer("a")}},
	), dockerArchive(
		map[string][]string{"docker.io/library/nginx:1": {layer("b")}},
	)
	first, second := regular(t, a.tar()), regular(t, b.tar())
	first.Name, second.Name = "a.tar", "b.tar"
	_, err := input.Read(t.Context(), []bundle.Input{first, second}, newMemorySink(t), bundle.ReadOptions{})
	if err == nil || !strings.Contains(err.Error(), "docker.io/library/nginx:1 is sha256:") ||
		!strings.Contains(err.Error(), "in a.tar and") ||
		!strings.Contains(err.Error(), "in b.tar;") {
		t.Errorf("images: %v", err)
	}
	_, err = input.Read(t.Context(), []bundle.Input{
		{Name: "x", FS: tree{"dl.k8s.io/a": "1"}.mapFS()}, {Name: "y", FS: tree{"wrap/DL.k8s.io/a": "2"}.mapFS()},
	}, newMemorySink(t), bundle.ReadOptions{})
	if err == nil || !strings.Contains(err.Error(), "https://dl.k8s.io/a is sha256:") ||
		!strings.Contains(err.Error(), "in x and") {
		t.Errorf("files: %v", err)
	}
	c := read(
		t,
		newMemorySink(t),
		bundle.ReadOptions{},
		regular(t, a.tar()),
		regular(t, gz(a.tar())),
		bundle.Input{Name: "x", FS: tree{"dl.k8s.io/a": "1"}.mapFS()},
	)
	if got := shown(c); got != "docker.io/library/nginx:1 [linux/amd64]\nhttps://dl.k8s.io/a" ||
		c.Kind != "docker-archive+tree" {
		t.Errorf("%s: %s", c.Kind, got)
	}
}

// TestSinkFails ends a reading at every put in turn with a full disk.
func TestSinkFails(t *testing.T) {
	files := haul()
	for way, give := range ways(t, files) {
		for n := int64(1); ; n++ {
			s := newMemorySink(t)
			s.limit = n
			_, err := input.Read(t.Context(), []bundle.Input{give()}, s, bundle.ReadOptions{})
			if err == nil {
				break
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%s: %d puts: %v", way, n, err)
			}
		}
	}
}

// TestTooMany checks the limits of data in memory.
func TestTooMany(t *testing.T) {
	if !foreign.Soak { // a million directories and 600 MiB of documents take seconds
		defer foreign.LowerLimits(10_000, 8<<20)()
	}
	for what, endless := range map[string]repeated{
		"directories": {tree{"dl.k8s.io/": ""}.tar()[:512]},
		"documents":   {tree{"index.json": strings.Repeat(" ", 4<<20)}.tar()[:512+4<<20]},
		"names":       {tree{strings.Repeat("x", 1<<16): ""}.tar()[:3*512+1<<16]},
	} {
		r := &countedReader{r: endless}
		_, err := input.Read(
			t.Context(),
			[]bundle.Input{{Name: "pipe", File: pipe{r, "pipe"}}},
			newMemorySink(t),
			bundle.ReadOptions{},
		)
		if err == nil || !strings.Contains(err.Error(), "several runs") || r.n > 600<<20 {
			t.Errorf("%s: after %d bytes: %v", what, r.n, err)
		}
	}
}

// repeated yields some bytes again and again.
type repeated struct{ b []byte }

type countedReader struct {
	r repeated
	n int
}

func (c *countedReader) Read(p []byte) (int, error) {
	n := copy(p, c.r.b[c.n%len(c.r.b):])
	c.n += n
	return n, nil
}
