//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// TestRehearsal: what real clients install against a rehearsal is carried in one bundle, without a secret. A closed
// cluster, which has no route to the internet, answers every question that was asked, and the same clients install the
// same there. What is taken out there is named. The rehearsal survives kill -9 in the middle of a fetch.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	up := newInternetWithout(t, l)
	up.registries["quay.io"] = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	lists := readKubesprayLists(t)
	release := lists[len(lists)-1].fewer()
	content := makeKubesprayContent(t, []kubesprayLists{release})
	up.kubespray(t, content)
	in := up.publish(t)
	up.login = "ci:s3cretlogin"
	held := make(chan struct{})
	half := make(chan struct{}, 8)
	big := []byte(strings.Repeat("big ", 1<<20))
	up.sites["objects.vendor.example"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(big)))
		w.Write(big[:len(big)/2])
		w.(http.Flusher).Flush()
		half <- struct{}{}
		select {
		case <-held:
			w.Write(big[len(big)/2:])
		case <-r.Context().Done():
		}
	})

	r := &bastion{host: l.host("lab", "")}
	dir := r.path("debian12")
	r.socket = dir + "/admin.sock"
	rehearse := func(more ...string) *exec.Cmd {
		cmd := r.daemon(t, "rehearse", append([]string{r.bin(), "rehearse", dir, "--advertise", r.ip}, more...)...)
		r.ready(t)
		return cmd
	}
	proc := rehearse("--resolvers", up.resolver(t), "--upstream-ca", r.write("internet.pem", up.pem), "--permit",
		"vendor.example")
	for _, registry := range []string{"registry.k8s.io", "docker.io"} {
		if out, err := r.tryIn("s3cretlogin", r.bin(), "--socket", r.socket, "upstream", "login", registry, "--user",
			"ci", "--password-stdin"); err != nil {
			t.Fatalf("upstream login: %v\n%s", err, out)
		}
	}
	node := l.host("node", r.ip)
	node.trust(r.casemate(t, "ca"))
	learnt(t, node, append(vendor, "objects")...)

	bigURL := "https://objects.vendor.example/big"
	cut := make(chan error)
	go func() {
		_, err := node.try("curl", "-sSf", "-o", "/dev/null", bigURL)
		cut <- err
	}()
	<-half
	proc.Process.Kill()
	if err := <-cut; err == nil {
		t.Error("a client got all of half a file")
	}
	rehearse()
	if out := r.casemate(t, "file", "list"); strings.Contains(out, bigURL) {
		t.Errorf("half a file is listed:\n%s", out)
	}
	close(held)
	in.curl(t, node, bigURL, string(big))

	in.with(t, node)
	release.download(t, node, content)
	// A tag that moves outside is what it was at its first use, for every client.
	before := strings.TrimSpace(node.must(t, client(t, "crane"), "digest", "ghcr.io/team/app:1"))
	up.put(t, "ghcr.io/team/app:1", randomImage(t, 1024, 1))
	if after := strings.TrimSpace(node.must(t, "skopeo", "inspect", "--format", "{{.Digest}}",
		"docker://ghcr.io/team/app:1")); after != before {
		t.Errorf("the tag was %s for one client, and %s for another", before, after)
	}
	node.fails(t, "404", "curl", "-sSf", "https://dl.k8s.io/absent")
	node.try("curl", "-sS", "-d", "want", "https://github.com/o/r.git/git-upload-pack")
	file := r.path("debian12.tar")
	moved := "ghcr.io/team/app:1 has moved at its origin, to "
	out := r.must(t, r.bin(), "bundle", "create", file, "--rehearsal", dir)
	for _, want := range []string{"git-upload-pack is not in the transcript", moved} {
		if !strings.Contains(out, want) {
			t.Errorf("bundle create does not say %q:\n%s", want, out)
		}
	}
	if out := r.must(t, r.bin(), "rehearsal", "show", dir); !strings.Contains(out, moved) ||
		!strings.Contains(out, "the transcript has "+before) {
		t.Errorf("rehearsal show does not say which tag has moved:\n%s", out)
	}
	for _, secret := range []string{"s3cret", "sig=", node.ip, r.ip, "ci:"} {
		for _, where := range searchTar(t, file, secret) {
			t.Errorf("%s is in the bundle, in %s", secret, where)
		}
	}
	if !strings.Contains(r.must(t, r.bin(), "bundle", "inspect", file), before) {
		t.Errorf("the bundle does not name %s", before)
	}

	b := newBastion(t, l, "n1", "--permit", "vendor.example")
	inside := l.host("inside", b.ip)
	b.only(t, inside)
	inside.only(t, b.host)
	b.serve(t)
	inside.trust(b.casemate(t, "ca"))
	b.casemate(t, "import", file)
	in.with(t, inside)
	release.download(t, inside, content)
	in.curl(t, inside, bigURL, string(big))
	b.missedNothing(t)
	out = inside.must(t, b.bin(), "replay", file)
	if !strings.Contains(out, "100 % of ") {
		t.Errorf("replay:\n%s", out)
	}
	t.Log(strings.TrimSpace(out))
	if m := inside.must(t, "curl", "-s", "http://"+b.at("80")+"/metrics"); !strings.Contains(m,
		"casemate_upstream_connections_total 0\n") {
		t.Error("a closed bastion has tried to connect")
	}
	// From a node that has no program, and for a list besides.
	transcript := b.path("debian12.json")
	b.must(t, "sh", "-c", b.bin()+" bundle inspect "+file+" -o transcript > "+transcript)
	text, err := os.ReadFile(transcript)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(b.casemate(t, "replay", "--line"), "\n")
	if out, err := inside.tryIn(string(text), "sh", "-c", line); err != nil || !strings.Contains(out, "100 % of ") {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	list := b.write("extra.list", "registry.k8s.io/pause:3.10\ndocker.io/library/sample:1\n"+
		"https://github.com/o/r/releases/download/v1/tool\n")
	if out := inside.must(t, b.bin(), "replay", "--against", list); !strings.Contains(out, "100 % of 3 questions") {
		t.Errorf("replay --against:\n%s", out)
	}

	b.casemate(t, "image", "remove", "--yes", "registry.k8s.io/pause:3.10")
	inside.exits(t, 3, "2 of 3 questions", b.bin(), "replay", "--against", list)
	out = inside.exits(t, 3, "registry.k8s.io/v2/pause/manifests/3.10", b.bin(), "replay", file)
	if strings.Contains(out, "stable.txt") {
		t.Errorf("replay names what is there:\n%s", out)
	}
}

// download does what Kubespray's roles download, by the public names.
func (k kubesprayLists) download(t *testing.T, h *host, c *kubesprayContent) {
	t.Helper()
	h.knowsItself(t)
	begun := time.Now()
	if _, err := h.kubespray(c, k).play(false); err != nil {
		t.Fatal(err)
	}
	played := time.Since(begun)
	h.pullAll(t, h.isolated(t), "kubespray", "", c.digests)
	t.Logf("%s: Kubespray's downloads took %.1f s with Ansible, %.1f s with containerd", h.name, played.Seconds(),
		(time.Since(begun) - played).Seconds())
}

// only leaves a host no route but to its peers.
func (h *host) only(t *testing.T, peers ...*host) {
	t.Helper()
	must(t, "ip", "-n", h.ns, "route", "flush", "table", "main")
	for _, p := range peers {
		must(t, "ip", "-n", h.ns, "route", "add", p.ip, "dev", "eth0")
	}
	if out := strings.TrimSpace(must(t, "ip", "-n", h.ns, "route")); strings.Count(out, "\n")+1 != len(peers) ||
		strings.Contains(out, "default") {
		t.Fatalf("the routes of %s:\n%s", h.name, out)
	}
}

// searchTar returns where text stands in a tar archive, in any case, also below layers of compression.
func searchTar(t *testing.T, file, text string) (where []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return where
		}
		var content []byte
		if err == nil {
			content, err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		for name := h.Name; content != nil; content, name = unpacked(content), name+", decompressed" {
			if at := bytes.Index(bytes.ToLower(content), []byte(text)); at >= 0 {
				where = append(where, fmt.Sprintf("%s: %q", name, content[max(0, at-100):min(len(content), at+100)]))
			}
		}
	}
}

// unpacked decompresses content; nil if it is not compressed.
func unpacked(content []byte) []byte {
	var r io.Reader
	var err error
	switch {
	case bytes.HasPrefix(content, []byte("\x1f\x8b")):
		r, err = gzip.NewReader(bytes.NewReader(content))
	case bytes.HasPrefix(content, []byte("\xfd7zXZ")):
		r, err = xz.NewReader(bytes.NewReader(content))
	case bytes.HasPrefix(content, []byte("\x28\xb5\x2f\xfd")):
		r, err = zstd.NewReader(bytes.NewReader(content))
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil
	}
	return plain
}
