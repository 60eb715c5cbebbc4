//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
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
	path := filepath.Join(dir, name+".tar")
	paths, err := format.Write(t.Context(), path, ix, open, format.WriteOptions{Split: split})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// choose chooses files for a field and sends its form.
func (b *browser) choose(selector string, paths ...string) {
	b.t.Helper()
	b.do("choose files", chromedp.SetUploadFiles(chromedp.CSS(selector), paths))
	b.click(".upload form button.primary")
}

// TestUploads chooses files in the browser: the parts of a bundle in another order, beside a second import, with their
// list of checksums; and without JavaScript, where the form sends them whole.
func TestUploads(t *testing.T) {
	t.Parallel()
	_, b, n, w := newPage(t, map[string]string{"maker": "importer"})
	w.login("maker", password("maker"))
	parts := bundleOf(t, n.dir, "pieces", 8, 1<<20, 3<<20)
	sums := strings.TrimSuffix(parts[0], ".001") + ".sha256"
	slices.Reverse(parts)
	both := append(slices.Concat(parts, []string{sums}), bundleOf(t, n.dir, "other", 2, 10<<20, 0)...)
	w.visit(pageURL + "/imports")
	w.choose("#upload-files", both...)
	w.shows("pieces is staged until")
	w.shows("other is staged until")
	w.picture("uploads")
	if list := b.casemate(t, "import", "list"); strings.Count(list, "staged by maker") != 2 {
		t.Errorf("%s", list)
	}

	plain := w.stranger()
	plain.do("no JavaScript", command(emulation.SetScriptExecutionDisabled,
		emulation.SetScriptExecutionDisabledParams{Value: true}))
	plain.login("maker", password("maker"))
	plain.visit(pageURL + "/imports")
	whole := bundleOf(t, n.dir, "plain", 8, 1<<20, 3<<20)
	slices.Reverse(whole)
	plain.choose("#upload-files", whole...)
	plain.shows("plain is staged until")
}
