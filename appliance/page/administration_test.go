package page

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/access"
)

// Commands can be pasted into a shell, whatever a form was filled in with.
func TestShellWords(t *testing.T) {
	for in, want := range map[string]string{
		"registry.k8s.io": "registry.k8s.io", "*.apps.example": "'*.apps.example'", "$(reboot)": "'$(reboot)'",
		"a'b;c": `'a'\''b;c'`, "10.0.0.1\r\n10.0.0.2\n": "10.0.0.1 10.0.0.2", "a b": "'a b'", "": "",
		"-rf": "-rf", "x\n`y`": "x '`y`'",
	} {
		if got := shellWords(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestRoleNames(t *testing.T) {
	var names []string
	for _, r := range access.Roles() {
		names = append(names, r.Name)
	}
	if !slices.Equal(names, roleNames) {
		t.Errorf("the forms have %q, there are %q", roleNames, names)
	}
}

// Each action sends the request that its form describes, and shows what is shown once.
func TestAdministrationActions(t *testing.T) {
	secret := map[string]any{"name": "ci", "key": "cmk_ci_secret"}
	for _, c := range []struct {
		action   string
		form     url.Values
		request  string
		body     string
		answer   any
		shows    string
		leads    string
		removals bool
	}{
		{action: "name-set", form: url.Values{"name": {"a.example"}, "type": {"A"},
			"values": {"10.0.0.1\r\n10.0.0.2"}, "ttl": {""}},
			request: "PUT /v1/names/a.example/A", body: `{"values":["10.0.0.1","10.0.0.2"]}`, leads: "/dns"},
		{action: "name-delete", form: url.Values{"name": {"*.a.example"}, "type": {"TXT"}},
			request: "DELETE /v1/names/%2A.a.example/TXT", leads: "/dns", removals: true},
		{action: "cert-issue", form: url.Values{"names": {"git.example"}},
			request: "POST /v1/certs", body: `{"names":["git.example"]}`,
			answer: map[string]any{"serial": "ab", "certificate": "CERT", "chain": "CHAIN", "key": "SECRET KEY"},
			shows:  "SECRET KEY"},
		{action: "cert-issue", form: url.Values{"csr": {"PEM"}}, request: "POST /v1/certs", body: `{"csr":"PEM"}`,
			answer: map[string]any{"serial": "ab", "certificate": "CERT", "chain": "CHAIN"}, shows: "CHAIN"},
		{action: "cert-revoke", form: url.Values{"serial": {"ab"}}, request: "POST /v1/certs/ab/revoke",
			leads: "/certificates", removals: true},
		{action: "join", form: url.Values{"ttl": {"2h"}}, request: "POST /v1/tokens", body: `{"ttl":"2h"}`,
			answer: map[string]any{"token": "TOKEN", "addr": "10.0.0.1:7443", "expires": "2026-11-30T12:00:00Z",
				"addrs": []string{"10.0.0.1:7443", "[fd00::1]:7443"}},
			shows: "casemate join --token TOKEN [fd00::1]:7443"},
		{action: "member-remove", form: url.Values{"name": {"n2"}, "force": {"1"}},
			request: "DELETE /v1/members/n2?force=1", leads: "/cluster", removals: true},
		{action: "member-address", form: url.Values{"name": {"n2"}, "addr": {"10.0.0.2:7443"}},
			request: "PUT /v1/members/n2/address", body: `{"addr":"10.0.0.2:7443"}`, leads: "/cluster"},
		{action: "user-add", form: url.Values{"name": {"ada"}, "password": {"long enough"}, "roles": {"auditor"}},
			request: "POST /v1/users", body: `{"name":"ada","password":"long enough","roles":[{"role":"auditor"}]}`,
			leads: "/users"},
		{action: "password", form: url.Values{"name": {"ada"}, "password": {"long enough"}},
			request: "PUT /v1/users/ada", body: `{"password":"long enough"}`, leads: "/account"},
		{action: "user-remove", form: url.Values{"name": {"ada"}}, request: "DELETE /v1/users/ada", leads: "/users",
			removals: true},
		{action: "role-grant", form: url.Values{"name": {"group:ops"}, "role": {"pusher"}, "images": {"team/app, lab"}},
			request: "POST /v1/accounts/group:ops/roles", body: `{"images":["team/app","lab"],"role":"pusher"}`,
			leads: "/users"},
		{action: "role-revoke", form: url.Values{"name": {"ada"}, "role": {"auditor"}},
			request: "DELETE /v1/accounts/ada/roles/auditor", leads: "/users", removals: true},
		{action: "key-create", form: url.Values{"name": {"ci"}, "roles": {"pusher"}}, request: "POST /v1/apikeys",
			body: `{"name":"ci","roles":[{"role":"pusher"}]}`, answer: secret, shows: "cmk_ci_secret"},
		{action: "key-revoke", form: url.Values{"name": {"ci"}}, request: "DELETE /v1/apikeys/ci", leads: "/account",
			removals: true},
		{action: "setting-set", form: url.Values{"key": {"dns.ttl"}, "value": {"30s\r\n"}},
			request: "PUT /v1/settings/dns.ttl", body: `{"value":"30s"}`, leads: "/settings"},
		{action: "setting-unset", form: url.Values{"key": {"dns.ttl"}}, request: "DELETE /v1/settings/dns.ttl",
			leads: "/settings"},
	} {
		p, api := open(t, map[string]any{c.request: c.answer})
		w := p.ask("POST", "/do/"+c.action, c.form)
		switch {
		case c.shows != "" && (w.Code != http.StatusOK || !strings.Contains(w.Body.String(), c.shows)):
			t.Errorf("%s: %d %s", c.action, w.Code, w.Body)
		case c.leads != "" && (w.Code != http.StatusSeeOther || w.Header().Get("Location") != c.leads):
			t.Errorf("%s: %d to %q", c.action, w.Code, w.Header().Get("Location"))
		}
		i := slices.Index(api.asked, c.request)
		if i < 0 || api.bodies[i] != c.body {
			t.Errorf("%s: asked %q with %q, want %s", c.action, api.asked, api.bodies, c.body)
		}
		if allActions[c.action].removes != c.removals {
			t.Errorf("%s shows what would go: %v", c.action, !c.removals)
		}
		// The API refuses: the form comes back with what was filled in, apart from passwords, and the reason.
		p, _ = open(t, map[string]any{c.request: 409, "GET /v1/settings/dns.ttl": map[string]any{}})
		w = p.ask("POST", "/do/"+c.action, c.form)
		if w.Code != 409 || !strings.Contains(w.Body.String(), "refused with 409") ||
			strings.Contains(w.Body.String(), "long enough") {
			t.Errorf("%s refused: %d %s", c.action, w.Code, w.Body)
		}
	}
}

// A removal shows what would go, and a setting its value and meaning.
func TestFormsShowWhatIsThere(t *testing.T) {
	p, api := open(t, map[string]any{
		"POST /v1/certs/ab/revoke?dry-run=1": map[string]any{"count": 1, "notes": []string{"it is revoked already"},
			"removes": []any{map[string]any{"kind": "certificate", "name": "ab (git.example)"}}},
		"GET /v1/settings/dns.forward": map[string]any{"key": "dns.forward", "value": "10.0.0.53", "help": "resolvers"},
	})
	w := p.ask("GET", "/do/cert-revoke?serial=ab", nil)
	for _, want := range []string{"ab (git.example)", "it is revoked already", "casemate cert revoke ab"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the form has no %q: %s", want, w.Body)
		}
	}
	if slices.ContainsFunc(api.asked, func(s string) bool { return strings.HasSuffix(s, "/revoke") }) {
		t.Errorf("the form has revoked: %q", api.asked)
	}
	w = p.ask("GET", "/do/setting-set?key=dns.forward", nil)
	for _, want := range []string{">10.0.0.53</textarea>", "dns.forward: resolvers."} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the form has no %q: %s", want, w.Body)
		}
	}
	if note := allActions["setting-set"].note; note != "" {
		t.Errorf("the action has changed for everybody: %q", note)
	}
}

// What an account may not do is not offered.
func TestOffersByRole(t *testing.T) {
	type object = map[string]any
	answers := map[string]any{
		"GET /v1/names?limit=100": []any{object{"name": "a.example", "type": "A", "values": []string{"10.0.0.1"}}},
		"GET /v1/forwarders":      []any{},
		"GET /v1/members":         []any{map[string]any{"node": "n2", "role": "voter", "up": true}},
		"GET /v1/certs?limit=100": []any{map[string]any{"serial": "ab", "not_after": "2027-11-30T12:00:00Z"}},
		"GET /v1/accounts":        []any{object{"name": "ada", "changed": "2026-11-30T12:00:00Z", "roles": []any{}}},
		"GET /v1/apikeys":         []any{object{"name": "ci"}, object{"name": "login-x", "owner": "bob"}},
		"GET /v1/roles":           []any{},
		"GET /v1/settings":        []any{map[string]any{"key": "dns.ttl", "set": true}},
	}
	for _, c := range []struct {
		path   string
		verbs  []string
		status int
		offers []string
	}{
		{"/dns", []string{"list"}, 200, nil},
		{"/dns", []string{"list", "inspect"}, 200, nil},
		{"/dns", everything, 200, []string{"name-delete", "name-set", "name-set", "setting-set"}},
		{"/cluster", []string{"list"}, 200, nil},
		{"/cluster", everything, 200, []string{"join", "member-address", "member-remove"}},
		{"/certificates", []string{"list"}, 403, nil},
		{"/certificates", []string{"inspect"}, 200, nil},
		{"/certificates", everything, 200, []string{"cert-issue", "cert-revoke"}},
		{"/users", []string{"list"}, 403, nil},
		{"/users", []string{"inspect"}, 200, []string{"key-revoke"}}, // the login of the account itself
		{"/users", []string{"inspect", "manage"}, 200, []string{"key-create", "key-revoke", "key-revoke", "password",
			"role-grant", "role-grant", "user-add", "user-remove"}},
		{"/settings", []string{"list"}, 403, nil},
		{"/settings", []string{"inspect"}, 200, nil},
		{"/settings", everything, 200, []string{"setting-set", "setting-unset"}},
	} {
		answers["GET /v1/whoami"] = map[string]any{"name": "bob", "verbs": c.verbs}
		p, _ := open(t, answers)
		w := p.ask("GET", c.path, nil)
		var offers []string
		for _, part := range strings.Split(w.Body.String(), `href="/do/`)[1:] {
			name, _, _ := strings.Cut(part, `"`)
			name, _, _ = strings.Cut(name, "?")
			offers = append(offers, name)
		}
		slices.Sort(offers)
		if w.Code != c.status || !slices.Equal(offers, c.offers) {
			t.Errorf("%s with %q: %d, offers %q, want %q", c.path, c.verbs, w.Code, offers, c.offers)
		}
	}
}

func TestExplainOnThePage(t *testing.T) {
	p, _ := open(t, map[string]any{
		"GET /v1/names?limit=100": []any{}, "GET /v1/forwarders": []any{},
		"GET /v1/explain?client=10.0.0.9&name=quay.io&type=AAAA": map[string]any{"name": "quay.io", "type": "AAAA",
			"rcode": "NXDOMAIN", "why": []string{"quay.io is not there."}, "cure": "casemate origin add quay.io"},
		"GET /v1/explain?name=a..b": 400,
	})
	w := p.ask("GET", "/dns?name=quay.io&type=AAAA&client=10.0.0.9", nil)
	for _, want := range []string{"quay.io\nAAAA: NXDOMAIN", "quay.io is not there.", "casemate origin add quay.io",
		"casemate name explain quay.io --type AAAA --client 10.0.0.9", `<option selected>AAAA`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page has no %q: %s", want, w.Body)
		}
	}
	w = p.ask("GET", "/dns?name=a..b", nil)
	if w.Code != 200 || !strings.Contains(w.Body.String(), "refused with 400") ||
		!strings.Contains(w.Body.String(), `value="a..b"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAuditPage(t *testing.T) {
	event := func(n int, object string) map[string]any {
		return map[string]any{"n": n, "time": "2026-11-30T11:00:00Z", "actor": "ada", "verb": "name.set",
			"object": object}
	}
	p, _ := open(t, map[string]any{
		"GET /v1/audit/checkpoint": map[string]any{"size": 7, "checkpoint": "casemate\n7\nAAAA\n", "key": "k+1"},
		"GET /v1/audit?actor=ada&limit=100": map[string]any{"before": 5,
			"events": []any{event(5, "five.example"), event(6, "six.example")}},
		"GET /v1/audit?actor=ada&before=5&limit=100": map[string]any{"events": []any{event(4, "four.example")}},
		"GET /v1/audit?actor=ada&limit=1000": map[string]any{"before": 5,
			"events": []any{event(5, "five.example"), event(6, "six.example")}},
		"GET /v1/audit?actor=ada&limit=1000&before=5": map[string]any{"before": 4,
			"events": []any{event(4, "four.example")}},
		"GET /v1/audit?actor=ada&limit=1000&before=4": map[string]any{"events": []any{event(3, "three.example")}},
		"GET /v1/audit?actor=eve&limit=1000":          map[string]any{"events": []any{}},
		"GET /v1/audit?limit=100&since=x":             400,
	})
	w := p.ask("GET", "/audit?actor=ada", nil)
	body := w.Body.String()
	if i, j := strings.Index(body, "six.example"), strings.Index(body, "five.example"); i < 0 || j < i {
		t.Errorf("not the newest first: %s", body)
	}
	for _, want := range []string{`href="/audit?actor=ada&amp;before=5" rel="next"`, `<svg class="qr"`, "all 7 events",
		"casemate audit list --actor ada"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q: %s", want, body)
		}
	}
	if w = p.ask("GET", "/audit?actor=ada&before=5", nil); !strings.Contains(w.Body.String(), "four.example") ||
		!strings.Contains(w.Body.String(), "First page") {
		t.Errorf("%s", w.Body)
	}
	w = p.ask("GET", "/audit?actor=ada&table=events&format=csv", nil)
	if lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n"); len(lines) != 5 ||
		!strings.Contains(lines[1], "six.example") || !strings.Contains(lines[4], "three.example") {
		t.Errorf("%q", w.Body)
	}
	w = p.ask("GET", "/audit?actor=ada&table=events&format=json", nil)
	var doc struct{ Events []any }
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || len(doc.Events) != 4 {
		t.Errorf("%v %q", err, w.Body)
	}
	w = p.ask("GET", "/audit?actor=eve&table=events&format=json", nil)
	doc.Events = nil
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.Events == nil || len(doc.Events) != 0 {
		t.Errorf("without an event: %v %q", err, w.Body)
	}
	p.cfg.API = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/whoami":
			json.NewEncoder(w).Encode(administrator())
		case r.URL.Query().Has("before"):
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			json.NewEncoder(w).Encode(map[string]any{"before": 5, "events": []any{event(5, "five.example")}})
		}
	})
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("a download that failed in the middle looks whole")
			}
		}()
		p.ask("GET", "/audit?table=events&format=csv", nil)
	}()
	p, _ = open(t, map[string]any{"GET /v1/audit?limit=100&since=x": 400,
		"GET /v1/audit/checkpoint": map[string]any{"size": 7, "checkpoint": "casemate\n7\nAAAA\n", "key": "k+1"}})
	w = p.ask("GET", "/audit?since=x", nil)
	if w.Code != 200 || !strings.Contains(w.Body.String(), "refused with 400") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Lists that the API sends whole are shown in parts, too.
func TestLocalPages(t *testing.T) {
	var keys []any
	for i := range 120 {
		keys = append(keys, map[string]any{"name": "key-" + string(rune('a'+i/26)) + string(rune('a'+i%26))})
	}
	p, _ := open(t, map[string]any{"GET /v1/accounts": []any{}, "GET /v1/roles": []any{}, "GET /v1/apikeys": keys})
	seen := 0
	for _, at := range []string{"/users", "/users?after-keys=50", "/users?after-keys=100", "/users?after-keys=-1"} {
		body := p.ask("GET", at, nil).Body.String()
		seen += strings.Count(body, "<td>key-")
		if next := strings.Contains(body, `rel="next"`); next != (at != "/users?after-keys=100") {
			t.Errorf("%s: next page %v", at, next)
		}
	}
	if seen != 170 {
		t.Errorf("%d rows", seen)
	}
	if w := p.ask("GET", "/users?after-keys=9999", nil); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
}
