package admin

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"casemate/bundle"
	"casemate/cluster/treetest"
	"casemate/fileserver"
	"casemate/registry"
)

// TestSettle: the answers of a transcript are those of the content that the bundle has, whatever a client got earlier.
func TestSettle(t *testing.T) {
	const host, manifest = "quay.io", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",` +
		`"manifests":[]}`
	canonical := func(h string) (string, bool) { return h, h == host || h == "dl.k8s.io" }
	origins := func() []string { return []string{host} }
	reg, err := registry.Open(registry.Config{Tree: treetest.New(t), Canonical: canonical, Origins: origins})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	if err := reg.KeepManifest(t.Context(), host+"/app", "1", "application/vnd.oci.image.index.v1+json",
		[]byte(manifest)); err != nil {
		t.Fatal(err)
	}
	files := fileserver.New(fileserver.Config{Tree: treetest.New(t), Canonical: canonical,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if _, err := files.Put(t.Context(), "https://dl.k8s.io/kubectl", strings.NewReader("new"), ""); err != nil {
		t.Fatal(err)
	}
	now, old := treetest.DigestOf([]byte("new"), ""), treetest.DigestOf([]byte("old"), "")
	image := treetest.DigestOf([]byte(manifest), "")
	q := func(method, url string, status int, digest string, size int64) bundle.Question {
		return bundle.Question{Method: method, URL: url, Status: status, Digest: digest, Size: size}
	}
	held := func(digest string) bundle.Question {
		return bundle.Question{Method: "GET", URL: "https://dl.k8s.io/kubectl", Held: digest, Status: 304}
	}
	moved := bundle.Question{Method: "GET", URL: "https://dl.k8s.io/moved", Status: 302, Location: "https://x.example/"}
	for _, c := range []struct {
		name string
		q    bundle.Question
		want *bundle.Question // nil: it is left out
	}{
		{"a file, before its end was known", q("GET", "https://dl.k8s.io/kubectl", 200, "", 0),
			new(q("GET", "https://dl.k8s.io/kubectl", 200, now, 3))},
		{"a file by http, before it changed", q("GET", "http://dl.k8s.io/kubectl", 200, old, 9),
			new(q("GET", "http://dl.k8s.io/kubectl", 200, now, 3))},
		{"a file, before it was there", q("HEAD", "https://dl.k8s.io/kubectl", 404, "", 0),
			new(q("HEAD", "https://dl.k8s.io/kubectl", 200, now, 3))},
		{"a checksum, before its file was there", q("GET", "https://dl.k8s.io/kubectl.sha256", 404, "", 0),
			new(q("GET", "https://dl.k8s.io/kubectl.sha256", 200, "", 0))},
		{"what is not there", q("GET", "https://dl.k8s.io/absent", 404, "", 0),
			new(q("GET", "https://dl.k8s.io/absent", 404, "", 0))},
		{"compared with what is there", held(now), new(held(now))},
		{"compared with what was there", held(old), nil},
		{"a tag, before it moved", q("HEAD", "https://quay.io/v2/app/manifests/1", 200, old, 9),
			new(q("HEAD", "https://quay.io/v2/app/manifests/1", 200, image, 0))},
		{"a tag that is not there", q("GET", "https://quay.io/v2/app/manifests/2", 404, "", 0),
			new(q("GET", "https://quay.io/v2/app/manifests/2", 404, "", 0))},
		{"a manifest", q("GET", "https://quay.io/v2/app/manifests/"+image, 200, image, int64(len(manifest))),
			new(q("GET", "https://quay.io/v2/app/manifests/"+image, 200, image, int64(len(manifest))))},
		{"a redirect", moved, &moved},
	} {
		t.Run(c.name, func(t *testing.T) {
			ix := &bundle.Index{Questions: []bundle.Question{c.q},
				Files: []bundle.File{{URL: "https://dl.k8s.io/kubectl", Digest: now, Size: 3}}}
			(&API{Registry: reg, Files: files}).settle(t.Context(), ix)
			if c.want == nil && len(ix.Questions) > 0 || c.want != nil && (len(ix.Questions) != 1 ||
				ix.Questions[0] != *c.want) {
				t.Errorf("got %+v, want %+v", ix.Questions, c.want)
			}
		})
	}
}
