//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestContainerd2 pulls by CRI, as a kubelet does, with containerd 2 and the mirrors that casemate mirrors writes: by
// tag, by digest, from an origin, by an alias of one and by a bastion's own name. What nobody has is a clean miss,
// also of a registry that nobody named, and no other host is asked.
func TestContainerd2(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	digest := putPause(t, l, b)

	node := l.stranger("node") // it asks nobody for names, and has no root of the bastion's
	b.casemate(t, "mirrors", "--for", "containerd", "--dir", node.root)
	node.hosts(t)
	sock := "unix://" + node.containerd2(t)
	pull := func(ref string) (string, error) {
		return node.try(node.in(client(t, "crictl"), "-i", sock, "-r", sock, "pull", ref)...)
	}
	for _, ref := range []string{
		"registry.k8s.io/pause:3.10",
		"registry.k8s.io/pause@" + digest,
		"k8s.gcr.io/pause:3.10", // an alias
		"sample:1",              // Docker Hub, as people write it
		"docker.io/library/sample:1",
		"registry.casemate.internal/registry.k8s.io/pause:3.10",
	} {
		if out, err := pull(ref); err != nil {
			t.Errorf("%s: %v\n%s", ref, err, out)
		}
	}
	if out := node.must(t, node.in(client(t, "crictl"), "-i", sock, "-r", sock, "images", "--digests")...); !strings.
		Contains(out, "registry.k8s.io/pause") {
		t.Errorf("the runtime has no pause:\n%s", out)
	}
	if out := b.must(t, "sh", "-c", b.bin()+" --socket "+b.socket+" missing -o images 2>/dev/null"); out != "" {
		t.Errorf("the missing book is not empty:\n%s", out)
	}
	for ref, booked := range map[string]string{
		"registry.k8s.io/pause:9.9":                   "registry.k8s.io/pause:9.9",
		"registry.nobody.example/team/app:1":          "registry.nobody.example/team/app:1",
		"registry.nobody.example:5000/team/another:1": "registry.nobody.example/team/another:1", // ports are folded
		"10.9.9.9:5000/team/app:1":                    "10.9.9.9/team/app:1",
	} {
		out, err := pull(ref)
		if err == nil || !strings.Contains(out, "not found") || strings.Contains(out, "lookup ") ||
			strings.Contains(out, "dial tcp") {
			t.Errorf("%s should be not found, and no other host asked: %v\n%s", ref, err, out)
		}
		until(t, "the missing book names "+booked, func() error {
			if out := b.casemate(t, "missing", "-o", "images"); !strings.Contains(out, booked+"\n") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
}

// putPause pushes a small image for this platform under names of two origins, and returns the digest of its index.
func putPause(t *testing.T, l *lab, b *bastion) string {
	t.Helper()
	if out, err := b.tryIn("correct horse\n", b.bin(), "--socket", b.socket, "user", "add", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	const own = "registry.casemate.internal"
	admin := l.host("admin", b.ip)
	admin.trust(b.casemate(t, "ca"))
	if out, err := admin.tryIn("correct horse", client(t, "crane"), "auth", "login", own, "-u", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("crane auth login: %v\n%s", err, out)
	}
	layout := writeLayout(t, admin.path("pause"), platforms(t, pauseImage(t)))
	for _, name := range []string{"registry.k8s.io/pause:3.10", "docker.io/library/sample:1"} {
		admin.must(t, client(t, "crane"), "push", "--index", layout, own+"/"+name)
	}
	return strings.TrimSpace(admin.must(t, client(t, "crane"), "digest", "registry.k8s.io/pause:3.10"))
}

// containerd2 starts a containerd 2 with its CRI and the hosts of /etc/containerd/certs.d, and returns its socket.
func (s *stranger) containerd2(t *testing.T) string {
	t.Helper()
	dir, sock := s.path("tmp/c2"), s.path("tmp/c2.sock")
	conf := s.write("etc/containerd2.toml", fmt.Sprintf(`version = 3
root = %q
state = %q
[grpc]
  address = %q
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/%s"
  snapshotter = "native"
`, dir+"/root", dir+"/state", sock, goarch()))
	s.daemon(t, "containerd2", s.in(client(t, "containerd"), "-c", conf)...)
	until(t, "containerd's CRI answers", func() error {
		if out, err := s.try(s.in(client(t, "crictl"), "-i", "unix://"+sock, "-r", "unix://"+sock,
			"version")...); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return sock
}
