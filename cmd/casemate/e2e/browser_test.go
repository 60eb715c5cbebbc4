//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	devtools "github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdp "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a tab of a Chromium on a host, which resolves names with the host's resolver and trusts what the host
// trusts. What Chromium complains about, and requests to other hosts than the bastions, fail the test.
type browser struct {
	t     *testing.T
	all   context.Context // of the first tab, which stays open
	ctx   context.Context // of chromedp
	close func()
	hosts []string // that it may ask

	mu       sync.Mutex
	expected []*regexp.Regexp
}

type step = chromedp.Action[chromedp.Void]

// command is a step that sends a command of the protocol.
func command[P, R any](c devtools.Command[P, R], params P) step {
	return func(ctx context.Context, t *chromedp.Target) (v chromedp.Void, err error) {
		_, err = devtools.Call(ctx, t, c, params)
		return v, err
	}
}

// browser starts Chromium on the host; its pages may ask hosts only.
func (h *host) browser(t *testing.T, hosts ...string) *browser {
	t.Helper()
	db := "sql:" + h.path("tmp/.pki/nssdb")
	must(t, "mkdir", "-p", h.path("tmp/.pki/nssdb"))
	must(t, "certutil", "-d", db, "-N", "--empty-password")
	must(t, "certutil", "-d", db, "-A", "-t", "C,,", "-n", "casemate", "-i", h.path("etc/local/casemate.crt"))
	log, err := os.Create(h.path("chromium.log"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.CombinedOutput(log),
		chromedp.UserDataDir(h.path("chromium")), chromedp.Flag("disable-component-update", true),
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			// The same program with the same arguments, seen from the host.
			on := h.command(context.Background(), append([]string{cmd.Path}, cmd.Args[1:]...)...)
			cmd.Path, cmd.Args, cmd.Env = on.Path, on.Args, on.Env
		}))...)
	t.Cleanup(func() {
		cancel()
		log.Close()
	})
	// The first tab stays open, and so does the browser when others are closed.
	first, done := chromedp.NewContext(ctx)
	t.Cleanup(done)
	if err := chromedp.Do(first); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, all: first, hosts: hosts}
	return b.tab()
}

// tab opens a tab of the same browser, with the same cookies.
func (b *browser) tab(options ...chromedp.ContextOption) *browser {
	n := &browser{t: b.t, all: b.all, hosts: b.hosts}
	ctx, cancel := chromedp.NewContext(b.all, append(options, chromedp.WithListener(n.listen))...)
	b.t.Cleanup(cancel)
	n.ctx, n.close = ctx, cancel
	n.do("a new tab", command(network.Enable, network.EnableParams{}))
	return n
}

// stranger opens a tab without the cookies of the others.
func (b *browser) stranger() *browser { return b.tab(chromedp.WithNewBrowserContext()) }

// expect lets Chromium complain about what matches, such as the failed requests of a test that cuts the network.
func (b *browser) expect(pattern string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = append(b.expected, regexp.MustCompile(pattern))
}

func (b *browser) listen(ev any) {
	switch ev := ev.(type) {
	case *cdp.EventExceptionThrown:
		data, _ := json.Marshal(ev.ExceptionDetails)
		b.complain("exception: " + string(data))
	case *cdp.EventConsoleAPICalled:
		if ev.Type == "error" || ev.Type == "warning" {
			data, _ := json.Marshal(ev.Args)
			b.complain("console: " + string(data))
		}
	case *cdplog.EventEntryAdded:
		if ev.Entry.Level == "error" || ev.Entry.Level == "warning" {
			b.complain(fmt.Sprintf("%s: %s %s", ev.Entry.Source, ev.Entry.Text, ev.Entry.URL))
		}
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(ev.Request.URL)
		if err == nil && strings.HasPrefix(u.Scheme, "http") && !slices.Contains(b.hosts, u.Hostname()) {
			b.t.Errorf("the page asks another host: %s", ev.Request.URL)
		}
	}
}

func (b *browser) complain(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(b.expected, func(e *regexp.Regexp) bool { return e.MatchString(text) }) {
		b.t.Errorf("Chromium complains: %s", text)
	}
}

// do carries out steps; what names them for an error.
func (b *browser) do(what string, steps ...step) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(b.ctx); err != nil { // opens the tab, which must not end with the time limit
		b.t.Fatalf("%s: %v", what, err)
	}
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v; the page is\n%s", what, err, b.text())
	}
}

// eval returns the value of an expression on the page; a promise is waited for.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.200s: %v", expression, err)
	}
	return v
}

// text returns where the browser is, and the text of the page.
func (b *browser) text() string {
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
	if err != nil {
		return err.Error()
	}
	return v
}

// visit opens a URL.
func (b *browser) visit(url string) {
	b.t.Helper()
	b.do("visit "+url, chromedp.Navigate(url))
}

// shows waits until the page has a text.
func (b *browser) shows(text string) {
	b.t.Helper()
	until(b.t, fmt.Sprintf("the page shows %q", text), func() error {
		if got := b.text(); !strings.Contains(got, text) {
			return fmt.Errorf("it shows\n%s", got)
		}
		return nil
	})
}

// click clicks what a CSS selector finds first.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// fill sets the values of fields, by CSS selector, and submits the form of the last.
func (b *browser) fill(pairs ...string) {
	b.t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" { // which chromedp takes for a failure
			selector, _ := json.Marshal(pairs[i])
			eval[string](b, `document.querySelector(`+string(selector)+`).value = ""`)
			continue
		}
		b.do("fill in "+pairs[i], chromedp.SetValue(chromedp.CSS(pairs[i]), pairs[i+1]))
	}
	last := pairs[len(pairs)-2]
	b.leads("submit the form of "+last, chromedp.Submit(chromedp.CSS(last)))
}

// follow clicks what leads to another page, and waits for that.
func (b *browser) follow(selector string) {
	b.t.Helper()
	b.leads("follow "+selector, chromedp.Click(chromedp.CSS(selector)))
}

func (b *browser) leads(what string, by step) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, by); err != nil {
		b.t.Fatalf("%s: %v; the page is\n%s", what, err, b.text())
	}
}

// login fills in the form.
func (b *browser) login(name, password string) {
	b.t.Helper()
	b.visit(pageURL + "/login")
	b.fill("#name", name, "#password", password)
}

// picture writes how the page looks in wide and narrow windows, light and dark, for people to look at, and fails if
// it does not fit or axe-core finds a violation.
func (b *browser) picture(name string) {
	b.t.Helper()
	dir := filepath.Join(repo(b.t), "bin", "pages")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	for _, width := range []int64{1280, 400} {
		for _, scheme := range []string{"light", "dark"} {
			as := fmt.Sprintf("%s-%d-%s", name, width, scheme)
			b.look(as, width, scheme)
			png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, as+".png"), png, 0o644)
			}
			if err != nil {
				b.t.Fatal(err)
			}
			b.accessible(as)
		}
	}
	b.usual()
}

// accessibleEverywhere fails if axe-core finds a violation in a wide light window or in a narrow dark one.
func (b *browser) accessibleEverywhere(name string) {
	b.t.Helper()
	b.accessible(name)
	b.look(name+", narrow and dark", 400, "dark")
	b.axe(name + ", narrow and dark")
	b.usual()
}

// look makes the window that wide, in light or dark colors, and fails if the page does not fit.
func (b *browser) look(as string, width int64, scheme string) {
	b.t.Helper()
	b.do("show "+as, chromedp.EmulateViewport(width, 900), command(emulation.SetEmulatedMedia,
		emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}}}))
	if over := eval[int](b, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
		b.t.Errorf("%s is %d pixels wider than the window", as, over)
	}
}

// usual is the window after look.
func (b *browser) usual() {
	b.t.Helper()
	b.do("the usual window", chromedp.EmulateReset(),
		command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}))
}

// accessible fails if axe-core finds a violation on the page.
func (b *browser) accessible(name string) {
	b.t.Helper()
	axe, err := os.ReadFile(client(b.t, "axe.min.js"))
	if err != nil {
		b.t.Fatal(err)
	}
	eval[int](b, string(axe)+"\n;0")
	b.axe(name)
}

// axe runs axe-core, which is in the page already.
func (b *browser) axe(name string) {
	b.t.Helper()
	found := eval[[]struct {
		ID, Impact, Help string
		Nodes            []struct {
			HTML           string
			FailureSummary string `json:"failureSummary"`
		}
	}](b, `axe.run().then(r => JSON.parse(JSON.stringify(r.violations)))`)
	for _, v := range found {
		for _, n := range v.Nodes {
			b.t.Errorf("%s: %s (%s): %s\n%s\n%s", name, v.ID, v.Impact, v.Help, n.HTML, n.FailureSummary)
		}
	}
}
