//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
)

// strict makes a registry of the internet want a token of another host of its domain, and send its blobs from a foreign
// one, at signed addresses. The first answer from there breaks off.
func (n *internet) strict(host string, pulls *atomic.Int64) {
	inner := n.registry(host)
	_, domain, _ := strings.Cut(host, ".")
	auth := "auth." + domain
	n.sites[auth] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if n.login != "" && user+":"+password != n.login {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, `{"token":"s3crettoken"}`)
	})
	n.registries[host] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3crettoken" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+auth+`/token",service="`+host+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, digest, blob := strings.Cut(r.URL.Path, "/blobs/")
		if !blob || r.Method != http.MethodGet {
			inner.ServeHTTP(w, r)
			return
		}
		pulls.Add(1)
		rec := newRecorder()
		inner.ServeHTTP(rec, r)
		at := "cdn.example/" + strings.ReplaceAll(digest, ":", "/")
		n.mu.Lock()
		if n.files[at] == nil {
			n.files[at], n.cut[at] = rec.body.Bytes(), true
		}
		n.mu.Unlock()
		http.Redirect(w, r, "https://"+at+"?X-Amz-Signature=s3cretquery", http.StatusTemporaryRedirect)
	})
}

// TestFetchOnMiss: a bastion with a link fetches what nodes ask for, once; without the link they get the same again.
// A bastion that is not told to fetch has a counter of zero.
func TestFetchOnMiss(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	up := newInternetWithout(t, l)
	b := newBastion(t, l, "n1")
	b.serve(t)
	node := l.host("node", b.ip)
	node.trust(b.casemate(t, "ca"))
	var pulls atomic.Int64
	up.put(t, "registry.k8s.io/pause:3.10", pauseImage(t))
	up.strict("registry.k8s.io", &pulls)
	program := make([]byte, 3<<20)
	for i := range program {
		program[i] = byte(i * i >> 7)
	}
	up.files["dl.k8s.io/v1.35.4/bin/linux/amd64/kubectl"] = program
	up.files["dl.k8s.io/release/stable.txt"] = []byte("v1.35.4")
	up.moved["github.com/o/r/releases/download/v1/tool"] = "https://objects.githubusercontent.com/asset/1?sig=abc"
	up.files["objects.githubusercontent.com/asset/1"] = []byte("a tool")

	closed := node.must(t, "curl", "-s", "http://"+b.at("80")+"/metrics")
	node.fails(t, "404", "curl", "-sSf", "https://dl.k8s.io/release/stable.txt")
	if !strings.Contains(closed, "casemate_upstream_connections_total 0\n") {
		t.Error("a closed bastion has tried to connect")
	}
	b.fails(t, "upstream.resolvers", b.bin(), "--socket", b.socket, "config", "set", "upstream", "on")
	b.fails(t, "own address", b.bin(), "--socket", b.socket, "config", "set", "upstream.resolvers", b.ip)
	b.casemate(t, "config", "set", "upstream.resolvers", up.resolver(t))
	b.casemate(t, "config", "set", "upstream.ca", "--from", b.write("internet.pem", up.pem))
	b.casemate(t, "config", "set", "upstream", "on")

	sum := sha256.Sum256(program)
	clients := func(what string) {
		t.Helper()
		if got := node.must(t, "curl", "-sSf", "https://dl.k8s.io/release/stable.txt"); got != "v1.35.4" {
			t.Errorf("%s: stable.txt is %q", what, got)
		}
		node.must(t, "curl", "-sSf", "-o", node.path("kubectl"), "https://dl.k8s.io/v1.35.4/bin/linux/amd64/kubectl")
		f, err := os.Open(node.path("kubectl"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil || hex.EncodeToString(h.Sum(nil)) != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: kubectl is not what it was: %v", what, err)
		}
		if got := node.must(t, "curl", "-sSfL", "https://github.com/o/r/releases/download/v1/tool"); got != "a tool" {
			t.Errorf("%s: the asset is %q", what, got)
		}
		dir := node.path("pulled")
		os.RemoveAll(dir)
		node.must(t, client(t, "crane"), "pull", "--format", "oci", "registry.k8s.io/pause:3.10", dir)
	}
	clients("cold")
	n := pulls.Load()
	node.fails(t, "404", "curl", "-sSf", "https://dl.k8s.io/absent")
	must(t, "ip", "-n", up.ns, "link", "set", "eth0", "down")
	clients("warm, without the internet")
	if got := pulls.Load(); got != n {
		t.Errorf("%d blobs were fetched again", got-n)
	}
	node.fails(t, "502", "curl", "-sSf", "https://dl.k8s.io/other")
}
