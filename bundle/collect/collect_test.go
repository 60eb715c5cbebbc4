package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"casemate/bundle/digests"
	"casemate/bundle/lists"
	"casemate/bundle/oci"
)

// upstream is a registry that counts requests, by method and path.
type upstream struct {
	*httptest.Server
	host    string
	handler http.Handler

	mu       sync.Mutex
	requests map[string]int
	// before may answer a request itself; then it returns true.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newUpstream(t *testing.T, opts ...registry.Option) *upstream {
	t.Helper()
	u := &upstream{requests: map[string]int{}}
	u.handler = registry.New(append([]registry.Option{registry.Logger(log.New(io.Discard, "", 0))}, opts...)...)
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.requests[r.Method+" "+r.URL.Path]++
		before := u.before
		u.mu.Unlock()
		if before != nil && before(w, r) {
			return
		}
		u.handler.ServeHTTP(w, r)
	}))
	t.Cleanup(u.Close)
	u.host = strings.TrimPrefix(u.URL, "http://")
	return u
}

// hook sets what answers first.
func (u *upstream) hook(f func(w http.ResponseWriter, r *http.Request) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.before = f
}

// count sums the requests whose "METHOD /path" contains all of the words, and forgets nothing.
func (u *upstream) count(words ...string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for k, v := range u.requests {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(k, w) }) {
			n += v
		}
	}
	return n
}

func (u *upstream) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.requests)
}

// blob puts a blob, as a client pushes one.
func (u *upstream) blob(t *testing.T, repo string, b []byte) oci.Descriptor {
	t.Helper()
	d := digests.SHA256(b)
	req := httptest.NewRequest(http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+d, bytes.NewReader(b))
	w := httptest.NewRecorder()
	u.handler.ServeHTTP(w, req)
	if w.Code != http.StatusCreated {
		t.Fatalf("push blob: %d %s", w.Code, w.Body)
	}
	return oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: d, Size: int64(len(b))}
}

// manifest puts a manifest and returns its descriptor.
func (u *upstream) manifest(t *testing.T, repo, reference string, doc any) oci.Descriptor {
	t.Helper()
	b, ok := doc.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(doc); err != nil {
			t.Fatal(err)
		}
	}
	var head oci.ManifestDocument
	if err := json.Unmarshal(b, &head); err != nil {
		t.Fatal(err)
	}
	d := oci.Descriptor{MediaType: head.MediaType, Digest: digests.SHA256(b), Size: int64(len(b))}
	if reference == "" {
		reference = d.Digest
	}
	req := httptest.NewRequest(http.MethodPut, "/v2/"+repo+"/manifests/"+reference, bytes.NewReader(b))
	req.Header.Set("Content-Type", head.MediaType)
	w := httptest.NewRecorder()
	u.handler.ServeHTTP(w, req)
	if w.Code != http.StatusCreated {
		t.Fatalf("push manifest: %d %s", w.Code, w.Body)
	}
	return d
}

// picture puts an image for a platform, with layers of the given contents.
func (u *upstream) picture(t *testing.T, repo, reference, on string, layers ...string) oci.Descriptor {
	t.Helper()
	p, err := oci.ParsePlatform(on)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	c := u.blob(t, repo, config)
	c.MediaType = oci.MediaTypeConfig
	doc := oci.ManifestDocument{SchemaVersion: 2, MediaType: oci.MediaTypeManifest, Config: &c}
	for _, l := range layers {
		doc.Layers = append(doc.Layers, u.blob(t, repo, []byte(l)))
	}
	d := u.manifest(t, repo, reference, plain(doc))
	d.Platform = &p
	return d
}

// list puts an index.
func (u *upstream) list(t *testing.T, repo, reference string, children ...oci.Descriptor) oci.Descriptor {
	t.Helper()
	return u.manifest(
		t,
		repo,
		reference,
		plain(oci.ManifestDocument{SchemaVersion: 2, MediaType: oci.MediaTypeIndex, Manifests: children}),
	)
}

// plain omits null members.
func plain(doc oci.ManifestDocument) map[string]any {
	m := map[string]any{"schemaVersion": doc.SchemaVersion, "mediaType": doc.MediaType}
	if doc.Config != nil {
		m["config"] = doc.Config
	}
	if doc.Layers != nil {
		m["layers"] = doc.Layers
	}
	if doc.Manifests != nil {
		m["manifests"] = doc.Manifests
	}
	if doc.Subject != nil {
		m["subject"] = doc.Subject
	}
	return m
}

// quick are options that never wait.
func quick(t *testing.T) Options {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	return Options{
		Cache: filepath.Join(t.TempDir(), "cache"),
		Now:   func() time.Time { return time.Date(2026, 11, 24, 23, 0, 0, 0, time.UTC) },
		wait:  func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
}

func collect(t *testing.T, w *lists.Wanted, opt Options) *Collection {
	t.Helper()
	c, err := Collect(t.Context(), w, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// contents reads every blob of a collection, and lists its names.
func contents(t *testing.T, c *Collection) (names []string) {
	t.Helper()
	for _, b := range c.Index.Blobs {
		if b.Omitted {
			continue
		}
		r, err := c.Open(b.Digest)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		if r.Close(); err != nil || n != b.Size {
			t.Fatalf("blob %s: %d of %d bytes: %v", b.Digest, n, b.Size, err)
		}
	}
	if _, err := c.Index.Encode(); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Index.Images {
		names = append(names, m.Ref())
	}
	for _, f := range c.Index.Files {
		names = append(names, f.URL)
	}
	return names
}

func wantImages(refs ...string) *lists.Wanted {
	w := &lists.Wanted{}
	for i, r := range refs {
		repo, digest, _ := strings.Cut(r, "@")
		image := lists.Image{Repository: repo, Digest: digest, Where: fmt.Sprintf("images.list:%d", i+1)}
		if j := strings.LastIndexByte(repo, ':'); j > strings.LastIndexByte(repo, '/') {
			image.Repository, image.Tag = repo[:j], repo[j+1:]
		}
		w.Images = append(w.Images, image)
	}
	return w
}

func TestCollectSecondRunFetchesNothing(t *testing.T) {
	u := newUpstream(t, registry.WithReferrersSupport(true))
	amd := u.picture(t, "a/b", "", "linux/amd64", "one", "two")
	arm := u.picture(t, "a/b", "", "linux/arm64/v8", "one", "three")
	top := u.list(t, "a/b", "v1", amd, arm)
	opt := quick(t)
	w := wantImages(u.host + "/a/b:v1")

	first := collect(t, w, opt)
	got := contents(t, first)
	want := []string{u.host + "/a/b@" + amd.Digest, u.host + "/a/b@" + arm.Digest, u.host + "/a/b:v1"}
	slices.Sort(want[:2])
	if !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	m := first.Index.Images[2]
	if m.Digest != top.Digest || m.MediaType != oci.MediaTypeIndex || m.Sparse || m.On != "2026-11-24" ||
		!slices.Equal(m.Platforms, []string{"linux/amd64", "linux/arm64/v8"}) {
		t.Errorf("got %+v", m)
	}
	var all int64
	for _, b := range first.Index.Blobs {
		all += b.Size
	}
	if m.Size != all {
		t.Errorf("the image has size %d, all blobs have %d", m.Size, all)
	}
	if n := u.count("GET", "/blobs/"); n != 5 {
		t.Errorf("%d blobs fetched for 5", n)
	}
	first.Close()
	u.forget()
	opt.Now = func() time.Time { return time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC) }
	second := collect(t, w, opt)
	if n := u.count("GET", "/blobs/") + u.count("GET", "/manifests/"); n != 0 || second.Fetched != 0 {
		t.Errorf("a second run sent %d GETs and fetched %d bytes", n, second.Fetched)
	}
	a, _ := first.Index.Encode()
	b, _ := second.Index.Encode()
	if !bytes.Equal(a, b) {
		t.Errorf("the second index differs:\n%s\n%s", a, b)
	}
}
