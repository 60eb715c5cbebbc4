//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestContentPages walks from the origins to a file, finds it by a part of its name and of its digest, and deletes it
// after it has shown what goes; a browser without an account sees what there is and may delete nothing.
func TestContentPages(t *testing.T) {
	t.Parallel()
	_, b, n, w := newPage(t, map[string]string{"boss": "admin"})
	n.write("tool", "a tool\n")
	b.casemate(t, "file", "put", "https://dl.k8s.io/release/v1.2.3/bin/tool", n.path("tool"))
	b.casemate(t, "name", "set", "tool.corp.example", "A", "10.9.9.9")
	w.visit(pageURL + "/search?q=TOOL")
	w.shows("dl.k8s.io/release/v1.2.3/bin/tool")
	if strings.Contains(w.text(), "tool.corp.example") {
		t.Error("a DNS record is found without an account")
	}
	w.visit(pageURL + "/content?kind=file")
	w.follow("td a")
	w.shows("release/")
	w.picture("content-files-anonymous")
	w.visit(pageURL + "/login")
	w.login("boss", password("boss"))
	w.shows("n1 serves")
	w.visit(pageURL + "/search?q=tool")
	w.shows("tool.corp.example A")
	w.picture("search")
	w.visit(pageURL + "/content?kind=file&path=dl.k8s.io/release/v1.2.3/bin")
	w.follow("td a")
	w.shows("curl -fLO https://dl.k8s.io/release/v1.2.3/bin/tool")
	w.shows("file.put")
	w.picture("content-file")
	w.follow(".offers a")
	w.shows("This removes 1 name")
	w.picture("content-file-delete")
	w.follow("button.danger")
	w.shows("There are no files here")
	w.visit(pageURL + "/content/packages")
	w.picture("content-packages")
	w.visit(pageURL + "/content/charts")
	w.picture("content-charts")
}
