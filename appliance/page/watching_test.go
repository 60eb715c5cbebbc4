package page

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// missAnswers are those of the API for the page of missing entries, all of them empty.
func missAnswers(more map[string]any) map[string]any {
	answers := map[string]any{"GET /v1/missing/clients": []any{}}
	for _, k := range missKinds {
		answers["GET /v1/missing?kind="+k.Kind+"&limit=12"] = []any{}
	}
	for k, v := range more {
		answers[k] = v
	}
	return answers
}

// The page of missing entries shows who waits, what was noted, and what supplies each; kinds without entries are left
// out.
func TestMissingPage(t *testing.T) {
	entry := map[string]any{"kind": "image", "name": "quay.io/a/b:1", "count": 3, "last": "2026-11-30T11:59:00Z",
		"clients": []string{"10.0.0.1", "ada@10.0.0.2"}, "waiting": 3, "cure": "bundle create --images",
		"mark": map[string]any{"note": "ordered", "by": "ada", "at": "2026-11-30T10:00:00Z"}}
	p, _ := open(t, missAnswers(map[string]any{
		"GET /v1/missing?kind=image&limit=12": []any{entry},
		"GET /v1/missing/clients":             []any{map[string]any{"client": "10.0.0.1", "misses": 7, "waiting": 1}},
	}))
	body := p.ask("GET", "/missing", nil).Body.String()
	for _, want := range []string{
		"3 nodes wait for it now", "ordered (ada, 2026-11-30 10:00)", "bundle create --images", "ada@10.0.0.2",
		`data-live="missed,tree"`, `href="/do/missing-mark?name=quay.io%2Fa%2Fb%3A1&amp;note=ordered"`,
		`href="/do/missing-forget?name=quay.io%2Fa%2Fb%3A1"`, `href="/do/missing-clear"`,
		`href="/missing?client=10.0.0.1"`, `href="/missing/list?format=images"`, "<h2 id=\"t-image\">Images</h2>",
		"casemate missing --kind image",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	if strings.Contains(body, "Names in TLS handshakes</h2>") {
		t.Error("a kind without entries is shown")
	}
	p, _ = open(t, missAnswers(nil))
	if body := p.ask("GET", "/missing", nil).Body.String(); !strings.Contains(body, "Nothing is missing") {
		t.Errorf("an empty book: %s", body)
	}

	// What is filtered is what the API is asked for, and the command.
	reader := map[string]any{"name": "eve", "verbs": []string{"list"}}
	p, _ = open(t, map[string]any{
		"GET /v1/whoami": reader,
		"GET /v1/missing?all=true&client=10.0.0.0%2F24&kind=file&q=a+b&limit=100": []any{entry},
		"GET /v1/missing/clients?all=true&client=10.0.0.0%2F24&kind=file&q=a+b":   []any{},
		"GET /v1/missing?all=true&client=10.0.0.0%2F24&kind=file&q=a+b":           []any{entry},
		"GET /v1/missing/lists?client=10.0.0.0%2F24&format=files&kind=file&q=a+b": map[string]any{},
	})
	const query = "client=10.0.0.0/24&kind=file&q=a+b&all=1"
	body = p.ask("GET", "/missing?"+query, nil).Body.String()
	for _, want := range []string{
		`casemate missing --kind file --client 10.0.0.0/24 --match &#39;a b&#39; --all`,
		`value="10.0.0.0/24"`, `<option value="file" selected>`, ` checked>`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	if strings.Contains(body, "/do/") {
		t.Error("an account that may not change the book is offered to")
	}
	w := p.ask("GET", "/missing?"+query+"&table=file&format=csv", nil)
	if !strings.Contains(w.Body.String(), `quay.io/a/b:1,"3 nodes wait for it now ordered`) {
		t.Errorf("the download: %s", w.Body)
	}
	if w := p.ask("GET", "/nodes", nil); w.Code != http.StatusForbidden {
		t.Errorf("an account that may not inspect sees the nodes: %d", w.Code)
	}
}

// A list is shown to be copied, cut if it is long, and downloaded whole.
func TestMissingList(t *testing.T) {
	long := strings.Repeat("quay.io/a/b:1\n", 10000)
	p, _ := open(t, map[string]any{
		"GET /v1/missing/lists?client=10.0.0.1&format=images": map[string]any{"format": "images", "count": 1,
			"text": "# asked for once, by <b>\nquay.io/a/b:1\n", "left_out": []string{"team/app: it has no registry"}},
		"GET /v1/missing/lists?format=files": map[string]any{"format": "files", "text": long, "count": 10000},
		"GET /v1/missing/lists?format=x":     400,
	})
	body := p.ask("GET", "/missing/list?format=images&client=10.0.0.1", nil).Body.String()
	for _, want := range []string{
		`<pre class="copy"># asked for once, by &lt;b&gt;`, "team/app: it has no registry",
		"casemate missing --client 10.0.0.1 -o images", "download=1",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the list does not have %s", want)
		}
	}
	if body := p.ask("GET", "/missing/list?format=files", nil).Body.String(); len(body) > 200<<10 ||
		!strings.Contains(body, "longer than what is shown") || strings.Contains(body, `<pre class="copy">`) {
		t.Errorf("a long list has %d bytes", len(body))
	}
	w := p.ask("GET", "/missing/list?format=files&download=1", nil)
	if w.Body.String() != long || w.Header().Get("Content-Disposition") != `attachment; filename="missing-files.list"` {
		t.Errorf("the download has %d bytes, %v", w.Body.Len(), w.Header())
	}
	if w := p.ask("GET", "/missing/list?format=x", nil); w.Code != http.StatusBadRequest {
		t.Errorf("a format that there is not: %d", w.Code)
	}
}

// Marks and removals are one request each.
func TestMissingActions(t *testing.T) {
	p, api := open(t, map[string]any{"PUT /v1/missing/marks": nil, "DELETE /v1/missing/entries?name=a%2Fb%3A1": nil})
	for name, values := range map[string]url.Values{
		"missing-mark":   {"name": {"a/b:1"}, "note": {"ordered"}},
		"missing-forget": {"name": {"a/b:1"}},
	} {
		if w := p.ask("POST", "/do/"+name, values); w.Code != http.StatusSeeOther ||
			w.Header().Get("Location") != "/missing" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if !strings.Contains(strings.Join(api.bodies, "\n"), `{"name":"a/b:1","note":"ordered"}`) {
		t.Errorf("sent: %q", api.bodies)
	}
	p.ask("POST", "/do/missing-mark", url.Values{"name": {"a/b:1"}, "note": {""}})
	if last := api.bodies[len(api.bodies)-1]; last != `{"name":"a/b:1"}` {
		t.Errorf("the removal of a mark sent: %q", last)
	}
}

// The pages of nodes say who is enrolled and why, and lead to what a node missed.
func TestNodesPage(t *testing.T) {
	one := map[string]any{"client": "10.0.0.1", "name": "worker-1.example", "enrolled": "no",
		"why": "it does not trust the root", "last": "2026-11-30T11:59:00Z", "protocols": []string{"dns", "https"},
		"programs": []string{"containerd/v2.1.0"}, "misses": 4, "nodes": []string{"n1"},
		"last_error": map[string]any{"time": "2026-11-30T11:59:00Z", "what": "TLS handshake: bad certificate"}}
	details := map[string]any{"doctor": "( curl )"}
	for k, v := range one {
		details[k] = v
	}
	p, _ := open(t, map[string]any{
		"GET /v1/clients?q=worker&limit=50":        []any{one},
		"GET /v1/clients/show?client=10.0.0.1":     details,
		"GET /v1/clients/show?client=10.0.0.9":     404,
		"GET /v1/missing?client=10.0.0.1&limit=50": []any{map[string]any{"kind": "dns", "name": "x.example"}},
		"GET /v1/egress?client=10.0.0.1&limit=50": map[string]any{
			"entries": []any{map[string]any{"name": "y.example", "verdict": "refused"}}},
		"GET /v1/egress?client=10.0.0.1": map[string]any{
			"dropped": 1, "entries": []any{map[string]any{"name": "y.example"}}},
	})
	body := p.ask("GET", "/nodes?q=worker", nil).Body.String()
	for _, want := range []string{
		`href="/node?client=10.0.0.1"`, "worker-1.example", `class="bad">no`, "it does not trust the root",
		"containerd/v2.1.0", `href="/missing?client=10.0.0.1"`, "TLS handshake: bad certificate",
		`data-live="clients"`, "casemate client list --match worker",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the list does not have %s", want)
		}
	}
	body = p.ask("GET", "/node?client=10.0.0.1", nil).Body.String()
	for _, want := range []string{
		"<h1>Node worker-1.example (10.0.0.1)</h1>", "Enrolled: no.", `<pre class="copy">( curl )</pre>`, "x.example",
		"y.example", "casemate client show 10.0.0.1", "casemate egress --client 10.0.0.1",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the node does not have %s", want)
		}
	}
	if w := p.ask("GET", "/node?client=10.0.0.1&table=egress&format=csv", nil); !strings.Contains(w.Body.String(),
		"\ny.example,") {
		t.Errorf("the download: %s", w.Body)
	}
	if w := p.ask("GET", "/node?client=10.0.0.9", nil); w.Code != http.StatusNotFound {
		t.Errorf("a node that is not known: %d", w.Code)
	}
}
