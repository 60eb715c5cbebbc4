package appliance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/google/go-containerregistry/pkg/authn"

	"casemate/appliance/admin"
	"casemate/appliance/search"
	"casemate/appliance/setup"
)

// shelfNode is a node with some content of each kind, and the operator ada.
func shelfNode(t *testing.T) *node {
	t.Helper()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	n.must("POST", "users", map[string]any{"name": "ada", "password": "correct horse",
		"roles": []map[string]string{{"role": "operator"}}}, nil)
	for _, at := range []string{"registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.10", "registry.k8s.io/sub/a:v1",
		"team/demo:v1", "team/demo/sub:v1"} {
		img, err := random.Image(100, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref(t, "registry.casemate.internal/"+at), img, remote.WithTransport(n.client.Transport),
			remote.WithAuth(&authn.Basic{Username: "ada", Password: "correct horse"})); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []string{"a", "a/b", "a?x=1", "c/d/e", "pause"} {
		n.must("PUT", "files?url="+url.QueryEscape("https://dl.k8s.io/"+at), at, nil)
	}
	n.must("PUT", "repositories/tools", map[string]string{"format": "deb"}, nil)
	n.must("PUT", "repositories/apps", map[string]string{"format": "deb"}, nil)
	for i := range 5 {
		n.must("PUT", fmt.Sprintf("names/pause%d.corp.example/A", i),
			map[string]any{"values": []string{"10.9.9.9"}}, nil)
		n.must("POST", "certs", map[string]any{"names": []string{fmt.Sprintf("x%d.casemate.internal", i)}}, nil)
		at := "https://packages.casemate.internal/" + []string{"tools", "apps"}[i%2] + "/"
		deb := strings.NewReader(ownDEB(t, fmt.Sprint("tool", i)))
		if resp, body := n.do("PUT", at, deb, asAda); resp.StatusCode != 201 {
			t.Fatal(resp.Status, body)
		}
	}
	return n
}

func asAda(r *http.Request) { r.SetBasicAuth("ada", "correct horse") }

// TestPages: the pages of each list, of any size, have what the list has, once and in its order.
func TestPages(t *testing.T) {
	t.Parallel()
	n := shelfNode(t)
	get := func(target string) (elements []json.RawMessage, next string) {
		t.Helper()
		resp, body := n.do("GET", "https://casemate.internal"+target, nil, asAda)
		var doc any
		if err := json.Unmarshal([]byte(body), &doc); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %s %s", target, resp.Status, body)
		}
		if _, is := doc.(map[string]any); is {
			var answer struct{ Entries []json.RawMessage }
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				t.Fatal(err)
			}
			elements = answer.Entries
		} else if err := json.Unmarshal([]byte(body), &elements); err != nil {
			t.Fatal(err)
		}
		link := resp.Header.Get("Link")
		target, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
		if ok && rel != `; rel="next"` {
			t.Errorf("Link: %s", link)
		}
		return elements, target
	}
	text := func(list []json.RawMessage) (all []string) {
		for _, e := range list {
			all = append(all, string(e))
		}
		return all
	}
	for target, least := range map[string]int{
		"/v1/images": 5, "/v1/images?prefix=registry.k8s.io/pause:": 2, "/v1/files": 5,
		"/v1/files?prefix=https%3A%2F%2Fdl.k8s.io%2Fa": 3, "/v1/names": 5, "/v1/certs": 5, "/v1/packages": 5,
		"/v1/packages?repository=tools": 3, "/v1/browse?kind=image": 2, "/v1/browse?kind=image&path=registry.k8s.io": 2,
		"/v1/browse?kind=image&path=registry.k8s.io/pause": 2, "/v1/browse?kind=image&path=team/demo": 2,
		"/v1/browse?kind=file": 2, "/v1/browse?kind=file&path=dl.k8s.io": 5, "/v1/search?q=pause": 7,
	} {
		all, next := get(target)
		if len(all) < least || next != "" {
			t.Errorf("%s: %d elements, %q", target, len(all), next)
		}
		for _, limit := range []int{1, 2, len(all), 1000} {
			sep := "?"
			if strings.Contains(target, "?") {
				sep = "&"
			}
			var got []string
			pages := 0
			for next := fmt.Sprint(target, sep, "limit=", limit); next != ""; pages++ {
				var page []json.RawMessage
				if page, next = get(next); len(page) > limit {
					t.Fatalf("%s: %d elements of at most %d", target, len(page), limit)
				}
				got = append(got, text(page)...)
			}
			if !slices.Equal(got, text(all)) || pages != (len(all)+limit-1)/limit {
				t.Errorf("%s in %d pages of %d:\n%s, want\n%s", target, pages, limit, got, all)
			}
		}
		for _, bad := range []string{"limit=0", "limit=1001", "limit=x", "limit=-1", "after=%21", "after=_w",
			"after=" + strings.Repeat("A", 7000)} {
			sep := "?"
			if strings.Contains(target, "?") {
				sep = "&"
			}
			resp, body := n.do("GET", "https://casemate.internal"+target+sep+bad, nil, asAda)
			var e struct{ Error string }
			if json.Unmarshal([]byte(body), &e); resp.StatusCode != 400 || e.Error == "" || len(e.Error) > 300 {
				t.Errorf("%s with %.20s: %s %.200s", target, bad, resp.Status, body)
			}
		}
	}
	// The egress book changes with each of these requests; its pages are looked at with those of one client.
	_, next := get("/v1/egress?limit=1")
	if page, _ := get(next); next == "" || len(page) != 1 {
		t.Errorf("egress: %q, %s", next, page)
	}
	for _, bad := range []string{"/v1/egress?after=eA", "/v1/certs?after=WyJ4IiwieSJd",
		"/v1/browse?kind=image&after=eA", "/v1/browse", "/v1/browse?kind=x", "/v1/browse?kind=file&path=a/../b",
		"/v1/search", "/v1/search?q=x",
		"/v1/images/manifest?ref=x", "/v1/browse?kind=image&path=" + strings.Repeat("a", 5000)} {
		if resp, body := n.do("GET", "https://casemate.internal"+bad, nil, asAda); resp.StatusCode != 400 {
			t.Errorf("%.60s: %s %.200s", bad, resp.Status, body)
		}
	}
}

// TestAnonymousReading: without an account there is what clients could find out by pulling, where they may pull, and
// nothing else.
func TestAnonymousReading(t *testing.T) {
	t.Parallel()
	n := shelfNode(t)
	var hits []search.Hit
	get := func(target string, into any) int {
		t.Helper()
		resp, body := n.do("GET", "https://casemate.internal/v1/"+target, nil)
		if into != nil && resp.StatusCode == 200 {
			if err := json.Unmarshal([]byte(body), into); err != nil {
				t.Fatal(err)
			}
		}
		return resp.StatusCode
	}
	open := []string{"images", "files", "browse?kind=image", "browse?kind=file&path=dl.k8s.io", "search?q=pause",
		"images/manifest?ref=registry.k8s.io/pause:3.10"}
	for _, target := range open {
		if status := get(target, nil); status != 200 {
			t.Errorf("%s without an account: %d", target, status)
		}
	}
	for _, target := range []string{"names", "packages", "images/show?ref=registry.k8s.io/pause:3.10", "imports",
		"status", "files/show?url=https://dl.k8s.io/a", "certs", "egress", "missing", "settings"} {
		if status := get(target, nil); status != 401 {
			t.Errorf("%s without an account: %d", target, status)
		}
	}
	get("search?q=pause", &hits)
	for _, h := range hits {
		if h.Kind != search.KindRepository && h.Kind != search.KindFile {
			t.Errorf("without an account there is %v", h)
		}
	}
	if len(hits) != 2 {
		t.Errorf("hits %v", hits)
	}
	var m admin.ImageManifest
	get("images/manifest?ref=k8s.gcr.io/pause:3.10", &m)
	if len(m.Layers) != 2 || !m.Layers[0].Stored || m.Config == nil || len(m.Tags) != 1 ||
		m.Reference != "registry.k8s.io/pause:3.10" {
		t.Errorf("%+v", m)
	}
	// An account that is limited to a prefix may what anybody may.
	n.must("POST", "users", map[string]any{"name": "eve", "password": "correct horse",
		"roles": []map[string]any{{"role": "reader", "images": []string{"team"}}}}, nil)
	asEve := func(r *http.Request) { r.SetBasicAuth("eve", "correct horse") }
	if resp, body := n.do("GET", "https://casemate.internal/v1/search?q=pause", nil, asEve); resp.StatusCode != 200 ||
		strings.Contains(body, "corp.example") {
		t.Errorf("a limited account: %s %s", resp.Status, body)
	}
	n.must("PUT", "settings/registry.anonymous", map[string]string{"value": "none"}, nil)
	for _, target := range open {
		if status := get(target, nil); status != 401 {
			t.Errorf("%s without an account, and registry.anonymous none: %d", target, status)
		}
	}
	for target, want := range map[string]int{"images": 403, "search?q=pause": 403,
		"images/manifest?ref=registry.k8s.io/pause:3.10": 403, "images/manifest?ref=team/demo:v1": 200} {
		if resp, _ := n.do("GET", "https://casemate.internal/v1/"+target, nil, asEve); resp.StatusCode != want {
			t.Errorf("%s of a limited account: %s", target, resp.Status)
		}
	}
}
