package fileserver

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"casemate/cluster"
)

var _ Tree = (*cluster.Tree)(nil)

// TestOnTheCluster: what holds on the tree in memory holds on the one that is used: names with question marks, listings
// with seeks, local files that go to the socket unwrapped.
func TestOnTheCluster(t *testing.T) {
	cfg := cluster.Config{Dir: t.TempDir(), Node: "n1", Log: slog.New(slog.DiscardHandler)}
	if err := cluster.Bootstrap(cfg); err != nil {
		t.Fatal(err)
	}
	node, err := cluster.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	f := start(t)
	c := f.config(t)
	c.Tree = node.Tree().Sub("files")
	f.Server = New(c)

	const url = "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm"
	blob := f.put(t, url, "kubeadm").Digest
	f.put(t, "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm?x=/", "query")
	f.put(t, "https://dl.k8s.io/release", "file and directory")
	want(t, f.origin("dl.k8s.io", "/release/v1.32.0/bin/linux/amd64/kubeadm?x=%2f"), 200, "query")
	want(t, f.origin("dl.k8s.io", "/release"), 200, "file and directory")
	want(t, f.own("/kubernetes/1.32.0/kubeadm"), 200, "kubeadm")
	want(t, f.own("/dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm.sha256"), 200,
		strings.TrimPrefix(blob, "sha256:"))
	w := &socket{ResponseRecorder: httptest.NewRecorder()}
	f.Serve(w, httptest.NewRequest("GET", "/release/v1.32.0/bin/linux/amd64/kubeadm", nil),
		View{Origin: "dl.k8s.io", Plain: true})
	if w.files != 1 || w.Body.String() != "kubeadm" {
		t.Errorf("%d files went to the socket, body %q", w.files, w.Body)
	}

	err = c.Tree.Update(t.Context(), func(b Batch) error {
		for i := range pageSize + 5 {
			b.Link(fmt.Sprintf("files.test/f%05d?", i), blob)
			b.Link(fmt.Sprintf("files.test/big/%d?", i), blob)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for next, pages := "", 0; pages == 0 || next != ""; pages++ {
		var page listing
		if err := json.Unmarshal([]byte(text(t, f.own("/files.test/"+next, "Accept: application/json"))),
			&page); err != nil || pages > 2 {
			t.Fatal(pages, err)
		}
		for _, e := range page.Entries {
			if seen[e.Name] {
				t.Errorf("%s is on two pages", e.Name)
			}
			seen[e.Name] = true
		}
		next = page.Next
	}
	if len(seen) != pageSize+6 {
		t.Errorf("%d entries", len(seen))
	}

	want(t, f.do(View{}, "PUT", "/dl.k8s.io/release", strings.NewReader("x"), ann, "If-None-Match: *"), 412, "*")
	want(t, f.do(View{}, "PUT", "/dl.k8s.io/new", strings.NewReader("x"), ann,
		"X-Checksum-Sha256: "+strings.Repeat("0", 64)), 400, "*")
	want(t, f.do(View{}, "PUT", "/dl.k8s.io/"+strings.Repeat("%00", 3), strings.NewReader("x"), ann), 400, "*")
	// The longest names that are taken here are taken there.
	long := "https://files.test/" + strings.Repeat(strings.Repeat("ü", 127)+"/", 1) + strings.Repeat("a", 255) + "?" +
		strings.Repeat("q", maxLeaf-256)
	f.put(t, long, "long")
	if err := f.Delete(t.Context(), long); err != nil {
		t.Error(err)
	}
	want(t, f.do(View{}, "DELETE", "/dl.k8s.io/release", nil, ann), 204, "")
	want(t, f.origin("dl.k8s.io", "/release"), 404, "*")
	want(t, f.origin("dl.k8s.io", "/release/v1.32.0/bin/linux/amd64/kubeadm"), 200, "kubeadm")
}
