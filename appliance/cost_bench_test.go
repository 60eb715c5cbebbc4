//go:build bench

package appliance

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"casemate/appliance/setup"
	"casemate/cluster"
)

// TestBenchCost prints the table "What a question costs" of docs/performance.md: every listing and every endpoint that
// anybody may ask, of a node that holds a lot. COST_REFERRERS is how many referrers of 3.9 MB there are.
func TestBenchCost(t *testing.T) {
	referrers := 200
	if s := os.Getenv("COST_REFERRERS"); s != "" {
		var err error
		if referrers, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	const names, tags, manifests = 100_000, 10_000, 1000
	n := newNode(t, setup.InitOptions{})
	ctx := context.Background()
	tree := n.tree
	blob := func(text string) string {
		w, err := tree.CreateBlob("")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		d, err := w.Commit(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	link := func(dir, d string) string { return dir + "/" + strings.Replace(d, ":", "/", 1) + "/link" }
	const root = "registry/repositories/"
	layer := blob("a layer")
	var list []string
	for i := range manifests {
		list = append(list,
			blob(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
				`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":7},`+
				`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":7}],`+
				`"annotations":{"n":"%d","pad":"%s"}}`,
				layer, layer, i, strings.Repeat("x", 1000))))
	}
	update := func(count int, edit func(b cluster.Batch, i int)) {
		for from := 0; from < count; from += 2000 {
			if err := tree.Update(ctx, func(b cluster.Batch) error {
				for i := from; i < min(from+2000, count); i++ {
					edit(b, i)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	image := func(b cluster.Batch, repo, tag, d string) {
		b.Link(root+repo+"/_manifests/tags/"+tag+"/current/link", d)
		b.Link(link(root+repo+"/_manifests/revisions", d), d, layer)
		b.LinkWeak(link(root+repo+"/_layers", layer), layer)
	}
	update(names, func(b cluster.Batch, i int) {
		image(b, fmt.Sprintf("quay.io/team%d/app%d", i%1000, i), "v1", list[i%manifests])
	})
	update(names, func(b cluster.Batch, i int) {
		b.Link(fmt.Sprintf("files/dl.k8s.io/%d/file%d?", i%1000, i), layer)
	})
	update(tags, func(b cluster.Batch, i int) {
		image(b, "registry.k8s.io/many", fmt.Sprint("v", i), list[i%manifests])
	})
	subject := digest.FromString("subject").String()
	update(1, func(b cluster.Batch, _ int) { image(b, "registry.k8s.io/signed", "v1", list[0]) })
	for i := range referrers {
		if _, err := n.registry.PutManifest(ctx, "registry.k8s.io/signed", "", "", fmt.Appendf(nil,
			`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
				`"artifactType":"application/spdx+json","layers":[],`+
				`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":7},`+
				`"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":7},`+
				`"annotations":{"n":"%d","pad":"%s"}}`,
			layer, subject, i, strings.Repeat("y", 3_900_000))); err != nil {
			t.Fatal(err)
		}
	}
	st := n.cluster.Status()
	t.Logf("%d entries, %d blobs, %d MB of them", st.Entries, st.Blobs, st.Bytes/1e6)
	web := func(url string, edit ...func(*http.Request)) func() (int, string) {
		return func() (int, string) {
			resp, body := n.do("GET", url, nil, edit...)
			return resp.StatusCode, body
		}
	}
	admin := func(path string) func() (int, string) {
		return func() (int, string) {
			var body string
			status, _ := n.admin("GET", path, nil, &body)
			return status, body
		}
	}
	many := func(r *http.Request) { r.Header.Set("Range", "bytes="+strings.Repeat("0-,", 19_000)+"0-") }
	forget := func(ask func() (int, string)) func() (int, string) {
		update(1, func(b cluster.Batch, _ int) { b.Remove(root + "registry.k8s.io/signed/_summaries") })
		return ask
	}
	old := web("http://registry.k8s.io/v2/signed/referrers/" + subject + "?artifactType=a/b")
	t.Log("| question | answer, bytes | CPU, first | CPU, again | allocated, again |")
	for _, q := range []struct {
		what string
		ask  func() (int, string)
	}{
		{"`_catalog?n=10`", web("http://registry.casemate.internal/v2/_catalog?n=10")},
		{"`_catalog`", web("http://registry.casemate.internal/v2/_catalog")},
		{"`_catalog?n=10` of an origin", web("http://quay.io/v2/_catalog?n=10")},
		{"`tags/list?n=10` of 10 000", web("http://registry.k8s.io/v2/many/tags/list?n=10&last=v5")},
		{"`tags/list` of 10 000", web("http://registry.k8s.io/v2/many/tags/list")},
		{"`tags/list` of a name that is nowhere", web("http://registry.k8s.io/v2/nowhere/tags/list")},
		{"a manifest that is nowhere", web("http://registry.casemate.internal/v2/some/nowhere/manifests/v1")},
		{"`referrers`, a filter that takes none",
			web("http://registry.k8s.io/v2/signed/referrers/" + subject + "?artifactType=a/b")},
		{"`referrers`, all", web("http://registry.k8s.io/v2/signed/referrers/" + subject)},
		{"a blob with 19 001 ranges", web("http://registry.k8s.io/v2/many/blobs/"+layer, many)},
		{"`/casemate` with 19 001 ranges", web("http://casemate.internal/casemate", many)},
		{"`/files/dl.k8s.io/`", web("http://casemate.internal/files/dl.k8s.io/")},
		{"`/files/dl.k8s.io/7/`", web("http://casemate.internal/files/dl.k8s.io/7/")},
		{"a file that is nowhere", web("http://dl.k8s.io/nowhere")},
		{"`/`", web("http://casemate.internal/")},
		{"`/site.json`", web("http://casemate.internal/site.json")},
		{"`/enroll`", web("http://casemate.internal/enroll")},
		{"`/doctor.json`", web("http://casemate.internal/doctor.json")},
		{"`/metrics`", web("http://casemate.internal/metrics")},
		{"`/readyz`", web("http://casemate.internal/readyz")},
		{"`casemate status`", admin("status")},
		{"`casemate image list`, 110 000 lines", admin("images")},
		{"`casemate image list registry.k8s.io/signed`", admin("images?prefix=registry.k8s.io/signed")},
		{"`casemate file list`, 100 000 lines", admin("files")},
		{"`casemate file list https://dl.k8s.io/7/`", admin("files?prefix=https://dl.k8s.io/7/")},
		{"`casemate missing`", admin("missing")},
		{"`casemate import list`", admin("imports")},
		{"`referrers` of a store without records: one page", func() (int, string) { return forget(old)() }},
	} {
		var cpu [2]time.Duration
		var bytes int
		var alloc uint64
		status := 0
		for i := range cpu {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := used(t)
			var body string
			status, body = q.ask()
			cpu[i] = used(t) - begin
			runtime.ReadMemStats(&after)
			bytes, alloc = len(body), after.TotalAlloc-before.TotalAlloc
		}
		note := ""
		if status >= 400 {
			note = fmt.Sprintf(" (%d)", status)
		}
		t.Logf("| %s%s | %d | %.1f ms | %.1f ms | %.1f MB |", q.what, note, bytes, cpu[0].Seconds()*1000,
			cpu[1].Seconds()*1000, float64(alloc)/1e6)
	}
}

// used is the processor time of this process, of which the client is a part.
func used(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
