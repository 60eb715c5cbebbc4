package fileserver

import (
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestKey(t *testing.T) {
	s := New(Config{})
	for _, c := range []struct{ url, key string }{
		{"https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm",
			"dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm?"},
		{"http://DL.K8S.io:80/a", "dl.k8s.io/a?"},
		{"dl.k8s.io./a", "dl.k8s.io/a?"},
		{"https://h.test", "h.test/?"},
		{"https://h.test/", "h.test/?"},
		{"https://h.test/foo/", "h.test/foo/?"},
		{"https://h.test//foo///bar", "h.test/foo/bar?"},
		{"https://h.test/k3s/v1.31.5%2Bk3s1/k3s", "h.test/k3s/v1.31.5+k3s1/k3s?"},
		{"https://h.test/k3s/v1.31.5+k3s1/k3s", "h.test/k3s/v1.31.5+k3s1/k3s?"},
		{"https://h.test/%7euser/%41", "h.test/~user/A?"},
		{"https://h.test/a%2fb", "h.test/a%2Fb?"},
		{"https://h.test/a%3Fb", "h.test/a%3Fb?"},
		{"https://h.test/a b/ü/%ff", "h.test/a%20b/%C3%BC/%FF?"},
		{"https://h.test/100%25", "h.test/100%25?"},
		{"https://h.test/a#part", "h.test/a?"},
		{"https://h.test/a?", "h.test/a?"},
		{"https://h.test/a?x=1&y=%2f%7e%26%zz", "h.test/a?x=1&y=%2F~%26%25zz"},
		{"https://h.test/a?x=/", "h.test/a?x=%2F"},
		{"https://h.test/?x", "h.test/?x"},
		// Repositories of packages.
		{"https://h.test/x_1%3a2%2b3%7e4_all.deb", "h.test/x_1:2+3~4_all.deb?"},
		{"https://h.test/x_1:2+3~4_all.deb", "h.test/x_1:2+3~4_all.deb?"}, {"https://h.test/a^b", "h.test/a%5Eb?"},
		{"https://h.test/m?repo=x-9&arch=y&countme=3", "h.test/m?repo=x-9&arch=y"},
		{"https://h.test/m?countme=1", "h.test/m?"}, {"https://h.test/m?countme=1&repo=x", "h.test/m?repo=x"},
		{"https://h.test/m?countme=x&xcountme=1", "h.test/m?countme=x&xcountme=1"},
	} {
		key, err := s.Key(c.url)
		if err != nil || key != c.key {
			t.Errorf("Key(%q) = %q, %v; want %q", c.url, key, err, c.key)
		}
	}
	for _, bad := range []string{
		"", "https://", "https:///a", "ftp://h.test/a", "file:///etc/passwd", "https://u:p@h.test/a",
		"https://h.test/../b", "https://h.test/a/../b", "https://h.test/./b", "https://h.test/a/.",
		"https://h.test/a/../../b", "https://h.test/..", "https://h.test/%2e%2e/b",
		"https://h.test/%2e/b", "https://h.test/a/%2e./b", "https://h.test/..%2fb",
		"https://h.test/a%2f..%2Fb", "https://h.test/%2f",
		"https://h.test/a%2f%2fb", "https://h.test/a%00b",
		"https://h.test/a%0ab", "https://h.test/a\x00b", "https://h.test/%zz", "https://h..test/a",
		"https://-h.test/a", "https://bücher.test/a", "https://[::1]/a",
		"https://h.test/" + strings.Repeat("a", 256), "https://h.test/" + strings.Repeat("abc/", 600),
		"https://h.test/" + strings.Repeat("a/", 65),
		"https://h.test/a?" + strings.Repeat("q", 1024), "https://" + strings.Repeat("h.", 130) + "test/a",
		strings.Repeat("x", 1<<20),
	} {
		if key, err := s.Key(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Key(%q) = %q, %v; want fs.ErrInvalid", clip(bad), key, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("Key(%q): the error has %d bytes", clip(bad), len(err.Error()))
		}
	}
	s.cfg.Canonical = func(h string) (string, bool) { return "docker.io", h == "index.docker.io" }
	if key, err := s.Key("https://Index.Docker.io/x"); err != nil || key != "docker.io/x?" {
		t.Error(key, err)
	}
	if _, err := s.Key("https://other.test/x"); !errors.Is(err, fs.ErrPermission) ||
		!strings.Contains(err.Error(), "origin add other.test") {
		t.Error(err)
	}
}

// TestOneFileManySpellings: a file that was put under the URL that people list is found under the URL that clients ask
// for.
func TestOneFileManySpellings(t *testing.T) {
	f := start(t)
	f.put(t, "https://github.com/k3s-io/k3s/releases/download/v1.31.5%2Bk3s1/k3s", "k3s")
	f.put(t, "https://files.test/a%2Fb/c~d?x=%7e", "slash")
	for _, c := range []struct{ host, path, body string }{
		{"github.com", "/k3s-io/k3s/releases/download/v1.31.5+k3s1/k3s", "k3s"},
		{"github.com", "/k3s-io/k3s/releases/download/v1.31.5%2Bk3s1/k3s", "k3s"},
		{"github.com", "/k3s-io/k3s/releases/download/v1.31.5%2bk3s1/k3s", "k3s"},
		{"github.com", "//k3s-io/k3s//releases/download/v1.31.5+k3s1/k3s", "k3s"},
		{"github.com", "/%6B3s-io/k3s/releases/download/v1.31.5+k3s1/k3s", "k3s"},
		{"files.test", "/a%2fb/c%7Ed?x=~", "slash"},
	} {
		want(t, f.origin(c.host, c.path), http.StatusOK, c.body)
		want(t, f.own("/"+c.host+c.path), http.StatusOK, c.body)
	}
	for _, path := range []string{
		"/./a%2Fb/c~d?x=~", "/a%2Fb/./c~d?x=~", "/r/a/../../a%2Fb/c~d?x=~", "/a%2Fb/x/..//c~d?x=~",
		"/a%2Fb/c~d?x=~&countme=3",
	} { // of repositories of packages
		want(t, f.origin("files.test", path), http.StatusOK, "slash")
	}
	f.put(t, "https://files.test/d/index.html", "page")
	want(t, f.origin("files.test", "/d/."), http.StatusOK, "page")
	want(t, f.origin("files.test", "/d/e/.."), http.StatusOK, "page")
	want(t, f.own("//github.com/k3s-io/k3s/releases/download/v1.31.5+k3s1/k3s"), http.StatusOK, "k3s")
	want(t, f.own("/alias.test/a%2fb/c~d?x=~"), http.StatusOK, "slash")
	want(t, f.origin("files.test", "/a/b/c~d?x=~"), http.StatusNotFound, "*") // an encoded slash is no slash
	want(t, f.origin("github.com", "/K3s-io/k3s/releases/download/v1.31.5+k3s1/k3s"), http.StatusNotFound, "*")
}

func TestBadPaths(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/a", "a")
	for _, path := range []string{
		"/../a", "/x/../../a", "/%2e%2e/a", "/.%2e/a", "/%2e/a", "/./../a",
		"/x/..%2fa", "/%2e%2e%2fa", "/..%2F..%2Fetc%2Fpasswd",
		"/a%00", "/%00", "/a%0d%0ab", "/a%7f", "/%2f",
		"/" + strings.Repeat("a", 256), "/" + strings.Repeat("a/", 100), "/" + strings.Repeat("abcdefg/", 300),
	} {
		r := &http.Request{Method: "GET", URL: &url.URL{RawPath: path}, Header: http.Header{}}
		r.URL.Path, _ = url.PathUnescape(path)
		for _, v := range []View{{Origin: "files.test"}, {}} {
			w := newRecorder()
			f.Serve(w, r, v)
			want(t, w.Result(), http.StatusBadRequest, "*")
		}
	}
	// An over-long query is no file, but the path alone is.
	want(t, f.origin("files.test", "/a?"+strings.Repeat("q", 5000)), http.StatusOK, "a")
	if m := f.missed(); m != nil {
		t.Errorf("impossible paths are in the missing book: %q", m)
	}
}

// FuzzKey: no URL panics; its key is a valid name; the key's URL has that key.
func FuzzKey(f *testing.F) {
	for _, seed := range []string{"https://dl.k8s.io/a", "h.test/a%2Fb?x=%zz", "http://h.test:80//a/./b/?",
		"https://h/%ff%00?%", "x://y", "https://h.test/a?b#c", "//h.t/ü +%2B"} {
		f.Add(seed)
	}
	s := New(Config{})
	f.Fuzz(func(t *testing.T, raw string) {
		key, err := s.Key(raw)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		if !fs.ValidPath(key) || tooLong(key) || strings.Count(key, "?") != 1 {
			t.Fatalf("%q: bad key %q", raw, key)
		}
		if again, err := s.Key(URL(key)); err != nil || again != key {
			t.Fatalf("%q: key %q, and that one's %q, %v", raw, key, again, err)
		}
	})
}

// FuzzServe: no path and query panics, and the file that a path finds has the key of that path.
func FuzzServe(f *testing.F) {
	for _, seed := range []string{"/files.test/a", "/kubernetes/v1.32.0/kubeadm", "/files.test/dir/", "/%2e%2e/",
		"/files.test/a.sha256", "/cni/v1.0.0/amd64/x_86_64", "/runc/1.0.0/."} {
		f.Add(seed, "after=x")
	}
	fix := start(f)
	fix.put(f, "https://files.test/a", "a")
	fix.put(f, "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm", "k")
	fix.redirects = map[string]string{"https://files.test/r/*": "https://files.test/*"}
	f.Fuzz(func(t *testing.T, path, query string) {
		plain, err := url.PathUnescape(path)
		if err != nil {
			return
		}
		for _, v := range []View{{}, {Origin: "files.test"}} {
			w := newRecorder()
			fix.Serve(w, &http.Request{Method: "GET", URL: &url.URL{Path: plain, RawPath: path, RawQuery: query},
				Header: http.Header{"Accept": {"text/html"}}}, v)
			if w.Code >= 500 {
				t.Fatalf("%q ? %q: %d", path, query, w.Code)
			}
			for _, value := range w.Header()["Location"] {
				if strings.ContainsAny(value, "\r\n \x00") || strings.HasPrefix(value, "//") {
					t.Fatalf("%q ? %q: Location %q", path, query, value)
				}
			}
		}
		fix.missed()
	})
}
