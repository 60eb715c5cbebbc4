//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
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
	l, b, n, w := newPage(t, map[string]string{"boss": "admin"})
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
	for _, p := range eval[[]string](w, `[...document.querySelectorAll("nav a")].map(a => a.getAttribute("href"))`) {
		if p == "/" {
			continue
		}
		w.visit(pageURL + p)
		w.picture(strings.TrimPrefix(p, "/"))
	}

	crawl(t, l, b, n, w)

	// What changes on the bastion shows by itself, and nobody has touched the browser.
	w.visit(pageURL + "/")
	files := eval[string](w, `document.querySelector(".figures").innerText.match(/Files\s+(\d+)/)[1]`)
	n.write("early", "early\n")
	b.casemate(t, "file", "put", "https://dl.k8s.io/release/v1/early", n.path("early"))
	until(t, "the overview counts one file more", func() error {
		now := eval[string](w, `document.querySelector(".figures").innerText.match(/Files\s+(\d+)/)[1]`)
		if now == files {
			return fmt.Errorf("it counts %s", now)
		}
		return nil
	})

	// Without JavaScript the same pages work.
	plain := w.stranger()
	plain.do("no JavaScript", command(emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true}))
	plain.visit(pageURL + "/users")
	plain.shows("Password")
	plain.fill("#name", "boss", "#password", password("boss"))
	if at := plain.text(); !strings.HasPrefix(at, pageURL+"/users") {
		t.Errorf("the login leads to %.80s", at)
	}

	// A session that was ended on the bastion has ended in the browser: the next page is the login, which leads back.
	var keys []struct{ Name string }
	if err := json.Unmarshal([]byte(b.casemate(t, "apikey", "list", "-o", "json")), &keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if strings.HasPrefix(k.Name, "login-") {
			b.casemate(t, "apikey", "revoke", "--yes", k.Name)
		}
	}
	w.visit(pageURL + "/settings")
	w.shows("Password")
	w.fill("#name", "boss", "#password", password("boss"))
	if at := w.text(); !strings.HasPrefix(at, pageURL+"/settings") {
		t.Errorf("the login leads to %.80s", at)
	}

	// A session that nobody uses ends, although the open page has kept itself new, and the page leads to the login and
	// back.
	b.casemate(t, "config", "set", "sessions.idle", "1m")
	w.visit(pageURL + "/missing?all=1")
	until(t, "the session has expired", func() error {
		if now := w.text(); !strings.Contains(now, "Your session has expired") {
			return fmt.Errorf("the browser is at %.80s", now)
		}
		n.try("curl", "-sS", "https://dl.k8s.io/release/v1/nothing")
		return nil
	})
	w.fill("#name", "boss", "#password", password("boss"))
	if at := w.text(); !strings.HasPrefix(at, pageURL+"/missing?all=1") {
		t.Errorf("the login leads to %.80s", at)
	}
	b.casemate(t, "config", "set", "sessions.idle", "--default")
	w.follow(".account button")
	w.shows("Enrol a node")
	w.visit(pageURL + "/settings")
	w.shows("Password")
}

// crawl follows the links of the pages while there is content of every kind, once for each path, and fails if axe-core
// finds a violation on one of them.
func crawl(t *testing.T, l *lab, b *bastion, n *host, w *browser) {
	t.Helper()
	putPause(t, l, b)
	n.write("tool", "a tool\n")
	b.casemate(t, "file", "put", "https://dl.k8s.io/crawl/tool", n.path("tool"))
	b.casemate(t, "name", "set", "web.casemate.internal", "A", "10.9.9.9")
	b.casemate(t, "cert", "issue", "--name", "web.casemate.internal", "--dir", n.path("tmp"))
	b.casemate(t, "apikey", "create", "ci", "--role", "pusher")
	b.casemate(t, "import", tarOf(t, n, "crawled", 3<<20))
	n.try("curl", "-fsS", "https://dl.k8s.io/crawl/absent")
	n.must(t, "curl", "-fsS", "-o", n.path("x"), "https://dl.k8s.io/crawl/tool")
	links := func() []string {
		return eval[[]string](w, `[...document.querySelectorAll("nav a, main a, header a.account, .account a")].map(
			a => a.href).filter(h => h.startsWith(location.origin)).map(h => h.slice(location.origin.length))`)
	}
	w.visit(pageURL + "/")
	seen, queue := map[string]bool{}, links()
	var forms time.Duration // only told
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		path, query, _ := strings.Cut(next, "?")
		if seen[path] || strings.Contains(query, "format=") || strings.HasPrefix(path, "/files") ||
			strings.HasSuffix(path, ".crt") || path == "/casemate" {
			continue
		}
		seen[path] = true
		w.visit(pageURL + next)
		if strings.HasPrefix(path, "/do/") {
			began := time.Now()
			w.accessibleEverywhere(next)
			forms += time.Since(began)
		} else {
			w.accessible(next)
		}
		if eval[string](w, `(document.querySelector(".command code") || {textContent: ""}).textContent`) == "" {
			t.Errorf("%s names no command", next)
		}
		queue = append(queue, links()...)
	}
	if len(seen) < 30 {
		t.Errorf("the pages have only %d addresses: %v", len(seen), seen)
	}
	// Forms to which no page leads now. Of those that remove something there is only the sentence that it is not there.
	w.expect(`40[04]|409`)
	for _, name := range actions(t) {
		if path := "/do/" + name; !seen[path] {
			began := time.Now()
			w.visit(pageURL + path + "?name=nothing&host=nothing.example&diff=0")
			w.accessibleEverywhere(path)
			forms += time.Since(began)
		}
	}
	t.Logf("%d pages were looked at, the forms for %s", len(seen), forms)
}

// actions are the names of the forms that change something, as the room page has them.
func actions(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repo(t), "appliance", "page", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\t"([a-z-]+)": \{`).FindAllSubmatch(source, -1) {
			names = append(names, string(m[1]))
		}
	}
	if len(names) < 25 {
		t.Errorf("the room page has only the actions %q", names)
	}
	return names
}

// TestPageMissing watches the missing book while containerd asks for an image that nobody has brought.
func TestPageMissing(t *testing.T) {
	t.Parallel()
	l, b, _, w := newPage(t, map[string]string{"boss": "admin"})
	worker := l.host("worker", b.ip)
	worker.trust(b.casemate(t, "ca"))
	sock := worker.containerd(t)
	w.login("boss", password("boss"))
	w.visit(pageURL + "/missing?kind=image")
	w.do("a mark in the page", chromedp.Evaluate[chromedp.Void](`window.here = true`))
	if out, err := worker.try("ctr", "-a", sock, "images", "pull", "registry.k8s.io/absent:1"); err == nil {
		t.Errorf("an image that is not there was pulled:\n%s", out)
	}
	w.shows("registry.k8s.io/absent:1")
	w.shows("1 node waits")
	if !eval[bool](w, `window.here === true`) {
		t.Error("the page was loaded again as a whole")
	}
	w.picture("missing-waiting")

	// It is ordered, and the next shift reads so.
	w.follow(`a[href^="/do/missing-mark"]`)
	w.fill(`[name="note"]`, "ordered, arrives Tuesday")
	w.visit(pageURL + "/missing?kind=image")
	w.shows("ordered, arrives Tuesday")
	w.visit(pageURL + "/missing/list?format=images")
	w.shows("registry.k8s.io/absent:1")
	w.visit(pageURL + "/nodes")
	w.shows(worker.ip)
	w.picture("nodes-two")
	w.visit(pageURL + "/missing?kind=image")
	w.follow(`a[href^="/do/missing-forget"]`)
	w.follow("main form button")
	w.visit(pageURL + "/missing?kind=image")
	if text := w.text(); strings.Contains(text, "registry.k8s.io/absent:1") {
		t.Errorf("a forgotten entry is shown:\n%s", text)
	}
}
