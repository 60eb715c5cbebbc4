package fileserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func BenchmarkKey(b *testing.B) {
	s := New(Config{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Key(
			"https://github.com/containerd/containerd/releases/download/v1.7.27/containerd-1.7.27-linux-amd64.tar.gz"); err != nil {
			b.Fatal(err)
		}
	}
}

// one is a tree with one large file on disk.
type one struct {
	Tree
	path string
}

func (o one) OpenBlob(context.Context, string) (io.ReadSeekCloser, error) { return os.Open(o.path) }

// BenchmarkDownload sends 256 MiB over a plain socket, by sendfile; B/op is the allocation, independent of the size.
func BenchmarkDownload(b *testing.B) {
	const size = 256 << 20
	f := start(b)
	f.put(b, "https://files.test/f", "x")
	path := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		b.Fatal(err)
	}
	c := f.config(b)
	c.Tree = one{f.tree, path}
	f.Server = New(c)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		f.Serve(w, r, View{Origin: "files.test", Plain: true})
	}))
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		r, err := server.Client().Get(server.URL + "/f")
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if n != size || err != nil {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkAnswers measures the server's own cost of a small file, a miss and a short name; most of it belongs to the
// recorder and the strict tree.
func BenchmarkAnswers(b *testing.B) {
	f := start(b)
	f.put(b, "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm", strings.Repeat("x", 1000))
	f.redirects = map[string]string{}
	for i := range 20 {
		f.redirects[fmt.Sprintf("https://update.k3s.io/v1-release/channels/%d", i)] = "https://github.com/x"
	}
	for name, c := range map[string]struct {
		v    View
		path string
		code int
	}{
		"hit":   {View{Origin: "dl.k8s.io"}, "/release/v1.32.0/bin/linux/amd64/kubeadm", 200},
		"miss":  {View{Origin: "dl.k8s.io"}, "/release/v1.32.0/bin/linux/amd64/kubelet", 404},
		"short": {View{}, "/kubernetes/v1.32.0/kubeadm", 200},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				f.Serve(w, httptest.NewRequest("GET", c.path, nil), c.v)
				if w.Code != c.code {
					b.Fatal(w.Code)
				}
				f.misses, f.luck = f.misses[:0], f.luck[:0]
			}
		})
	}
}
