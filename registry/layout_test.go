package registry

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/opencontainers/go-digest"
)

// distribution returns distribution's own registry over the tree of reg, with nothing of ours in front.
func distribution(tb testing.TB, reg *Registry) http.Handler {
	tb.Helper()
	cfg := &configuration.Configuration{Storage: configuration.Storage{
		"casemate":    configuration.Parameters{"sessions": reg.sessions},
		"redirect":    configuration.Parameters{"disable": true},
		"delete":      configuration.Parameters{"enabled": true},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}}
	cfg.Catalog.MaxEntries = 1000
	cfg.HTTP.Secret = "secret"
	cfg.HTTP.RelativeURLs = true
	cfg.Validation.Manifests.Indexes.Platforms = "none"
	app := handlers.NewApp(context.Background(), cfg)
	tb.Cleanup(func() {
		if err := app.Shutdown(); err != nil {
			tb.Error(err)
		}
	})
	return app
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

// TestLayout: distribution alone reads what we write, and the other way round, deletes included. So the tree's layout
// is distribution's.
func TestLayout(t *testing.T) {
	s := newPusher(t)
	dist := httptest.NewServer(distribution(t, s.reg))
	defer dist.Close()
	layer, config, text := s.parts("quay.io/team/app", "one")
	m := s.put("quay.io/team/app", "v1", typeOCIManifest, text)
	for path, want := range map[string]string{
		"manifests/v1": text, "manifests/" + m.String(): text, "blobs/" + layer.String(): "layer one",
		"blobs/" + config.String(): "{}",
	} {
		if res, got := do(t, "GET", dist.URL+"/v2/quay.io/team/app/"+path, "", "Accept",
			typeOCIManifest); res.StatusCode != 200 || got != want {
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
	if res, body = do(t, "DELETE", dist.URL+"/v2/dist/app/manifests/"+digest.FromString(text).String(),
		""); res.StatusCode != 202 {
		t.Fatalf("distribution's DELETE: %d %s", res.StatusCode, body)
	}
	s.want(s.own, "/v2/dist/app/manifests/v2", "")
	s.want(s.own, "/v2/dist/app/manifests/"+digest.FromString(text).String(), "")
}
