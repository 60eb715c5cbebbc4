package foreign_test

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"casemate/bundle"
	"casemate/bundle/input"
)

// TestHeldIsNotRead reads an input whose blobs the sink has: nothing is put, and Plan reports that. The sink itself
// fails the test if one of its blobs is put.
func TestHeldIsNotRead(t *testing.T) {
	l := newLayout()
	l.top(l.image("amd64", "x"), "io.containerd.image.name", "nginx:1")
	for what, files := range map[string]tree{"layout": l.tree(),
		"docker": dockerArchive(map[string][]string{"nginx:1": {layer("a"), layer("b")}})} {
		s := newMemorySink(t)
		first := read(t, s, bundle.ReadOptions{}, regular(t, files.tar()))
		puts := s.puts
		for way, give := range ways(t, files) {
			var need int64
			c := read(
				t,
				s,
				bundle.ReadOptions{Plan: func(_ *bundle.Contents, n int64) error { need = n; return nil }},
				give(),
			)
			if c.ID != first.ID {
				t.Errorf("%s, %s: another ID", what, way)
			}
			known := way != "gzip" && way != "zstd" && !strings.Contains(way, "pipe")
			if known && need > 4096 { // the config of a docker-archive is counted always
				t.Errorf("%s, %s: need %d", what, way, need)
			}
			if known && s.puts != puts {
				t.Errorf("%s, %s: %d more puts", what, way, s.puts-puts)
			}
			puts = s.puts
		}
	}
}

// TestFilesThemselves gives the sink files and parts of files that it may read itself.
func TestFilesThemselves(t *testing.T) {
	files := tree{}
	for i := range 50 {
		files[fmt.Sprintf("dl.k8s.io/%d", i)] = fmt.Sprint(i)
	}
	for _, way := range []string{"tar", "wrapped"} {
		s := newMemorySink(t)
		var need int64
		read(
			t,
			s,
			bundle.ReadOptions{Plan: func(_ *bundle.Contents, n int64) error { need = n; return nil }},
			ways(t, files)[way](),
		)
		if s.whole != 50 || s.puts != 50 || need != 90 {
			t.Errorf("%s: %d puts, %d of sections, need %d", way, s.puts, s.whole, need)
		}
	}
}

func TestRepository(t *testing.T) {
	tag := newLayout()
	tag.top(tag.image("amd64", "a"), "org.opencontainers.image.ref.name", "3.10")
	tag.top(tag.image("arm64", "b"), "org.opencontainers.image.ref.name", "3.10-arm64")
	none := newLayout()
	none.top(none.image("amd64", "a"))
	docker := dockerArchive(map[string][]string{"": {layer("a")}})
	for _, test := range []struct {
		files            tree
		repository, want string
	}{
		{tag.tree(), "registry.k8s.io/pause", "registry.k8s.io/pause:3.10 " +
			"[linux/amd64]\nregistry.k8s.io/pause:3.10-arm64 [linux/arm64]"},
		{none.tree(), "nginx", "docker.io/library/nginx: [linux/amd64]"},
		{none.tree(), "nginx:1", "docker.io/library/nginx:1 [linux/amd64]"},
		{docker, "localhost/team/app:2", "team/app:2 [linux/amd64]"},
		{docker, "10.0.0.1:5000/team/app", "10.0.0.1/team/app: [linux/amd64]"},
	} {
		c := read(t, newMemorySink(t), bundle.ReadOptions{Repository: test.repository}, regular(t, test.files.tar()))
		if got := shown(c); got != test.want {
			t.Errorf("--repository %s: got\n%s\nwant\n%s", test.repository, got, test.want)
		}
	}
	_, err := input.Read(
		t.Context(),
		[]bundle.Input{regular(t, docker.tar())},
		newMemorySink(t),
		bundle.ReadOptions{Repository: "No Name"},
	)
	if err == nil || !strings.Contains(err.Error(), "--repository") {
		t.Error(err)
	}
}

// TestLocalNames reads names of private registries.
func TestLocalNames(t *testing.T) {
	for tag, want := range map[string]string{
		"localhost/mine:1":              "mine:1",
		"10.0.0.1:5000/team/app:1":      "10.0.0.1/team/app:1",
		"10.0.0.1/team/app:1":           "10.0.0.1/team/app:1",
		"registry:5000/app:1":           "registry/app:1",
		"registry.example.com:5000/a:1": "registry.example.com/a:1",
		"registry.example.com/a:1":      "registry.example.com/a:1",
		"index.docker.io/library/a:1":   "docker.io/library/a:1",
		"team/app:1":                    "docker.io/team/app:1",
		"nginx":                         "docker.io/library/nginx:latest",
	} {
		c := read(
			t,
			newMemorySink(t),
			bundle.ReadOptions{},
			regular(t, dockerArchive(map[string][]string{tag: {layer("a")}}).tar()),
		)
		m := c.Index.Images[0]
		if got := m.Repository + ":" + m.Tag; got != want {
			t.Errorf("%s became %s, want %s", tag, got, want)
		}
		if renamed := want != tag && (strings.Contains(tag, ":5000") || strings.HasPrefix(tag,
			"localhost")); renamed != (len(c.Notes) == 1) {
			t.Errorf("%s: notes %q", tag, c.Notes)
		}
	}
}

// TestWhatIsNotHere reads a layout with a missing layer, one that may not be distributed, and one that is embedded in
// its descriptor.
func TestWhatIsNotHere(t *testing.T) {
	l := newLayout()
	absent := map[string]any{"mediaType": ociLayer, "digest": digestOf([]byte("absent")), "size": 6}
	held := map[string]any{"mediaType": ociLayer, "digest": digestOf([]byte("held")), "size": 4}
	foreign := map[string]any{
		"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"digest":    digestOf([]byte("foreign")),
		"size":      7,
		"urls":      []string{"https://go.microsoft.com/x"},
	}
	inline := map[string]any{
		"mediaType": "application/vnd.oci.empty.v1+json",
		"digest":    digestOf([]byte("{}")),
		"size":      2,
		"data":      base64.StdEncoding.EncodeToString([]byte("{}")),
	}
	l.top(l.artifact(inline, nil, absent, held, foreign), "io.containerd.image.name", "nginx:1")
	for way, give := range ways(t, l.tree()) {
		s := newMemorySink(t)
		s.hold([]byte("held"))
		c := read(t, s, bundle.ReadOptions{}, give())
		if len(c.Absent) != 1 || c.Absent[0] != digestOf([]byte("absent")) {
			t.Errorf("%s: absent %q", way, c.Absent)
		}
		if len(c.Index.Blobs) != 4 || len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "its own URLs") {
			t.Errorf("%s: blobs %v, notes %q", way, c.Index.Blobs, c.Notes)
		}
	}
}

// TestDocker25 reads what docker save writes since version 25: a layout, and for one image no name but in
// manifest.json.
func TestDocker25(t *testing.T) {
	l := newLayout()
	a := l.image("amd64", "a")
	l.top(a, "io.containerd.image.name", "docker.io/library/nginx:1", "org.opencontainers.image.ref.name", "1")
	b := l.image("arm64", "b")
	l.top(b)
	files := l.tree()
	var manifest struct{ Config struct{ Digest string } }
	unmarshal(files["blobs/"+strings.Replace(b["digest"].(string), ":", "/", 1)], &manifest)
	files["manifest.json"] = object([]any{
		map[string]any{"Config": "blobs/sha256/" + strings.Repeat("0", 64), "RepoTags": []string{"wrong:1"}},
		map[string]any{
			"Config":   "blobs/" + strings.Replace(manifest.Config.Digest, ":", "/", 1),
			"RepoTags": []string{"busybox:2", "quay.io/x/busybox:3"},
		},
	})
	files["repositories"] = "{}"
	sameInAllWays(
		t,
		files,
		bundle.KindLayout,
		"docker.io/library/busybox:2 [linux/arm64]\ndocker.io/library/nginx:1 [linux/amd64]\nquay.io/x/busybox:3 "+
			"[linux/arm64]",
		bundle.ReadOptions{},
	)
}

// TestDockerLinks reads layers that are links to other layers, as podman and old dockers write them.
func TestDockerLinks(t *testing.T) {
	l := layer("a")
	hex := strings.TrimPrefix(digestOf([]byte(l)), "sha256:")
	c := config(l, l)
	files := tree{
		hex + ".tar":                           l,
		strings.Repeat("1", 64) + "/layer.tar": "-> ../" + hex + ".tar",
		strings.Repeat("2", 64) + "/layer.tar": "=> " + hex + ".tar",
		strings.Repeat("1", 64) + "/json":      "{}",
		strings.Repeat("1", 64) + "/VERSION":   "1.0",
		"config":                               c,
		"manifest.json": object([]any{map[string]any{"Config": "config", "RepoTags": []string{"x:1"},
			"Layers": []string{strings.Repeat("1", 64) + "/layer.tar", strings.Repeat("2", 64) + "/layer.tar"}}}),
	}
	for _, first := range []bool{true, false} { // skopeo writes manifest.json last, buildkit first
		order := files.sorted()
		if first {
			order = append([]string{"manifest.json"}, without(order, "manifest.json")...)
		}
		for _, in := range []bundle.Input{regular(t, files.tar(order...)), piped(files.tar(order...))} {
			s := newMemorySink(t)
			got := read(t, s, bundle.ReadOptions{}, in)
			if shown(got) != "docker.io/library/x:1 [linux/amd64]" || len(got.Index.Blobs) != 3 || s.puts != 3 {
				t.Errorf("%s: %s with %d blobs, %d puts", in.Name, shown(got), len(got.Index.Blobs), s.puts)
			}
		}
	}
}

// TestSHA512 reads a layout whose client chose sha512.
func TestSHA512(t *testing.T) {
	l := newLayout()
	d := l.image("amd64", "a")
	content := l.files["blobs/"+strings.Replace(d["digest"].(string), ":", "/", 1)]
	digest := fmt.Sprintf("sha512:%x", sha512.Sum512([]byte(content)))
	l.files["blobs/"+strings.Replace(digest, ":", "/", 1)] = content
	l.top(with(d, "digest", digest), "io.containerd.image.name", "nginx:1")
	for way, give := range ways(t, l.tree()) {
		c := read(t, newMemorySink(t), bundle.ReadOptions{}, give())
		if c.Index.Images[0].Digest != digest {
			t.Errorf("%s: %s", way, c.Index.Images[0].Digest)
		}
	}
}

// TestSignatureRequired refuses everything that cannot be signed before it is looked at.
func TestSignatureRequired(t *testing.T) {
	s := newMemorySink(t)
	opt := bundle.ReadOptions{Keys: []ed25519.PublicKey{make([]byte, ed25519.PublicKeySize)}}
	_, err := input.Read(t.Context(), []bundle.Input{{Name: "dir", FS: tree{"dl.k8s.io/a": "a"}.mapFS()}}, s, opt)
	if err == nil || !strings.Contains(err.Error(), "dir is not a bundle") || s.puts > 0 {
		t.Error(err)
	}
}

// TestProgress checks the calls of Progress: it grows, and ends at the total.
func TestProgress(t *testing.T) {
	files := dockerArchive(map[string][]string{"nginx:1": {layer("a"), layer("b")}})
	for _, way := range []string{"tar", "gzip", "pipe"} {
		var last, total int64
		s := newMemorySink(t)
		opt := bundle.ReadOptions{Progress: func(done, all int64) {
			s.mu.Lock()
			defer s.mu.Unlock()
			last, total = max(last, done), all
		}}
		read(t, s, opt, ways(t, files)[way]())
		if last == 0 || way == "pipe" != (total == -1) || way != "pipe" && last != total {
			t.Errorf("%s: %d of %d", way, last, total)
		}
	}
}

// TestOtherLibrary reads what go-containerregistry writes (crane, ko, kaniko): docker-archives with compressed layers,
// and layouts.
func TestOtherLibrary(t *testing.T) {
	image, err := random.Image(1000, 3)
	must(err)
	tag, err := name.NewTag("quay.io/x/y:1")
	must(err)
	file := filepath.Join(t.TempDir(), "image.tar")
	must(tarball.WriteToFile(file, tag, image))
	f, err := os.Open(file)
	must(err)
	defer f.Close()
	want, err := image.ConfigName()
	must(err)
	s := newMemorySink(t)
	c := read(t, s, bundle.ReadOptions{}, bundle.Input{Name: file, File: f})
	if got := c.Index.Images[0]; got.Repository != "quay.io/x/y" || len(c.Index.Blobs) != 5 ||
		s.blobs[want.String()] == nil {
		t.Errorf("%+v", c.Index)
	}

	index, err := random.Index(1000, 2, 3)
	must(err)
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	must(err)
	must(
		path.AppendIndex(
			index,
			layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "quay.io/x/y:1"}),
		),
	)
	c = read(t, newMemorySink(t), bundle.ReadOptions{}, bundle.Input{Name: dir, FS: os.DirFS(dir)})
	digest, err := index.Digest()
	must(err)
	if got := c.Index.Images[len(c.Index.Images)-1]; got.Digest != digest.String() || len(c.Index.Images) != 4 ||
		len(c.Index.Blobs) != 1+3*4 {
		t.Errorf("%+v", c.Index)
	}
}
