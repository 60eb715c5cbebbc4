package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"casemate/cluster/treetest"

	"github.com/opencontainers/go-digest"
)

// shelf is a registry over a tree in memory that tests fill by links, as an import does, and then read over HTTP.
type shelf struct {
	tb   testing.TB
	tree *treetest.Mem
	reg  *Registry
	own  View

	mu     sync.Mutex
	misses []string // "name" or "name: detail"
	luck   []string // "asked < served"
}

// testOrigins is the order of resolution in tests.
var testOrigins = []string{"docker.io", "registry.k8s.io", "quay.io"}

func testCanonical(host string) (string, bool) {
	host, _, _ = strings.Cut(host, ":")
	switch host {
	case "registry-1.docker.io", "index.docker.io":
		return "docker.io", true
	}
	return host, slices.Contains(testOrigins, host)
}

func newShelf(tb testing.TB, with ...func(*Config)) *shelf {
	s := &shelf{tb: tb, tree: treetest.New(tb), own: View{Host: "registry.casemate.internal"}}
	cfg := Config{
		Tree:      s.tree,
		Origins:   func() []string { return testOrigins },
		Canonical: testCanonical,
		Miss: func(_ *http.Request, kind, name, detail string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch kind {
			case "image":
			case "blob": // no list of images can name it
				name = "blob " + name
			default:
				tb.Errorf("a miss of kind %q, want image or blob", kind)
			}
			if detail != "" {
				name += ": " + detail
			}
			s.misses = append(s.misses, name)
		},
		Luck: func(_ *http.Request, asked, served string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.luck = append(s.luck, asked+" < "+served)
		},
	}
	for _, f := range with {
		f(&cfg)
	}
	reg, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := reg.Close(); err != nil {
			tb.Error(err)
		}
	})
	s.reg = reg
	return s
}

// taken returns the hooks' calls since the last time.
func (s *shelf) taken() (misses, luck []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	misses, luck = s.misses, s.luck
	s.misses, s.luck = nil, nil
	return misses, luck
}

// blob stores bytes, named by the algorithm of like ("" for sha256).
func (s *shelf) blob(data, like string) digest.Digest {
	s.tb.Helper()
	w, err := s.tree.CreateBlob("")
	if err != nil {
		s.tb.Fatal(err)
	}
	defer w.Close()
	w.Write([]byte(data))
	d, err := w.Commit(context.Background(), treetest.DigestOf([]byte(data), like))
	if err != nil {
		s.tb.Fatal(err)
	}
	return digest.Digest(d)
}

func (s *shelf) update(fn func(b Batch)) {
	s.tb.Helper()
	if err := s.tree.Update(context.Background(), func(b Batch) error { fn(b); return nil }); err != nil {
		s.tb.Fatal(err)
	}
}

// layer stores a blob and links it in a repository.
func (s *shelf) layer(repo, data string) digest.Digest {
	s.tb.Helper()
	d := s.blob(data, "")
	s.update(func(b Batch) { b.LinkWeak(layerPath(repo, d), d.String()) })
	return d
}

// manifest stores a manifest as it is under a tag ("" for none).
func (s *shelf) manifest(repo, tag, body, like string) digest.Digest {
	s.tb.Helper()
	d := s.blob(body, like)
	s.update(func(b Batch) {
		b.Link(revisionPath(repo, d), d.String())
		if tag != "" {
			b.Link(tagPath(repo, tag), d.String())
		}
	})
	return d
}

// image stores a one-layer image; what tells one image from another. It returns the digests of the manifest and of the
// layer.
func (s *shelf) image(repo, tag, what string) (manifest, layer digest.Digest) {
	s.tb.Helper()
	layer = s.layer(repo, "layer of "+what)
	return s.manifest(repo, tag, imageOf(layer), ""), layer
}

func imageOf(layer digest.Digest) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","config":{"digest":"%s"},"layers":[{"digest":"%[2]s"}]}`,
		typeOCIManifest, layer)
}

// ask sends one request by a view and returns the whole answer; headers are pairs.
func (s *shelf) ask(v View, method, target string, headers ...string) *http.Response {
	s.tb.Helper()
	req := httptest.NewRequest(method, "http://"+v.Host+target, nil)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	s.reg.Serve(rec, req, v)
	return rec.Result()
}

// on is the view of an origin's host.
func on(origin string) View { return View{Origin: origin, Host: origin} }

// want asks for a manifest and checks which one it is: the digest, or "" for a clean 404.
func (s *shelf) want(v View, target string, d digest.Digest) {
	s.tb.Helper()
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		res := s.ask(v, method, target)
		switch {
		case d == "" && res.StatusCode != 404:
			s.tb.Errorf("%s %s on %s: %d %s, want 404", method, target, v.Host, res.StatusCode,
				res.Header.Get("Docker-Content-Digest"))
		case d != "" && (res.StatusCode != 200 || res.Header.Get("Docker-Content-Digest") != d.String()):
			s.tb.Errorf("%s %s on %s: %d %s, want %s", method, target, v.Host, res.StatusCode,
				res.Header.Get("Docker-Content-Digest"), d)
		}
	}
}

// code returns the error code in the body of an answer.
func code(tb testing.TB, res *http.Response) string {
	tb.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || len(body.Errors) != 1 {
		tb.Errorf("an error body without one error: %v", err)
		return ""
	}
	return body.Errors[0].Code
}
