//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestPageAdministers does in a browser what an administrator does there: explains an answer, sets and deletes a
// record, issues and revokes a certificate, adds a user and a key, changes a setting and puts it back, gets a join
// line, and finds all of it in the audit log. An auditor sees the same pages and is offered none of it.
func TestPageAdministers(t *testing.T) {
	t.Parallel()
	_, b, n, w := newPage(t, map[string]string{"boss": "admin", "eve": "auditor"})
	w.login("boss", password("boss"))

	w.visit(pageURL + "/dns")
	w.fill("#e-name", "git.corp.example", "#e-client", "203.0.113.9")
	w.shows("git.corp.example A: REFUSED")
	w.shows(`casemate config set dns.allow "private connected 203.0.113.9"`)
	w.fill("#e-name", "git.corp.example", "#e-client", "")
	w.shows("git.corp.example A: NXDOMAIN")
	w.shows("casemate origin add git.corp.example")
	w.visit(pageURL + "/do/name-set")
	w.picture("do-name-set")
	w.fill("#f-name", "git.corp.example", "#f-values", "10.9.0.1\n10.9.0.2")
	w.shows("10.9.0.1 10.9.0.2")
	if got := n.must(t, "getent", "ahostsv4", "git.corp.example"); !strings.Contains(got, "10.9.0.2") {
		t.Errorf("the node gets %q", got)
	}
	w.visit(pageURL + "/dns?name=git.corp.example")
	w.shows("git.corp.example is a DNS record of your own (A).")
	w.picture("dns-explained")
	w.visit(pageURL + "/do/name-delete?name=git.corp.example&type=A")
	w.shows("This removes 1 name")
	w.picture("do-name-delete")
	w.fill(".danger", "")
	w.shows("No DNS records are set.")

	w.visit(pageURL + "/do/cert-issue")
	w.fill("#f-names", "git.casemate.internal")
	w.shows("The private key is shown this once")
	w.shows("BEGIN PRIVATE KEY")
	w.picture("certificate-once")
	w.visit(pageURL + "/certificates")
	w.shows("git.casemate.internal")
	w.picture("certificates-one")
	w.click(`a[href^="/do/cert-revoke"]`)
	w.shows("This removes 1 name")
	w.fill(".danger", "")
	w.shows("revoked")

	w.visit(pageURL + "/do/user-add")
	w.fill("#f-name", "ada", "#f-password", password("ada"), "#f-roles", "operator")
	w.shows("operator")
	w.visit(pageURL + "/do/key-create")
	w.fill("#f-name", "ci")
	w.shows("It is shown this once.")
	w.visit(pageURL + "/users")
	w.picture("users-more")
	w.visit(pageURL + "/do/setting-set?key=dns.ttl")
	w.shows("The default is 15s.")
	w.expect("400")
	w.fill("#f-value", "never")
	w.shows("must be between 1s and 1h")
	w.fill("#f-value", "30s")
	w.shows("30s")
	w.visit(pageURL + "/do/setting-unset?key=dns.ttl")
	w.fill("#f-key", "dns.ttl")
	if got := b.casemate(t, "config", "get", "dns.ttl"); strings.TrimSpace(got) != "15s" {
		t.Errorf("dns.ttl is %q", got)
	}
	w.visit(pageURL + "/do/join")
	w.fill("#f-ttl", "")
	w.shows("casemate join --token ")
	w.picture("join")
	w.visit(pageURL + "/audit?actor=boss")
	for _, verb := range []string{"name.set", "name.delete", "certificate.issue", "apikey.create", "user.add",
		"setting.set", "token.create"} {
		w.shows(verb)
	}
	w.picture("audit-boss")

	s := w.stranger()
	s.login("eve", password("eve"))
	for _, page := range []string{"/dns", "/certificates", "/cluster", "/users", "/settings", "/audit"} {
		s.visit(pageURL + page)
		s.shows("On the command line")
		if offers := eval[[]string](s, `[...document.querySelectorAll('a[href^="/do/"]')].map(a => a.href)`); page !=
			"/users" && len(offers) > 0 {
			t.Errorf("an auditor is offered %q on %s", offers, page)
		}
	}
	s.expect("403")
	s.visit(pageURL + "/do/setting-set?key=dns.ttl")
	s.fill("#f-value", "30s")
	s.shows("eve may not")
	if got := b.casemate(t, "config", "get", "dns.ttl"); strings.TrimSpace(got) != "15s" {
		t.Errorf("an auditor has changed dns.ttl to %q", got)
	}
	s.visit(pageURL + "/account")
	s.shows("auditor")
	s.picture("account")
}
