package fileserver

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"casemate/cluster/tree"
	"casemate/cluster/treetest"
)

const ann = "Authorization: Basic YW5uOnNlY3JldA==" // ann:secret
const eve = "Authorization: Basic ZXZlOnNlY3JldA==" // eve:secret, who may only put one file

func TestPutGoAPI(t *testing.T) {
	f := start(t)
	want256 := treetest.DigestOf([]byte("hello"), "")
	for _, digest := range []string{"", want256, treetest.DigestOf([]byte("hello"), "sha512:")} {
		info, err := f.Put(t.Context(), "http://alias.test:80/a%2Bb?", strings.NewReader("hello"), digest)
		if err != nil || info.URL != "https://files.test/a+b" || info.Digest != want256 || info.Size != 5 ||
			info.Time.IsZero() {
			t.Errorf("%+v, %v", info, err)
		}
	}
	if info, err := f.Stat("alias.test/a+b"); err != nil || info.Digest != want256 || info.Size != 5 {
		t.Errorf("%+v, %v", info, err)
	}
	boom := errors.New("boom")
	for _, c := range []struct {
		url, digest string
		body        io.Reader
		err         error
	}{
		{"https://files.test/../x", "", nil, fs.ErrInvalid},
		{"https://unknown.test/x", "", nil, fs.ErrPermission},
		{"https://files.test/x", "md5:00", nil, fs.ErrInvalid},
		{"https://files.test/x", "sha256:" + strings.Repeat("A", 64), nil, fs.ErrInvalid},
		{"https://files.test/x", "sha512:" + strings.Repeat("a", 64), nil, fs.ErrInvalid},
		{"https://files.test/a+b", "sha256:" + strings.Repeat("a", 64), strings.NewReader("other"), syscall.EBADMSG},
		{"https://files.test/a+b", "sha512:" + strings.Repeat("a", 128), strings.NewReader("other"), syscall.EBADMSG},
		{"https://files.test/a+b", "", iotest.ErrReader(boom), boom},
		{"https://files.test/a+b", "", iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("other"))),
			iotest.ErrTimeout},
	} {
		if _, err := f.Put(t.Context(), c.url, c.body, c.digest); !errors.Is(err, c.err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	want(t, f.origin("files.test", "/a+b"), 200, "hello")
	for _, what := range []string{"blob", "update"} {
		for _, happened := range []bool{false, true} {
			f.tree.Fail = func(w string) (error, bool) {
				if w == what {
					return syscall.EAGAIN, happened
				}
				return nil, true
			}
			if _, err := f.Put(t.Context(), "https://files.test/new", strings.NewReader("new"), ""); !errors.Is(err,
				syscall.EAGAIN) {
				t.Error(err)
			}
			f.tree.Fail = nil
			_, err := f.Stat("https://files.test/new")
			if got := err == nil; got != (what == "update" && happened) {
				t.Errorf("%s failed, happened %v: the file is there: %v", what, happened, got)
			}
		}
	}
	if err := f.Delete(t.Context(), "https://files.test/new?x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err) // the query is part of the deleted name, the path alone is not tried
	}
	if err := f.Delete(t.Context(), "https://alias.test/new"); err != nil {
		t.Error(err)
	}
	if _, err := f.Stat("https://files.test/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := f.Stat(":"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	if err := f.Delete(t.Context(), ":"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Put(ctx, "https://files.test/late", strings.NewReader("x"), ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// A stored file outlives the pin, a deleted one does not.
	f.tree.Unpin()
	f.tree.Collect()
	want(t, f.origin("files.test", "/a+b"), 200, "hello")
}

// TestDeleteAfterOriginWasRemoved: files of an origin that is none any more can still be read by name, listed and
// deleted.
func TestDeleteAfterOriginWasRemoved(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f", "f")
	c := f.config(t)
	c.Canonical = func(string) (string, bool) { return "", false }
	f.Server = New(c)
	want(t, f.own("/files.test/f"), 200, "f")
	if err := f.Delete(t.Context(), "https://files.test/f"); err != nil {
		t.Error(err)
	}
	want(t, f.own("/files.test/f"), 404, "*")
}

func TestPutHTTP(t *testing.T) {
	f := start(t)
	sum256, sum512 := sha256.Sum256([]byte("hello")), sha512.Sum512([]byte("hello"))
	b256, b512 := base64.StdEncoding.EncodeToString(sum256[:]), base64.StdEncoding.EncodeToString(sum512[:])
	wrong := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for i, c := range []struct {
		path    string
		headers []string
		code    int
	}{
		{"/files.test/f", nil, 401},
		{"/files.test/f", []string{"Authorization: Basic YW5uOndyb25n"}, 401},
		{"/files.test/f", []string{"Authorization: Bearer abc"}, 401},
		{"/files.test/f", []string{ann}, 201},
		{"/files.test/f", []string{ann}, 200},
		{"/alias.test/f", []string{ann}, 200},
		{"/files.test/f?x=y", []string{ann}, 201},
		{"/unknown.test/f", []string{ann}, 403},
		{"/kubernetes/v1.32.0/kubeadm", []string{ann}, 403},
		{"/", []string{ann}, 403},
		{"/files.test/../f", []string{ann}, 403}, {"/files.test/../../f", []string{ann}, 400},
		{"/files.test/f?" + strings.Repeat("x", 1024), []string{ann}, 400},
		{"/files.test/f", []string{ann, "Content-Range: bytes 0-4/5"}, 400},
		{"/files.test/f", []string{ann, "Content-Encoding: gzip"}, 415},
		{"/files.test/1", []string{ann, "Content-Digest: sha-256=:" + b256 + ":"}, 201},
		{"/files.test/2", []string{ann, "Repr-Digest: sha-512=:" + b512 + ":, sha-256=:" + b256 + ":, md5=:abc:"}, 201},
		{"/files.test/3", []string{ann, "Digest: SHA-256=" + b256}, 201},
		{"/files.test/4", []string{ann, "X-Checksum-Sha256: " + strings.ToUpper(hex.EncodeToString(sum256[:]))}, 201},
		{"/files.test/5", []string{ann, "X-Checksum-Sha512: " + hex.EncodeToString(sum512[:])}, 201},
		{"/files.test/6", []string{ann, "Content-Digest: sha-256=:" + wrong + ":"}, 400},
		{"/files.test/6", []string{ann, "Digest: sha-512=" + base64.StdEncoding.EncodeToString(make([]byte, 64))}, 400},
		{"/files.test/6", []string{ann, "Content-Digest: sha-256=:" + b256 + ":", "Digest: sha-256=" + wrong}, 400},
		{"/files.test/6", []string{ann, "Content-Digest: sha-256=" + b256}, 400},
		{"/files.test/6", []string{ann, "Content-Digest: sha-256=:" + b512 + ":"}, 400},
		{"/files.test/6", []string{ann, "X-Checksum-Sha256: xyz"}, 400},
		{"/dl.k8s.io/eve", []string{eve}, 201}, {"/dl.k8s.io/eve/", []string{eve}, 403},
		{"/files.test/f", []string{eve}, 403},
		{"/files.test/f", []string{ann, "If-None-Match: *"}, 412},
		{"/files.test/7", []string{ann, "If-None-Match: *"}, 201},
		{"/files.test/f", []string{ann, `If-Match: "sha256:` + hex.EncodeToString(sum256[:]) + `"`}, 200},
		{"/files.test/f", []string{ann, `If-Match: "other"`}, 412},
		{"/files.test/6", []string{ann, "If-Match: *"}, 412},
	} {
		r := f.do(View{}, "PUT", c.path, strings.NewReader("hello"), c.headers...)
		want(t, r, c.code, "*")
		if (r.Header.Get("WWW-Authenticate") != "") != (c.code == 401) {
			t.Errorf("challenge %q", r.Header.Get("WWW-Authenticate"))
		}
		if c.code/100 == 2 && r.Header.Get("ETag") != `"sha256:`+hex.EncodeToString(sum256[:])+`"` {
			t.Errorf("ETag %q", r.Header.Get("ETag"))
		}
		if t.Failed() {
			t.Fatalf("case %d: PUT %s with %q", i, clip(c.path), c.headers)
		}
	}
	want(t, f.origin("files.test", "/f"), 200, "hello")
	if f.missed() != nil {
		t.Error("a failed write is no miss")
	}

	want(t, f.do(View{}, "DELETE", "/files.test/f", nil), 401, "*")
	want(t, f.do(View{}, "DELETE", "/files.test/f", nil, ann, `If-Match: "other"`), 412, "*")
	want(t, f.do(View{}, "DELETE", "/files.test/f", nil, ann), 204, "")
	want(t, f.do(View{}, "DELETE", "/files.test/f", nil, ann), 404, "*")
	want(t, f.origin("files.test", "/f"), 404, "*")
	want(t, f.origin("files.test", "/f?x=y"), 200, "hello")
}

func TestPutErrors(t *testing.T) {
	f := start(t)
	for err, code := range map[error]int{
		syscall.ENOSPC: 507, syscall.EAGAIN: 503, context.DeadlineExceeded: 503, fs.ErrExist: 412, fs.ErrInvalid: 400,
		errors.New("disk on fire"): 500,
	} {
		f.tree.Fail = func(what string) (error, bool) { return fmt.Errorf("%s: %w", what, err), false }
		r := f.do(View{}, "PUT", "/files.test/f", strings.NewReader("x"), ann)
		if body := text(t, r); r.StatusCode != code || strings.Contains(body, "fire") {
			t.Errorf("%v: %d %q", err, r.StatusCode, body)
		}
		if (r.Header.Get("Retry-After") != "") != (code == 503) {
			t.Errorf("%v: Retry-After %q", err, r.Header.Get("Retry-After"))
		}
	}
	// 503 alone would be taken for "nothing was done".
	f.tree.Fail = nil
	want(t, f.do(View{}, "PUT", "/files.test/there", strings.NewReader("x"), ann), 201, "*")
	for _, method := range []string{"PUT", "DELETE"} {
		f.tree.Fail = func(what string) (error, bool) {
			return fmt.Errorf("%s: %w: %w", what, syscall.EINPROGRESS, syscall.EAGAIN), false
		}
		r := f.do(View{}, method, "/files.test/there", strings.NewReader("y"), ann)
		if body := text(t, r); r.StatusCode != 503 || !strings.Contains(body,
			"it is not known whether this was done") ||
			strings.Contains(body, "try again") || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s with an unknown outcome: %d %q", method, r.StatusCode, body)
		}
	}
	f.tree.Fail = nil
	c := f.config(t)
	c.Allow = func(*http.Request, string, string) (context.Context, error) { return nil, syscall.EAGAIN }
	f.Server = New(c)
	want(t, f.do(View{}, "PUT", "/files.test/f", strings.NewReader("x"), ann), 503, "*")
	c.Allow = nil
	f.Server = New(c)
	want(t, f.do(View{}, "PUT", "/files.test/f", strings.NewReader("x"), ann), 401, "*")
	f.Server = New(f.config(t))
	r := httptest.NewRequest("PUT", "/files.test/f", strings.NewReader("too large"))
	r.SetBasicAuth("ann", "secret")
	w := newRecorder()
	r.Body = http.MaxBytesReader(w, r.Body, 3)
	f.Serve(w, r, View{})
	want(t, w.Result(), 413, "*")
	want(t, f.origin("files.test", "/f"), 404, "*")
}

// TestBrokenUpload: an upload whose connection breaks leaves nothing behind.
func TestBrokenUpload(t *testing.T) {
	f := start(t)
	r := f.do(View{}, "PUT", "/files.test/f", io.MultiReader(strings.NewReader("half"),
		iotest.ErrReader(io.ErrUnexpectedEOF)), ann)
	want(t, r, 400, "*")
	want(t, f.origin("files.test", "/f"), 404, "*")
	f.tree.Unpin()
	if gone := f.tree.Collect(); gone != nil {
		t.Errorf("a blob was made: %q", gone)
	}
}

// TestConcurrentCreate: of two clients that create a file with If-None-Match: *, one gets an error.
func TestConcurrentCreate(t *testing.T) {
	f := start(t)
	first := true
	body := readerFunc(func(p []byte) (int, error) { // the other one finishes while this one's body is on its way
		if first {
			first = false
			f.put(t, "https://files.test/f", "the other's")
		}
		return 0, io.EOF
	})
	want(t, f.do(View{}, "PUT", "/files.test/f", body, ann, "If-None-Match: *"), 412, "*")
	want(t, f.origin("files.test", "/f"), 200, "the other's")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestCredentials: what of a query is a credential is no part of a file's name, and files that an earlier version
// stored with it are still found and deleted.
func TestCredentials(t *testing.T) {
	f := start(t)
	f.put(t, "https://files.test/f?v=1&token=s3cret", "content")
	f.put(t, "https://files.test/g?X-Amz-Signature=s3cret&X-Amz-Date=1", "other")
	for name := range f.tree.Walk(".", "") {
		if strings.Contains(name, "s3cret") {
			t.Errorf("stored as %s", name)
		}
	}
	want(t, f.origin("files.test", "/f?v=1&token=another"), 200, "content")
	want(t, f.origin("files.test", "/f?v=1"), 200, "content")
	want(t, f.origin("files.test", "/f?v=2&token=s3cret"), 404, "*")
	want(t, f.own("/files.test/g?sig=1"), 200, "other")
	for _, m := range f.missed() {
		if strings.Contains(m, "s3cret") {
			t.Errorf("missed: %s", m)
		}
	}
	digest := treetest.DigestOf([]byte("other"), "")
	err := f.tree.Update(t.Context(), func(b tree.Batch) error { b.Link("files.test/old?token=1", digest); return nil })
	if err != nil {
		t.Fatal(err)
	}
	want(t, f.origin("files.test", "/old?token=1"), 200, "other")
	want(t, f.origin("files.test", "/old?token=2"), 404, "*")
	if err := f.Delete(t.Context(), "https://files.test/old?token=1"); err != nil {
		t.Error(err)
	}
	want(t, f.origin("files.test", "/old?token=1"), 404, "*")
}

// TestQueries: files with a query are counted, by path and all.
func TestQueries(t *testing.T) {
	f := start(t)
	for _, url := range []string{"https://files.test/f", "https://files.test/f?a", "https://files.test/f?b",
		"https://files.test/f/?c", "https://files.test/fg?d", "https://files.test/?e"} {
		f.put(t, url, url)
	}
	for url, n := range map[string]int{"https://files.test/f": 2, "https://files.test/f/": 1, "https://files.test/x": 0,
		"https://files.test/": 1} {
		if path, all := f.Queries(url); path != n || all != 5 {
			t.Errorf("%s: %d of %d, want %d of 5", url, path, all, n)
		}
	}
}
