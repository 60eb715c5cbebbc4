package appliance

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/setup"
	"casemate/bundle"
	"casemate/bundle/format"
)

func (s *stick) leads(from, to string) *stick {
	s.index.Redirects = append(s.index.Redirects, bundle.Redirect{From: from, To: to})
	return s
}

// installer does what the installers of k3s and RKE2 do with curl: it follows the channel with GET (-L) and takes what
// is behind the last slash of the address where it ends, whatever the status; then it fetches with -f, in the spelling
// of the script.
type installer struct {
	n    *node
	name string // in messages
}

func (i installer) curl(method, url string) (status int, effective, body string) {
	i.n.t.Helper()
	client := *i.n.client
	client.CheckRedirect = nil
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		i.n.t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		i.n.t.Fatalf("%s: %v", i.name, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		i.n.t.Fatalf("%s: %v", i.name, err)
	}
	return resp.StatusCode, resp.Request.URL.String(), string(data)
}

func (i installer) channel(url string) string {
	i.n.t.Helper()
	_, end, _ := i.curl("GET", url)
	return end[strings.LastIndexByte(end, '/')+1:]
}

// TestChannelsComeWithAnImport: the redirects of a bundle work as soon as it is imported, the newest import decides,
// settings go before, and removing an import brings back what was said before.
func TestChannelsComeWithAnImport(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	release := func(name, version string) []string {
		return newStick(t).
			leads("https://update.k3s.io/v1-release/channels/stable", "https://github.com/k3s-io/k3s/releases/tag/"+
				version).
			leads("https://channels.k8s.io/new", "https://dl.k8s.io/newest").
			file("https://github.com/k3s-io/k3s/releases/download/"+strings.ReplaceAll(version, "+", "%2B")+"/k3s",
				"k3s "+version).
			file("https://github.com/k3s-io/k3s/releases/download/"+version+"/sha256sum-amd64.txt", "sums of "+version).
			write(name, format.WriteOptions{})
	}
	first := n.mustImport(release("one.tar", "v1.31.5+k3s1")...)
	if first.Redirects != 2 || first.Files != 2 || first.New != 4 || !strings.Contains(first.Message, "2 redirects") {
		t.Errorf("%+v", first)
	}
	if o := first.Origins.Enabled; len(o) != 1 || o[0] != "channels.k8s.io" {
		t.Errorf("enabled %v", o)
	}
	i := installer{n, "k3s"}
	const stable = "https://update.k3s.io/v1-release/channels/stable"
	want := func(version string) {
		t.Helper()
		if got := i.channel(stable); got != version {
			t.Errorf("the channel ends at %q, want %q", got, version)
		}
	}
	want("v1.31.5+k3s1")
	for _, spelled := range []string{"v1.31.5+k3s1", "v1.31.5%2Bk3s1", "v1.31.5%2bk3s1"} {
		for _, method := range []string{"GET", "HEAD"} {
			if status, _, body := i.curl(method, "https://github.com/k3s-io/k3s/releases/download/"+spelled+
				"/k3s"); status != 200 || method == "GET" && body != "k3s v1.31.5+k3s1" {
				t.Errorf("%s %s: %d %q", method, spelled, status, body)
			}
		}
	}
	var d content.Details
	n.must("GET", "imports/one", nil, &d)
	if len(d.Names) != 4 || !d.Intact || d.Names[2].Kind != content.KindRedirect ||
		d.Names[3].Kind != content.KindRedirect ||
		d.Names[3].Name.Name != stable {
		t.Errorf("%+v", d)
	}

	plan, err := n.runImport(handover.Request{DryRun: true}, release("two.tar", "v1.32.1+k3s1")...)
	if err != nil || plan.Changed != 1 || plan.New != 2 || plan.Unchanged != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	want("v1.31.5+k3s1")
	second := n.mustImport(release("two.tar", "v1.32.1+k3s1")...)
	if second.Changed != 1 || second.Unchanged != 1 {
		t.Errorf("%+v", second)
	}
	want("v1.32.1+k3s1")
	n.must("GET", "imports/one", nil, &d)
	for _, name := range d.Names {
		if hidden := name.Behind == "two"; hidden != (name.Name.Name == stable) {
			t.Errorf("%+v", name)
		}
	}
	// A setting goes before, in whatever spelling.
	n.must("PUT", "settings/files.redirects",
		`{"value":"http://UPDATE.k3s.io/v1-release//channels/stable=>https://github.com/k3s-io/k3s/releases/tag/v9"}`,
		nil)
	want("v9")
	n.must("DELETE", "settings/files.redirects", nil, nil)
	want("v1.32.1+k3s1")

	var gone content.Removed
	n.must("DELETE", "imports/two", nil, &gone)
	if len(gone.Vanished) != 2 || len(gone.Back) != 1 || gone.Back[0].Name.Name != stable || gone.Back[0].By != "one" ||
		gone.Kept != 1 {
		t.Errorf("%+v", gone)
	}
	want("v1.31.5+k3s1")
	n.must("DELETE", "imports/one", nil, &gone)
	if status, _, _ := i.curl("GET", stable); status != 404 {
		t.Errorf("%d: the channel is still there", status)
	}
}

// TestRedirectsThatCannotBe: a bundle whose redirects have no place is refused as a whole.
func TestRedirectsThatCannotBe(t *testing.T) {
	t.Parallel()
	n := newNode(t, setup.InitOptions{})
	for i, s := range []*stick{
		newStick(t).file("https://dl.k8s.io/x", "x").leads("https://dl.k8s.io/a/../b", "https://dl.k8s.io/x"),
		newStick(t).file("https://dl.k8s.io/x", "x").leads("https://dl.k8s.io/*", "https://dl.k8s.io/x/*"),
		newStick(t).file("https://dl.k8s.io/x", "x").leads("https://dl.k8s.io/a",
			"https://dl.k8s.io/x,https://dl.k8s.io/y"),
		newStick(t).file("https://dl.k8s.io/x", "x").leads("https://dl.k8s.io/a", "https://dl.k8s.io/x").leads(
			"https://dl.k8s.io//a", "https://dl.k8s.io/y"),
	} {
		if _, err := n.runImport(handover.Request{},
			s.write(fmt.Sprintf("bad%d.tar", i), format.WriteOptions{})...); err == nil ||
			!strings.Contains(err.Error(), "dl.k8s.io/") {
			t.Errorf("%d: %v", i, err)
		}
	}
}
