package fileserver

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"casemate/cluster/tree"
)

// A repository of packages is read at the server's name for packages; its files are not changed one by one.
func TestManaged(t *testing.T) {
	f := start(t)
	cfg := f.config(t)
	cfg.OwnIndex = func() string { return "packages.gap.test" }
	f.Server = New(cfg)
	index := View{Index: true}
	for name, content := range map[string]string{"tools/dists/stable/InRelease": "signed",
		"tools/pool/ab/a_1.0+b~1_all.deb": "deb"} {
		if err := tree.WriteFile(t.Context(), f.tree, "packages.gap.test/"+name+"?", []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	want(t, f.do(index, "GET", "/tools/dists/stable/InRelease", nil), 200, "signed")
	want(t, f.do(index, "GET", "/tools//pool/ab/a_1.0%2bb~1_all.deb", nil), 200, "deb")
	want(t, f.do(View{Index: true, Plain: true}, "GET", "/tools/dists/stable/InRelease", nil), 200, "signed")
	if r := f.do(index, "GET", "/tools/pool", nil); r.StatusCode != 302 || r.Header.Get("Location") != "./pool/" {
		t.Errorf("a directory without its slash: %s %s", r.Status, r.Header.Get("Location"))
	}
	if r := f.do(index, "GET", "/tools/", nil); r.StatusCode != 200 || !strings.Contains(text(t, r), "dists/") {
		t.Errorf("a listing: %s", r.Status)
	}
	if missed := f.missed(); missed != nil {
		t.Errorf("misses: %q", missed)
	}
	want(t, f.do(index, "GET", "/tools/pool/ab/b_1_all.deb", nil), 404, "*")
	want(t, f.do(index, "GET", "/none/x", nil), 404, "*")
	if missed := f.missed(); len(missed) != 2 ||
		missed[0] != "https://packages.gap.test/tools/pool/ab/b_1_all.deb | " ||
		!strings.Contains(missed[1], "nor a repository") {
		t.Errorf("misses: %q", missed)
	}
	const release = "/packages.gap.test/tools/dists/stable/InRelease"
	auth := "Authorization: Basic YW5uOnNlY3JldA=="
	want(t, f.do(View{}, "DELETE", release, nil, auth), 403, "*")
	want(t, f.do(View{}, "PUT", release, strings.NewReader("x"), auth), 403, "*")
	if err := f.Delete(t.Context(), "https:/"+release); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("delete: %v", err)
	}
	origins["packages.gap.test"] = "packages.gap.test"
	defer delete(origins, "packages.gap.test")
	if _, err := f.Put(t.Context(), "https:/"+release, strings.NewReader("x"), ""); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("put: %v", err)
	}
	f.put(t, "https://packages.gap.test/simple/a/a-1.tar.gz", "x")
	want(t, f.do(index, "GET", "/tools/dists/stable/InRelease", nil), 200, "signed")
}
