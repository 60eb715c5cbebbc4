package foreign_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"

	"casemate/bundle"
)

// tree is the files of a fixture by path. A value that begins with "-> " is a symbolic link, with "=> " a hard link.
type tree map[string]string

func (t tree) sorted() []string {
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// under puts everything into a directory.
func (t tree) under(dir string) tree {
	out := tree{}
	for name, content := range t {
		out[dir+"/"+name] = content
	}
	return out
}

func (t tree) with(more tree) tree {
	out := tree{}
	for name, content := range t {
		out[name] = content
	}
	for name, content := range more {
		out[name] = content
	}
	return out
}

// tar writes the files in the order of names, or sorted if there are none.
func (t tree) tar(names ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if names == nil {
		names = t.sorted()
	}
	for _, name := range names {
		content := t[name]
		h := &tar.Header{
			Name:     name,
			Mode:     0o644,
			Size:     int64(len(content)),
			Typeflag: tar.TypeReg,
			ModTime:  time.Unix(0, 0),
		}
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			h.Typeflag, h.Linkname, h.Size, content = tar.TypeSymlink, to, 0, ""
		} else if to, ok := strings.CutPrefix(content, "=> "); ok {
			h.Typeflag, h.Linkname, h.Size, content = tar.TypeLink, to, 0, ""
		} else if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		must(w.WriteHeader(h))
		_, err := io.WriteString(w, content)
		must(err)
	}
	must(w.Close())
	return b.Bytes()
}

func (t tree) mapFS() fstest.MapFS {
	out := fstest.MapFS{}
	for name, content := range t {
		f := &fstest.MapFile{Data: []byte(content), Mode: 0o644}
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			f.Data, f.Mode = []byte(to), fs.ModeSymlink|0o777
		}
		out[name] = f
	}
	return out
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	must(err)
	must(w.Close())
	return out.Bytes()
}

func zst(b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	must(err)
	return w.EncodeAll(b, nil)
}

// layer is a small layer: a tar with one file.
func layer(content string) string { return string(tree{"etc/content": content}.tar()) }

func config(layers ...string) string {
	var ids []string
	for _, l := range layers {
		if strings.HasPrefix(l, "\x1f\x8b") {
			z, err := gzip.NewReader(strings.NewReader(l))
			must(err)
			plain, err := io.ReadAll(z)
			must(err)
			l = string(plain)
		} else if strings.HasPrefix(l, "\x28\xb5") {
			z, err := zstd.NewReader(strings.NewReader(l))
			must(err)
			plain, err := io.ReadAll(z)
			must(err)
			l = string(plain)
		}
		ids = append(ids, digestOf([]byte(l)))
	}
	return object(
		map[string]any{
			"os":           "linux",
			"architecture": "amd64",
			"rootfs":       map[string]any{"type": "layers", "diff_ids": ids},
		},
	)
}

func object(v any) string {
	b, err := json.Marshal(v)
	must(err)
	return string(b)
}

func unmarshal(s string, v any) { must(json.Unmarshal([]byte(s), v)) }

func without(list []string, s string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(x string) bool { return x == s })
}

// layoutFixture makes OCI layouts.
type layoutFixture struct {
	files tree
	tops  []map[string]any
}

func newLayout() *layoutFixture {
	return &layoutFixture{files: tree{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}}
}

// blob adds a blob and returns its descriptor.
func (l *layoutFixture) blob(mediaType, content string) map[string]any {
	d := digestOf([]byte(content))
	l.files["blobs/"+strings.Replace(d, ":", "/", 1)] = content
	return map[string]any{"mediaType": mediaType, "digest": d, "size": len(content)}
}

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// image adds an image of one layer; arch makes it different.
func (l *layoutFixture) image(arch, content string) map[string]any {
	c := l.blob(ociConfig, object(map[string]any{"os": "linux", "architecture": arch}))
	return l.blob(
		ociManifest,
		object(
			map[string]any{
				"schemaVersion": 2,
				"mediaType":     ociManifest,
				"config":        c,
				"layers":        []any{l.blob(ociLayer, layer(content))},
			},
		),
	)
}

// artifact adds a manifest with that config and those layers.
func (l *layoutFixture) artifact(config map[string]any, subject any, layers ...any) map[string]any {
	m := map[string]any{"schemaVersion": 2, "mediaType": ociManifest, "config": config, "layers": layers}
	if subject != nil {
		m["subject"] = subject
	}
	return l.blob(ociManifest, object(m))
}

func (l *layoutFixture) index(children ...map[string]any) map[string]any {
	return l.blob(ociIndex, object(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": children}))
}

func platformed(d map[string]any, arch string) map[string]any {
	d = with(d, "platform", map[string]any{"os": "linux", "architecture": arch})
	return d
}

func with(d map[string]any, key string, value any) map[string]any {
	out := map[string]any{key: value}
	for k, v := range d {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// top names a descriptor in index.json; annotations are pairs.
func (l *layoutFixture) top(d map[string]any, annotations ...string) {
	m := map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		m[annotations[i]] = annotations[i+1]
	}
	l.tops = append(l.tops, with(d, "annotations", m))
}

func (l *layoutFixture) tree() tree {
	return l.files.with(tree{"index.json": object(map[string]any{"schemaVersion": 2, "manifests": l.tops})})
}

// dockerArchive makes what docker save wrote before version 25: one image by each name.
func dockerArchive(images map[string][]string) tree {
	out := tree{}
	var list []any
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range images {
			if !yield(n) {
				return
			}
		}
	}) {
		var paths []string
		for _, l := range images[name] {
			p := strings.TrimPrefix(digestOf([]byte(l)), "sha256:") + "/layer.tar"
			out[p] = l
			paths = append(paths, p)
		}
		c := config(images[name]...)
		configName := strings.TrimPrefix(digestOf([]byte(c)), "sha256:") + ".json"
		out[configName] = c
		tags := []string{name}
		if name == "" {
			tags = nil
		}
		list = append(list, map[string]any{"Config": configName, "RepoTags": tags, "Layers": paths})
	}
	out["manifest.json"] = object(list)
	return out
}

// pipe is an fs.File that is none: it can only be read.
type pipe struct {
	io.Reader
	name string
}

func (p pipe) Close() error               { return nil }
func (p pipe) Stat() (fs.FileInfo, error) { return pipeInfo{p.name}, nil }

type pipeInfo struct{ name string }

func (p pipeInfo) Name() string     { return p.name }
func (pipeInfo) Size() int64        { return 0 }
func (pipeInfo) Mode() fs.FileMode  { return fs.ModeNamedPipe }
func (pipeInfo) ModTime() time.Time { return time.Time{} }
func (pipeInfo) IsDir() bool        { return false }
func (pipeInfo) Sys() any           { return nil }

// regular writes a file and opens it.
func regular(t testing.TB, content []byte) bundle.Input {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "input"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	return bundle.Input{Name: "input", File: f}
}

func piped(content []byte) bundle.Input {
	return bundle.Input{Name: "pipe", File: pipe{bytes.NewReader(content), "pipe"}}
}

// ways are all the ways in which one tree can be given, each to be read once.
func ways(t testing.TB, files tree) map[string]func() bundle.Input {
	plain := files.tar()
	return map[string]func() bundle.Input{
		"directory": func() bundle.Input { return bundle.Input{Name: "directory", FS: files.mapFS()} },
		"tar":       func() bundle.Input { return regular(t, plain) },
		"gzip":      func() bundle.Input { return regular(t, gz(plain)) },
		"zstd":      func() bundle.Input { return regular(t, zst(plain)) },
		"pipe":      func() bundle.Input { return piped(plain) },
		"zstd pipe": func() bundle.Input { return piped(zst(plain)) },
		"wrapped":   func() bundle.Input { return regular(t, files.under("some-dir").tar()) },
		"dotted":    func() bundle.Input { return regular(t, files.under(".").tar()) },
	}
}

var cosignTag = regexp.MustCompile(`sha256-[0-9a-f]{64}`)

// shown shows an index in a form that a test can be read by: one name a line, sorted.
func shown(c *bundle.Contents) string {
	var lines []string
	for _, m := range c.Index.Images {
		s := m.Repository + ":" + cosignTag.ReplaceAllString(m.Tag, "DIGEST")
		if len(m.Platforms) > 0 {
			s += fmt.Sprintf(" %v", m.Platforms)
		}
		if m.Sparse {
			s += " sparse"
		}
		lines = append(lines, s)
	}
	for _, f := range c.Index.Files {
		lines = append(lines, f.URL)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
