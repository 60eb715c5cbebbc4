//go:build e2e

package e2e

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ownEtc gives a command a separate /etc, /var/lib and local roots: to the enrol script this is a machine.
const ownEtc = `set -e
mount --bind "$1/etc" /etc
mount --bind "$1/local" /usr/local/share/ca-certificates
mount --bind "$1/lib" /var/lib
shift
exec "$@"`

// fresh is a host as the distribution installs it: its resolver is a wrong one, and it trusts what everybody trusts.
func (l *lab) fresh(t *testing.T, name string) *host {
	t.Helper()
	h := l.host(name, "")
	h.view = ownEtc
	if err := os.RemoveAll(h.path("etc")); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", "-a", "/etc", h.path("etc"))
	for _, d := range []string{"local", "lib"} {
		if err := os.MkdirAll(h.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(h.path("etc/resolv.conf"))
	nobody := "10.77.0.250"
	if l.family == onlyIPv6 {
		nobody = "fd77::250"
	}
	h.write("etc/resolv.conf", "# as it was installed\nsearch corp.example\nnameserver "+nobody+"\noptions "+
		"timeout:1 attempts:1\n")
	h.write("etc/hosts", "127.0.0.1 localhost\n")
	h.must(t, "update-ca-certificates", "--fresh")
	return h
}

// tree is everything below dirs: kind, mode, content or target.
func tree(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	list := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			text := info.Mode().String()
			switch {
			case info.Mode().Type() == fs.ModeSymlink:
				to, err := os.Readlink(path)
				if err != nil {
					return err
				}
				text += " -> " + to
			case info.Mode().IsRegular():
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text += "\n" + string(data)
			}
			list[path] = text
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func sameTree(t *testing.T, was, is map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if is[name] != was[name] {
			t.Errorf("%s was %.300q, is %.300q", name, was[name], is[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if _, ok := was[name]; !ok {
			t.Errorf("%s is new: %.300q", name, is[name])
		}
	}
}

// line is what casemate enroll prints on standard output.
func (b *bastion) line(t *testing.T) string {
	t.Helper()
	out := b.casemate(t, "enroll") // with the talk
	m := regexp.MustCompile(`(?m)^sh -c .*$`).FindString(out)
	if m == "" {
		t.Fatalf("casemate enroll printed no line:\n%s", out)
	}
	return m
}

// TestEnroll: the line that a bastion prints makes a node, as it was installed, pull and fetch by upstream names; and
// undo leaves no trace.
func TestEnroll(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	admin := l.host("admin", b.ip)
	admin.trust(b.casemate(t, "ca"))
	if out, err := b.tryIn("correct horse\n", b.bin(), "--socket", b.socket, "user", "add", "ops",
		"--password-stdin"); err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	if out, err := admin.tryIn("correct horse", client(t, "crane"), "auth", "login", "registry.casemate.internal", "-u",
		"ops", "--password-stdin"); err != nil {
		t.Fatalf("crane auth login: %v\n%s", err, out)
	}
	admin.must(t, client(t, "crane"), "push", writeImage(t, admin.path("pause"), pauseImage(t)),
		"registry.casemate.internal/registry.k8s.io/pause:3.10")
	line := b.line(t)

	n := l.fresh(t, "node")
	all := func() map[string]string {
		list := tree(t, n.path("etc"), n.path("local"), n.path("lib"))
		// Where Java is installed, a hook of update-ca-certificates keeps its list there.
		maps.DeleteFunc(list, func(name, _ string) bool {
			return strings.HasPrefix(name, n.path("lib/ca-certificates-java"))
		})
		return list
	}
	was := all()
	n.fails(t, "Could not resolve host", "curl", "-sS", "https://registry.k8s.io/v2/")

	if out := n.must(t, "sh", "-c", line+" --dry-run"); !strings.Contains(out, "+nameserver "+b.ip) {
		t.Errorf("the dry run said:\n%s", out)
	}
	sameTree(t, was, all())

	out := n.must(t, "sh", "-c", line)
	for _, want := range []string{"wrote /etc/resolv.conf", "running: update-ca-certificates",
		"resolve to the bastions, and the certificate is trusted", "done: "} {
		if !strings.Contains(out, want) {
			t.Errorf("the run did not say %q:\n%s", want, out)
		}
	}
	if out := n.must(t, "curl", "-fsS", "-o", "/dev/null", "-w", "%{http_code}",
		"https://registry.k8s.io/v2/"); out != "200" {
		t.Errorf("https://registry.k8s.io/v2/: %s", out)
	}
	n.must(t, "curl", "-fsS", "https://casemate.internal/healthz")
	t.Run("containerd pulls by upstream name", func(t *testing.T) {
		sock := n.containerd(t)
		n.must(t, "ctr", "-a", sock, "images", "pull", "--snapshotter", "native", "registry.k8s.io/pause:3.10")
	})
	os.Remove(n.path("etc/containerd.toml")) // the lab's, not the node's

	enrolled := all()
	if out := n.must(t, "sh", "-c", line); !strings.Contains(out, "nothing to do") {
		t.Errorf("the second run said:\n%s", out)
	}
	sameTree(t, enrolled, all())

	t.Run("a new root", func(t *testing.T) {
		b.casemate(t, "ca", "rotate")
		line := b.line(t)
		n.must(t, "sh", "-c", line)
		b.casemate(t, "ca", "rotate", "--finish", "--yes")
		n.must(t, "curl", "-fsS", "https://registry.k8s.io/v2/")
		n.must(t, "sh", "-c", b.line(t)) // takes the old root away
		n.must(t, "curl", "-fsS", "https://registry.k8s.io/v2/")
	})

	n.must(t, "sh", "-c", b.line(t)+" --undo")
	sameTree(t, was, all())
	n.fails(t, "Could not resolve host", "curl", "-sS", "https://registry.k8s.io/v2/")

	t.Run("without the resolver", func(t *testing.T) {
		n.must(t, "sh", "-c", b.line(t)+" --no-resolver")
		n.must(t, "curl", "-fsS", "https://n1.casemate.internal/healthz")
		n.fails(t, "Could not resolve host", "curl", "-sS", "https://registry.k8s.io/v2/")
		n.must(t, "sh", "-c", b.line(t)+" --undo")
		sameTree(t, was, all())
	})
	t.Run("the reason of a failure is named", func(t *testing.T) {
		b.casemate(t, "config", "set", "dns.allow", "192.0.2.0/24")
		n.fails(t, "casemate.internal does not resolve: the bastions ("+b.ip+") do not answer on port 53", "sh", "-c",
			b.line(t))
		n.must(t, "grep", "-q", "nameserver 10.77.0.250", "/etc/resolv.conf") // its old one
		b.casemate(t, "config", "set", "dns.allow", "--default")
		if out := n.must(t, "sh", "-c", b.line(t)); !strings.Contains(out, "the certificate is trusted") ||
			!strings.Contains(out, "done: 1 files changed") {
			t.Errorf("the run after it said:\n%s", out)
		}
		n.must(t, "sh", "-c", b.line(t)+" --undo")
		sameTree(t, was, all())
	})
	t.Run("the Ansible role", func(t *testing.T) {
		if _, err := exec.LookPath("ansible-playbook"); err != nil {
			t.Fatal("ansible-playbook is not installed: cmd/casemate/e2e/prepare installs it")
		}
		roles := n.path("tmp/roles")
		b.casemate(t, "enroll", "--format", "ansible", "--dir", roles+"/casemate_enroll")
		root := n.path("tmp/root")
		n.write("tmp/root/etc/resolv.conf", "nameserver 192.168.1.1\n")
		if err := os.MkdirAll(root+"/usr/share/ca-certificates", 0o755); err != nil {
			t.Fatal(err)
		}
		was := tree(t, root)
		book := n.write("tmp/book.yml", "- hosts: localhost\n  connection: local\n  gather_facts: false\n  roles: "+
			"[casemate_enroll]\n  vars:\n    ansible_python_interpreter: /usr/bin/python3\n    "+
			"casemate_enroll_become: false\n")
		play := func(changed string, args ...string) string {
			t.Helper()
			args = append([]string{"env", "ANSIBLE_ROLES_PATH=" + roles, "ANSIBLE_NOCOLOR=1", "ansible-playbook", "-i",
				"localhost,", book, "-e", "casemate_enroll_root=" + root}, args...)
			out := n.must(t, args...)
			if !strings.Contains(out, "changed="+changed+" ") {
				t.Errorf("%v: want changed=%s:\n%s", args, changed, out)
			}
			return out
		}
		if out := play("1", "--check", "--diff"); !strings.Contains(out, "+nameserver "+b.ip) {
			t.Errorf("the check shows no diff:\n%s", out)
		}
		sameTree(t, was, tree(t, root))
		play("1")
		done := tree(t, root)
		play("0")
		play("0", "--check")
		sameTree(t, done, tree(t, root))
		play("1", "-e", "casemate_enroll_state=absent")
		play("0", "-e", "casemate_enroll_state=absent")
		sameTree(t, was, tree(t, root))
	})
}
