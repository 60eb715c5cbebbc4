package fileserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestGetAndHead(t *testing.T) {
	f := start(t)
	info := f.put(t, "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm", "0123456789")
	for _, v := range []View{{Origin: "dl.k8s.io"}, {Origin: "dl.k8s.io", Plain: true}, {}, {Plain: true}} {
		path := "/release/v1.32.0/bin/linux/amd64/kubeadm"
		if v.Origin == "" {
			path = "/dl.k8s.io" + path
		}
		for method, body := range map[string]string{"GET": "0123456789", "HEAD": ""} {
			r := f.do(v, method, path, nil)
			want(t, r, http.StatusOK, body)
			for name, value := range map[string]string{
				"Content-Length": "10", "Content-Type": "application/octet-stream", "Etag": `"` + info.Digest + `"`,
				"Last-Modified": info.Time.UTC().Format(http.TimeFormat), "Accept-Ranges": "bytes",
				"Content-Encoding": "",
			} {
				if got := r.Header.Get(name); got != value {
					t.Errorf("%s: %s is %q, want %q", method, name, got, value)
				}
			}
		}
	}
}

// A file that can still be replaced in the second in which it was put has the date of the second before, and no date is
// compared: a client that sends that second back would be told that the new content is the one it has. A file from a
// clock that is ahead has no date.
func TestNoDateInTheSecondOfAChange(t *testing.T) {
	f := start(t)
	info := f.put(t, "https://files.test/f", "old")
	second := info.Time.Truncate(time.Second)
	for _, c := range []struct {
		now  time.Time
		date time.Time // zero: none
	}{
		{second.Add(-time.Hour), time.Time{}},
		{second, second.Add(-time.Second)}, {second.Add(time.Second - 1), second.Add(-time.Second)},
		{second.Add(time.Second), second}, {second.Add(time.Hour), second},
	} {
		want := ""
		if !c.date.IsZero() {
			want = c.date.UTC().Format(http.TimeFormat)
		}
		cfg := f.config(t)
		cfg.Now = func() time.Time { return c.now }
		f.Server = New(cfg)
		for _, path := range []string{"/f", "/f.sha256"} {
			r := f.origin("files.test", path)
			if got := r.Header.Get("Last-Modified"); got != want {
				t.Errorf("%s at %v: Last-Modified is %q, want %q", path, c.now, got, want)
			}
			again := f.origin("files.test", path, "If-Modified-Since: "+second.UTC().Format(http.TimeFormat))
			if (again.StatusCode == 304) != c.date.Equal(second) {
				t.Errorf("%s at %v: If-Modified-Since has %d", path, c.now, again.StatusCode)
			}
		}
	}
}

func TestConditionsAndRanges(t *testing.T) {
	f := start(t)
	info := f.put(t, "https://files.test/f", "0123456789")
	tag, when := `"`+info.Digest+`"`, info.Time.UTC().Format(http.TimeFormat)
	before := info.Time.Add(-time.Hour).UTC().Format(http.TimeFormat)
	after := info.Time.Add(time.Hour).UTC().Format(http.TimeFormat)
	for _, c := range []struct {
		headers []string
		code    int
		body    string
	}{
		{[]string{"If-None-Match: " + tag}, 304, ""},
		{[]string{"If-None-Match: W/" + tag}, 304, ""},
		{[]string{`If-None-Match: "other", ` + tag}, 304, ""},
		{[]string{"If-None-Match: *"}, 304, ""},
		{[]string{`If-None-Match: "other"`}, 200, "0123456789"},
		{[]string{`If-None-Match: "other"`, "If-Modified-Since: " + when}, 200, "0123456789"},
		// RFC 9110: the tag decides
		{[]string{"If-Modified-Since: " + when}, 304, ""},
		{[]string{"If-Modified-Since: " + before}, 200, "0123456789"},
		// RFC 9110, section 13.1.3. Ansible's get_url sends the date of its own file, which is that of its download.
		{[]string{"If-Modified-Since: " + after}, 304, ""},
		{[]string{`If-Match: "other"`}, 412, ""},
		{[]string{"If-Unmodified-Since: " + before}, 412, ""},
		{[]string{"Range: bytes=2-4"}, 206, "234"},
		{[]string{"Range: bytes=7-"}, 206, "789"},
		{[]string{"Range: bytes=-3"}, 206, "789"},
		{[]string{"Range: bytes=8-100"}, 206, "89"},
		{[]string{"Range: bytes=10-"}, 416, "*"},
		{[]string{"Range: lines=1-2"}, 200, "0123456789"},
		{[]string{"Range: bytes=2-4", "If-Range: " + tag}, 206, "234"},
		{[]string{"Range: bytes=2-4", "If-Range: " + when}, 206, "234"},
		{[]string{"Range: bytes=2-4", `If-Range: "other"`}, 200, "0123456789"},
		{[]string{"Range: bytes=2-4", "If-Range: W/" + tag}, 200, "0123456789"},
	} {
		r := f.origin("files.test", "/f", c.headers...)
		want(t, r, c.code, c.body)
		if t.Failed() {
			t.Fatalf("with %q", c.headers)
		}
	}
	f.put(t, "https://files.test/long", strings.Repeat("x", 10*32))
	want(t, f.origin("files.test", "/long", "Range: bytes=1-1"+strings.Repeat(",0-0", 32-1)), 206, "*")
	want(t, f.origin("files.test", "/long", "Range: bytes=1-1"+strings.Repeat(",0-0", 32)), 200, "*")
	r := f.origin("files.test", "/f", "Range: bytes=1-2,5-6")
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" || r.StatusCode != 206 {
		t.Fatal(r.StatusCode, kind, err)
	}
	parts := multipart.NewReader(r.Body, params["boundary"])
	for _, c := range []struct{ rng, body string }{{"bytes 1-2/10", "12"}, {"bytes 5-6/10", "56"}} {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(p)
		if string(body) != c.body || p.Header.Get("Content-Range") != c.rng {
			t.Errorf("part %q is %q", p.Header.Get("Content-Range"), body)
		}
	}
}

func TestQueryIsPartOfTheKey(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f", "path")
	f.put(t, "https://files.test/f?v=1&a=b", "query")
	f.put(t, "https://files.test/only?v=1", "only with it")
	want(t, f.origin("files.test", "/f?v=1&a=b"), 200, "query")
	want(t, f.origin("files.test", "/f?v=2"), 200, "path")
	want(t, f.origin("files.test", "/f?"), 200, "path")
	want(t, f.origin("files.test", "/f"), 200, "path")
	want(t, f.own("/files.test/f?v=1&a=b"), 200, "query")
	want(t, f.origin("files.test", "/only?v=1"), 200, "only with it")
	want(t, f.origin("files.test", "/only"), 404, "*")
	want(t, f.origin("files.test", "/f?a=b&v=1"), 200, "path") // another order is another query
	if m := f.missed(); fmt.Sprint(m) != "[https://files.test/only | ]" {
		t.Errorf("%q", m)
	}
}

// TestFileAndDirectory: a URL can be a file and a directory, and a slash at its end makes it another file.
func TestFileAndDirectory(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/foo/bar", "bar")
	f.put(t, "https://files.test/foo", "foo")
	f.put(t, "https://files.test/foo/", "foo/")
	f.put(t, "https://files.test/", "root")
	f.put(t, "https://files.test/foo/bar/baz?q", "baz")
	for path, body := range map[string]string{"/foo": "foo", "/foo/": "foo/", "/foo/bar": "bar", "/": "root",
		"/foo/bar/baz?q": "baz"} {
		want(t, f.origin("files.test", path), 200, body)
	}
	if err := f.Delete(t.Context(), "https://files.test/foo"); err != nil {
		t.Fatal(err)
	}
	want(t, f.origin("files.test", "/foo/bar"), 200, "bar")
	r := f.origin("files.test", "/foo?x=1")
	want(t, r, 302, "*")
	if to := r.Header.Get("Location"); to != "./foo/?x=1" {
		t.Errorf("Location %q", to)
	}
	// What wget -x wrote for a page is found under the page's URL.
	f.put(t, "https://pages.test/simple/pip/index.html", "<html>")
	want(t, f.origin("pages.test", "/simple/pip/"), 200, "<html>")
	want(t, f.origin("pages.test", "/simple/pip"), 302, "*")
}

func TestContentTypes(t *testing.T) {
	f := start(t)
	page := "<!DOCTYPE html><script>alert(1)</script>"
	for path, media := range map[string]string{
		"/etcd.tar.gz": "application/gzip", "/cni.tgz": "application/gzip", "/kata.tar.xz": "application/x-xz",
		"/k3s.tar.zst": "application/zstd",
		"/a.deb":       "application/vnd.debian.binary-package", "/a.rpm": "application/x-rpm",
		"/a.sha256": "text/plain; charset=utf-8",
		"/a.sha512": "text/plain; charset=utf-8", "/crds.yaml": "application/yaml", "/a.YML": "application/yaml",
		"/a.json":  "application/json",
		"/kubeadm": octets, "/runc.amd64": octets, "/yq_linux_amd64": octets, "/v1.2.3": octets,
		"/x.js":       "text/plain; charset=utf-8",
		"/install.sh": "text/plain; charset=utf-8", "/a.tar.gz?x=.html": "application/gzip",
		"/x.svg": "image/svg+xml", "/a.html": "text/html; charset=utf-8",
		"/simple/": "text/html; charset=utf-8", // only an address that ends in a slash is looked into
	} {
		f.put(t, "https://pages.test"+path, page)
		for _, method := range []string{"GET", "HEAD"} {
			r := f.do(View{Origin: "pages.test"}, method, path, nil)
			if got := r.Header.Get("Content-Type"); got != media {
				t.Errorf("%s is %q, want %q", path, got, media)
			}
			sandbox := strings.Contains(media, "html") || strings.Contains(media, "svg")
			if got := r.Header.Get("Content-Security-Policy"); sandbox != (got == "sandbox") {
				t.Errorf("%s has the policy %q", path, got)
			}
		}
	}
	f.put(t, "https://get.k3s.io/", "#!/bin/sh\nset -e\n")
	if got := f.origin("get.k3s.io", "/").Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("a script at a root is %q", got)
	}
	f.put(t, "https://get.k3s.io/bin/", "\x7fELF\x02\x00\x01")
	if got := f.origin("get.k3s.io", "/bin/").Header.Get("Content-Type"); got != octets {
		t.Errorf("a binary below a slash is %q", got)
	}
}

func TestMiss(t *testing.T) {
	f := start(t)
	r := f.origin("dl.k8s.io", "/release/stable-1.txt?x=%41")
	want(t, r, 404, "not kept here: https://dl.k8s.io/release/stable-1.txt?x=A; noted in the missing book.\n")
	if r.Header.Get("Content-Type") != "text/plain; charset=utf-8" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", r.Header)
	}
	want(t, f.own("/github.com/a/b"), 404, "*")
	want(t, f.own("/unknown.test/a"), 404, "*")
	want(t, f.own("/whatever"), 404, "*")
	want(t, f.own("/favicon.ico"), 404, "*")
	want(t, f.do(View{Origin: "dl.k8s.io"}, "HEAD", "/h", nil), 404, "*")
	want(t, f.origin("dl.k8s.io", "/release/x.sha256"), 404, "*")
	want(t, f.origin("dl.k8s.io", "/dir/"), 404, "*")
	wanted := []string{
		"https://dl.k8s.io/release/stable-1.txt?x=A | ", "https://github.com/a/b | ",
		"https://unknown.test/a | unknown.test is not an origin here, see `casemate origin add`",
		"/whatever | neither an origin nor a short name with a version; see /",
		"/favicon.ico | not an origin here; see /",
		"https://dl.k8s.io/h | ", "https://dl.k8s.io/release/x.sha256 | ", "https://dl.k8s.io/dir/ | ",
	}
	if m := f.missed(); strings.Join(m, "\n") != strings.Join(wanted, "\n") {
		t.Errorf("missed:\n%s", strings.Join(m, "\n"))
	}
}

// asks counts how often the tree is asked for a name.
type asks struct {
	Tree
	n int
}

func (a *asks) Stat(name string) (fs.FileInfo, error) {
	a.n++
	return a.Tree.Stat(name)
}

// TestMissIsCheap: a tree may ask its leader before it says that something does not exist, so a miss asks for few
// names.
func TestMissIsCheap(t *testing.T) {
	f := start(t)
	c := f.config(t)
	for path, most := range map[string]int{
		"/files.test/a/b": 2, "/files.test/a/b?x=y": 3, "/files.test/a/": 3, "/files.test/a.sha256": 3,
		"/kubernetes/v1.32.0/kubeadm": 2, "/runc/1.2.6/runc.amd64": 1,
	} {
		tree := &asks{Tree: f.tree}
		c.Tree = tree
		f.Server = New(c)
		want(t, f.own(path), 404, "*")
		if tree.n > most {
			t.Errorf("%s asked %d times, want at most %d", path, tree.n, most)
		}
	}
}

func TestMethodsAndCredentials(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f", "f")
	for _, c := range []struct {
		v       View
		method  string
		headers string
		code    int
		allow   string
	}{
		{View{Origin: "files.test"}, "POST", "", 405, "GET, HEAD"},
		{View{Origin: "files.test"}, "PUT", "Authorization: Basic YW5uOnNlY3JldA==", 405, "GET, HEAD"},
		{View{Origin: "files.test"}, "DELETE", "", 405, "GET, HEAD"},
		{View{Origin: "files.test"}, "OPTIONS", "", 405, "GET, HEAD"},
		{View{}, "POST", "", 405, "GET, HEAD, PUT, DELETE"},
		{View{}, "PATCH", "", 405, "GET, HEAD, PUT, DELETE"},
		{View{Plain: true}, "PUT", "", 403, ""},
		{View{Plain: true}, "DELETE", "", 403, ""},
		{View{Plain: true}, "PUT", "Authorization: Basic YW5uOnNlY3JldA==", 403, ""},
		{View{Plain: true}, "GET", "Authorization: Basic YW5uOnNlY3JldA==", 403, ""},
		{View{Origin: "files.test", Plain: true}, "GET", "Authorization: Bearer x", 403, ""},
		{View{}, "GET", "Authorization: Basic eDp5", 200, ""}, // reading needs no user and minds none
	} {
		path := "/files.test/f"
		if c.v.Origin != "" {
			path = "/f"
		}
		var headers []string
		if c.headers != "" {
			headers = append(headers, c.headers)
		}
		r := f.do(c.v, c.method, path, strings.NewReader("new"), headers...)
		want(t, r, c.code, "*")
		if r.Header.Get("Allow") != c.allow {
			t.Errorf("%+v: Allow is %q", c, r.Header.Get("Allow"))
		}
	}
	want(t, f.origin("files.test", "/f"), 200, "f")
}

// disk gives out blobs as *os.File, as a node that holds them does.
type disk struct {
	Tree
	dir string
}

func (d disk) OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	blob, err := d.Tree.OpenBlob(ctx, digest)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	file, err := os.Create(filepath.Join(d.dir, digest))
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(file, blob); err != nil {
		return nil, err
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}

// socket is a ResponseWriter that records its ReadFrom, as net/http's own does before it calls sendfile.
type socket struct {
	*httptest.ResponseRecorder
	files int
}

func (s *socket) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*os.File); ok {
			s.files++
		}
	}
	return io.Copy(s.ResponseRecorder, r)
}

func TestSendfile(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f", "0123456789")
	c := f.config(t)
	c.Tree = disk{f.tree, t.TempDir()}
	f.Server = New(c)
	for _, headers := range []http.Header{{}, {"Range": {"bytes=2-"}}} {
		w := &socket{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("GET", "/f", nil)
		r.Header = headers
		f.Serve(w, r, View{Origin: "files.test", Plain: true})
		if w.files != 1 || !strings.HasSuffix("0123456789", w.Body.String()) || w.Body.Len() < 8 {
			t.Errorf("%v: %d files, body %q", headers, w.files, w.Body)
		}
	}
}

// TestHeadOpensNothing: asking for a file's size does not fetch its bytes from a peer.
func TestHeadOpensNothing(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f", "0123456789")
	c := f.config(t)
	c.Tree = broken{Tree: f.tree, open: syscall.EAGAIN}
	f.Server = New(c)
	want(t, f.do(View{Origin: "files.test"}, "HEAD", "/f", nil), 200, "")
	r := f.origin("files.test", "/f")
	want(t, r, 503, "*")
	if r.Header.Get("Retry-After") == "" || r.Header.Get("ETag") != "" {
		t.Errorf("%v", r.Header)
	}
}

// broken is a tree on which things go wrong.
type broken struct {
	Tree
	stat, open error
	stopAfter  int64 // bytes of a blob that arrive
}

func (b broken) Stat(name string) (fs.FileInfo, error) {
	if b.stat != nil {
		return nil, b.stat
	}
	return b.Tree.Stat(name)
}

func (b broken) OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	if b.open != nil {
		return nil, b.open
	}
	blob, err := b.Tree.OpenBlob(ctx, digest)
	if err != nil || b.stopAfter == 0 {
		return blob, err
	}
	return &cut{ReadSeekCloser: blob, left: b.stopAfter}, nil
}

type cut struct {
	io.ReadSeekCloser
	left int64
}

func (s *cut) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, errors.New("the peer went away")
	}
	n, err := s.ReadSeekCloser.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

func TestTreeErrors(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f", "0123456789")
	for _, c := range []struct {
		tree broken
		code int
	}{
		{broken{stat: syscall.EAGAIN}, 503}, {broken{stat: errors.New("disk on fire")}, 500},
		{broken{open: errors.New("disk on fire")}, 500},
		{broken{open: fs.ErrNotExist}, 404},
	} {
		c.tree.Tree = f.tree
		config := f.config(t)
		config.Tree = c.tree
		f.Server = New(config)
		r := f.origin("files.test", "/f")
		if body := text(t, r); r.StatusCode != c.code || strings.Contains(body, "fire") {
			t.Errorf("%+v: %d %q", c.tree, r.StatusCode, body)
		}
	}
}

// TestBrokenStream: a client that gets fewer bytes than it was promised notices it, and the log says why.
func TestBrokenStream(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f", strings.Repeat("x", 1<<20))
	c := f.config(t)
	c.Tree = broken{Tree: f.tree, stopAfter: 1 << 19}
	var log bytes.Buffer
	c.Log = textLog(&log)
	f.Server = New(c)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		r *http.Request) {
		f.Serve(w, r, View{Origin: "files.test", Plain: true})
	}))
	r, err := server.Client().Get(server.URL + "/f")
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(r.Body)
	r.Body.Close()
	server.Client().CloseIdleConnections()
	server.Close()
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the client saw %v", err)
	}
	if !strings.Contains(log.String(), "the peer went away") ||
		!strings.Contains(log.String(), "https://files.test/f") {
		t.Errorf("log: %s", &log)
	}
}

// TestReplacedWhileRead: a file that is replaced, and its old bytes collected, between look-up and opening is served in
// its new form.
func TestReplacedWhileRead(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f", "old")
	c := f.config(t)
	c.Tree = &swap{Tree: f.tree, change: func() {
		f.tree.Unpin()
		f.put(t, "https://files.test/f", "new")
		if gone := f.tree.Collect(); len(gone) != 1 {
			t.Errorf("collected %q", gone)
		}
	}}
	s := New(c)
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", "/f", nil), View{Origin: "files.test"})
	want(t, w.Result(), 200, "new")
}

type swap struct {
	Tree
	change func()
}

func (s *swap) OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	if s.change != nil {
		s.change()
		s.change = nil
	}
	return s.Tree.OpenBlob(ctx, digest)
}
