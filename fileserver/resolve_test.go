package fileserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"casemate/cluster/tree"
)

// An importer's names are those that reads look for, also of a host that becomes an origin in the same batch.
func TestLinkAndKeyIn(t *testing.T) {
	f := start(t)
	info := f.put(t, "https://dl.k8s.io/a", "content")
	soon := func(host string) (string, bool) {
		if host == "mirror.new.test" {
			return "new.test", true
		}
		return host, host != "never.test"
	}
	key, err := KeyIn("https://Mirror.new.test:443/x%7e//y?q=/", soon)
	if err != nil || key != "new.test/x~/y?q=%2F" {
		t.Fatal(key, err)
	}
	if _, err := f.Key("https://new.test/x"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("it is no origin yet: %v", err)
	}
	if _, err := KeyIn("https://never.test/x", soon); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a host that is none: %v", err)
	}
	if _, err := KeyIn("https://h.test/../x", soon); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("no URL: %v", err)
	}
	// A short host's long origin must not make a name that nothing finds.
	long := func(string) (string, bool) { return strings.Repeat("h.", 126) + "test", true }
	if key, err := KeyIn("https://s.test/"+strings.Repeat(strings.Repeat("x", 199)+"/", 9), long); !errors.Is(err,
		fs.ErrInvalid) {
		t.Errorf("a key of %d bytes: %v", len(key), err)
	}
	if err := f.tree.Update(t.Context(), func(b Batch) error { f.Link(b, key, info.Digest); return nil }); err != nil {
		t.Fatal(err)
	}
	origins["new.test"] = "new.test"
	defer delete(origins, "new.test")
	want(t, f.origin("new.test", "/x~/y?q=%2f"), 200, "content")
	if again, err := f.Key("https://new.test/x~/y?q=/"); err != nil || again != key {
		t.Error(again, err)
	}
}

func TestResolve(t *testing.T) {
	f := start(t)
	const release = "https://dl.k8s.io/release/v1.32.0/bin/linux/"
	f.put(t, release+"amd64/kubeadm", "kubeadm amd64")
	f.put(t, release+"arm64/kubeadm", "kubeadm arm64")
	f.put(t, release+"amd64/kubelet", "kubelet")
	f.put(t, "https://github.com/k3s-io/k3s/releases/download/v1.31.5+k3s1/k3s", "k3s")
	f.put(t, "https://files.test/page/index.html", "<html>")
	f.put(t, "https://files.test/f?x=1", "query")
	f.put(t, "https://files.test/f", "no query")
	f.redirects = map[string]string{
		"https://update.k3s.io/v1-release/channels/stable": "https://github.com/k3s-io/k3s/releases/tag/v1.31.5+k3s1",
		"https://dl.k8s.io/release/stable-1.txt":           "text:v1.32.0",
		"https://github.com/k3s-io/k3s/releases/latest/download/*": "https://github.com/k3s-io/k3s/releases/download/" +
			"v1.31.5+k3s1/*",
		"https://files.test/here":  "/f",
		"https://files.test/alias": "https://alias.test/f",
		"https://files.test/away":  "https://example.test/x",
		"https://files.test/round": "https://files.test/and",
		"https://files.test/and":   "https://files.test/round",
		"https://files.test/long": "https://files.test/round?" +
			strings.Repeat("x", 1100),
	}
	const k3s = "https://github.com/k3s-io/k3s/releases/download/v1.31.5+k3s1/k3s"
	for _, c := range []struct{ asked, url, content, luck string }{
		{release + "amd64/kubeadm", release + "amd64/kubeadm", "kubeadm amd64", ""},
		{"http://DL.k8s.io:80/release//v1.32.0/bin/linux/amd64/kubeadm", release + "amd64/kubeadm", "kubeadm amd64",
			""},
		{"https://alias.test/f?x=1", "https://files.test/f?x=1", "query", ""},
		{"https://files.test/f?x=2", "https://files.test/f", "no query", "answered with https://files.test/f"},
		{release + "amd64/kubeadm.sha256", release + "amd64/kubeadm.sha256",
			strings.TrimPrefix(tree.Sum([]byte("kubeadm amd64"), ""), "sha256:"),
			"made from " + release + "amd64/kubeadm"},
		{k3s + ".sha256sum", k3s + ".sha256sum", strings.TrimPrefix(tree.Sum([]byte("k3s"), ""), "sha256:") +
			"  k3s\n", "made from " + k3s},
		{"https://dl.k8s.io/release/stable-1.txt", "https://dl.k8s.io/release/stable-1.txt", "v1.32.0",
			"a setting says its content"},
		{"https://github.com/k3s-io/k3s/releases/latest/download/k3s", k3s, "k3s", "files.redirects leads to " + k3s},
		{"https://update.k3s.io/v1-release/channels/stable", "https://update.k3s.io/v1-release/channels/stable",
			"v1.31.5+k3s1\n", "the page of a release to which files.redirects leads"},
		{"https://files.test/here", "https://files.test/f", "no query",
			"files.redirects leads to https://files.test/f"},
		{"https://files.test/alias", "https://files.test/f", "no query",
			"files.redirects leads to https://files.test/f"},
		{"https://files.test/page/", "https://files.test/page/index.html", "<html>",
			"answered with https://files.test/page/index.html"},
		{"https://files.test/page", "https://files.test/page/index.html", "<html>",
			"redirected to https://files.test/page/"},
		// The server's own name.
		{"/dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm", release + "amd64/kubeadm", "kubeadm amd64", ""},
		{"/kubernetes/v1.32.0/arm64/kubeadm", release + "arm64/kubeadm", "kubeadm arm64",
			"answered with " + release + "arm64/kubeadm"},
		{"/kubernetes/v1.32.0/kubelet", release + "amd64/kubelet", "kubelet",
			"answered with " + release + "amd64/kubelet"},
		{"/kubernetes/v1.32.0/kubelet.sha256", "/kubernetes/v1.32.0/kubelet.sha256",
			strings.TrimPrefix(tree.Sum([]byte("kubelet"), ""), "sha256:"), "made from " + release + "amd64/kubelet"},
	} {
		info, luck, err := f.Resolve(t.Context(), c.asked)
		if err != nil || info.URL != c.url || info.Digest != tree.Sum([]byte(c.content), "") ||
			info.Size != int64(len(c.content)) || luck != c.luck {
			t.Errorf("%s: %+v, luck %q, %v; want %s with %q, luck %q", c.asked, info, luck, err, c.url, c.content,
				c.luck)
		}
		if got := f.curl(t, c.asked); got != c.content {
			t.Errorf("%s: a client gets %q, Resolve says %q", c.asked, got, c.content)
		}
	}
	for asked, says := range map[string]string{
		release + "amd64/kubectl": "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubectl",
		release + "amd64/":        "amd64/",
		release + "amd64":         "amd64",
		"https://example.test/x":  "not an origin here",
		"https://files.test/away": "redirected to https://example.test/x: example.test is not an origin " +
			"here",
		"https://files.test/round":           "redirects",
		"https://files.test/long":            "which is not here",
		"/kubernetes/v1.32.0/kubeadm":        "several are stored",
		"/kubernetes/v1.32.0/kubeadm.sha256": "several are stored",
		"/kubernetes/v1.31.0/kubeadm":        "/kubernetes/v1.31.0/kubeadm",
		"/nothing":                           "short name",
		"/":                                  "short name",
	} {
		_, _, err := f.Resolve(t.Context(), asked)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want a miss that says %s", asked, err, says)
		}
	}
	for _, asked := range []string{"", "ftp://files.test/f", "https://u:p@files.test/f", "https://files.test/../f",
		"/../f", "/a%00"} {
		if _, _, err := f.Resolve(t.Context(), asked); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v, want fs.ErrInvalid", asked, err)
		}
	}
	f.missed() // of the client
	f.luck = nil
	if _, _, err := f.Resolve(t.Context(), "/kubernetes/v1.32.0/kubelet"); err != nil {
		t.Error(err)
	}
	f.Resolve(t.Context(), "https://files.test/none")
	if m := f.missed(); len(m)+len(f.luck) > 0 {
		t.Errorf("looking was counted: misses %q, luck %q", m, f.luck)
	}
}

// curl acts like curl --location, and returns the result.
func (f *fixture) curl(t *testing.T, asked string) string {
	t.Helper()
	if strings.HasPrefix(asked, "/") {
		return text(t, f.own(asked))
	}
	for range maxHops {
		u, err := url.Parse(asked)
		if err != nil {
			t.Fatal(err)
		}
		r := f.origin(origins[strings.ToLower(u.Hostname())], u.RequestURI())
		if r.StatusCode != http.StatusFound {
			return text(t, r)
		}
		to, err := u.Parse(r.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		asked = to.String()
	}
	return fmt.Sprintf("more than %d redirects", maxHops)
}

// Resolve agrees with what a client would see for any input: no panic, no error without a reason, and its results
// exist.
func FuzzResolve(f *testing.F) {
	for _, s := range []string{"https://dl.k8s.io/a", "/kubernetes/v1.32.0/kubeadm", "/dl.k8s.io/a.sha256",
		"https://files.test/r/x?y", "//", "/%2e"} {
		f.Add(s)
	}
	x := start(f)
	x.put(f, "https://dl.k8s.io/a", "a")
	x.put(f, "https://dl.k8s.io/release/v1.32.0/bin/linux/amd64/kubeadm", "kubeadm")
	x.redirects = map[string]string{"https://files.test/r/*": "https://dl.k8s.io/*",
		"https://files.test/loop/*": "/loop/*"}
	f.Fuzz(func(t *testing.T, asked string) {
		info, _, err := x.Resolve(t.Context(), asked)
		switch {
		case err == nil && info.Digest == "":
			t.Errorf("%q: found without a digest: %+v", asked, info)
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid):
			t.Errorf("%q: %v", asked, err)
		}
	})
}
