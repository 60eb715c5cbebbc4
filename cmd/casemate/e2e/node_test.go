//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestUnmodifiedNode is the reason why casemate exists: a node that knows nothing but a resolver and a CA pulls and
// fetches by upstream names.
func TestUnmodifiedNode(t *testing.T) {
	t.Parallel()
	unmodifiedNode(t, onlyIPv4)
}

// The same over IPv6 alone.
func TestUnmodifiedNodeIPv6(t *testing.T) {
	t.Parallel()
	unmodifiedNode(t, onlyIPv6)
}

// The same where every host has an IPv6 address that leads nowhere: dns.families keeps clients from it.
func TestUnmodifiedNodeDeadIPv6(t *testing.T) {
	t.Parallel()
	unmodifiedNode(t, deadIPv6, "--set", "dns.families=ipv4")
}

func unmodifiedNode(t *testing.T, f family, initArgs ...string) {
	l := newLabOf(t, f)
	b := newBastion(t, l, "n1", initArgs...)
	b.serve(t)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	admin := l.host("admin", b.ip) // where people push from; trusts the CA too
	admin.trust(b.casemate(t, "ca"))

	if out, err := b.tryIn("correct horse\n", b.bin(), "--socket", b.socket, "user", "add", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}

	pause := pauseImage(t)
	idx := platforms(t, pause)
	idxDigest, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	oci := writeLayout(t, admin.path("pause"), idx)
	own := "registry.casemate.internal"
	creds := "ops:correct horse"
	single := writeImage(t, admin.path("sample"), pause)

	t.Run("crane and skopeo push under upstream names", func(t *testing.T) {
		if out, err := admin.tryIn("correct horse", client(t, "crane"), "auth", "login", own, "-u", "ops",
			"--password-stdin"); err != nil {
			t.Fatalf("crane auth login: %v\n%s", err, out)
		}
		// Not by skopeo: Debian's re-encodes an index whose descriptors have an artifactType, and then it is not the
		// same any more.
		admin.must(t, client(t, "crane"), "push", "--index", oci, own+"/registry.k8s.io/pause:3.10")
		admin.must(t, "skopeo", "copy", "--preserve-digests", "--dest-creds", creds, "oci:"+single, "docker://"+own+
			"/docker.io/library/sample:1")
	})
	t.Run("a wrong password is refused", func(t *testing.T) {
		admin.fails(t, "nauthorized", "skopeo", "copy", "--dest-creds", "ops:wrong", "oci:"+single, "docker://"+own+
			"/team/x:1")
	})
	t.Run("origin names refuse writes", func(t *testing.T) {
		out := admin.must(t, "curl", "-s", "-o", "-", "-w", "%{http_code}", "-X", "POST",
			"https://registry.k8s.io/v2/pause/blobs/uploads/")
		if !strings.HasSuffix(out, "405") || !strings.Contains(out, "UNSUPPORTED") {
			t.Errorf("a write to an origin name should be 405 UNSUPPORTED, got %s", out)
		}
	})

	file := make([]byte, 8<<20)
	rand.Read(file)
	sum := sha256.Sum256(file)
	kubeadm := "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm"
	if err := os.WriteFile(b.path("kubeadm"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	b.casemate(t, "file", "put", kubeadm, b.path("kubeadm"))

	t.Run("dig", func(t *testing.T) {
		has, not := b.addressType()
		for _, name := range []string{"registry.k8s.io", "registry-1.docker.io", "docker.io", "quay.io", "dl.k8s.io",
			"github.com"} {
			for _, proto := range []string{"+notcp", "+tcp"} {
				if out := strings.TrimSpace(n.must(t, "dig", "+short", proto, name, has)); out != b.ip {
					t.Errorf("dig %s %s: %q, want %s", proto, name, out, b.ip)
				}
			}
			if out := n.must(t, "dig", name, not); !strings.Contains(out, "status: NOERROR") ||
				!strings.Contains(out, "SOA") {
				t.Errorf("%s of %s must be NODATA with an SOA:\n%s", not, name, out)
			}
		}
		if out := n.must(t, "dig", "nothing.example.org"); !strings.Contains(out, "status: NXDOMAIN") {
			t.Errorf("a foreign name must be NXDOMAIN:\n%s", out)
		}
		if out := strings.TrimSpace(n.must(t, "dig", "+short", "-x", b.ip)); out != "n1.casemate.internal." {
			t.Errorf("PTR of %s is %q", b.ip, out)
		}
	})
	t.Run("curl fetches a file by its upstream URL", func(t *testing.T) {
		out := n.path("tmp/kubeadm")
		n.must(t, "curl", "-fsS", "-o", out, kubeadm)
		got, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, file) {
			t.Fatalf("the file differs: %v", err)
		}
		n.must(t, "curl", "-fsS", "-r", "1000-1999", "-o", out, kubeadm)
		if got, _ := os.ReadFile(out); !bytes.Equal(got, file[1000:2000]) {
			t.Error("the range differs")
		}
		if got := n.must(t, "curl", "-fsS", kubeadm+".sha256"); !strings.HasPrefix(got, hex.EncodeToString(sum[:])) {
			t.Errorf("the checksum file says %q", got)
		}
		n.must(t, "curl", "-fsS", "-o", out, "http://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm")
		n.must(t, "curl", "-fsS", "-o", out,
			"https://files.casemate.internal/dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm")
		n.fails(t, "404", "curl", "-fsS", "https://dl.k8s.io/release/v9.9.9/bin/linux/amd64/kubeadm")
	})
	t.Run("openssl verifies the chain", func(t *testing.T) {
		for _, name := range []string{"registry.k8s.io", "github.com", "registry.casemate.internal",
			"n1.casemate.internal"} {
			n.must(t, "sh", "-c", "openssl s_client -connect "+b.at("443")+" -servername "+name+
				" -verify_hostname "+name+" -verify_return_error </dev/null")
		}
		n.must(t, "sh", "-c", "openssl s_client -connect "+b.at("443")+" -noservername -verify_ip "+b.ip+
			" -verify_return_error </dev/null")
		if out, err := n.try("sh", "-c", "openssl s_client -connect "+b.at("443")+
			" -servername www.bank.example -verify_return_error </dev/null"); err == nil {
			t.Errorf("a name that is not ours must get no certificate:\n%s", out)
		}
	})
	t.Run("gnutls verifies the chain", func(t *testing.T) {
		n.must(t, "sh", "-c", "gnutls-cli --x509cafile /etc/ssl/certs/ca-certificates.crt registry.k8s.io </dev/null")
	})
	t.Run("containerd", func(t *testing.T) {
		sock := n.containerd(t)
		ctr := []string{"ctr", "-a", sock}
		for _, ref := range []string{"registry.k8s.io/pause:3.10", "docker.io/library/sample:1",
			"registry.k8s.io/pause@" + idxDigest.String()} {
			n.must(t, append(ctr, "images", "pull", "--snapshotter", "native", ref)...)
		}
		n.fails(t, "not found", append(ctr, "images", "pull", "--snapshotter", "native",
			"registry.k8s.io/pause:9.9")...)
		out := n.must(t, append(ctr, "run", "--rm", "--snapshotter", "native", "--runc-binary", "runc",
			"registry.k8s.io/pause:3.10", "p1", "/pause", "once")...)
		if !strings.Contains(out, "paused") {
			t.Errorf("the image ran and said %q", out)
		}

		own := "[host.\"https://registry.casemate.internal\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = " +
			"\"/etc/ssl/certs/ca-certificates.crt\"\n"
		for name, toml := range map[string]string{
			"ns": "server = \"https://registry.casemate.internal\"\n" + own,
			"path prefix": "server = \"https://registry.casemate.internal\"\n" +
				strings.Replace(own, "internal\"]", "internal/registry.k8s.io\"]", 1),
			"override_path": "server = \"https://registry.casemate.internal\"\n" +
				strings.Replace(own, "internal\"]", "internal/v2/registry.k8s.io\"]", 1) + "  override_path = true\n",
		} {
			t.Run("hosts.toml with "+name, func(t *testing.T) {
				dir := "certs.d/" + strings.ReplaceAll(name, " ", "-")
				n.write(dir+"/registry.k8s.io/hosts.toml", toml)
				n.try(append(ctr, "images", "rm", "--sync", "registry.k8s.io/pause:3.10")...)
				n.must(t, append(ctr, "images", "pull", "--snapshotter", "native", "--hosts-dir", n.path(dir),
					"registry.k8s.io/pause:3.10")...)
			})
		}
	})
	t.Run("docker", func(t *testing.T) {
		sock := admin.dockerd(t)
		docker := []string{"docker", "-H", "unix://" + sock, "--config", admin.path("tmp/docker")}
		admin.must(t, append(docker, "pull", "registry.k8s.io/pause:3.10")...)
		admin.must(t, append(docker, "pull", "sample:1")...)
		if out, err := admin.tryIn("wrong\n", append(docker, "login", "-u", "ops", "--password-stdin",
			own)...); err == nil {
			t.Errorf("a wrong password must not log in:\n%s", out)
		}
		if out, err := admin.tryIn("correct horse\n", append(docker, "login", "-u", "ops", "--password-stdin",
			own)...); err != nil {
			t.Fatalf("docker login: %v\n%s", err, out)
		}
		// The old way: pull, tag flat, push; and then pull by upstream name as a mirror's client does, with ns.
		admin.must(t, append(docker, "tag", "registry.k8s.io/pause:3.10", own+"/pause:3.9")...)
		admin.must(t, append(docker, "push", own+"/pause:3.9")...)
		if out := n.must(t, "curl", "-fsS", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Accept: */*",
			"https://"+own+"/v2/pause/manifests/3.9?ns=registry.k8s.io"); out != "200" {
			t.Errorf("a flat push is not found with ns: %s", out)
		}
		sockc := n.containerd(t)
		n.write("certs.d/old/registry.k8s.io/hosts.toml",
			"server = \"https://registry.casemate.internal\"\n[host.\"https://registry.casemate.internal\"]\n  "+
				"capabilities = [\"pull\", \"resolve\"]\n")
		n.must(t, "ctr", "-a", sockc, "images", "pull", "--snapshotter", "native", "--hosts-dir", n.path("certs.d/old"),
			"registry.k8s.io/pause:3.9")
	})
	t.Run("podman", func(t *testing.T) {
		runroot, err := os.MkdirTemp("", "pr") // podman wants a short one
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(runroot)
		podman := []string{"podman", "--root", n.path("tmp/podman"), "--runroot", runroot, "--storage-driver", "vfs"}
		n.write("etc/policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
		n.must(t, append(podman, "pull", "--signature-policy", n.path("etc/policy.json"),
			"registry.k8s.io/pause:3.10")...)
		n.must(t, append(podman, "pull", "--signature-policy", n.path("etc/policy.json"),
			"docker.io/library/sample:1")...)
	})
	t.Run("skopeo", func(t *testing.T) {
		n.must(t, "skopeo", "copy", "--all", "docker://docker.io/library/sample:1", "dir:"+n.path("tmp/sample"))
		if out := n.must(t, "skopeo", "inspect", "--raw", "docker://registry.k8s.io/pause:3.10"); fmt.Sprintf(
			"sha256:%x", sha256.Sum256([]byte(out))) != idxDigest.String() {
			t.Errorf("the index is not byte-exact:\n%s", out)
		}
	})
	t.Run("crane", func(t *testing.T) {
		if out := strings.TrimSpace(n.must(t, client(t, "crane"), "digest",
			"registry.k8s.io/pause:3.10")); out != idxDigest.String() {
			t.Errorf("crane digest: %s, want %s", out, idxDigest)
		}
		n.must(t, client(t, "crane"), "pull", "--format", "oci", "registry.k8s.io/pause:3.10", n.path("tmp/crane"))
		n.must(t, client(t, "crane"), "ls", "registry.k8s.io/pause")
	})
	t.Run("oras pushes, attaches and discovers", func(t *testing.T) {
		admin.write("tmp/a.txt", "hello\n")
		login := []string{client(t, "oras"), "login", own, "-u", "ops", "--password-stdin"}
		if out, err := admin.tryIn("correct horse", login...); err != nil {
			t.Fatalf("oras login: %v\n%s", err, out)
		}
		admin.must(t, "sh", "-c", "cd "+admin.path("tmp")+" && "+client(t, "oras")+" push "+own+
			"/team/notes:1 a.txt:text/plain")
		admin.must(t, "sh", "-c", "cd "+admin.path("tmp")+" && "+client(t, "oras")+
			" attach --artifact-type application/vnd.example.sbom "+own+"/team/notes:1 a.txt:text/plain")
		if out := admin.must(t, client(t, "oras"), "discover", "--format", "json",
			own+"/team/notes:1"); !strings.Contains(out, "application/vnd.example.sbom") {
			t.Errorf("oras discover does not see what was attached:\n%s", out)
		}
		admin.must(t, client(t, "oras"), "pull", "-o", admin.path("tmp/pulled"), own+"/team/notes:1")
	})
	t.Run("helm pushes and pulls a chart", func(t *testing.T) {
		admin.must(t, "sh", "-c", "cd "+admin.path("tmp")+" && "+client(t, "helm")+" create demo && "+client(t, "helm")+
			" package demo")
		if out, err := admin.tryIn("correct horse", client(t, "helm"), "registry", "login", own, "-u", "ops",
			"--password-stdin"); err != nil {
			t.Fatalf("helm registry login: %v\n%s", err, out)
		}
		admin.must(t, client(t, "helm"), "push", admin.path("tmp/demo-0.1.0.tgz"), "oci://"+own+"/ghcr.io/charts")
		n.must(t, client(t, "helm"), "pull", "oci://ghcr.io/charts/demo", "--version", "0.1.0", "-d", n.path("tmp"))
	})
	t.Run("cosign signs and verifies", func(t *testing.T) {
		sh := func(cmd string) []string {
			return []string{"sh", "-c", "cd " + admin.path("tmp") + " && COSIGN_PASSWORD= " + client(t, "cosign") +
				" " + cmd}
		}
		auth := base64.StdEncoding.EncodeToString([]byte(creds))
		admin.write("tmp/.docker/config.json", `{"auths":{"`+own+`":{"auth":"`+auth+`"}}}`)
		admin.must(t, sh("generate-key-pair")...)
		ref := own + "/registry.k8s.io/pause@" + idxDigest.String()
		admin.must(t, sh("sign --key cosign.key --tlog-upload=false --yes "+ref)...)
		admin.must(t, sh("verify --key cosign.pub --insecure-ignore-tlog=true "+ref)...)
		n.must(t, client(t, "cosign"), "verify", "--key", admin.path("tmp/cosign.pub"), "--insecure-ignore-tlog=true",
			"registry.k8s.io/pause:3.10")
	})
	t.Run("what was asked for and not there stands in the missing book", func(t *testing.T) {
		out := b.casemate(t, "missing")
		for _, want := range []string{"registry.k8s.io/pause:9.9",
			"https://dl.k8s.io/release/v9.9.9/bin/linux/amd64/kubeadm", "nothing.example.org", "www.bank.example",
			n.ip} {
			if !strings.Contains(out, want) {
				t.Errorf("missing does not name %s:\n%s", want, out)
			}
		}
		// Probes of clients, and names made by a search list, are not missing.
		n.try("curl", "-sI", "https://dl.k8s.io/release/v9.9.8/bin/linux/amd64/kubeadm")
		n.try(client(t, "crane"), "digest", "quay.io/looked/at:1") // it asks by GET when its HEAD has failed
		n.try(client(t, "oras"), "resolve", "quay.io/resolved:1")
		n.try("git", "-c", "core.askPass=true", "ls-remote", "https://github.com/none/such")
		n.try("dig", "+short", "quay.io.svc.cluster.local", "node1.default.svc.cluster.local", "node1", "A")
		n.try("dig", "+short", "-x", "10.9.8.7")
		if out, err := n.try(client(t, "cosign"), "verify", "--key", admin.path("tmp/cosign.pub"),
			"--insecure-ignore-tlog=true", "docker.io/library/sample:1"); err == nil {
			t.Errorf("an image without a signature is verified:\n%s", out)
		}
		noise := []string{"v9.9.8", "quay.io/resolved:1", "quay.io.svc.cluster.local",
			"node1.default.svc.cluster.local", "sample:sha256-", "7.8.9.10.in-addr.arpa"}
		until(t, "the bastion knows what was asked", func() error {
			all := b.casemate(t, "missing", "--all")
			for _, want := range noise {
				if !strings.Contains(all, want) {
					return fmt.Errorf("%s is not there:\n%s", want, all)
				}
			}
			return nil
		})
		out = b.casemate(t, "missing")
		for _, not := range noise {
			if strings.Contains(out, not) {
				t.Errorf("missing names %s:\n%s", not, out)
			}
		}
		if strings.Contains(out, "@sha256:") {
			t.Errorf("missing names what a push has looked for:\n%s", out)
		}
		if !strings.Contains(out, "quay.io/looked/at:1") ||
			!strings.Contains(out, "https://github.com/none/such/info/refs?service=git-upload-pack") {
			t.Errorf("missing does not name what a GET asked for:\n%s", out)
		}
		if list := b.casemate(t, "missing", "-o", "files"); strings.Contains(list, "\nhttps://github.com/none") {
			t.Errorf("a list of files has a Git repository:\n%s", list)
		}
	})
}

// containerd starts a containerd of the host's own and returns its socket.
func (h *host) containerd(t testing.TB) string {
	t.Helper()
	dir := h.path("tmp/containerd" + fmt.Sprint(len(t.Name())))
	sock := dir + ".sock"
	h.write("etc/containerd.toml", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
	h.daemon(t, "containerd", "containerd", "-c", h.path("etc/containerd.toml"), "--root", dir+"/root", "--state",
		dir+"/state", "-a", sock)
	until(t, "containerd answers", func() error {
		out, err := h.try("ctr", "-a", sock, "version")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return sock
}

// dockerd starts a docker daemon (with its own containerd) and returns its socket.
func (h *host) dockerd(t testing.TB) string {
	t.Helper()
	dir := h.path("tmp/docker.d")
	sock := dir + ".sock"
	h.daemon(t, "dockerd", "dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "-p", dir+".pid", "-H",
		"unix://"+sock,
		"--bridge=none", "--iptables=false", "--storage-driver=vfs")
	until(t, "dockerd answers", func() error {
		out, err := h.try("docker", "-H", "unix://"+sock, "info")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return sock
}
