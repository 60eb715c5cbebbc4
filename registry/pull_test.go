package registry

import (
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// whole reads all of an image; the client holds each part to its digest on the way.
func whole(img v1.Image) error {
	if _, err := img.RawConfigFile(); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return nil
}

// A real client pulls whole images by every kind of name, through tolerances and fallbacks too, and every byte is
// right.
func TestRealClientPulls(t *testing.T) {
	s := serve(t, namesakes(NamesakesAll))
	images := map[string]string{} // pushed as → digest
	for _, name := range []string{"docker.io/library/nginx:1", "registry.k8s.io/coredns/coredns:1",
		"quay.io/calico/node:1", "pause:3.10", "team/deep/app:1"} {
		img, err := random.Image(50_000, 3)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(s.ref(name), img, s.as...); err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		images[name] = d.String()
	}
	for asked, held := range map[string]string{
		"docker.io/library/nginx:1":            "docker.io/library/nginx:1",
		"registry-1.docker.io/library/nginx:1": "docker.io/library/nginx:1",
		"docker.io/nginx:1":                    "docker.io/library/nginx:1",
		"library/nginx:1":                      "docker.io/library/nginx:1",
		"nginx:1":                              "docker.io/library/nginx:1",
		"registry.k8s.io/coredns:1":            "registry.k8s.io/coredns/coredns:1",
		"coredns:1":                            "registry.k8s.io/coredns/coredns:1",
		"mirror/coredns:1":                     "registry.k8s.io/coredns/coredns:1",
		"node:1":                               "quay.io/calico/node:1",
		"quay.io/other/node:1":                 "quay.io/calico/node:1",
		"registry.k8s.io/pause:3.10":           "pause:3.10",
		"docker.io/k8s/pause:3.10":             "pause:3.10",
		"quay.io/team/deep/app:1":              "team/deep/app:1",
		"app:1":                                "team/deep/app:1",
	} {
		img, err := remote.Image(s.ref(asked), s.as[:1]...)
		if err != nil {
			t.Errorf("%s: %v", asked, err)
			continue
		}
		if d, err := img.Digest(); err != nil || d.String() != images[held] {
			t.Errorf("%s is %s, %v; want %s", asked, d, err, held)
		}
		if err := whole(img); err != nil {
			t.Errorf("%s: %v", asked, err)
		}
	}
}

// What is pushed flat is whole in its own repository, though its layers could be read there before through a tolerance.
func TestPushedWhereAToleranceAnswers(t *testing.T) {
	s := serve(t)
	img, err := random.Image(50_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"docker.io/library/nginx:1", "nginx:1", "nginx:2"} {
		if err := remote.Write(s.ref(name), img, s.as...); err != nil {
			t.Fatalf("pushing %s: %v", name, err)
		}
	}
	s.update(func(b Batch) { b.Remove(repoDir("docker.io/library/nginx")) })
	for _, name := range []string{"nginx:1", "nginx:2"} {
		got, err := remote.Image(s.ref(name), s.as[:1]...)
		if err != nil {
			t.Fatal(err)
		}
		if err := whole(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
