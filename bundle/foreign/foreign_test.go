package foreign_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"casemate/bundle"
	"casemate/bundle/input"
)

// read reads inputs and checks what every reading must fulfil.
func read(t *testing.T, s *memorySink, opt bundle.ReadOptions, inputs ...bundle.Input) *bundle.Contents {
	t.Helper()
	c, err := input.Read(t.Context(), inputs, s, opt)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	check(t, s, c)
	return c
}

// check holds Contents against the sink: every blob is there, every image's manifest and every file is a blob, and the
// document is one.
func check(t *testing.T, s *memorySink, c *bundle.Contents) {
	t.Helper()
	blobs := map[string]int64{}
	for _, b := range c.Index.Blobs {
		blobs[b.Digest] = b.Size
	}
	absent := map[string]bool{}
	for _, d := range c.Absent {
		absent[d] = true
	}
	for digest, size := range blobs {
		b, ok := s.blobs[digest]
		if ok == absent[digest] || ok && int64(len(b)) != size {
			t.Errorf("blob %s: %d bytes, in the sink %v with %d", digest, size, ok, len(b))
		}
	}
	for _, m := range c.Index.Images {
		if _, ok := blobs[m.Digest]; !ok || m.Size <= 0 {
			t.Errorf("%s:%s: %s is no blob, or size %d", m.Repository, m.Tag, m.Digest, m.Size)
		}
	}
	doc, err := c.Index.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != digestOf(doc) {
		t.Errorf("ID %s is not the digest of the document", c.ID)
	}
}

// sameInAllWays reads one tree in all ways and compares.
func sameInAllWays(t *testing.T, files tree, kind, want string, opt bundle.ReadOptions) {
	t.Helper()
	ids := map[string]bool{}
	for way, give := range ways(t, files) {
		t.Run(way, func(t *testing.T) {
			s := newMemorySink(t)
			c := read(t, s, opt, give())
			if c.Kind != kind {
				t.Errorf("kind %q, want %q", c.Kind, kind)
			}
			if got := shown(c); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			ids[c.ID] = true
			again := read(t, s, opt, give())
			if again.ID != c.ID {
				t.Error("read again it has another ID")
			}
		})
	}
	if len(ids) != 1 {
		t.Errorf("%d IDs of the same content", len(ids))
	}
}

func TestLayout(t *testing.T) {
	l := newLayout()
	amd, arm := l.image("amd64", "a"), l.image("arm64", "b")
	gone := with(platformed(amd, "s390x"), "digest", digestOf([]byte("elsewhere")))
	list := l.index(platformed(amd, "amd64"), platformed(arm, "arm64"), gone)
	l.top(list, "org.opencontainers.image.ref.name", "registry.k8s.io/pause:3.10")
	l.top(amd, "io.containerd.image.name", "docker.io/library/nginx:1.25", "org.opencontainers.image.ref.name", "1.25")
	sbom := l.artifact(l.blob("application/vnd.oci.empty.v1+json", "{}"), list, l.blob("text/spdx+json", "sbom"))
	l.top(sbom)
	l.top(l.artifact(l.blob("application/vnd.oci.empty.v1+json", "{}"), sbom, l.blob("text/plain", "signature")))
	sameInAllWays(t, l.tree(), bundle.KindLayout, strings.TrimSpace(`
docker.io/library/nginx:1.25 [linux/amd64]
registry.k8s.io/pause:
registry.k8s.io/pause:
registry.k8s.io/pause: [linux/amd64]
registry.k8s.io/pause: [linux/arm64]
registry.k8s.io/pause:3.10 [linux/amd64 linux/arm64] sparse`), bundle.ReadOptions{})
}

func TestDockerArchive(t *testing.T) {
	files := dockerArchive(map[string][]string{
		"nginx:1.25":             {layer("base"), layer("nginx")},
		"registry.k8s.io/etcd:3": {layer("base"), string(gz([]byte(layer("etcd"))))},
		"quay.io/x/z:1":          {string(zst([]byte(layer("z"))))},
	})
	sameInAllWays(t, files, bundle.KindDocker, strings.TrimSpace(`
docker.io/library/nginx:1.25 [linux/amd64]
quay.io/x/z:1 [linux/amd64]
registry.k8s.io/etcd:3 [linux/amd64]`), bundle.ReadOptions{})
}

// TestDockerManifest holds the manifest that is made for an image to one digest for ever: it is what nodes pin, and
// what containerd makes of the archive.
func TestDockerManifest(t *testing.T) {
	c := read(
		t,
		newMemorySink(t),
		bundle.ReadOptions{},
		regular(t, dockerArchive(map[string][]string{"nginx:1": {layer("a"), layer("b")}}).tar()),
	)
	if got, want := c.Index.Images[0].Digest,
		"sha256:cb79b3dbafed1aef70b2dca52d438add35acd0d0d16bfb1c03b01070a25fe59e"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTree(t *testing.T) {
	files := tree{
		"dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm":          "kubeadm",
		"github.com/etcd-io/etcd/releases/download/v3/etcd.tar.gz":   string(gz([]byte(layer("etcd")))),
		"deb.example.org/debian/dists/stable/index.html":             "listing",
		"deb.example.org/debian/dists/oldstable":                     "-> stable",
		"get.k3s.io/index.html?v=1%2B2&x=a b":                        "script",
		"github.com/k3s-io/k3s/releases/download/v1+k3s1/100%/.disk": "dot",
		"dl.k8s.io/.DS_Store":                                        "rubbish",
		"dl.k8s.io/release/.notes.txt.swp":                           "rubbish",
		"dl.k8s.io/release/.#edit":                                   "-> v1.32.0/bin/linux/amd64/kubeadm",
		"dl.k8s.io/outside":                                          "-> ../../etc/passwd",
		"README":                                                     "no host",
	}
	sameInAllWays(t, files, bundle.KindTree, strings.TrimSpace(`
https://deb.example.org/debian/dists/oldstable/
https://deb.example.org/debian/dists/oldstable/index.html
https://deb.example.org/debian/dists/stable/
https://deb.example.org/debian/dists/stable/index.html
https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm
https://get.k3s.io/?v=1%2B2&x=a%20b
https://get.k3s.io/index.html?v=1%2B2&x=a%20b
https://github.com/etcd-io/etcd/releases/download/v3/etcd.tar.gz
https://github.com/k3s-io/k3s/releases/download/v1+k3s1/100%25/.disk`), bundle.ReadOptions{})
}

func TestKubespray(t *testing.T) {
	files := tree{
		"container-images/registry.k8s.io-pause-3.10.tar": string(
			dockerArchive(map[string][]string{"registry.k8s.io/pause:3.10": {layer("pause")}}).tar(),
		),
		"container-images/quay.io-coreos-etcd-v3.tar": string(
			dockerArchive(map[string][]string{"": {layer("etcd")}}).tar(),
		),
		"container-images/docker.io-library-nginx-1.25.tar": string(
			gz(dockerArchive(map[string][]string{"nginx:1.25": {layer("nginx")}}).tar()),
		),
		"container-images/container-images.txt": "registry.k8s.io-pause-3.10.tar  " +
			"pause:3.10\nquay.io-coreos-etcd-v3.tar  coreos/etcd:v3\n\ndocker.io-library-nginx-1.25.tar  " +
			"library/nginx:1.25\n",
	}
	for _, compress := range []func([]byte) []byte{bytes.Clone, gz} {
		s := newMemorySink(t)
		c := read(t, s, bundle.ReadOptions{}, regular(t, compress(files.tar())))
		want := "docker.io/library/nginx:1.25 [linux/amd64]\nquay.io/coreos/etcd:v3 " +
			"[linux/amd64]\nregistry.k8s.io/pause:3.10 [linux/amd64]"
		if got := shown(c); got != want || c.Kind != bundle.KindKubespray {
			t.Errorf("%s: got\n%s\nwant\n%s", c.Kind, got, want)
		}
	}
}

func TestStopAtPlan(t *testing.T) {
	s := newMemorySink(t)
	files := dockerArchive(map[string][]string{"nginx:1.25": {layer("base")}})
	c, err := input.Read(
		t.Context(),
		[]bundle.Input{regular(t, files.tar())},
		s,
		bundle.ReadOptions{Plan: func(c *bundle.Contents, need int64) error {
			if need < 1024 {
				t.Errorf("need %d", need)
			}
			return bundle.ErrStop
		}},
	)
	if err != nil || c.Kind != bundle.KindDocker || s.puts != 0 {
		t.Errorf("%+v %v, %d puts", c, err, s.puts)
	}
	broken := errors.New("no room")
	_, err = input.Read(
		t.Context(),
		[]bundle.Input{regular(t, files.tar())},
		s,
		bundle.ReadOptions{Plan: func(*bundle.Contents, int64) error { return broken }},
	)
	if !errors.Is(err, broken) || s.puts != 0 {
		t.Errorf("%v, %d puts", err, s.puts)
	}
}
