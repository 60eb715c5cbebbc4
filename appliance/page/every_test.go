package page

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"casemate/appliance/access"
	"casemate/appliance/admin"
)

// filled is an admin API that answers every request for a document with one of the form that the API's description
// gives, full of hostile text and as long as a page may ask for. It is strict: a request that the API does not have
// fails the test.
type filled struct {
	t    *testing.T
	who  any
	text string
}

// described is the description of the API: its requests, and the schemas of its answers.
var described = sync.OnceValue(func() (d struct {
	operations []operation
	schemas    map[string]any
}) {
	data, err := json.Marshal((&admin.API{}).OpenAPI())
	if err != nil {
		panic(err)
	}
	var doc struct {
		Paths      map[string]map[string]map[string]any
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		panic(err)
	}
	for p, methods := range doc.Paths {
		form := regexp.MustCompile("^" + parameter.ReplaceAllString(regexp.QuoteMeta(p), `[^/]+`) + "$")
		for m, op := range methods {
			d.operations = append(d.operations, operation{strings.ToUpper(m), p, form, op})
		}
	}
	// The most specific first, as http.ServeMux chooses.
	slices.SortFunc(d.operations, func(x, y operation) int {
		return cmp.Compare(strings.Count(x.path, "{"), strings.Count(y.path, "{"))
	})
	d.schemas = doc.Components.Schemas
	return d
})

// operation is a request of the API.
type operation struct {
	method, path string
	form         *regexp.Regexp
	what         map[string]any
}

func newFilled(t *testing.T, text string) *filled {
	return &filled{t, map[string]any{"name": text, "verbs": everything}, text}
}

var parameter = regexp.MustCompile(`\\\{[a-z]+\\\}`)

// operation returns the description of a request.
func (f *filled) operation(method, path string) map[string]any {
	for _, op := range described().operations {
		if op.method == method && op.form.MatchString(path) {
			return op.what
		}
	}
	return nil
}

func (f *filled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/whoami" {
		json.NewEncoder(w).Encode(f.who)
		return
	}
	op := f.operation(r.Method, r.URL.EscapedPath())
	if op == nil {
		f.t.Errorf("the API has no %s %s", r.Method, r.URL.EscapedPath())
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"error": "not there"}`)
		return
	}
	if r.URL.Query().Get("dry-run") != "" {
		json.NewEncoder(w).Encode(map[string]any{"removes": []any{map[string]any{"kind": f.text, "name": f.text,
			"bytes": 7}}, "count": 1, "notes": []string{f.text}})
		return
	}
	var schema any
	if done, ok := op["responses"].(map[string]any)["2XX"].(map[string]any); ok {
		if content, ok := done["content"].(map[string]any); ok {
			schema = content["application/json"].(map[string]any)["schema"]
		}
	}
	if schema == nil {
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(map[string]string{"error": f.text})
		return
	}
	w.Header().Set("Link", "<"+with("/v1/x?limit=1", "after", f.text)+`>; rel="next"`)
	v := f.value(schema, 0)
	if doc, ok := v.(map[string]any); ok && r.URL.Query().Has("before") {
		delete(doc, "before") // the last part of the audit log
	}
	json.NewEncoder(w).Encode(v)
}

// value makes a value of a schema.
func (f *filled) value(schema any, depth int) any {
	s, _ := schema.(map[string]any)
	if ref, ok := s["$ref"].(string); ok {
		return f.value(described().schemas[strings.TrimPrefix(ref, "#/components/schemas/")], depth+1)
	}
	if depth > 6 {
		return nil
	}
	switch s["type"] {
	case "string":
		switch {
		case s["format"] == "date-time":
			return "2026-11-30T11:00:00Z"
		case s["contentEncoding"] == "base64":
			return "aGk="
		}
		return f.text
	case "integer":
		return 7
	case "number":
		return 7.5
	case "boolean":
		return true
	case "array":
		n := 3
		if depth == 0 {
			n = pageSize
		}
		return slices.Repeat([]any{f.value(s["items"], depth+1)}, n)
	case "object":
		v := map[string]any{}
		if p, ok := s["properties"].(map[string]any); ok {
			for name, form := range p {
				v[name] = f.value(form, depth+1)
			}
		}
		if extra := s["additionalProperties"]; extra != nil {
			v[f.text] = f.value(extra, depth+1)
		}
		return v
	}
	return f.text
}

// everyPage returns what to ask for: every page, with and without the query that it takes, and every action's form.
func everyPage() (list []string) {
	query := url.Values{}
	for _, name := range []string{"q", "name", "ref", "url", "path", "kind", "client", "type", "import", "id", "digest",
		"host", "key", "serial", "after", "verb", "actor", "object"} {
		query.Set(name, "x")
	}
	for _, e := range entries {
		list = append(list, e.path, e.path+"?"+query.Encode())
	}
	for name, a := range allActions {
		values := url.Values{}
		for _, m := range inPath.FindAllStringSubmatch(a.path+a.back+a.command, -1) {
			values.Set(m[1], hostile)
		}
		for _, f := range a.fields {
			values.Set(f.name, hostile)
		}
		list = append(list, "/do/"+name+"?"+values.Encode())
	}
	slices.Sort(list)
	return list
}

// Every page shows hostile text inert, whatever of the API's documents has it, and stays small with full lists of long
// texts.
func TestEveryPage(t *testing.T) {
	for _, at := range everyPage() {
		name, _, _ := strings.Cut(at, "?")
		t.Run(name, func(t *testing.T) {
			f := newFilled(t, hostile)
			p, _ := open(t, map[string]any{})
			p.cfg.API = f
			w := p.ask("GET", at, nil)
			if w.Code != http.StatusOK && w.Code != http.StatusNotFound && w.Code != http.StatusBadRequest {
				t.Fatalf("%d: %s", w.Code, w.Body)
			}
			checkInertBody(t, w.Body.String())
			if n := w.Body.Len(); n > 300_000 {
				t.Errorf("the page has %d bytes", n)
			}
		})
	}
}

// Each table downloads as CSV and JSON.
func TestEveryDownload(t *testing.T) {
	tables := regexp.MustCompile(`href="([^"]*format=(?:csv|json)[^"]*)"`)
	for _, e := range entries {
		f := newFilled(t, hostile[:60])
		p, _ := open(t, map[string]any{})
		p.cfg.API = f
		w := p.ask("GET", e.path, nil)
		links := tables.FindAllStringSubmatch(w.Body.String(), -1)
		if strings.Contains(w.Body.String(), "<table") && len(links) == 0 {
			t.Errorf("%s has tables without downloads", e.path)
		}
		for _, m := range links {
			target := strings.ReplaceAll(m[1], "&amp;", "&")
			w := p.ask("GET", target, nil)
			kind := w.Header().Get("Content-Type")
			if w.Code != http.StatusOK || !strings.HasPrefix(kind, "text/csv") && kind != "application/json" ||
				!strings.HasPrefix(w.Header().Get("Content-Disposition"), "attachment;") {
				t.Errorf("%s: %d %q %.300s", target, w.Code, w.Header(), w.Body)
			}
			if strings.HasPrefix(kind, "text/csv") && strings.ContainsAny(w.Body.String(), "\x1b\x00\u202e") {
				t.Errorf("%s is not inert", target)
			}
		}
	}
}

// What an action and a page ask of an account is what the API asks for.
func TestActionsAskWhatTheAPIAsks(t *testing.T) {
	form := func(path string) string { return regexp.MustCompile(`\{[a-z_]+\}`).ReplaceAllString(path, "{}") }
	routes := map[string]admin.Route{}
	for _, r := range (&admin.API{}).Routes() {
		routes[r.Method+" "+form(r.Path)] = r
	}
	for name, a := range allActions {
		path, _, _ := strings.Cut(a.path, "?")
		r, ok := routes[a.method+" "+form(path)]
		switch {
		case !ok:
			t.Errorf("action %s: the API has no %s %s", name, a.method, a.path)
		case r.Local != "":
			t.Errorf("action %s: %s %s is answered on the socket only", name, a.method, a.path)
		case string(r.Verb) != a.verb:
			t.Errorf("action %s asks for %q, the API for %q", name, a.verb, r.Verb)
		}
		if a.title == "" || a.button == "" || a.back == "" {
			t.Errorf("action %s has no title, button or way back", name)
		}
	}
	verbs := map[string]bool{"": true}
	for _, r := range access.Roles() {
		for _, v := range r.Verbs {
			verbs[string(v)] = true
		}
	}
	for _, e := range entries {
		if !verbs[e.verb] {
			t.Errorf("page %s asks for %q, which no role gives", e.path, e.verb)
		}
	}
}
