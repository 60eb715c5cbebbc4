package registry

import (
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"casemate/cluster/treetest"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/testsuites"
	"github.com/opencontainers/go-digest"
)

// forgiving closes at the end what distribution's suite leaves open, so that only what the driver leaves open fails the
// strict tree.
type forgiving struct {
	*treetest.Mem
	mu   sync.Mutex
	open []*onceCloser
}

type onceCloser struct {
	io.ReadSeekCloser
	once sync.Once
}

func (c *onceCloser) Close() (err error) {
	c.once.Do(func() { err = c.ReadSeekCloser.Close() })
	return err
}

func (f *forgiving) OpenBlob(ctx context.Context, d string) (io.ReadSeekCloser, error) {
	r, err := f.Mem.OpenBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	c := &onceCloser{ReadSeekCloser: r}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = append(f.open, c)
	return c, nil
}

// TestDriver is distribution's own test of a storage driver. It is run in its short form, because the tree is in memory
// here and the long one writes 5 GiB (and it sleeps a quarter of a minute for a modification time, so not with -short).
func TestDriver(t *testing.T) {
	if testing.Short() {
		t.Skip("distribution's suite sleeps")
	}
	if err := flag.Set("test.short", "true"); err != nil {
		t.Fatal(err)
	}
	defer flag.Set("test.short", "false")
	tree := &forgiving{Mem: treetest.New(t)}
	u := newUploads(tree)
	testsuites.Driver(t, func() (storagedriver.StorageDriver, error) {
		return driverFactory{}.Create(context.Background(), map[string]any{"uploads": u})
	}, false)
	for _, c := range tree.open {
		c.Close()
	}
}

// appServer serves distribution's own registry over the driver, with nothing of ours in front.
func appServer(t *testing.T, tree Tree) *httptest.Server {
	t.Helper()
	u := newUploads(tree)
	app, shutdown, err := embed(u, []byte("secret"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(app)
	t.Cleanup(func() {
		srv.Close()
		if err := shutdown(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

func do(t *testing.T, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return res, string(b)
}

// TestLayout: what we write, distribution alone reads, and the other way round, deletes included. So the tree's layout
// is distribution's.
func TestLayout(t *testing.T) {
	s := newPusher(t)
	dist := appServer(t, s.tree)
	layer, config, text := s.parts("quay.io/team/app", "one")
	m := s.put("quay.io/team/app", "v1", typeOCIManifest, text)
	for path, want := range map[string]string{
		"manifests/v1": text, "manifests/" + m.String(): text, "blobs/" + layer.String(): "layer one", "blobs/" + config.String(): "{}",
	} {
		if res, got := do(t, "GET", dist.URL+"/v2/quay.io/team/app/"+path, "", "Accept", typeOCIManifest); res.StatusCode != 200 || got != want {
			t.Errorf("distribution on %s: %d %q", path, res.StatusCode, got)
		}
	}
	if _, got := do(t, "GET", dist.URL+"/v2/quay.io/team/app/tags/list", ""); !strings.Contains(got, `"tags":["v1"]`) {
		t.Errorf("distribution's tags: %s", got)
	}
	if _, got := do(t, "GET", dist.URL+"/v2/_catalog", ""); !strings.Contains(got, `["quay.io/team/app"]`) {
		t.Errorf("distribution's catalog: %s", got)
	}

	// The other way round: a whole push by distribution.
	blob := func(content string) digest.Digest {
		d := digest.FromString(content)
		res, body := do(t, "POST", dist.URL+"/v2/dist/app/blobs/uploads/", "")
		if res.StatusCode != 202 {
			t.Fatalf("distribution's POST: %d %s", res.StatusCode, body)
		}
		loc := dist.URL + res.Header.Get("Location")
		if len(content) > 4 { // chunked, so that hash states are used
			if res, body = do(t, "PATCH", loc, content[:4]); res.StatusCode != 202 {
				t.Fatalf("distribution's PATCH: %d %s", res.StatusCode, body)
			}
			if res, body = do(t, "PATCH", dist.URL+res.Header.Get("Location"), content[4:]); res.StatusCode != 202 {
				t.Fatalf("distribution's second PATCH: %d %s", res.StatusCode, body)
			}
			loc, content = dist.URL+res.Header.Get("Location"), ""
		}
		if res, body = do(t, "PUT", loc+"&digest="+d.String(), content); res.StatusCode != 201 {
			t.Fatalf("distribution's PUT: %d %s", res.StatusCode, body)
		}
		return d
	}
	layer, config = blob("a layer in chunks"), blob("{}")
	text = manifestOf(config, layer)
	res, body := do(t, "PUT", dist.URL+"/v2/dist/app/manifests/v2", text, "Content-Type", typeOCIManifest)
	if res.StatusCode != 201 {
		t.Fatalf("distribution's manifest: %d %s", res.StatusCode, body)
	}
	s.tree.Unpin()
	if gone := s.tree.Collect(); len(gone) != 0 {
		t.Errorf("collected although a revision by distribution holds them: %v", gone)
	}
	s.want(s.own, "/v2/dist/app/manifests/v2", digest.FromString(text))
	s.want(s.own, "/v2/dist/app/blobs/"+layer.String(), layer)

	// Deletes by distribution.
	if res, body = do(t, "DELETE", dist.URL+"/v2/dist/app/manifests/"+digest.FromString(text).String(), ""); res.StatusCode != 202 {
		t.Fatalf("distribution's DELETE: %d %s", res.StatusCode, body)
	}
	s.want(s.own, "/v2/dist/app/manifests/v2", "")
	s.want(s.own, "/v2/dist/app/manifests/"+digest.FromString(text).String(), "")
}

func TestDriverPaths(t *testing.T) {
	tree := treetest.New(t)
	u := newUploads(tree)
	d := &driver{tree: tree, uploads: u}
	ctx := context.Background()
	hex := strings.Repeat("ab", 32)
	for _, p := range []string{
		"", "a", "//a", "/a/../b", "/a/", "/a\x00b", `/a\b`, "/.", "/..",
		driverRoot + "/repositories/a/_uploads/../../b", driverRoot + "/repositories/a/_uploads/x;y/data",
		driverRoot + "/repositories/a/_layers/sha256/short/link", driverRoot + "/repositories/a/_layers/md5/" + hex + "/link",
	} {
		var invalid storagedriver.InvalidPathError
		if err := d.PutContent(ctx, p, []byte("x")); !errors.As(err, &invalid) {
			t.Errorf("put %q: %v, want an InvalidPathError", p, err)
		}
		if _, err := d.Writer(ctx, p, false); !errors.As(err, &invalid) {
			t.Errorf("write %q: %v, want an InvalidPathError", p, err)
		}
	}
	for range tree.Walk(".", "") {
		t.Fatal("a bad path left something in the tree")
	}
	// A link to bytes that are nowhere is an error and leaves nothing.
	err := d.PutContent(ctx, driverRoot+"/repositories/a/_layers/sha256/"+hex+"/link", []byte("sha256:"+hex))
	var missing storagedriver.PathNotFoundError
	if !errors.As(err, &missing) {
		t.Errorf("a link to nothing: %v", err)
	}
	if err := d.Delete(ctx, driverRoot+"/blobs/sha256/ab/"+hex+"/data"); !errors.As(err, new(storagedriver.ErrUnsupportedMethod)) {
		t.Errorf("distribution may delete blobs: %v", err)
	}
	if _, err := tree.Stat("repositories"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused link made a directory: %v", err)
	}
}
