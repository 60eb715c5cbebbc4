//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

const pageURL = "https://casemate.internal"

// newPage returns a bastion that serves, with a node that has a browser, and an administrator's password.
func newPage(t *testing.T, users map[string]string) (*lab, *bastion, *host, *browser) {
	t.Helper()
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	for name, role := range users {
		if out, err := b.tryIn(password(name), b.bin(), "--socket", b.socket, "user", "add", name, "--password-stdin",
			"--role", role); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return l, b, n, n.browser(t, "casemate.internal", "n1.casemate.internal", b.ip)
}

func password(name string) string { return "a long password of " + name }

// TestPages opens every page as an administrator, in wide and narrow windows, light and dark.
func TestPages(t *testing.T) {
	t.Parallel()
	_, _, _, w := newPage(t, map[string]string{"boss": "admin"})
	w.visit("http://casemate.internal/") // port 80 leads to TLS
	w.shows("Enrol a node")
	if at := w.text(); !strings.HasPrefix(at, pageURL) {
		t.Errorf("the browser is at %.80s", at)
	}
	w.picture("front")
	w.visit(pageURL + "/login")
	w.picture("login")
	w.expect(`401`)
	w.login("boss", "wrong")
	w.shows("wrong user, password or API key")
	w.login("boss", password("boss"))
	w.shows("n1 serves")
	w.picture("overview")
}
