package fileserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/cluster/treetest"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// origins are those that the tests' servers know.
var origins = map[string]string{
	"dl.k8s.io": "dl.k8s.io", "github.com": "github.com", "storage.googleapis.com": "storage.googleapis.com",
	"get.helm.sh":   "get.helm.sh",
	"update.k3s.io": "update.k3s.io", "get.k3s.io": "get.k3s.io", "files.test": "files.test",
	"alias.test": "files.test", "pages.test": "pages.test",
}

// fixture is a server with everything that it told others.
type fixture struct {
	*Server
	tree      *treetest.Mem
	later     time.Duration // how far the server's clock is ahead of the tree's
	redirects map[string]string
	defaults  map[string]string
	arch      string

	mu     sync.Mutex
	misses []string // "name | detail"
	luck   []string // "asked → served"
}

type logTo struct{ testing.TB }

func (l logTo) Write(p []byte) (int, error) { l.Log(strings.TrimSpace(string(p))); return len(p), nil }

func start(t testing.TB) *fixture {
	f := &fixture{tree: treetest.New(t), later: time.Hour}
	f.Server = New(f.config(t))
	return f
}

func (f *fixture) config(t testing.TB) Config {
	return Config{
		Now:       func() time.Time { return time.Now().Add(f.later) },
		Tree:      f.tree,
		Origins:   func() []string { return []string{"dl.k8s.io", "github.com"} },
		Canonical: func(host string) (string, bool) { c, ok := origins[host]; return c, ok },
		Redirects: func() map[string]string { return f.redirects },
		Defaults:  func() map[string]string { return f.defaults },
		AliasArch: func() string { return f.arch },
		Allow: func(r *http.Request, action, url string) (context.Context, error) {
			user, password, _ := r.BasicAuth()
			switch {
			case user != "ann" && user != "eve" || password != "secret":
				return nil, errors.New("wrong user or password")
			case user == "eve" && (action != "push" || url != "https://dl.k8s.io/eve"):
				return nil, fmt.Errorf("user eve may not %s %s: %w", action, url, fs.ErrPermission)
			}
			return r.Context(), nil
		},
		Miss: func(_ *http.Request, kind, name, detail string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if kind != "file" {
				t.Errorf("miss of kind %q", kind)
			}
			f.misses = append(f.misses, name+" | "+detail)
		},
		Luck: func(_ *http.Request, asked, served string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.luck = append(f.luck, asked+" → "+served)
		},
		Log: slog.New(slog.NewTextHandler(logTo{t}, nil)),
	}
}

func (f *fixture) put(t testing.TB, url, content string) Info {
	t.Helper()
	info, err := f.Put(t.Context(), url, strings.NewReader(content), "")
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// do answers a request; headers are "Name: value".
func (f *fixture) do(v View, method, target string, body io.Reader, headers ...string) *http.Response {
	r := httptest.NewRequest(method, target, body)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	f.Serve(w, r, v)
	return w.Result()
}

// origin reads a path at an origin, own one under the server's own name.
func (f *fixture) origin(host, path string, headers ...string) *http.Response {
	return f.do(View{Origin: host}, "GET", path, nil, headers...)
}

func (f *fixture) own(path string, headers ...string) *http.Response {
	return f.do(View{}, "GET", path, nil, headers...)
}

func (f *fixture) missed() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.misses
	f.misses = nil
	return m
}

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func text(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// want checks status and, unless it is "*", the body.
func want(t testing.TB, r *http.Response, code int, body string) {
	t.Helper()
	got := text(t, r)
	if r.StatusCode != code || body != "*" && got != body {
		t.Errorf("got %d %q, want %d %q", r.StatusCode, got, code, body)
	}
	if r.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Error("no nosniff")
	}
}
