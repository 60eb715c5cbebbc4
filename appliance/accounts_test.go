package appliance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/access"
	"casemate/appliance/oidc"
	"casemate/appliance/setup"
)

// withoutVerb are the routes of the admin API that every account may use, each with the reason.
var withoutVerb = map[string]string{
	"GET /v1/whoami":            "it tells an account about itself",
	"GET /v1/roles":             "it tells what the documentation says",
	"GET /v1/openapi.json":      "it tells what the documentation says",
	"PUT /v1/users/{name}":      "users change their own password; about others the room decides",
	"DELETE /v1/apikeys/{name}": "a login ends itself; about others the room decides",
	"POST /v1/login":            "every user may log in",
}

// TestEveryRouteOfEveryListenerAsks walks the admin API on a running node, over https and the socket, and the other
// paths of the bastions' own names.
func TestEveryRouteOfEveryListenerAsks(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	add := func(name string, roles ...access.Grant) {
		n.must("POST", "users", map[string]any{"name": name, "password": "correct horse", "roles": roles}, nil)
	}
	add("nobody", access.Grant{Role: "reader"})
	n.must("DELETE", "accounts/nobody/roles/reader", nil, nil)
	add("boss", access.Grant{Role: "admin"})
	add("eye", access.Grant{Role: "auditor"})
	add("old")
	const base = "https://n1.casemate.internal"
	as := func(name string) func(*http.Request) {
		return func(r *http.Request) {
			if name != "" {
				r.SetBasicAuth(name, "correct horse")
			}
		}
	}
	parameter := regexp.MustCompile(`\{[a-z]+\}`)
	// Those that are open while reading needs no account are not, when it does.
	n.must("PUT", "settings/registry.anonymous", map[string]string{"value": "none"}, nil)
	var free, local, public, open []string
	for _, r := range n.Appliance.admin.Routes() {
		url := base + parameter.ReplaceAllString(r.Path, "x")
		what := r.Method + " " + r.Path
		if resp, body := n.do(r.Method, url, nil); r.Public == "" && (resp.StatusCode != 401 ||
			!strings.Contains(body, "casemate login") || resp.Header.Get("WWW-Authenticate") == "") {
			t.Errorf("%s without an account: %d %s", what, resp.StatusCode, body)
		}
		if resp, body := n.do(r.Method, "http://n1.casemate.internal"+r.Path, nil); resp.StatusCode/100 != 4 {
			t.Errorf("%s over plain http: %d %s", what, resp.StatusCode, body)
		}
		if resp, _ := n.do(r.Method, url, nil, func(r *http.Request) {
			as("boss")(r)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}); resp.StatusCode != 403 && r.Method != "GET" {
			t.Errorf("%s by a page of another site: %d", what, resp.StatusCode)
		}
		if r.Open {
			open = append(open, what)
		}
		switch {
		case r.Public != "":
			public = append(public, what)
			continue
		case r.Local != "":
			local = append(local, what)
			if resp, body := n.do(r.Method, url, nil, as("boss")); resp.StatusCode != 403 ||
				!strings.Contains(body, "on the bastion itself") {
				t.Errorf("%s from elsewhere: %d %s", what, resp.StatusCode, body)
			}
			continue
		case r.Verb == "":
			free = append(free, what)
			if withoutVerb[what] == "" {
				t.Errorf("%s asks for nothing: give it a verb, or withoutVerb a reason", what)
			}
			continue
		}
		resp, body := n.do(r.Method, url, nil, as("nobody"))
		if resp.StatusCode != 403 || !strings.Contains(body, "user nobody may not "+string(r.Verb)) {
			t.Errorf("%s without a role: %d %s", what, resp.StatusCode, body)
		}
		if r.Method != "GET" && slices.Contains([]access.Verb{access.Inspect, access.Pull}, r.Verb) {
			t.Errorf("%s changes something, and auditors may", what)
		}
	}
	if len(free) != len(withoutVerb) || !slices.Equal(local, []string{"POST /v1/reload", "POST /v1/imports"}) {
		t.Errorf("without a verb: %q; local: %q", free, local)
	}
	if !slices.Equal(public, []string{"POST /v1/login/oidc", "POST /v1/login/oidc/finish"}) {
		t.Errorf("without an account: %q", public)
	}
	n.must("DELETE", "settings/registry.anonymous", nil, nil)
	if !slices.Equal(open, []string{"GET /v1/images", "GET /v1/files", "GET /v1/files/stat", "GET /v1/browse",
		"GET /v1/images/manifest", "GET /v1/search"}) {
		t.Errorf("without an account where reading needs none: %q", open)
	}
	for _, what := range open {
		if resp, body := n.do("GET", base+strings.TrimPrefix(what, "GET "), nil); resp.StatusCode != 200 &&
			resp.StatusCode != 400 { // 400: a parameter is missing
			t.Errorf("%s without an account: %d %s", what, resp.StatusCode, body)
		}
	}
	// What is allowed works over https as on the socket, and the socket's user is an administrator.
	var who struct{ Name, How string }
	n.must("GET", "whoami", nil, &who)
	if who.Name == "" || who.How != "socket" {
		t.Errorf("%+v", who)
	}
	for _, c := range []struct {
		name, method, path, body string
		want                     int
	}{
		{"boss", "GET", "/v1/status", "", 200},
		{"boss", "PUT", "/v1/settings/dns.ttl", `{"value":"20s"}`, 204},
		{"eye", "GET", "/v1/settings", "", 200},
		{"eye", "GET", "/v1/users", "", 200},
		{"eye", "PUT", "/v1/settings/dns.ttl", `{"value":"30s"}`, 403},
		{"old", "GET", "/v1/images", "", 200},
		{"old", "GET", "/v1/users", "", 403},
		{"old", "PUT", "/v1/files?url=https://dl.k8s.io/x", "x", 200},
		{"old", "PUT", "/v1/users/old", `{"password":"better horse"}`, 204},
		{"old", "GET", "/v1/images", "", 401},
		{"boss", "GET", "/v1/nothing", "", 404},
	} {
		resp, body := n.do(c.method, base+c.path, strings.NewReader(c.body), as(c.name))
		if resp.StatusCode != c.want {
			t.Errorf("%s %s by %s: %d %s, want %d", c.method, c.path, c.name, resp.StatusCode, body, c.want)
		}
	}
	n.must("PUT", "repositories/tools", map[string]string{"format": "deb"}, nil)
	checkOpenAPI(t, n)
	checkBodies(t, n)
	checkRoles(t, n)
	// A login is an API key, which works as Bearer and as a password, and can be ended by itself.
	var key struct{ Name, Key string }
	_, body := n.do("POST", base+"/v1/login", strings.NewReader("{}"), as("boss"))
	if err := json.Unmarshal([]byte(body), &key); err != nil || !strings.HasPrefix(key.Key, "cmk_"+key.Name+"_") {
		t.Fatalf("%v %s", err, body)
	}
	checkCookies(t, n, key.Key)
	bearer := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key.Key) }
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", "/v1/whoami", 200}, {"POST", "/v1/login", 400}, {"DELETE", "/v1/apikeys/" + key.Name, 204},
		{"GET", "/v1/whoami", 401}} {
		if resp, body := n.do(c.method, base+c.path, strings.NewReader("{}"), bearer); resp.StatusCode != c.want {
			t.Errorf("%s %s with a key: %d %s, want %d", c.method, c.path, resp.StatusCode, body, c.want)
		}
	}
	// Everything else on the bastions' own names only reads, and is public.
	for _, path := range []string{"/", "/ca.crt", "/healthz", "/readyz", "/site.json", "/doctor.json", "/casemate",
		"/enroll", "/metrics", "/crl/x.crl", "/nothing"} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			if resp, _ := n.do(method, base+path, strings.NewReader("x"), as("boss")); resp.StatusCode != 405 {
				t.Errorf("%s %s: %d", method, path, resp.StatusCode)
			}
		}
	}
}

// checkRoles tries what docs/admin-api.md says of each role and route: every refusal, and of routes that only read,
// the role with the least rights that may. The registry and the file server decide by the same table.
func checkRoles(t *testing.T, n *node) {
	t.Helper()
	as := map[string]func(*http.Request){}
	for _, role := range access.Roles() {
		var key struct{ Key string }
		n.must("POST", "apikeys", map[string]any{"name": "as-" + role.Name,
			"roles": []access.Grant{{Role: role.Name}}}, &key)
		as[role.Name] = func(r *http.Request) { r.SetBasicAuth("key", key.Key) }
	}
	parameter := regexp.MustCompile(`\{[a-z]+\}`)
	refused := 0
	for _, r := range n.Appliance.admin.Routes() {
		url := "https://n1.casemate.internal" + parameter.ReplaceAllString(r.Path, "x")
		read := r.Method == "GET" && r.Path != "/v1/executable" // which is large
		for _, role := range access.Roles() {
			switch may := r.MayOverHTTPS(role); {
			case !may:
				refused++
				if resp, body := n.do(r.Method, url, nil, as[role.Name]); resp.StatusCode != 403 {
					t.Errorf("%s %s as %s: %d %s, want 403", r.Method, r.Path, role.Name, resp.StatusCode, body)
				}
			case read:
				read = false
				if resp, body := n.do(r.Method, url, nil, as[role.Name]); resp.StatusCode == 401 ||
					resp.StatusCode == 403 {
					t.Errorf("%s %s as %s: %d %s", r.Method, r.Path, role.Name, resp.StatusCode, body)
				}
			}
		}
	}
	if refused < 200 {
		t.Errorf("only %d refusals were tried", refused)
	}
	n.must("PUT", "settings/registry.anonymous", map[string]string{"value": "none"}, nil)
	const (
		image = "https://registry.casemate.internal/v2/team/app"
		file  = "https://files.casemate.internal/dl.k8s.io/roles"
	)
	for _, role := range access.Roles() {
		for _, c := range []struct {
			method, url string
			verb        access.Verb
		}{
			{"GET", image + "/tags/list", access.Pull},
			{"POST", image + "/blobs/uploads/", access.Push},
			{"DELETE", image + "/manifests/none", access.Delete},
			{"PUT", file, access.Push},
			{"DELETE", file, access.Delete},
		} {
			resp, body := n.do(c.method, c.url, strings.NewReader(""), as[role.Name])
			may := resp.StatusCode != 401 && resp.StatusCode != 403
			if may != slices.Contains(role.Verbs, c.verb) || resp.StatusCode >= 500 {
				t.Errorf("%s %s as %s: %d %s", c.method, c.url, role.Name, resp.StatusCode, body)
			}
		}
	}
	n.must("DELETE", "settings/registry.anonymous", nil, nil)
}

// checkCookies: the session of a browser is for the admin API of the bastions' own names alone, and not for other
// sites. Where no OpenID provider is configured, logins say so.
func checkCookies(t *testing.T, n *node, key string) {
	t.Helper()
	cookie := func(more ...string) func(*http.Request) {
		return func(r *http.Request) {
			r.AddCookie(&http.Cookie{Name: oidc.SessionCookie, Value: key})
			for i := 0; i < len(more); i += 2 {
				r.Header.Set(more[i], more[i+1])
			}
		}
	}
	const own, files = "https://casemate.internal", "https://files.casemate.internal"
	for _, c := range []struct {
		method, url, body string
		edit              func(*http.Request)
		want              int
	}{
		{"GET", own + "/v1/settings", "", cookie(), 200},
		{"PUT", own + "/v1/settings/dns.ttl", `{"value":"25s"}`, cookie("Sec-Fetch-Site", "same-origin"), 204},
		{"PUT", own + "/v1/settings/dns.ttl", `{"value":"26s"}`, cookie("Sec-Fetch-Site", "cross-site"), 403},
		{"PUT", own + "/v1/settings/dns.ttl", `{"value":"26s"}`, cookie("Origin", "https://evil.example"), 403},
		{"GET", own + "/v1/settings", "", cookie("Authorization", "Basic eDp5"), 401},
		{"PUT", files + "/dl.k8s.io/y", "x", cookie(), 401},
		{"GET", own + "/login/oidc", "", nil, 404},
		{"GET", own + "/callback?code=x&state=y", "", nil, 403},
		{"GET", strings.Replace(own, "https", "http", 1) + "/login/oidc", "", nil, 403},
		{"POST", own + "/v1/login/oidc", "", nil, 404},
		{"POST", own + "/v1/login/oidc/finish", `{"handle":"x"}`, nil, 403},
	} {
		var edits []func(*http.Request)
		if c.edit != nil {
			edits = append(edits, c.edit)
		}
		if resp, body := n.do(c.method, c.url, strings.NewReader(c.body), edits...); resp.StatusCode != c.want {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.url, resp.StatusCode, body, c.want)
		}
	}
	if _, body := n.do("GET", own+"/v1/settings/dns.ttl", nil, cookie()); !strings.Contains(body, "25s") {
		t.Error(body)
	}
}

// checkOpenAPI: the description has every route, and answers have only the fields that it names.
func checkOpenAPI(t *testing.T, n *node) {
	t.Helper()
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]map[string]any
		Components struct{ Schemas map[string]any }
	}
	n.must("GET", "openapi.json", nil, &doc)
	routes := n.Appliance.admin.Routes()
	count, ids := 0, map[string]bool{}
	for _, ops := range doc.Paths {
		for _, op := range ops {
			count++
			ids[op["operationId"].(string)] = true
		}
	}
	if count != len(routes) || len(ids) != count || doc.OpenAPI != "3.1.0" {
		t.Errorf("%s describes %d operations with %d names, there are %d routes", doc.OpenAPI, count, len(ids),
			len(routes))
	}
	checked := 0
	const index = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	if resp, body := n.do("PUT", "https://registry.casemate.internal/v2/team/app/manifests/1", strings.NewReader(index),
		func(r *http.Request) {
			r.SetBasicAuth("boss", "correct horse")
			r.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		}); resp.StatusCode != 201 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	queries := map[string]string{ // of routes that need one
		"/v1/files/stat": "?url=https://dl.k8s.io/x", "/v1/files/show": "?url=https://dl.k8s.io/x",
		"/v1/images/show": "?ref=team/app:1", "/v1/images/manifest": "?ref=team/app:1", "/v1/browse": "?kind=file",
		"/v1/search": "?q=dl.k8s", "/v1/explain": "?name=registry.k8s.io", "/v1/clients/show": "?client=127.0.0.1",
		"/v1/missing/lists": "?format=images",
	}
	for _, r := range routes {
		op := doc.Paths[r.Path][strings.ToLower(r.Method)]
		if op == nil {
			t.Errorf("%s %s is not described", r.Method, r.Path)
			continue
		}
		done := op["responses"].(map[string]any)["2XX"].(map[string]any)
		if done["content"] == nil || r.Method != "GET" || strings.Contains(r.Path, "{") {
			continue
		}
		var got any
		n.must("GET", strings.TrimPrefix(r.Path, "/v1/")+queries[r.Path], nil, &got)
		schema := done["content"].(map[string]any)["application/json"].(map[string]any)["schema"]
		if why := differs(got, schema, doc.Components.Schemas); why != "" {
			t.Errorf("GET %s is not as described: %s", r.Path, why)
		}
		checked++
	}
	if checked < 12 {
		t.Errorf("only %d answers were compared", checked)
	}
}

// withoutBody are the requests that change something and have no body.
var withoutBody = []string{"POST /v1/approvals/{name}/reject", "POST /v1/certs/{serial}/revoke", "POST /v1/format",
	"POST /v1/gc", "POST /v1/login/oidc", "POST /v1/reload", "POST /v1/scrub",
	"POST /v1/imports"} // which takes the connection over

// checkBodies: every request that may have a body has it described, and reads what is described: a field that is not
// is refused before anything is done, and so is a request without the fields that are required.
func checkBodies(t *testing.T, n *node) {
	t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			RequestBody *struct {
				Required bool
				Content  map[string]struct{ Schema map[string]any }
			}
		}
		Components struct{ Schemas map[string]map[string]any }
	}
	n.must("GET", "openapi.json", nil, &doc)
	parameter, described := regexp.MustCompile(`\{[a-z]+\}`), 0
	var without []string
	for _, r := range n.Appliance.admin.Routes() {
		what, body := r.Method+" "+r.Path, doc.Paths[r.Path][strings.ToLower(r.Method)].RequestBody
		switch {
		case r.Method == "GET" || r.Method == "DELETE":
			if body != nil {
				t.Errorf("%s has a body", what)
			}
			continue
		case body == nil:
			without = append(without, what)
			continue
		}
		described++
		schema, isJSON := body.Content["application/json"]
		if !isJSON {
			continue
		}
		ref, _ := schema.Schema["$ref"].(string)
		s := doc.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")]
		if s == nil || s["additionalProperties"] != false {
			t.Errorf("%s: the schema %q is not strict: %v", what, ref, s)
		}
		properties, _ := s["properties"].(map[string]any)
		for name := range properties {
			if name != strings.ToLower(name) {
				t.Errorf("%s: the field %s", what, name)
			}
		}
		required, _ := s["required"].([]any)
		if body.Required != (len(required) > 0) {
			t.Errorf("%s: required %v, fields %v", what, body.Required, required)
		}
		url := "https://n1.casemate.internal" + parameter.ReplaceAllString(r.Path, "x")
		as := func(r *http.Request) { r.SetBasicAuth("boss", "correct horse") }
		resp, text := n.do(r.Method, url, strings.NewReader(`{"no such field":1}`), as)
		if resp.StatusCode != 400 || !strings.Contains(text, "no such field") {
			t.Errorf("%s with a field that is not described: %d %s", what, resp.StatusCode, text)
		}
		if body.Required {
			if resp, text := n.do(r.Method, url, strings.NewReader("{}"), as); resp.StatusCode/100 != 4 {
				t.Errorf("%s without %v: %d %s", what, required, resp.StatusCode, text)
			}
		}
	}
	slices.Sort(without)
	want := slices.Sorted(slices.Values(withoutBody))
	if !slices.Equal(without, want) {
		t.Errorf("without a body are %q, want %q: describe the others in bodies", without, want)
	}
	if described < 25 {
		t.Errorf("only %d bodies are described", described)
	}
}

// differs says how a value in JSON is not what its schema describes; "": it is.
func differs(v, schema any, all map[string]any) string {
	s := schema.(map[string]any)
	if ref, ok := s["$ref"].(string); ok {
		found, ok := all[strings.TrimPrefix(ref, "#/components/schemas/")].(map[string]any)
		if !ok {
			return ref + " is not there"
		}
		s = found
	}
	bad := ""
	switch v := v.(type) {
	case nil:
	case []any:
		if s["type"] != "array" {
			return fmt.Sprintf("%v for a list", s["type"])
		}
		for _, e := range v {
			bad = cmp.Or(bad, differs(e, s["items"], all))
		}
	case map[string]any:
		properties, _ := s["properties"].(map[string]any)
		for k, e := range v {
			p := cmp.Or(properties[k], s["additionalProperties"])
			if p == nil {
				return "unknown field " + k
			}
			bad = cmp.Or(bad, differs(e, p, all))
		}
	case string:
		if s["type"] != "string" {
			return fmt.Sprintf("%v for %q", s["type"], v)
		}
	case bool:
		if s["type"] != "boolean" {
			return fmt.Sprintf("%v for a boolean", s["type"])
		}
	case float64:
		if s["type"] != "integer" && s["type"] != "number" {
			return fmt.Sprintf("%v for %v", s["type"], v)
		}
	}
	return bad
}
