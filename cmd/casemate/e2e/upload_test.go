//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"casemate/bundle"
	"casemate/bundle/format"
)

// bundleOf writes a bundle of files of random content below https://dl.k8s.io/NAME/, split if split is not 0, and
// returns its files.
func bundleOf(t *testing.T, dir, name string, count, size int, split int64) []string {
	t.Helper()
	ix := &bundle.Index{Version: bundle.IndexVersion}
	seeds := map[string]int{}
	content := func(i int) io.Reader {
		seed := sha256.Sum256(fmt.Append(nil, name, i))
		return io.LimitReader(rand.NewChaCha8(seed), int64(size))
	}
	for i := range count {
		h := sha256.New()
		if _, err := io.Copy(h, content(i)); err != nil {
			t.Fatal(err)
		}
		d := fmt.Sprintf("sha256:%x", h.Sum(nil))
		seeds[d] = i
		ix.Blobs = append(ix.Blobs, bundle.Blob{Digest: d, Size: int64(size)})
		ix.Files = append(ix.Files, bundle.File{URL: fmt.Sprintf("https://dl.k8s.io/%s/%d", name, i), Digest: d,
			Size: int64(size)})
	}
	open := func(d string) (io.ReadCloser, error) { return io.NopCloser(content(seeds[d])), nil }
	paths, err := format.Write(t.Context(), filepath.Join(dir, name+".tar"), ix, open, format.WriteOptions{Split: split})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// drop drops files on what a CSS selector finds first.
func (b *browser) drop(selector string, paths ...string) {
	b.t.Helper()
	at := eval[[]float64](b, `(() => { const r = document.querySelector("`+selector+`").getBoundingClientRect();
		return [r.x + r.width / 2, r.y + 20]; })()`)
	var steps []step
	for _, kind := range []input.DispatchDragEventType{"dragEnter", "dragOver", "drop"} {
		steps = append(steps, command(input.DispatchDragEvent, input.DispatchDragEventParams{Type: kind, X: at[0],
			Y: at[1], Data: &input.DragData{Items: []*input.DragDataItem{}, Files: paths, DragOperationsMask: 1}}))
	}
	b.do("drop files", steps...)
}

// choose chooses files for a field and sends its form.
func (b *browser) choose(selector string, paths ...string) {
	b.t.Helper()
	b.do("choose files", chromedp.SetUploadFiles(chromedp.CSS(selector), paths))
	b.click(".upload form button.primary")
}

var received = regexp.MustCompile(`"rx":{"bytes":([0-9]+)`)

// received returns how many bytes the host has received.
func (h *host) received() int {
	h.lab.t.Helper()
	m := received.FindStringSubmatch(must(h.lab.t, "ip", "-n", h.ns, "-j", "-s", "link", "show", "eth0"))
	if m == nil {
		h.lab.t.Fatal("ip shows no bytes")
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		h.lab.t.Fatal(err)
	}
	return n
}

// halfway waits until half of an upload has arrived.
func (b *browser) halfway() {
	b.t.Helper()
	until(b.t, "half of the file has arrived", func() error {
		part := eval[float64](b, `(() => { const p = document.querySelector(".uploads progress");
			return p ? p.value / p.max : 0; })()`)
		if part < 0.5 {
			return fmt.Errorf("%.0f %%", 100*part)
		}
		if part == 1 {
			b.t.Fatal("all of it has arrived")
		}
		return nil
	})
}

// TestUploads imports through the browser: 300 MiB dropped on the page with the network cut half way, a window that is
// closed half way and opened again, parts in another order with an approval, and a form without JavaScript.
func TestUploads(t *testing.T) {
	t.Parallel()
	_, b, n, w := newPage(t, map[string]string{"maker": "importer", "checker": "approver"})
	w.expect(`net::ERR_`) // of requests that the cut network ends
	large := bundleOf(t, n.dir, "large", 30, 10<<20, 0)
	// Slow enough to be cut half way: 40 MB a second.
	must(t, "tc", "-n", n.ns, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "320mbit", "burst", "1mb", "latency",
		"100ms")
	w.login("maker", password("maker"))
	w.visit(pageURL + "/imports")
	w.shows("Or drop files here")
	w.picture("imports-empty")
	w.drop("#upload", large...)
	w.halfway()
	must(t, "ip", "-n", n.ns, "link", "set", "eth0", "down")
	w.shows("it goes on by itself")
	must(t, "ip", "-n", n.ns, "link", "set", "eth0", "up")
	w.shows("is staged until")
	w.picture("imports-staged")
	w.click(".uploads a")
	w.shows("https://dl.k8s.io/large/29")
	w.picture("imports-diff")
	w.click(`a[href^="/do/import-publish"]`)
	w.shows("All names of the import appear")
	w.click("main form button")
	w.shows("30 files")
	if got := b.casemate(t, "file", "list"); strings.Count(got, "/large/") != 30 {
		t.Errorf("%.300s", got)
	}

	// The window is closed half way. In another one the same file goes on where the first one stopped.
	second := bundleOf(t, n.dir, "second", 30, 10<<20, 0)
	tab := &browser{t: t, hosts: w.hosts}
	tab.expect(`net::ERR_`)
	ctx, closeTab := chromedp.NewContext(w.ctx, chromedp.WithListener(tab.listen))
	tab.ctx = ctx
	tab.visit(pageURL + "/imports")
	tab.shows("Or drop files here")
	tab.choose("#upload-files", second...)
	tab.halfway()
	closeTab()
	sent := b.received()
	w.visit(pageURL + "/imports")
	w.shows("waits for its files")
	w.choose("#upload-files", second...)
	w.shows("is staged until")
	if again := b.received() - sent; again > 220<<20 {
		t.Errorf("%d bytes were sent again", again)
	}

	// Parts in another order, and an approval by a second person with the digest.
	b.casemate(t, "config", "set", "import.approvals", "1")
	parts := bundleOf(t, n.dir, "parts", 8, 1<<20, 3<<20)
	slices.Reverse(parts)
	w.visit(pageURL + "/imports")
	w.choose("#upload-files", parts...)
	w.shows("until somebody other than maker approves it")
	w.click(".uploads a")
	w.shows("the approval of somebody other than maker")
	if text := w.text(); strings.Contains(text, "\nPublish") || strings.Contains(text, "\nApprove\n") {
		t.Errorf("its maker may publish it: %s", text)
	}
	checker := w.stranger()
	checker.login("checker", password("checker"))
	checker.visit(pageURL + "/imports")
	if text := checker.text(); strings.Contains(text, "Import files") {
		t.Errorf("an approver may import: %s", text)
	}
	checker.visit(pageURL + "/imports/diff?import=parts")
	checker.click(`a[href^="/do/import-approve"]`)
	checker.shows("Compare the digest")
	checker.click("main form button")
	checker.shows("8 files")
	checker.visit(pageURL + "/imports/import?import=parts")
	checker.shows("checker")
	checker.picture("imports-import")
	b.casemate(t, "config", "set", "import.approvals", "0")

	// Without JavaScript the form sends the files whole.
	plain := w.stranger()
	plain.do("no JavaScript", command(emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true}))
	plain.login("maker", password("maker"))
	plain.visit(pageURL + "/imports")
	plain.choose("#upload-files", bundleOf(t, n.dir, "plain", 3, 5<<20, 0)...)
	plain.shows("plain is staged until")
	plain.picture("imports-form")
}
