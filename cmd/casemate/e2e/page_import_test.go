//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
)

// TestPageImports brings 300 MiB in by drag and drop, with the network cut in the middle, and another import that a
// second person approves.
func TestPageImports(t *testing.T) {
	t.Parallel()
	l, b, n, w := newPage(t, map[string]string{"ada": "importer", "bob": "approver", "boss": "admin"})
	w.login("ada", password("ada"))
	w.visit(pageURL + "/imports")
	w.picture("imports")

	file := tarOf(t, n, "release", 300<<20)
	w.do("a slow line", command(network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
		MatchedNetworkConditions: []*network.Conditions{{UploadThroughput: 40 << 20, DownloadThroughput: -1}}}))
	w.drop("#upload", file)
	sent := func(share float64) {
		t.Helper()
		until(t, "a part is sent", func() error {
			p := eval[float64](w, `(document.querySelector("progress") || {position: 0}).position`)
			if p < share {
				return fmt.Errorf("%.0f %% are sent", 100*p)
			}
			return nil
		})
	}
	sent(0.3)
	w.expect(`net::ERR|Failed to fetch|EventSource`)
	// Somewhere behind the next switch: the browser is told of nothing, and sees only that nothing goes on.
	must(t, "ip", "-n", l.name+"sw", "link", "set", "br0", "down")
	w.shows("the bastion does not answer; it goes on by itself")
	w.accessible("imports, without network")
	must(t, "ip", "-n", l.name+"sw", "link", "set", "br0", "up")
	sent(0.6)
	w.close() // as when a laptop is closed
	w = w.tab()
	w.visit(pageURL + "/imports")
	w.shows("waits for its files")
	w.drop("#upload", file)
	w.shows("Look at the changes")
	w.follow(".uploads a.button")
	w.shows("https://dl.k8s.io/release/big2")
	w.picture("diff")
	n.fails(t, "", "curl", "-fsS", "-o", n.path("x"), "https://dl.k8s.io/release/big2")
	w.follow("a[href^='/do/import-publish']")
	w.follow("main form button")
	w.shows("release")
	sum := strings.Fields(n.must(t, "sha256sum", n.path("release/dl.k8s.io/release/big2")))[0]
	n.must(t, "curl", "-fsS", "-o", n.path("x"), "https://dl.k8s.io/release/big2")
	if got := strings.Fields(n.must(t, "sha256sum", n.path("x")))[0]; got != sum {
		t.Errorf("the file has the SHA-256 %s, sent was %s", got, sum)
	}

	// With approvals the importer may not publish; somebody else compares the digest and does.
	b.casemate(t, "config", "set", "import.approvals", "1")
	w.visit(pageURL + "/imports")
	w.drop("#upload", tarOf(t, n, "second", 1<<20))
	w.shows("Look at the changes")
	w.follow(".uploads a.button")
	if text := w.text(); !strings.Contains(text, "approval of somebody other than ada") {
		t.Errorf("the importer sees\n%s", text)
	}
	digest := eval[string](w, `document.querySelector("dd code.copy").textContent`)
	if eval[bool](w, `!!document.querySelector("a[href^='/do/import-']:not([href*=remove])")`) {
		t.Errorf("the importer is offered to publish:\n%s", w.text())
	}
	o := w.stranger()
	o.login("bob", password("bob"))
	o.visit(pageURL + "/imports/diff?import=second")
	if got := eval[string](o, `document.querySelector("dd code.copy").textContent`); got != digest {
		t.Errorf("the approver sees the digest %s, the importer %s", got, digest)
	}
	o.follow("a[href^='/do/import-approve']")
	o.picture("approve")
	o.follow("main form button")
	n.must(t, "curl", "-fsS", "-o", n.path("x"), "https://dl.k8s.io/second/big2")
	w.shows("Approved by\nbob") // the importer's window has gone on by itself

	// A rollback shows first what would go.
	w.visit(pageURL + "/imports/import?import=second")
	w.picture("import")
	w.follow("a[href^='/do/import-remove']")
	w.shows("https://dl.k8s.io/second/big2")
	w.picture("remove")
	w.follow("main form button")
	n.fails(t, "404", "curl", "-fsS", "-o", n.path("x"), "https://dl.k8s.io/second/big2")
}

// tarOf returns a tar of three files with random bytes, as wget -x writes them, below https://dl.k8s.io/NAME/.
func tarOf(t *testing.T, h *host, name string, bytes int) string {
	t.Helper()
	dir := h.path(name + "/dl.k8s.io/" + name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		must(t, "dd", "if=/dev/urandom", fmt.Sprintf("of=%s/big%d", dir, i), "bs=1M", "iflag=fullblock",
			fmt.Sprintf("count=%d", max(1, bytes/3>>20)))
	}
	file := h.path(name + ".tar")
	must(t, "tar", "-C", h.path(name), "-cf", file, "dl.k8s.io")
	return file
}

// drop drops files on an element, as from a file manager.
func (b *browser) drop(selector string, files ...string) {
	b.t.Helper()
	at := eval[[]float64](b, fmt.Sprintf(`(() => { const e = document.querySelector(%q); e.scrollIntoView();
		const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()`, selector))
	data := &input.DragData{Files: files, DragOperationsMask: 1, Items: []*input.DragDataItem{}}
	var steps []step
	for _, kind := range []input.DispatchDragEventType{"dragEnter", "dragOver", "drop"} {
		steps = append(steps, command(input.DispatchDragEvent,
			input.DispatchDragEventParams{Type: kind, X: at[0], Y: at[1], Data: data}))
	}
	b.do("drop files", steps...)
}
