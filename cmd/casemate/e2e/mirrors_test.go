//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A stranger is a node whose DNS and trust store are unchanged: it has a separate /etc with only the files that
// casemate mirrors writes, and an empty trust store.
type stranger struct {
	*host
	root string // below which its /etc is
}

func (l *lab) stranger(name string) *stranger {
	l.t.Helper()
	s := &stranger{host: l.host(name, "")}
	s.root = s.path("whole")
	if err := os.Mkdir(s.root, 0o700); err != nil {
		l.t.Fatal(err)
	}
	must(l.t, "cp", "-a", "/etc", s.root)
	for _, dir := range []string{"docker", "containerd", "containers/registries.conf.d", "containers/certs.d"} {
		if err := os.RemoveAll(s.root + "/etc/" + dir); err != nil {
			l.t.Fatal(err)
		}
	}
	return s
}

// in is a command that sees the stranger's /etc.
func (s *stranger) in(args ...string) []string {
	const script = `set -e
mount --bind "$1/whole/etc" /etc
mount --bind "$1/etc/resolv.conf" "$(readlink -f /etc/resolv.conf)"
mount --bind "$1/etc/certs" /etc/ssl/certs
shift
exec "$@"`
	return append([]string{"sh", "-c", script, "sh", s.dir}, args...)
}

// hosts follows the note: the generated lines are appended to /etc/hosts.
func (s *stranger) hosts(t *testing.T) {
	t.Helper()
	lines, err := os.ReadFile(s.root + "/etc/hosts.casemate")
	if err == nil {
		err = os.WriteFile(s.root+"/etc/hosts", append([]byte("127.0.0.1 localhost\n"), lines...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// waited matches what clients print after a connection or a request that nobody answered.
var waited = regexp.MustCompile(`(?i)time-?out|timed out|deadline exceeded`)

// TestMirrors gives nodes that do not use the bastions as resolvers the files that casemate mirrors writes, ends the
// bastion that is first in all of them, and pulls.
func TestMirrors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tr := newTrio(t, l)
	n1, n2 := tr.nodes[0], tr.nodes[1]
	if out, err := n1.tryIn("correct horse\n", n1.bin(), "--socket", n1.socket, "user", "add", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	admin := l.host("admin", n1.ip)
	admin.trust(n1.casemate(t, "ca"))
	const own = "registry.casemate.internal"
	if out, err := admin.tryIn("correct horse", client(t, "crane"), "auth", "login", own, "-u", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("crane auth login: %v\n%s", err, out)
	}
	pause := pauseImage(t)
	admin.must(t, client(t, "crane"), "push", "--index", writeLayout(t, admin.path("pause"), platforms(t, pause)),
		own+"/registry.k8s.io/pause:3.10")
	admin.must(t, "skopeo", "copy", "--preserve-digests", "--dest-creds", "ops:correct horse",
		"oci:"+writeImage(t, admin.path("sample"), pause), "docker://"+own+"/docker.io/library/sample:1")
	n1.casemate(t, "file", "put", "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm",
		n1.write("kubeadm", "kubeadm\n"))
	tr.whole(3)

	node := l.stranger("node")
	for _, runtime := range []string{"containerd", "podman", "docker", "k3s"} {
		n1.casemate(t, "mirrors", "--for", runtime, "--dir", node.root)
	}
	node.hosts(t)
	var vars struct {
		Files []struct{ Path, Content string }
	}
	if err := json.Unmarshal([]byte(n1.casemate(t, "kubespray", "vars", "--mode", "mirror", "-o", "json")),
		&vars); err != nil {
		t.Fatal(err)
	}
	planner := l.stranger("planner") // where Ansible runs; its trust store has the CA
	planner.trust(n1.casemate(t, "ca"))
	n1.casemate(t, "mirrors", "--for", "crio", "--dir", planner.root)
	planner.hosts(t)
	n1.casemate(t, "kubespray", "vars", "--mode", "mirror", "--dir", planner.path("mirror"))
	n1.casemate(t, "kubespray", "vars", "--mode", "dns", "--dir", planner.path("dns"))
	tr.kill(n1)

	// A name that is stored nowhere must be a quick "not found" that the bastion records: no node waits for the
	// Internet until it gives up.
	missed := func(t *testing.T, name, out string) {
		t.Helper()
		if waited.MatchString(out) {
			t.Errorf("to learn that %s is not there the client waited:\n%s", name, out)
		}
		until(t, "the missing book names it", func() error {
			if out := n2.casemate(t, "missing"); !strings.Contains(out, name) {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	sock := node.path("tmp/containerd.sock")
	t.Run("containerd", func(t *testing.T) {
		dir := node.path("tmp/containerd")
		node.write("etc/containerd.toml", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
		node.daemon(l.t, "containerd", node.in("containerd", "-c", node.path("etc/containerd.toml"), "--root",
			dir+"/root", "--state", dir+"/state", "-a", sock)...)
		until(t, "containerd answers", func() error {
			_, err := node.try("ctr", "-a", sock, "version")
			return err
		})
		pull := func(ref string) []string {
			return node.in("ctr", "-a", sock, "images", "pull", "--snapshotter", "native", "--hosts-dir",
				"/etc/containerd/certs.d", ref)
		}
		for _, ref := range []string{"registry.k8s.io/pause:3.10", "docker.io/library/sample:1",
			"k8s.gcr.io/pause:3.10", "registry-1.docker.io/library/sample:1"} {
			node.must(t, pull(ref)...)
		}
		out, err := node.try(pull("docker.io/library/sample:9")...)
		if err == nil || strings.Contains(out, "registry-1.docker.io") {
			// containerd 1.x says the first bastion's error, 2.x that it is not found
			t.Errorf("an image that is not there: %v\n%s", err, out)
		}
		missed(t, "docker.io/library/sample:9", out)
		if out, err = node.try(pull("registry.nobody.example/team/app:1")...); err == nil {
			t.Errorf("an image of a registry that nobody named: %s", out)
		}
		missed(t, "registry.nobody.example/team/app:1", out)
	})
	t.Run("containerd with Kubespray's variables", func(t *testing.T) {
		// The hosts.toml of Kubespray's template, for the registry that its images are moved to.
		var conf struct {
			Mirrors []struct {
				Prefix, Server string
				Mirrors        []struct {
					Host         string
					Capabilities []string
					CA           []string
				}
			} `yaml:"containerd_registries_mirrors"`
		}
		for _, f := range vars.Files {
			if strings.HasSuffix(f.Path, "containerd.yml") {
				if err := yaml.Unmarshal([]byte(f.Content), &conf); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(conf.Mirrors) == 0 || conf.Mirrors[0].Prefix != own {
			t.Fatalf("no mirrors of %s: %+v", own, conf)
		}
		m := conf.Mirrors[0]
		toml := fmt.Sprintf("server = %q\n", m.Server)
		for _, h := range m.Mirrors {
			if len(h.CA) != 1 || h.CA[0] != "{{ casemate_ca_file }}" {
				t.Errorf("ca of %s is %v", h.Host, h.CA)
			}
			toml += fmt.Sprintf("[host.%q]\n  capabilities = [%q]\n  skip_verify = false\n  override_path = false\n  "+
				"ca = [%q]\n",
				h.Host, strings.Join(h.Capabilities, `","`), "/etc/containerd/certs.d/casemate-ca.crt")
		}
		toml = strings.ReplaceAll(toml, `\"`, `"`)
		if err := os.MkdirAll(node.root+"/etc/containerd/kubespray/"+own, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(node.root+"/etc/containerd/kubespray/"+own+"/hosts.toml", []byte(toml),
			0o644); err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{own + "/registry.k8s.io/pause:3.10", own + "/docker.io/library/sample:1"} {
			node.must(t, node.in("ctr", "-a", sock, "images", "pull", "--snapshotter", "native", "--hosts-dir",
				"/etc/containerd/kubespray", ref)...)
		}
		got := node.must(t, node.in("curl", "-fsS", "--cacert", "/etc/containerd/certs.d/casemate-ca.crt",
			"https://files.casemate.internal/dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm")...)
		if got != "kubeadm\n" {
			t.Errorf("the file is %q", got)
		}
	})
	t.Run("Ansible with Kubespray's variables", func(t *testing.T) {
		book := planner.write("book.yml", `
- hosts: localhost
  connection: local
  gather_subset: ["!all"]
  vars_files: [mirror/group_vars/all/offline.yml, mirror/group_vars/all/containerd.yml, dns/group_vars/all/casemate.yml]
  tasks:
    - debug:
        msg: "<{{ containerd_registries_mirrors[0].mirrors[2].ca | join }} {{ pod_infra_image_repo }} {{ cilium_install_extra_flags }} {{ names }}>"
      vars:
        names: "{{ nameservers | join(',') }} {{ upstream_dns_servers | join(',') }}"
    - get_url:
        url: "{{ dl_k8s_io_url }}/release/v1.35.4/bin/linux/amd64/kubeadm"
        dest: "`+planner.path("tmp/kubeadm")+`"
        checksum: "sha256:`+fmt.Sprintf("%x", sha256.Sum256([]byte("kubeadm\n")))+`"
`)
		out := planner.must(t, planner.in("env", "ANSIBLE_LOCALHOST_WARNING=False", "ansible-playbook", book)...)
		want := fmt.Sprintf("</etc/casemate/ca.crt registry.casemate.internal/registry.k8s.io/pause "+
			"--repository https://files.casemate.internal/helm.cilium.io/ %[1]s,%[2]s %[1]s,%[2]s,%[3]s>",
			tr.nodes[0].ip, tr.nodes[1].ip, tr.nodes[2].ip)
		if !strings.Contains(out, want) {
			t.Errorf("want %s in\n%s", want, out)
		}
		if got, err := os.ReadFile(planner.path("tmp/kubeadm")); err != nil || string(got) != "kubeadm\n" {
			t.Errorf("get_url fetched %q, %v", got, err)
		}
	})
	t.Run("podman and skopeo", func(t *testing.T) {
		runroot, err := os.MkdirTemp("", "pr") // podman wants a short one
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(runroot)
		policy := node.write("etc/policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
		pull := func(ref string) []string {
			return node.in("podman", "--root", node.path("tmp/podman"), "--runroot", runroot, "--storage-driver", "vfs",
				"pull", "--signature-policy", policy, ref)
		}
		for _, ref := range []string{"registry.k8s.io/pause:3.10", "docker.io/library/sample:1", "docker.io/sample:1"} {
			node.must(t, pull(ref)...)
		}
		node.must(t, node.in("skopeo", "copy", "--all", "docker://registry.k8s.io/pause:3.10",
			"dir:"+node.path("tmp/pause"))...)
		out, err := node.try(node.in("skopeo", "inspect", "docker://docker.io/library/sample:8")...)
		if err == nil || !strings.Contains(out, "manifest unknown") {
			t.Errorf("an image that is not there: %v\n%s", err, out)
		}
		missed(t, "docker.io/library/sample:8", out)
		out, err = node.try(node.in("skopeo", "inspect", "docker://registry.nobody.io/team/app:8")...)
		if err == nil {
			t.Errorf("an image of a registry that nobody named: %s", out)
		}
		missed(t, "unlisted.invalid/team/app:8", out)
	})
	t.Run("docker", func(t *testing.T) {
		dir := node.path("tmp/docker.d")
		sock := dir + ".sock"
		node.daemon(l.t, "dockerd", node.in("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "-p",
			dir+".pid", "-H", "unix://"+sock,
			"--bridge=none", "--iptables=false", "--storage-driver=vfs")...)
		docker := []string{"docker", "-H", "unix://" + sock, "--config", node.path("tmp/docker")}
		until(t, "dockerd answers", func() error {
			_, err := node.try(append(docker, "info")...)
			return err
		})
		if out := node.must(t, append(docker, "info")...); !strings.Contains(out, "https://n1.casemate.internal/") ||
			!strings.Contains(out, "https://n3.casemate.internal/") {
			t.Errorf("docker does not know its mirrors:\n%s", out)
		}
		node.must(t, append(docker, "pull", "sample:1")...)
	})
	t.Run("files are not replaced without being told so", func(t *testing.T) {
		n2.casemate(t, "mirrors", "--for", "docker", "--dir", node.root) // the same from every bastion
		if err := os.WriteFile(node.root+"/etc/docker/daemon.json", []byte("{}\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		n2.fails(t, "daemon.json", n2.bin(), "--socket", n2.socket, "mirrors", "--for", "docker", "--dir", node.root)
		n2.casemate(t, "mirrors", "--for", "docker", "--dir", node.root, "--force")
	})
}
