package page

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// asked returns what a test expects to be asked of the API, as a key of fakeAPI.
func asked(path string, pairs ...string) string {
	for i := 0; i+1 < len(pairs); i += 2 {
		path = with(path, pairs[i], pairs[i+1])
	}
	return "GET " + path
}

// has fails unless a page contains each of the texts.
func has(t *testing.T, what, body string, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if !strings.Contains(body, s) {
			t.Errorf("%s does not contain %q:\n%s", what, s, body)
		}
	}
}

var anImage = map[string]any{"name": "registry.k8s.io/pause", "reference": "registry.k8s.io/pause:3.10",
	"digest": "sha256:11", "media_type": "application/x", "size": 1536, "tags": []string{"3.10", "latest"},
	"platform": "linux/amd64", "created": "2026-01-02T03:04:05Z",
	"layers": []map[string]any{{"digest": "sha256:22", "size": 1024, "stored": true}},
	"manifests": []map[string]any{{"digest": "sha256:33", "platform": "linux/arm64", "stored": true},
		{"digest": "sha256:44"}},
	"attached": []map[string]any{{"digest": "sha256:55", "kind": "signature", "tag": "sha256-11.sig"}},
	"stored":   "2026-01-03T03:04:05Z", "imports": []string{"base", "by hand"},
	"event":     map[string]any{"actor": "ada", "from": "10.0.0.1", "verb": "image.push"},
	"last_pull": map[string]any{"time": "2026-01-04T03:04:00Z", "node": "n2"}}

// The content is walked from the origins down to an image and a file, with the commands that fetch them.
func TestContent(t *testing.T) {
	level := map[string]any{"entries": []map[string]any{{"name": "pause", "path": "registry.k8s.io/pause",
		"kind": "repository"}, {"name": "3.10", "path": "registry.k8s.io/pause:3.10", "kind": "tag", "size": 1536,
		"digest": "sha256:11", "time": "2026-01-02T03:04:05Z"}}}
	const at = "https://dl.k8s.io/bin/it's?x=1"
	p, api := open(t, map[string]any{
		asked("/v1/browse", "kind", "image", "path", "registry.k8s.io", "limit", "100"): level,
		asked("/v1/browse", "kind", "file", "path", "", "limit", "100"): map[string]any{"entries": []map[string]any{
			{"name": "f", "path": at, "kind": "file"}}},
		asked("/v1/images/show", "ref", "registry.k8s.io/pause:3.10"): anImage,
		asked("/v1/files/show", "url", at): map[string]any{"url": at, "digest": "sha256:66", "size": 7,
			"redirects": []string{"from.example/x"}},
		asked("/v1/packages", "limit", "50"): []map[string]any{{"repository": "tools", "name": "tool",
			"version": "1.0-1"}},
		"GET /v1/repositories": []any{},
		asked("/v1/search", "q", "", "kind", "chart", "limit", "100"): []map[string]any{{"kind": "chart", "name": at}},
	})
	page := func(target string) string {
		t.Helper()
		w := p.ask("GET", target, nil)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", target, w.Code, w.Body)
		}
		return w.Body.String()
	}
	has(t, "a level", page("/content?path=registry.k8s.io/"),
		`href="/content?kind=image&amp;path=registry.k8s.io%2Fpause"`,
		`href="/content/image?ref=registry.k8s.io%2Fpause%3A3.10"`, "1.5 KiB", "sha256:11",
		"casemate image list registry.k8s.io", `aria-current="location"`, "format=csv", "format=json")
	image := page("/content/image?ref=" + url.QueryEscape("registry.k8s.io/pause:3.10"))
	has(t, "an image", image, "crictl pull registry.k8s.io/pause:3.10", "docker pull registry.k8s.io/pause:3.10",
		"linux/amd64", "2026-01-02 03:04:05", "ada from 10.0.0.1, image.push", "base, by hand", "2026-01-04 03:04:00",
		"node n2", "sha256:22", "linux/arm64", "not here", "signature", "sha256-11.sig",
		"1, which nobody has verified here", `href="/content/image?ref=registry.k8s.io%2Fpause%40sha256%3A33"`,
		"/do/image-delete?ref=registry.k8s.io%2Fpause%3A3.10",
		"/do/image-delete?ref=registry.k8s.io%2Fpause%40sha256%3A11", "table=layers")
	if strings.Contains(image, "%40sha256%3A44") {
		t.Error("a manifest that is not here has a page")
	}
	has(t, "the files", page("/content?kind=file"),
		"/content/file?url="+strings.ReplaceAll(url.QueryEscape(at), "+", "&#43;"))
	has(t, "a file", page("/content/file?url="+url.QueryEscape(at)),
		"curl -fLO &#39;"+strings.ReplaceAll(at, "'", `&#39;\&#39;&#39;`)+"&#39;", "sha256sum -c", "from.example/x",
		"/do/file-delete?url=", `path=dl.k8s.io%2Fbin`)
	has(t, "packages", page("/content/packages"), "1.0-1",
		"/do/package-remove?package=tool%3D1.0-1&amp;repository=tools")
	has(t, "charts", page("/content/charts"), "/content/file?url=")
	if len(api.bodies) == 0 {
		t.Error("nothing was asked")
	}
}

// Without an account there is what the API shows to anybody, and no action; where it shows nothing, the login.
func TestContentWithoutAccount(t *testing.T) {
	image := asked("/v1/images/manifest", "ref", "team/app:v1")
	found := asked("/v1/search", "q", "app", "limit", "100")
	p, _ := open(t, map[string]any{
		"open " + image: true, image: map[string]any{"name": "team/app", "reference": "team/app:v1"},
		"open " + found: true, found: []map[string]any{{"kind": "image", "name": "team/app:v1"}},
	})
	w := p.ask("GET", "/content/image?ref=team/app:v1", nil, nobody)
	has(t, "an image", w.Body.String(), "docker pull registry.gap.example/team/app:v1")
	for _, private := range []string{"/do/", "Brought by", "Packages"} {
		if strings.Contains(w.Body.String(), private) {
			t.Errorf("without an account there is %q", private)
		}
	}
	w = p.ask("GET", "/search?q=app", nil, nobody)
	has(t, "a search", w.Body.String(), "/content/image?ref=team%2Fapp%3Av1")
	if strings.Contains(w.Body.String(), "DNS records") {
		t.Error("without an account DNS records are offered")
	}
	for _, closed := range []string{"/content", "/content/packages"} {
		w = p.ask("GET", closed, nil, nobody)
		if w.Code != http.StatusSeeOther || !strings.HasPrefix(w.Header().Get("Location"), "/login?next=%2Fcontent") {
			t.Errorf("%s: %d to %s", closed, w.Code, w.Header().Get("Location"))
		}
	}
}

// A search says what is wrong with its text, and needs none to be opened.
func TestSearch(t *testing.T) {
	p, _ := open(t, map[string]any{
		asked("/v1/search", "q", "x", "limit", "100"): 400,
		asked("/v1/search", "q", "app", "kind", "name", "limit", "100"): []map[string]any{
			{"kind": "name", "name": "app.example A", "detail": "10.0.0.1"}, {"kind": "import", "name": "base"}},
	})
	has(t, "without a text", p.ask("GET", "/search", nil).Body.String(), "at least two characters")
	has(t, "too short", p.ask("GET", "/search?q=x", nil).Body.String(), "refused with 400")
	has(t, "of a kind", p.ask("GET", "/search?q=app&kind=name", nil).Body.String(), "10.0.0.1", `href="/dns"`,
		"casemate search --kind name app", `value="app"`)
}
