//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// vendor has the hosts of the install that nobody has named before.
var vendor = []string{"charts", "deb", "wheels", "tools", "limits"}

// install is an install by real clients, of everything that an internet has.
type install struct {
	key   string // of the apt repository
	image v1.Image
	tool  []byte
	slow  []byte
}

// publish puts what is installed into an internet.
func (up *internet) publish(t *testing.T) *install {
	t.Helper()
	in := &install{image: pauseImage(t), tool: []byte(strings.Repeat("a tool that nobody has listed\n", 1<<16)),
		slow: []byte(strings.Repeat("slow ", 1000))}
	up.put(t, "registry.k8s.io/pause:3.10", platforms(t, in.image))
	up.put(t, "index.docker.io/library/sample:1", in.image)
	up.strict("registry.k8s.io", new(atomic.Int64))
	up.strict("index.docker.io", new(atomic.Int64))

	up.put(t, "ghcr.io/team/app:1", in.image)
	desc, err := descriptor(in.image)
	if err != nil {
		t.Fatal(err)
	}
	note := artifact(t, "application/vnd.example.note", "application/vnd.example.note.v1", []byte("a note about it"))
	signed := mutate.Subject(note, desc).(v1.Image)
	digest, err := signed.Digest()
	if err != nil {
		t.Fatal(err)
	}
	up.put(t, "ghcr.io/team/app@"+digest.String(), signed)

	dir := t.TempDir()
	must(t, "sh", "-c", "cd "+dir+" && "+client(t, "helm")+" create demo && "+client(t, "helm")+" package demo && "+
		client(t, "helm")+" repo index .")
	chart, err := os.ReadFile(filepath.Join(dir, "demo-0.1.0.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	up.put(t, "ghcr.io/charts/demo:0.1.0", artifact(t, "application/vnd.cncf.helm.config.v1+json",
		"application/vnd.cncf.helm.chart.content.v1.tar+gzip", chart))
	up.sites["charts.vendor.example"] = http.FileServer(http.Dir(dir))

	p := newPublisher(t)
	in.key = p.public
	debs := t.TempDir()
	p.publishDEB(t, filepath.Join(debs, "debian"), time.Now().AddDate(1, 0, 0), []string{buildDEB(t, "first", "1.0-1")})
	up.sites["deb.vendor.example"] = http.FileServer(http.Dir(debs))

	wheel, content := makeWheel(t, "tiny-lib", "2.1", "py3-none-any")
	up.files["wheels.vendor.example/packages/"+wheel] = content
	up.files["wheels.vendor.example/simple/tiny-lib/"] = fmt.Appendf(nil,
		"<!DOCTYPE html><html><body><a href=\"../../packages/%s#sha256=%x\">%s</a></body></html>", wheel,
		sha256.Sum256(content), wheel)

	up.files["dl.k8s.io/release/stable.txt"] = []byte("v1.35.4")
	up.moved["github.com/o/r/releases/download/v1/tool"] =
		"https://objects.githubusercontent.com/asset/1?sig=s3cretquery&X-Amz-Signature=s3cretquery"
	up.files["objects.githubusercontent.com/asset/1"] = []byte("an asset")
	var asked, broken atomic.Int64
	up.sites["limits.vendor.example"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/often" && asked.Add(1) == 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case r.URL.Path == "/slow":
			for _, part := range []string{string(in.slow[:100]), string(in.slow[100:3000]), string(in.slow[3000:])} {
				io.WriteString(w, part)
				w.(http.Flusher).Flush()
				time.Sleep(200 * time.Millisecond)
			}
		default:
			io.WriteString(w, "not so often")
		}
	})
	up.sites["tools.vendor.example"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/tool" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(in.tool))) // and no ranges
		if broken.Add(1) == 1 {
			w.Write(in.tool[:len(in.tool)/2])
			panic(http.ErrAbortHandler)
		}
		w.Write(in.tool)
	})
	return in
}

// descriptor describes the manifest of an image.
func descriptor(img v1.Image) (d v1.Descriptor, err error) {
	if d.Digest, err = img.Digest(); err != nil {
		return d, err
	}
	if d.Size, err = img.Size(); err != nil {
		return d, err
	}
	d.MediaType, err = img.MediaType()
	return d, err
}

// artifact is an image whose one layer is content of another kind.
func artifact(t *testing.T, config, layer string, content []byte) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		types.MediaType(config)), static.NewLayer(content, types.MediaType(layer)))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// learnt waits until names below vendor.example have addresses.
func learnt(t *testing.T, n *host, names ...string) {
	t.Helper()
	for _, name := range names {
		until(t, name+" has an address", func() error {
			out, err := n.try("dig", "+short", name+".vendor.example")
			if err != nil || strings.TrimSpace(out) == "" {
				return fmt.Errorf("%v: %q", err, out)
			}
			return nil
		})
	}
}

// curl fetches with a credential of the client's own.
func (in *install) curl(t *testing.T, n *host, url, want string) {
	t.Helper()
	file := n.path("tmp/" + path.Base(url))
	n.must(t, "curl", "-sSfL", "--retry", "5", "--retry-all-errors", "--retry-delay", "1", "-H",
		"Authorization: Basic s3cretheader", "-o", file, url)
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s: %v, %d bytes: %.40q", url, err, len(got), got)
	}
}

// with has every client do its part on a node.
func (in *install) with(t *testing.T, n *host) {
	t.Helper()
	in.curl(t, n, "https://dl.k8s.io/release/stable.txt", "v1.35.4")
	in.curl(t, n, "https://github.com/o/r/releases/download/v1/tool", "an asset")
	in.curl(t, n, "https://tools.vendor.example/tool", string(in.tool))
	in.curl(t, n, "https://limits.vendor.example/often", "not so often")
	in.curl(t, n, "https://limits.vendor.example/slow", string(in.slow))

	pulled := n.path("pulled")
	os.RemoveAll(pulled)
	n.must(t, "skopeo", "copy", "--all", "docker://registry.k8s.io/pause:3.10", "dir:"+pulled)
	ctr := []string{"ctr", "-a", n.containerd(t)}
	n.must(t, append(ctr, "images", "pull", "--snapshotter", "native", "registry.k8s.io/pause:3.10")...)
	n.must(t, append(ctr, "images", "pull", "--snapshotter", "native", "docker.io/library/sample:1")...)
	docker := []string{"docker", "-H", "unix://" + n.dockerd(t), "--config", n.path("tmp/docker")}
	n.must(t, append(docker, "pull", "sample:1")...)
	n.must(t, append(docker, "pull", "registry.k8s.io/pause:3.10")...)
	if out := n.must(t, client(t, "oras"), "discover", "--format", "json", "ghcr.io/team/app:1"); !strings.Contains(
		out, "application/vnd.example.note") {
		t.Errorf("what is attached to the image is not found:\n%s", out)
	}
	n.must(t, client(t, "crane"), "pull", "--format", "oci", "ghcr.io/team/app:1", n.path("app"))

	n.must(t, client(t, "helm"), "pull", "demo", "--repo", "https://charts.vendor.example", "-d", n.path("tmp"))
	n.must(t, client(t, "helm"), "pull", "oci://ghcr.io/charts/demo", "-d", n.path("tmp")) // the newest version

	n.write("apt/publisher.asc", in.key)
	apt := newApt(t, n)
	n.write("apt/etc/sources.list.d/test.list", "deb [signed-by="+n.path("apt/publisher.asc")+
		"] https://deb.vendor.example/debian stable main\n")
	for range 2 {
		if out := apt.must(t, "update"); strings.Contains(out, "W:") || strings.Contains(out, "Err:") {
			t.Errorf("apt-get update complains:\n%s", out)
		}
	}
	apt.must(t, "install", "--download-only", "-y", "first")

	n.must(t, "env", "PIP_CONFIG_FILE=/dev/null", "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_RETRIES=0",
		"/usr/bin/python3", "-m", "pip", "download", "--no-cache-dir", "--index-url",
		"https://wheels.vendor.example/simple/", "-d", n.path("wheels"), "tiny_lib")
}
