//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAcrossTheGap tests the whole path: lists become a bundle on the connected side, the bundle's parts are carried,
// and inside the gap containerd pulls by upstream name.
func TestAcrossTheGap(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	up := newInternet(t, l)
	b := newBastion(t, l, "n1")
	b.serve(t)
	node := l.host("node", b.ip)
	node.trust(b.casemate(t, "ca"))

	// The connected side: a host that knows the internet by its names and trusts its CA. The bastion and the node never
	// hear of it.
	col := l.host("collector", "")
	col.trust(up.pem)
	hosts := "127.0.0.1 localhost\n"
	for _, h := range []string{"registry.k8s.io", "index.docker.io", "registry-1.docker.io", "docker.io", "quay.io",
		"dl.k8s.io", "github.com", "objects.githubusercontent.com"} {
		hosts += up.ip + " " + h + "\n"
	}
	col.write("etc/hosts", hosts)
	casemate := filepath.Join(repo(t), "bin", "casemate")

	idx := platforms(t, pauseImage(t))
	idxDigest, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	up.put(t, "registry.k8s.io/pause:3.10", idx)
	up.put(t, "index.docker.io/library/sample:1", randomImage(t, 24<<20, 3))
	up.put(t, "quay.io/team/later:1", randomImage(t, 1<<20, 1))
	file := make([]byte, 24<<20)
	rand.Read(file)
	sum := sha256.Sum256(file)
	kubeadm := "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm"
	up.files["dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm"] = file
	up.files["dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm.sha256"] = []byte(hex.EncodeToString(sum[:]))
	up.moved["github.com/opencontainers/runc/releases/download/v1.4.2/runc.amd64"] =
		"https://objects.githubusercontent.com/release/12345"
	up.files["objects.githubusercontent.com/release/12345"] = file[:1<<20]

	images := col.write("images.list", "# what the cluster needs\nregistry.k8s.io/pause:3.10\nsample:1\n")
	files := col.write("files.list",
		kubeadm+"\nhttps://github.com/opencontainers/runc/releases/download/v1.4.2/runc.amd64\n")
	key := col.path("office")
	col.must(t, casemate, "bundle", "keygen", "--out", key)
	create := func(file string, args ...string) {
		t.Helper()
		col.must(t, append([]string{casemate, "bundle", "create", file, "--cache", col.path("cache"), "--sign",
			key + ".key"}, args...)...)
	}
	whole, split := col.path("whole.tar"), col.path("split.tar")
	platform := "linux/" + goarch()

	t.Run("collect, and again the same bytes", func(t *testing.T) {
		create(whole, "--images", images, "--files", files, "--platform", platform)
		create(col.path("again.tar"), "--images", images, "--files", files, "--platform", platform)
		a, err1 := os.ReadFile(whole)
		c, err2 := os.ReadFile(col.path("again.tar"))
		if err1 != nil || err2 != nil || !bytes.Equal(a, c) {
			t.Fatalf("the same content gave other bytes (%v, %v)", err1, err2)
		}
		col.must(t, casemate, "bundle", "verify", whole, "--key", key+".pub")
		if out := col.must(t, casemate, "bundle", "inspect", whole); !strings.Contains(out,
			"registry.k8s.io/pause:3.10") || !strings.Contains(out, kubeadm) {
			t.Errorf("inspect does not name what is in it:\n%s", out)
		}
	})
	t.Run("skopeo reads the bundle's layout", func(t *testing.T) {
		got := col.must(t, "skopeo", "inspect", "--raw", "oci-archive:"+whole+":registry.k8s.io/pause:3.10")
		if d := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(got))); d != idxDigest.String() {
			t.Errorf("the index is %s there, not %s", d, idxDigest)
		}
	})
	t.Run("a part is lost and made again", func(t *testing.T) {
		create(split, "--images", images, "--files", files, "--platform", platform, "--split", "32MiB")
		parts, err := filepath.Glob(split + ".0*")
		if err != nil || len(parts) < 3 {
			t.Fatalf("parts: %v, %v", parts, err)
		}
		if st, err := os.Stat(parts[0]); err != nil || st.Size() > 32<<20 {
			t.Errorf("%s: %v, %v", parts[0], st.Size(), err)
		}
		if err := os.Remove(parts[1]); err != nil {
			t.Fatal(err)
		}
		if out, err := b.try(append([]string{b.bin(), "--socket", b.socket, "import", parts[0]},
			parts[2:]...)...); err != nil || !strings.Contains(out, "missing") {
			t.Fatalf("all parts but one: %v\n%s", err, out)
		}
		node.fails(t, "404", "curl", "-fsS", kubeadm)
		create(split, "--images", images, "--files", files, "--platform", platform, "--split", "32MiB")
		b.casemate(t, "import", parts[1], "--key", key+".pub")
	})
	t.Run("the node pulls and fetches by upstream name", func(t *testing.T) {
		ctr := []string{"ctr", "-a", node.containerd(t), "images", "pull", "--snapshotter", "native"}
		node.must(t, append(ctr, "registry.k8s.io/pause:3.10")...)
		node.must(t, append(ctr, "registry.k8s.io/pause@"+idxDigest.String())...)
		node.must(t, append(ctr, "docker.io/library/sample:1")...)
		for _, url := range []string{kubeadm,
			"https://github.com/opencontainers/runc/releases/download/v1.4.2/runc.amd64"} {
			node.must(t, "curl", "-fsS", "-o", node.path("tmp/f"), url)
			if got, err := os.ReadFile(node.path("tmp/f")); err != nil || !bytes.HasPrefix(file, got) || len(got) == 0 {
				t.Errorf("%s: other bytes (%v)", url, err)
			}
		}
		if got := node.must(t, "curl", "-fsS", kubeadm+".sha256"); !strings.HasPrefix(got, hex.EncodeToString(sum[:])) {
			t.Errorf("the checksum file says %q", got)
		}
		if out := b.casemate(t, "import", whole); !strings.Contains(out, "nothing changed") {
			t.Errorf("the same content once more should say so:\n%s", out)
		}
		b.casemate(t, "check", "--images", images, "--files", files, "--platform", platform)
	})
	t.Run("a miss becomes the next bundle, only the difference", func(t *testing.T) {
		node.fails(t, "MANIFEST_UNKNOWN", client(t, "crane"), "manifest", "quay.io/team/later:1")
		list := col.write("missing.list", b.casemate(t, "missing", "-o", "images"))
		inventory := col.write("inventory.json", b.casemate(t, "inventory"))
		next := col.path("next.tar")
		create(next, "--images", list, "--images", images, "--platform", platform, "--since", inventory)
		if st, err := os.Stat(next); err != nil || st.Size() > 4<<20 {
			t.Errorf("the difference has %d bytes (%v)", st.Size(), err)
		}
		b.casemate(t, "import", next)
		node.must(t, client(t, "crane"), "manifest", "quay.io/team/later:1")
		if out := b.casemate(t, "missing", "-o", "images"); strings.Contains(out, "later") {
			t.Errorf("it is still on the list:\n%s", out)
		}
	})
	t.Run("a changed byte is refused", func(t *testing.T) {
		data, err := os.ReadFile(col.path("next.tar"))
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		bad := col.write("bad.tar", string(data))
		if out, err := col.try(casemate, "bundle", "verify", bad); err == nil || !strings.Contains(out, "bad.tar") {
			t.Errorf("verify: %v\n%s", err, out)
		}
	})
	t.Run("what other tools wrote", func(t *testing.T) {
		ctr := node.containerd(t)
		sample := writeImage(t, col.path("sample"), pauseImage(t))
		imported := func(ref string, args ...string) {
			t.Helper()
			if out := b.casemate(t, append([]string{"import", "diff"}, args...)...); !strings.Contains(out, ref) {
				t.Errorf("import diff does not name %s:\n%s", ref, out)
			}
			b.casemate(t, append([]string{"import"}, args...)...)
			node.must(t, "ctr", "-a", ctr, "images", "pull", "--snapshotter", "native", ref) // which unpacks it
			node.must(t, "skopeo", "copy", "-q", "--insecure-policy", "docker://"+ref, "dir:"+node.path("tmp/skopeo"))
		}
		col.must(t, "skopeo", "copy", "oci:"+sample, "oci:"+col.path("layout")+":quay.io/other/skopeo:1")
		imported("quay.io/other/skopeo:1", col.path("layout"))
		col.must(t, "skopeo", "copy", "oci:"+sample, "docker-archive:"+col.path("skopeo.tar")+
			":quay.io/other/archive:1")
		imported("quay.io/other/archive:1", col.path("skopeo.tar"))

		sock := col.dockerd(t)
		docker := []string{"docker", "-H", "unix://" + sock, "--config", col.path("tmp/docker")}
		col.must(t, append(docker, "pull", "registry.k8s.io/pause:3.10")...)
		col.must(t, append(docker, "tag", "registry.k8s.io/pause:3.10", "quay.io/other/docker:1")...)
		col.must(t, append(docker, "save", "-o", col.path("docker.tar"), "quay.io/other/docker:1")...)
		imported("quay.io/other/docker:1", col.path("docker.tar"))

		runroot, err := os.MkdirTemp("", "pr") // podman wants a short one
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(runroot)
		podman := []string{"podman", "--root", col.path("tmp/podman"), "--runroot", runroot, "--storage-driver", "vfs"}
		col.write("etc/policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
		col.must(t, append(podman, "pull", "--signature-policy", col.path("etc/policy.json"),
			"registry.k8s.io/pause:3.10")...)
		col.must(t, append(podman, "tag", "registry.k8s.io/pause:3.10", "quay.io/other/podman:1")...)
		col.must(t, append(podman, "save", "-o", col.path("podman.tar"), "quay.io/other/podman:1")...)
		imported("quay.io/other/podman:1", col.path("podman.tar"))
		col.must(t, append(podman, "save", "--format", "oci-archive", "-o", col.path("podman-oci.tar"),
			"quay.io/other/podman:1")...)
		b.casemate(t, "import", "--name", "podman-oci", col.path("podman-oci.tar"))

		tree := col.path("mirror")
		col.write("mirror/deb.example.org/dists/stable/InRelease", "signed\n")
		if out, err := b.try(b.bin(), "--socket", b.socket, "import", tree); err != nil ||
			!strings.Contains(out, "not permitted") {
			t.Errorf("a host that the root does not permit is stored and named: %v\n%s", err, out)
		}
		if out := b.casemate(t, "import", "list"); !strings.Contains(out, "podman-oci") {
			t.Errorf("import list:\n%s", out)
		}
		b.casemate(t, "import", "remove", "--yes", "podman-oci")
	})
}

// TestPackagesAsFiles takes real files over a real network: packages of this machine's own distribution, from the
// mirror that it is set up with.
func TestPackagesAsFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	var list strings.Builder
	var urls []string
	var sums []string
	out := must(t, "apt-get", "-o", "APT::Sandbox::User=root", "--print-uris", "download", "containerd", "runc",
		"skopeo")
	for line := range strings.Lines(out) {
		f := strings.Fields(line) // 'URL' NAME SIZE SHA256:HEX
		if len(f) != 4 || !strings.HasPrefix(f[3], "SHA256:") {
			continue
		}
		url, sum := strings.Trim(f[0], "'"), strings.ToLower(f[3])
		urls, sums = append(urls, url), append(sums, strings.TrimPrefix(sum, "sha256:"))
		fmt.Fprintf(&list, "%s %s\n", url, sum)
	}
	if len(urls) != 3 {
		t.Fatalf("apt-get names %d files:\n%s", len(urls), out)
	}
	casemate, dir := filepath.Join(repo(t), "bin", "casemate"), t.TempDir()
	files := filepath.Join(dir, "files.list")
	if err := os.WriteFile(files, []byte(list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "packages.tar")
	must(t, casemate, "bundle", "create", file, "--files", files, "--cache", filepath.Join(dir, "cache"))
	b.casemate(t, "import", file)
	out = b.casemate(t, "file", "list", "-o", "json")
	for i, u := range urls {
		if !strings.Contains(out, sums[i]) {
			t.Errorf("%s is not stored with its checksum:\n%s", u, out)
		}
	}
	if out, err := run(casemate, "bundle", "create", file, "--force", "--files", files, "--cache",
		filepath.Join(dir, "cache"), "-o", "json"); err != nil || !strings.Contains(out, `"fetched": 0`) {
		t.Errorf("a second run fetches nothing: %v\n%s", err, out)
	}
}
