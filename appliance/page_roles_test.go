package appliance

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"casemate/appliance/access"
	"casemate/appliance/oidc"
	"casemate/appliance/setup"
)

// TestPagesByRole walks the pages for browsers on a running node: each role sees the pages of its navigation and gets a
// refusal from the others, and who has no role can do nothing that an administrator is offered.
func TestPagesByRole(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	const own = "https://casemate.internal"
	session := func(name string) func(*http.Request) {
		t.Helper()
		_, body := n.do("POST", own+"/v1/login", strings.NewReader("{}"), func(r *http.Request) {
			r.SetBasicAuth(name, "correct horse")
		})
		var key struct{ Key string }
		if err := json.Unmarshal([]byte(body), &key); err != nil || key.Key == "" {
			t.Fatalf("%s cannot log in: %s", name, body)
		}
		return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: oidc.SessionCookie, Value: key.Key}) }
	}
	as := map[string]func(*http.Request){}
	for _, role := range access.Roles() {
		n.must("POST", "users", map[string]any{"name": role.Name, "password": "correct horse",
			"roles": []access.Grant{{Role: role.Name}}}, nil)
		as[role.Name] = session(role.Name)
	}
	n.must("POST", "users", map[string]any{"name": "nobody", "password": "correct horse"}, nil)
	n.must("DELETE", "accounts/nobody/roles/pusher", nil, nil)
	as["nobody"] = session("nobody")

	links := func(who string) (pages map[string]bool, actions []string) {
		t.Helper()
		pages = map[string]bool{}
		_, body := n.do("GET", own+"/", nil, as[who])
		for _, m := range regexp.MustCompile(`<li><a href="(/[a-z/]*)"`).FindAllStringSubmatch(body, -1) {
			pages[m[1]] = true
		}
		for p := range pages {
			_, body := n.do("GET", own+p, nil, as[who])
			for _, m := range regexp.MustCompile(`href="/do/([a-z-]+)`).FindAllStringSubmatch(body, -1) {
				actions = append(actions, m[1])
			}
		}
		return pages, actions
	}
	all, actions := links("admin")
	if len(all) < 10 || len(actions) < 10 {
		t.Fatalf("an administrator sees %v, and is offered %q", all, actions)
	}
	for who, edit := range as {
		own := map[string]bool{}
		if who != "nobody" {
			own, _ = links(who)
		}
		for p := range all {
			resp, body := n.do("GET", "https://casemate.internal"+p, nil, edit)
			want := http.StatusForbidden
			if own[p] || p == "/" || who == "nobody" && p == "/content" { // which may be read without an account
				want = http.StatusOK
			}
			if resp.StatusCode != want || want == http.StatusForbidden && !strings.Contains(body, "your roles do not") {
				t.Errorf("%s as %s: %d, want %d: %.300s", p, who, resp.StatusCode, want, body)
			}
		}
	}
	for _, a := range actions {
		resp, body := n.do("POST", own+"/do/"+a, strings.NewReader(url.Values{"name": {"x"}, "key": {"dns.ttl"},
			"value": {"9s"}, "type": {"A"}, "role": {"reader"}}.Encode()), as["nobody"], func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		})
		// Every account may try to end a login: there is none of that name.
		if resp.StatusCode != http.StatusForbidden && (a != "key-revoke" || resp.StatusCode != http.StatusNotFound) {
			t.Errorf("/do/%s by an account without a role: %d %.500s", a, resp.StatusCode, body)
		}
	}
}
