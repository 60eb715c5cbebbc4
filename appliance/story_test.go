package appliance

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"casemate/appliance/missing"
	"casemate/appliance/setup"
)

func ref(t *testing.T, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The main use case: an image pushed under the own name is pulled by its upstream name, and a file is fetched by its
// upstream URL, by a client with only our resolver and our root; after a restart all content is still available.
func TestAnUnmodifiedClientPullsAndFetchesByUpstreamNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := testConfig(t, dir)
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	n.must("POST", "users", map[string]string{"name": "ada", "password": "correct horse"}, nil)

	img, err := random.Image(100_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := img.Digest()
	transport := remote.WithTransport(n.client.Transport)
	push := ref(t, "registry.casemate.internal/registry.k8s.io/pause:3.10")
	if err := remote.Write(push, img, transport, remote.WithAuth(
		&authn.Basic{Username: "ada", Password: "wrong password"})); err == nil {
		t.Error("a push with a wrong password succeeds")
	}
	if err := remote.Write(push, img, transport, remote.WithAuth(
		&authn.Basic{Username: "ada", Password: "correct horse"})); err != nil {
		t.Fatalf("push: %v", err)
	}
	const url = "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm"
	content := strings.Repeat("kubeadm ", 100_000)
	n.must("PUT", "files?url="+url, content, nil)

	pulls := func(n *node) {
		t.Helper()
		for _, from := range []string{"registry.k8s.io/pause:3.10", "k8s.gcr.io/pause:3.10",
			"registry.casemate.internal/registry.k8s.io/pause@" + want.String()} {
			got, err := remote.Image(ref(t, from), remote.WithTransport(n.client.Transport))
			if err != nil {
				t.Errorf("pull %s: %v", from, err)
				continue
			}
			if d, _ := got.Digest(); d != want {
				t.Errorf("pull %s: %s, want %s", from, d, want)
			}
			checkLayers(t, got)
		}
		for _, u := range []string{url, strings.Replace(url, "https:", "http:", 1), "https://files.casemate.internal/" +
			url[8:], "https://n1.casemate.internal/files/" + url[8:], "https://127.0.0.1/files/" + url[8:]} {
			if resp, body := n.do("GET", u, nil); resp.StatusCode != 200 || body != content {
				t.Errorf("GET %s: %s, %d bytes", u, resp.Status, len(body))
			}
		}
	}
	pulls(n)
	if _, err := remote.Image(ref(t, "quay.io/not/there:1"), remote.WithTransport(n.client.Transport)); err == nil {
		t.Error("an image that is not there can be pulled")
	}
	if resp, _ := n.do("GET", "https://dl.k8s.io/not/there", nil); resp.StatusCode != 404 {
		t.Errorf("a file that is not there: %s", resp.Status)
	}
	if _, err := n.resolver().LookupHost(context.Background(), "www.nowhere.example."); err == nil {
		t.Error("a name that is not ours has an address")
	}
	n.stop()

	n = serveNode(t, cfg)
	checkLastPulls(t, n, want.String(), url)
	pulls(n)
	var book []missing.Entry
	n.must("GET", "missing", nil, &book)
	for _, want := range [][2]string{{"image", "quay.io/not/there:1"}, {"file", "https://dl.k8s.io/not/there"}, {
		"dns", "www.nowhere.example"}} {
		if !slices.ContainsFunc(book, func(e missing.Entry) bool {
			return e.Kind == want[0] && e.Name == want[1] && e.Clients[0] == "127.0.0.1"
		}) {
			t.Errorf("%v does not stand in the missing book after a restart: %+v", want, book)
		}
	}
	var st struct {
		Serving       bool
		Images, Files int
		Problems      []string
		Leader        string
	}
	// elected a moment after the start
	for n.must("GET", "status", nil, &st); st.Leader == ""; n.must("GET", "status", nil, &st) {
	}
	if !st.Serving || st.Images != 1 || st.Files != 1 || len(st.Problems) != 0 || st.Leader != "n1" {
		t.Errorf("status: %+v", st)
	}
	n.must("DELETE", "missing", nil, nil)
	n.must("GET", "missing", nil, &book)
	if len(book) != 0 {
		t.Errorf("a cleared book: %+v", book)
	}
}

// checkLastPulls: what was pulled before a restart is known after it, under its own names only.
func checkLastPulls(t *testing.T, n *node, digest, url string) {
	t.Helper()
	n.must("PUT", "files?url=https://dl.k8s.io/unread", "x", nil)
	for path, want := range map[string]string{
		"images/show?ref=registry.k8s.io/pause:3.10":      "n1",
		"images/show?ref=registry.k8s.io/pause@" + digest: "n1",
		"files/show?url=" + url:                           "n1",
		"files/show?url=https://dl.k8s.io/unread":         "",
	} {
		var shown struct {
			LastPull struct {
				Time time.Time
				Node string
			} `json:"last_pull"`
		}
		n.must("GET", path, nil, &shown)
		at := shown.LastPull.Time
		if shown.LastPull.Node != want || (want != "") != (at.Unix() > 0 && at.Second() == 0) {
			t.Errorf("%s: %+v, want node %q", path, shown.LastPull, want)
		}
	}
	n.must("DELETE", "files?url=https://dl.k8s.io/unread", nil, nil)
}

func checkLayers(t *testing.T, img v1.Image) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Error(err)
	}
	for _, l := range layers {
		r, err := l.Compressed() // verified by digest while it is read
		if err != nil {
			t.Error(err)
			continue
		}
		buf := make([]byte, 64<<10)
		for err == nil {
			_, err = r.Read(buf)
		}
		if err.Error() != "EOF" {
			t.Error(err)
		}
		r.Close()
	}
}

// Port 80 has the same content for reading, and refuses writes and credentials.
func TestPlainHTTPIsForReading(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, t.TempDir())
	initNode(t, cfg, setup.InitOptions{})
	n := serveNode(t, cfg)
	if resp, body := n.do("GET", "http://casemate.internal/ca.crt", nil); resp.StatusCode != 200 ||
		body != string(n.Roots()) {
		t.Errorf("the CA: %s %q", resp.Status, body)
	}
	basic := func(r *http.Request) { r.SetBasicAuth("ada", "correct horse") }
	for _, c := range []struct {
		method, url string
		edit        func(*http.Request)
		want        int
		says        string
	}{
		{"PUT", "http://files.casemate.internal/dl.k8s.io/x", nil, 405, "use https"},
		{"POST", "http://registry.casemate.internal/v2/a/b/blobs/uploads/", nil, 405, `"UNSUPPORTED"`},
		{"DELETE", "http://casemate.internal/", nil, 405, "use https"},
		{"GET", "http://registry.casemate.internal/v2/", basic, 403, "credentials are not accepted over plain http"},
		{"GET", "http://registry.casemate.internal/token", basic, 403, "credentials are not accepted over plain http"},
		{"GET", "http://files.casemate.internal/", basic, 403, "credentials are not accepted over plain http"},
		{"GET", "http://casemate.internal/", basic, 403, "credentials are not accepted over plain http"},
		{"GET", "http://casemate.internal/healthz", nil, 200, "ok"},
		{"GET", "http://casemate.internal/readyz", nil, 200, "ok"},
		{"GET", "http://registry.k8s.io/v2/", nil, 200, "{}"},
	} {
		resp, body := n.do(c.method, c.url, nil, func(r *http.Request) {
			if c.edit != nil {
				c.edit(r)
			}
		})
		if resp.StatusCode != c.want || !strings.Contains(body, c.says) {
			t.Errorf("%s %s: %s %q, want %d %q", c.method, c.url, resp.Status, body, c.want, c.says)
		}
	}
}
