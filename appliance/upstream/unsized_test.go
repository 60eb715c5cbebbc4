package upstream_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"casemate/cluster/treetest"
	"casemate/fileserver"
	"casemate/registry"
)

// bastion serves clients by HTTP, for what httptest.ResponseRecorder does not show.
func (w *world) bastion() *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{}
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			w.reg.Serve(rw, r, registry.View{Origin: site})
		} else {
			w.files.Serve(rw, r, fileserver.View{Origin: fileHost})
		}
	}))
	w.t.Cleanup(s.Close)
	return s
}

// TestUnsized: content without a length is passed on while it arrives, a range of it when all of it is there, and no
// client takes a part for the whole.
func TestUnsized(t *testing.T) {
	half := strings.Repeat("0123456789abcdef", 4096)
	blob := treetest.DigestOf([]byte(half+half), "")
	for _, c := range []struct {
		name, path string
		end        func(rw http.ResponseWriter) // after the first half
		right      bool
	}{
		{"a file", "/a.bin", func(rw http.ResponseWriter) { io.WriteString(rw, half) }, true},
		{"a blob", "/v2/app/blobs/" + blob, func(rw http.ResponseWriter) { io.WriteString(rw, half) }, true},
		{"a wrong blob", "/v2/app/blobs/" + blob, func(rw http.ResponseWriter) { io.WriteString(rw, "x") }, false},
		{"a file that breaks off", "/a.bin", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, false},
		{"a file without an end", "/a.bin", func(rw http.ResponseWriter) {
			for range 100 {
				io.WriteString(rw, half)
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			release := make(chan struct{})
			w.internet(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != c.path {
					return
				}
				io.WriteString(rw, half)
				rw.(http.Flusher).Flush()
				<-release
				c.end(rw)
			})
			s := w.bastion()
			get := func(header string) (status int, body string, err error) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+c.path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if header != "" {
					req.Header.Set("Range", header)
				}
				resp, err := s.Client().Do(req)
				if err != nil {
					return 0, "", err
				}
				defer resp.Body.Close()
				begin := make([]byte, 1000)
				n, err := io.ReadFull(resp.Body, begin)
				if header == "" && err == nil {
					select {
					case <-release:
					default:
						close(release) // its beginning is here before the origin has sent the rest
					}
				}
				rest, err2 := io.ReadAll(resp.Body)
				if err == nil {
					err = err2
				}
				return resp.StatusCode, string(begin[:n]) + string(rest), err
			}
			_, body, err := get("")
			if c.right != (err == nil && body == half+half) || !c.right && err == nil {
				t.Fatalf("got %d bytes, %v", len(body), err)
			}
			if !c.right {
				for name := range w.tree.Walk(".", "") {
					t.Errorf("%s is visible", name)
				}
				return
			}
			if status, body, _ := get("bytes=65530-65545"); status != 206 || body != (half + half)[65530:65546] {
				t.Errorf("a range: got %d %q", status, body)
			}
		})
	}
}

// TestRangeOfUnsized: a range of content without a length is answered when all of it is there.
func TestRangeOfUnsized(t *testing.T) {
	w := newWorld(t)
	content := strings.Repeat("0123456789", 10_000)
	w.internet(func(rw http.ResponseWriter, _ *http.Request) {
		io.WriteString(rw, content[:50_000])
		rw.(http.Flusher).Flush()
		io.WriteString(rw, content[50_000:])
	})
	w.want(w.get(fileHost, "/a.bin", "Range", "bytes=70000-70004"), 206, "01234")
}
