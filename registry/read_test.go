package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func body(tb testing.TB, res *http.Response) string {
	tb.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// Stored bytes are served unchanged and under their own media type, whatever the client accepts.
func TestManifestHeaders(t *testing.T) {
	s := newShelf(t)
	for _, c := range []struct{ why, bytes, like, mediaType string }{
		{"OCI manifest", imageOf(digest.Digest(sha)), "", typeOCIManifest},
		{"without mediaType", `{"schemaVersion":2, "config":{},"layers":[] }`, "", typeOCIManifest},
		{"OCI index without mediaType", `{"schemaVersion":2,"manifests":[]}`, "", typeOCIIndex},
		{"docker manifest", `{"schemaVersion":2,"mediaType":"` + typeDockerManifest + `"}`, "", typeDockerManifest},
		{"docker list", `{"schemaVersion":2,"mediaType":"` + typeDockerList + `","manifests":[]}`, "", typeDockerList},
		{"an artifact", `{"schemaVersion":2,"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}`, "",
			"application/vnd.oci.artifact.manifest.v1+json"},
		{"sha512", `{"schemaVersion":2,"config":{"digest":"x"}}`, "sha512:", typeOCIManifest},
		{"a media type that is no header", `{"mediaType":"a\r\nSet-Cookie: b"}`, "", "application/octet-stream"},
		{"too large to keep in memory", `{"schemaVersion":2,"manifests":[]` + strings.Repeat(" ", keepManifest) + `}`,
			"", typeOCIIndex},
	} {
		t.Run(c.why, func(t *testing.T) {
			d := s.manifest("quay.io/app", "1", c.bytes, c.like)
			for _, ref := range []string{"1", d.String()} {
				for range 2 { // from the tree, then from memory
					for _, accept := range []string{"", "text/plain", typeDockerManifest} {
						get := s.ask(s.own, "GET", "/v2/quay.io/app/manifests/"+ref, "Accept", accept)
						head := s.ask(s.own, "HEAD", "/v2/quay.io/app/manifests/"+ref, "Accept", accept)
						if got := body(t, get); got != c.bytes {
							t.Errorf("GET %s: other bytes: %.80q", ref, got)
						}
						if got := body(t, head); got != "" {
							t.Errorf("HEAD %s: a body: %.80q", ref, got)
						}
						for _, res := range []*http.Response{get, head} {
							for name, want := range map[string]string{"Content-Type": c.mediaType,
								"Content-Length":        fmt.Sprint(len(c.bytes)),
								"Docker-Content-Digest": d.String(), "Etag": `"` + d.String() + `"`,
								"Accept-Ranges": "bytes", "Set-Cookie": ""} {
								if got := res.Header.Get(name); got != want {
									t.Errorf("%s: %s is %q, want %q", ref, name, got, want)
								}
							}
							if res.StatusCode != 200 {
								t.Errorf("%s: %d", ref, res.StatusCode)
							}
							if modified := res.Header.Get("Last-Modified"); (modified != "") != (ref != "1") {
								t.Errorf("%s: Last-Modified is %q; a tag moves, a digest does not", ref, modified)
							}
						}
					}
				}
			}
		})
	}
}

func TestConditionsAndRanges(t *testing.T) {
	s := newShelf(t)
	m, layer := s.image("registry.k8s.io/pause", "3.10", "pause")
	content := "layer of pause"
	blob, manifest := "/v2/pause/blobs/"+layer.String(), "/v2/pause/manifests/3.10"
	modified := s.ask(on("registry.k8s.io"), "GET", blob).Header.Get("Last-Modified")
	for _, c := range []struct {
		target, header, value string
		status                int
		body                  string
	}{
		{blob, "Range", "bytes=0-4", 206, content[:5]},
		{blob, "Range", "bytes=6-", 206, content[6:]},
		{blob, "Range", "bytes=-3", 206, content[len(content)-3:]},
		{blob, "Range", "bytes=100-", 416, ""},
		{blob, "Range", "bytes=0-2,2-4", 206, content[:5]},
		{blob, "Range", "bytes=" + strings.Repeat("0-,", 29997) + "0-", 200, content},
		{manifest, "Range", "bytes=" + strings.Repeat("0-,", 29997) + "0-", 200, imageOf(layer)},
		{blob, "If-None-Match", `"` + layer.String() + `"`, 304, ""},
		{blob, "If-None-Match", layer.String(), 304, ""}, // as clients of distribution send it
		{blob, "If-None-Match", `"` + m.String() + `"`, 200, content},
		{blob, "If-Modified-Since", modified, 304, ""},
		{blob, "If-Modified-Since", "Mon, 01 Jan 2001 00:00:00 GMT", 200, content},
		{blob, "If-Range", `"` + layer.String() + `"`, 200, content},
		{manifest, "If-None-Match", `"` + m.String() + `"`, 304, ""},
		{manifest, "If-None-Match", m.String(), 304, ""},
		{manifest, "If-None-Match", "*", 304, ""},
		{manifest, "If-None-Match", `"` + layer.String() + `"`, 200, imageOf(layer)},
		{manifest, "Range", "bytes=0-1", 206, imageOf(layer)[:2]},
	} {
		res := s.ask(on("registry.k8s.io"), "GET", c.target, c.header, c.value)
		got := body(t, res)
		if res.StatusCode != c.status || c.status != 416 && got != c.body {
			t.Errorf("%s with %s: %s: %d %q, want %d %q", c.target, c.header, c.value, res.StatusCode, got, c.status,
				c.body)
		}
	}
	res := s.ask(on("registry.k8s.io"), "GET", blob)
	if got := res.Header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("a blob is served as %q", got)
	}
	if res.Header.Get("Docker-Content-Digest") != layer.String() ||
		res.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
		t.Errorf("headers of a blob: %v", res.Header)
	}
}

// sha512 digests work everywhere.
func TestSHA512(t *testing.T) {
	s := newShelf(t)
	d := s.blob("data", "sha512:")
	s.update(func(b Batch) { b.LinkWeak(layerPath("team/app", d), d.String()) })
	s.want(s.own, "/v2/team/app/blobs/"+d.String(), d)
	m := s.manifest("team/app", "", imageOf(d), "sha512:")
	s.want(s.own, "/v2/team/app/manifests/"+m.String(), m)
}

// A blob exists for each repository by itself, though its bytes are shared.
func TestBlobsPerRepository(t *testing.T) {
	s := newShelf(t)
	d := s.layer("team/one", "data")
	s.want(s.own, "/v2/team/one/blobs/"+d.String(), d)
	s.want(s.own, "/v2/team/two/blobs/"+d.String(), "")
	s.update(func(b Batch) { b.LinkWeak(layerPath("team/two", d), d.String()) })
	s.want(s.own, "/v2/team/two/blobs/"+d.String(), d)
	s.update(func(b Batch) { b.Remove(strings.TrimSuffix(layerPath("team/two", d), "/link")) })
	s.want(s.own, "/v2/team/two/blobs/"+d.String(), "")
	s.want(s.own, "/v2/team/one/blobs/"+d.String(), d)
}

// A manifest that was deleted is gone though its bytes are in memory, and is back when it is pushed again.
func TestNoStaleManifest(t *testing.T) {
	s := newShelf(t)
	d, _ := s.image("team/app", "1", "app")
	by := "/v2/team/app/manifests/"
	s.want(s.own, by+"1", d)
	s.update(func(b Batch) { b.Remove(repoDir("team/app") + "/_manifests") })
	s.want(s.own, by+"1", "")
	s.want(s.own, by+d.String(), "")
	s.tree.Unpin()
	s.tree.Collect()
	again, _ := s.image("team/app", "1", "app")
	if again != d {
		t.Fatal("the test makes different images of one name")
	}
	s.want(s.own, by+"1", d)
	moved, _ := s.image("team/app", "1", "newer")
	s.want(s.own, by+"1", moved)
	s.want(s.own, by+d.String(), d)
}

// A miss is a clean 404 with its code, and a line in the missing book under the canonical name.
func TestMisses(t *testing.T) {
	s := newShelf(t)
	s.image("registry.k8s.io/pause", "3.10", "pause")
	none := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		view         View
		target, code string
		name         string
	}{
		{on("registry.k8s.io"), "/v2/pause/manifests/3.11", "MANIFEST_UNKNOWN", "registry.k8s.io/pause:3.11"},
		{on("registry.k8s.io"), "/v2/nothing/manifests/1", "MANIFEST_UNKNOWN", "registry.k8s.io/nothing:1"},
		{on("registry.k8s.io"), "/v2/pause/manifests/" + none, "MANIFEST_UNKNOWN", "registry.k8s.io/pause@" + none},
		{on("registry.k8s.io"), "/v2/pause/blobs/" + none, "BLOB_UNKNOWN", "blob registry.k8s.io/pause@" + none},
		{s.own, "/v2/nginx/manifests/1?ns=registry-1.docker.io", "MANIFEST_UNKNOWN", "docker.io/library/nginx:1"},
		{s.own, "/v2/docker.io/nginx/manifests/1", "MANIFEST_UNKNOWN", "docker.io/library/nginx:1"},
		{s.own, "/v2/my.org:5000/app/manifests/1", "MANIFEST_UNKNOWN", "my.org/app:1"},
		{s.own, "/v2/team/app/manifests/1", "MANIFEST_UNKNOWN", "team/app:1"},
		{s.own, "/v2/team/app/tags/list", "NAME_UNKNOWN", "team/app"},
		{on("quay.io"), "/v2/team/app/tags/list", "NAME_UNKNOWN", "quay.io/team/app"},
	} {
		res := s.ask(c.view, "GET", c.target)
		if got := code(t, res); res.StatusCode != 404 || got != c.code || res.Header.Get("Etag") != "" ||
			res.Header.Get("Docker-Content-Digest") != "" {
			t.Errorf("GET %s: %d %s %v, want 404 %s and no headers of content", c.target, res.StatusCode, got,
				res.Header, c.code)
		}
		misses, luck := s.taken()
		if !slices.Equal(misses, []string{c.name}) || len(luck) != 0 {
			t.Errorf("GET %s: misses %q, luck %q, want %q", c.target, misses, luck, c.name)
		}
		head := s.ask(c.view, "HEAD", c.target)
		if got := body(t, head); head.StatusCode != 404 || got != "" {
			t.Errorf("HEAD %s: %d with %d bytes", c.target, head.StatusCode, len(got))
		}
		// A push begins with a HEAD of a blob.
		if misses, _ := s.taken(); (len(misses) == 0) != (c.code == "BLOB_UNKNOWN") {
			t.Errorf("HEAD %s: misses %q", c.target, misses)
		}
	}
	// An invalid name is no miss.
	s.ask(s.own, "GET", "/v2/team/app/manifests/.INVALID")
	s.ask(s.own, "GET", "/v2/Team/app/manifests/1")
	if misses, _ := s.taken(); len(misses) != 0 {
		t.Errorf("invalid names entered the missing book: %q", misses)
	}
}

// A child that an index lists and that was not staged: the message says for which platform, also after a restart.
func TestSparseIndex(t *testing.T) {
	s := newShelf(t)
	amd, _ := s.image("registry.k8s.io/pause", "", "amd64")
	arm := digest.FromString("arm64")
	other := digest.FromString("attestation")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","manifests":[
		{"digest":"%s","platform":{"os":"linux","architecture":"amd64"}},
		{"digest":"%s","platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
		{"digest":"%s","platform":{"os":"unknown","architecture":"unknown"}}]}`, typeOCIIndex, amd, arm, other)
	d := s.manifest("registry.k8s.io/pause", "3.10", index, "")
	v := on("registry.k8s.io")
	for _, restarted := range []bool{true, false} {
		if !restarted {
			s.want(v, "/v2/pause/manifests/3.10", d)
			s.want(v, "/v2/pause/manifests/"+amd.String(), amd)
		}
		s.taken()
		res := s.ask(v, "GET", "/v2/pause/manifests/"+arm.String())
		said := body(t, res)
		misses, _ := s.taken()
		want := "registry.k8s.io/pause@" + arm.String() + ": linux/arm64/v8 of registry.k8s.io/pause:3.10 is not " +
			"staged for this platform"
		if res.StatusCode != 404 || !slices.Equal(misses, []string{want}) ||
			!strings.Contains(said, "MANIFEST_UNKNOWN") || !strings.Contains(said,
			"linux/arm64/v8 of registry.k8s.io/pause:3.10") {
			t.Errorf("restarted %v: %d %s, misses %q, want %q", restarted, res.StatusCode, said, misses, want)
		}
		s.ask(v, "GET", "/v2/pause/manifests/"+other.String())
		if misses, _ := s.taken(); len(misses) != 1 || !strings.Contains(misses[0],
			"one entry of registry.k8s.io/pause:3.10") {
			t.Errorf("misses %q", misses)
		}
		s.ask(v, "GET", "/v2/pause/manifests/"+digest.FromString("nobody's").String())
		if misses, _ := s.taken(); len(misses) != 1 || strings.Contains(misses[0], "staged") {
			t.Errorf("misses %q", misses)
		}
	}
}

// The cache is bounded, whatever is requested.
func TestManifestsInMemoryAreBounded(t *testing.T) {
	opened := &openCounter{}
	s := newShelf(t, func(c *Config) { opened.Tree = c.Tree; c.Tree = opened })
	m := s.reg.read.manifests
	content := func(i int) string { return fmt.Sprintf(`{"i":%d,"x":"%s"}`, i, strings.Repeat("x", keepManifest-64)) }
	const n = 2 * keepManifests / keepManifest
	var first digest.Digest
	for i := range n {
		c := content(i)
		d := s.blob(c, "")
		if i == 0 {
			first = d
		}
		got, err := m.get(context.Background(), d, int64(len(c)))
		if err != nil || string(got.body) != c {
			t.Fatalf("manifest %d: %v", i, err)
		}
		if _, err := m.get(context.Background(), first, int64(len(content(0)))); err != nil { // used entries stay
			t.Fatal(err)
		}
	}
	if m.size > keepManifests || m.used.Len() != len(m.byKey) || m.used.Len() < n/4 {
		t.Errorf("%d bytes in %d entries and %d keys are cached", m.size, m.used.Len(), len(m.byKey))
	}
	if opened.n != n {
		t.Errorf("%d manifests were read %d times: entries in constant use must stay cached", n, opened.n)
	}
	large := `{"manifests":[]` + strings.Repeat(" ", keepManifest) + "}"
	got, err := m.get(context.Background(), s.blob(large, ""), int64(len(large)))
	if err != nil || got.body != nil || got.mediaType != typeOCIIndex {
		t.Errorf("a large manifest: %v, %d bytes cached, %s", err, len(got.body), got.mediaType)
	}
}

// A manifest that no push could have brought is refused before it is read.
func TestOversizedManifest(t *testing.T) {
	s := newShelf(t)
	s.manifest("team/app", "1", `{"schemaVersion":2,"x":"`+strings.Repeat("x", maxManifest)+`"}`, "")
	if res := s.ask(s.own, "GET", "/v2/team/app/manifests/1"); res.StatusCode != 500 {
		t.Errorf("%d", res.StatusCode)
	}
}

// fileTree opens every blob as a real file.
type fileTree struct {
	Tree
	tb  testing.TB
	dir string
}

func (f fileTree) OpenBlob(ctx context.Context, d string) (io.ReadSeekCloser, error) {
	path := filepath.Join(f.dir, strings.ReplaceAll(d, ":", "-"))
	if file, err := os.Open(path); err == nil {
		return file, nil
	}
	blob, err := f.Tree.OpenBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	data, err := io.ReadAll(blob)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// readFrom is a response that records its ReadFrom, as net/http's own does for sendfile.
type readFrom struct {
	*httptest.ResponseRecorder
	from io.Reader
}

func (r *readFrom) ReadFrom(src io.Reader) (int64, error) {
	r.from = src
	return io.Copy(r.ResponseRecorder, src)
}

// A blob reaches the socket as the *os.File that the tree opened: anything between them would cost sendfile.
func TestBlobsGoToTheSocketAsFiles(t *testing.T) {
	s := newShelf(t, func(c *Config) { c.Tree = fileTree{c.Tree, t, t.TempDir()} })
	d := s.layer("team/app", strings.Repeat("x", 1<<20))
	w := &readFrom{ResponseRecorder: httptest.NewRecorder()}
	s.reg.Serve(w, httptest.NewRequest("GET", "/v2/team/app/blobs/"+d.String(), nil), s.own)
	limited, ok := w.from.(*io.LimitedReader)
	if !ok {
		t.Fatalf("the response read from %T", w.from)
	}
	if _, ok := limited.R.(*os.File); !ok {
		t.Errorf("the response read from %T, want *os.File", limited.R)
	}
	if w.Body.Len() != 1<<20 {
		t.Errorf("%d bytes arrived", w.Body.Len())
	}
}

// A HEAD of a blob opens nothing.
func TestHeadOpensNothing(t *testing.T) {
	opened := &openCounter{}
	s := newShelf(t, func(c *Config) { opened.Tree = c.Tree; c.Tree = opened })
	d := s.layer("team/app", "data")
	if res := s.ask(s.own, "HEAD", "/v2/team/app/blobs/"+d.String()); res.StatusCode != 200 || res.ContentLength != 4 {
		t.Errorf("%d with %d bytes", res.StatusCode, res.ContentLength)
	}
	if opened.n != 0 {
		t.Errorf("%d blobs were opened", opened.n)
	}
}

type openCounter struct {
	Tree
	n int
}

func (o *openCounter) OpenBlob(ctx context.Context, d string) (io.ReadSeekCloser, error) {
	o.n++
	return o.Tree.OpenBlob(ctx, d)
}

func decode[T any](tb testing.TB, res *http.Response) (v T) {
	tb.Helper()
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		tb.Error(err)
	}
	return v
}

// BenchmarkManifest is what one manifest costs besides net/http; the tree in memory looks up names by hashing, the real
// one in a B-tree.
func BenchmarkManifest(b *testing.B) {
	s := newShelf(b)
	d, layer := s.image("registry.k8s.io/pause", "3.10", "pause")
	local, _ := s.image("team/app", "1", "app")
	large := strings.Repeat("x", 1<<20)
	blob := s.layer("registry.k8s.io/pause", large)
	for _, c := range []struct {
		why    string
		view   View
		target string
	}{
		{"tag/origin", on("registry.k8s.io"), "/v2/pause/manifests/3.10"},
		{"tag/prefix", s.own, "/v2/registry.k8s.io/pause/manifests/3.10"},
		{"tag/ns", s.own, "/v2/pause/manifests/3.10?ns=registry.k8s.io"},
		{"tag/flat", s.own, "/v2/pause/manifests/3.10"},
		{"tag/local", s.own, "/v2/team/app/manifests/1"},
		{"digest/origin", on("registry.k8s.io"), "/v2/pause/manifests/" + d.String()},
		{"digest/local", s.own, "/v2/team/app/manifests/" + local.String()},
		{"blob/small", on("registry.k8s.io"), "/v2/pause/blobs/" + layer.String()},
		{"blob/1MiB", on("registry.k8s.io"), "/v2/pause/blobs/" + blob.String()},
		{"miss/flat", s.own, "/v2/nothing/manifests/1"},
		{"miss/digest", on("registry.k8s.io"), "/v2/pause/manifests/" + sha},
	} {
		b.Run(c.why, func(b *testing.B) {
			b.ReportAllocs()
			req := httptest.NewRequest("GET", c.target, nil)
			w := &discard{header: http.Header{}}
			for b.Loop() {
				clear(w.header)
				s.reg.Serve(w, req, c.view)
			}
			s.taken()
		})
	}
}

// discard is a response that goes nowhere.
type discard struct {
	header http.Header
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkServed is a manifest over loopback HTTP, by our handler and by distribution's own over the same tree: the
// client's share is in both.
func BenchmarkServed(b *testing.B) {
	s := newShelf(b)
	s.manifest("registry.k8s.io/pause", "3.10", `{"schemaVersion":2,"mediaType":"`+typeOCIManifest+
		`","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"`+sha+
		`","size":1},"layers":[],"annotations":{"a":"`+strings.Repeat("x", 1800)+`"}}`, "")
	for _, c := range []struct {
		why     string
		handler http.Handler
		path    string
	}{
		{"casemate/origin", http.HandlerFunc(func(w http.ResponseWriter,
			r *http.Request) {
			s.reg.Serve(w, r, on("registry.k8s.io"))
		}), "/v2/pause/manifests/3.10"},
		{"casemate/flat", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.reg.Serve(w, r, s.own) }),
			"/v2/pause/manifests/3.10"},
		{"distribution", distribution(b, s.reg), "/v2/registry.k8s.io/pause/manifests/3.10"},
	} {
		b.Run(c.why, func(b *testing.B) {
			srv := httptest.NewServer(c.handler)
			defer srv.Close()
			client := srv.Client()
			client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req, _ := http.NewRequest("GET", srv.URL+c.path, nil)
					req.Header.Set("Accept", typeOCIManifest)
					res, err := client.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode != 200 {
						b.Errorf("%d", res.StatusCode)
						return
					}
				}
			})
		})
	}
}
