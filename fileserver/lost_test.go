package fileserver

import (
	"net/http"
	"strings"
	"testing"
)

// A file whose bytes are damaged is no miss and not whole, whatever asks for it; it is listed, since its name is here;
// putting it again repairs it.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, url := range []string{"https://files.test/dir/f", "https://files.test/page/"} {
		info := f.put(t, url, "0123456789")
		f.tree.Damage(info.Digest)
		path := strings.TrimPrefix(url, "https://files.test")
		for _, method := range []string{"GET", "HEAD"} {
			r := f.do(View{Origin: "files.test"}, method, path, nil)
			body := text(t, r)
			said := method == "HEAD" || strings.Contains(body, "damaged or lost: import or put it again")
			if r.StatusCode != http.StatusServiceUnavailable || !said {
				t.Errorf("%s %s: %d %s", method, path, r.StatusCode, body)
			}
		}
		if r := f.origin("files.test", path, "Range: bytes=1-2"); r.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a range of %s: %d", path, r.StatusCode)
		}
		if strings.HasSuffix(path, "/") {
			// a page has no checksum
		} else if r := f.origin("files.test", path+".sha512"); r.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a checksum that must be made of it: %d", r.StatusCode)
		}
		if missed := f.missed(); len(missed) > 0 {
			t.Errorf("damage is no miss: %q", missed)
		}
		n := 0
		for i, err := range f.Server.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			if i.URL == url {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s is listed %d times", url, n)
		}
		f.put(t, url, "0123456789")
		want(t, f.origin("files.test", path), http.StatusOK, "0123456789")
	}
}
