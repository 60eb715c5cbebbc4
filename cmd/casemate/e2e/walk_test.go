//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// isolatedMachine is a plainMachine with one address and no default route, as bastions in an air-gapped network are.
func isolatedMachine(m *booted) {
	plainMachine(m)
	m.etc("systemd/network/10-eth0.network", "[Match]\nName=eth0\n[Network]\nAddress="+m.ip+"/24\n")
}

// lend copies a program of this machine's, which is the same Debian, with the libraries that the other one lacks.
func (m *booted) lend(t *testing.T, program string) {
	t.Helper()
	files := []string{program}
	for _, f := range strings.Fields(must(t, "ldd", program)) {
		if strings.HasPrefix(f, "/") {
			files = append(files, f)
		}
	}
	for _, f := range files {
		to := filepath.Join(m.root, f)
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		must(t, "cp", "-L", f, to)
	}
}

// terminal types a line in the machine, at a terminal, and then the answers to what it asks.
func (m *booted) terminal(t *testing.T, line string, answers ...string) string {
	t.Helper()
	return m.sh(t, "printf '"+strings.Join(answers, "\\n")+"\\n' | script -qec '"+line+"' /dev/null")
}

// TestWalk is a new operator's first day, with the lines that the README says, on a bastion without a default route:
// from the package to pulls and pushes on the bastion itself, and a root that is made wider while a node works on.
func TestWalk(t *testing.T) {
	dir := t.TempDir()
	packages(t, "v0.1.0", dir)
	l := newLab(t)

	// The connected side.
	up := newInternet(t, l)
	col := l.host("collector", "")
	col.trust(up.pem)
	col.write("etc/hosts", "127.0.0.1 localhost\n"+up.ip+" registry.k8s.io\n"+up.ip+" dl.k8s.io\n")
	pause := pauseImage(t)
	up.put(t, "registry.k8s.io/pause:3.10", platforms(t, pause))
	const kubeadm = "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm"
	file := make([]byte, 1<<20)
	rand.Read(file)
	up.files[strings.TrimPrefix(kubeadm, "https://")] = file
	col.write("work/images.list", "registry.k8s.io/pause:3.10\n")
	col.write("work/files.list", kubeadm+"\n")
	here := func(line string) string {
		return "cd " + col.path("work") + " && PATH=" + filepath.Join(repo(t), "bin") + ":$PATH && " +
			strings.ReplaceAll(line, "linux/amd64", "linux/"+goarch())
	}
	gap := readme(t, "What goes in, and how")
	if len(gap) != 7 {
		t.Fatalf("%d blocks", len(gap))
	}
	for _, line := range gap[0] {
		if !strings.Contains(line, "--kubespray") {
			col.must(t, "sh", "-c", here(line))
		}
	}

	// The bastion. What make packages leaves in dist/ lies there, for both architectures.
	b := l.boot(t, "b1", isolatedMachine)
	must(t, "mkdir", "-p", b.root+"/media/usb")
	must(t, "cp", col.path("work/cluster.tar"), b.root+"/media/usb")
	must(t, "cp", col.path("work/office.pub"), col.path("work/images.list"), col.path("work/files.list"), b.root+"/mnt")
	must(t, "cp", filepath.Join(dir, "casemate_0.1.0-1_"+goarch()+".deb"), b.root+"/mnt")
	for _, arch := range []string{"amd64", "arm64"} {
		if arch != goarch() {
			if err := os.WriteFile(b.root+"/mnt/casemate_0.1.0-1_"+arch+".deb", []byte("of another architecture"),
				0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := readme(t, "From the package to the first pull")
	var line string
	for _, command := range first[0] {
		out := b.sh(t, "cd /mnt && "+command+" 2>/tmp/talk || { cat /tmp/talk; exit 1; }")
		talk := b.sh(t, "cat /tmp/talk")
		switch {
		case strings.HasPrefix(command, "casemate init"):
			for _, want := range []string{"casemate.bank.example", "casemate enroll | sh\n",
				"this prints: casemate enroll\n"} {
				if !strings.Contains(talk, want) {
					t.Errorf("%s does not say %q:\n%s", command, want, talk)
				}
			}
		case strings.HasSuffix(command, "| sh"):
			if !strings.Contains(out, "resolve to the bastions, and the certificate is trusted") {
				t.Errorf("%s said\n%s%s", command, out, talk)
			}
		case command == "casemate enroll":
			line = strings.TrimSpace(out)
		}
	}
	b.wrong(t, "is initialised already, and its daemon is running: casemate status", "casemate init 2>&1")
	b.wrong(t, "run the command as root or as a member of the group casemate", "runuser -u nobody casemate status 2>&1")
	b.sh(t, "casemate status --check")

	t.Log("on the bastion itself the names work")
	if out := b.sh(t, "getent ahostsv4 registry.k8s.io"); !strings.HasPrefix(out, b.ip) {
		t.Errorf("registry.k8s.io on the bastion: %s", out)
	}
	for _, command := range first[1] {
		if strings.HasPrefix(command, "ctr ") {
			b.sh(t, "systemctl start containerd")
		}
		b.sh(t, "cd /mnt && "+command)
	}
	if got, err := os.ReadFile(b.root + "/mnt/kubeadm"); err != nil || string(got) != string(file) {
		t.Errorf("kubeadm is another one: %v", err)
	}
	for _, line := range gap[1] {
		b.sh(t, "cd /mnt && "+strings.ReplaceAll(line, "linux/amd64", "linux/"+goarch()))
	}

	t.Log("pushing, where the README shows it")
	b.lend(t, "/usr/bin/skopeo")
	must(t, "cp", "-a", "/etc/containers", b.root+"/etc")
	ref, err := name.NewTag("registry.k8s.io/pause:3.10")
	if err == nil {
		err = tarball.WriteToFile(b.root+"/mnt/pause.tar", ref, pause)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range gap[2] {
		if strings.HasPrefix(line, "casemate user add") {
			b.terminal(t, line, "correct horse", "correct horse")
		} else if strings.HasPrefix(line, "skopeo login") {
			b.terminal(t, line, "correct horse")
		} else {
			b.sh(t, "cd /mnt && "+line)
		}
	}
	b.sh(t, "skopeo inspect --raw docker://registry.k8s.io/pause:3.10")
	for _, line := range gap[3] { // accounts, and the bastion over https
		line = strings.ReplaceAll(line, "https://n1.", "https://b1.")
		switch {
		case strings.HasPrefix(line, "casemate user add"):
			b.terminal(t, line, "correct horse", "correct horse")
		case strings.HasPrefix(line, "casemate login"):
			b.terminal(t, line, "correct horse")
		default:
			b.sh(t, line)
		}
	}
	for _, line := range gap[4] { // the missing book as lists, the inventory
		b.sh(t, "cd /mnt && "+line)
	}

	t.Log("a zone that nobody thought of: the origin is refused, and nothing is stored")
	node := l.fresh(t, "node")
	node.must(t, "sh", "-c", line)
	works := func(what string) {
		t.Helper()
		if out, err := node.try("curl", "-fsS", "-o", node.path("tmp/kubeadm"), kubeadm); err != nil {
			t.Errorf("%s: the node does not work: %v\n%s", what, err, out)
		}
	}
	works("enrolled")
	out, err := b.in("sh", "-c", "casemate origin add files.newzone.example 2>&1")
	rotate := regexp.MustCompile(`casemate ca rotate --permit \S+`).FindString(out)
	if err == nil || rotate == "" {
		t.Fatalf("origin add: %v\n%s", err, out)
	}
	if out := b.sh(t, "casemate origin list"); strings.Contains(out, "newzone") {
		t.Errorf("a refused origin is stored:\n%s", out)
	}
	b.sh(t, rotate) // as the error says
	works("in the overlap")
	b.sh(t, "casemate origin add files.newzone.example && echo new > /mnt/new && casemate file put "+
		"https://files.newzone.example/new /mnt/new")
	works("in the overlap, with the new origin")
	b.wrong(t, "", "casemate ca rotate --finish --dry-run 2>&1")
	works("after a finish that was refused")
	node.must(t, "sh", "-c", strings.TrimSpace(b.sh(t, "casemate enroll 2>/dev/null")))
	works("with both roots")
	if out := node.must(t, "curl", "-fsS", "https://files.newzone.example/new"); out != "new\n" {
		t.Errorf("the new origin: %q", out)
	}
	b.wrong(t, "the overlap lasts until", "casemate ca rotate --finish --dry-run 2>&1")
	b.sh(t, "casemate ca rotate --finish --yes")
	works("with the new root alone")
	node.must(t, "curl", "-fsS", "https://files.newzone.example/new")

	t.Log("generated mirrors on a machine that asks nobody for names: a registry nobody named is a clean miss")
	mirrored := l.stranger("mirrored")
	b.sh(t, "casemate mirrors --for containerd --dir /mnt/mirrors")
	must(t, "cp", "-a", b.root+"/mnt/mirrors/etc/.", mirrored.root+"/etc")
	mirrored.hosts(t)
	sock, state := mirrored.path("tmp/containerd.sock"), mirrored.path("tmp/containerd")
	mirrored.write("etc/containerd.toml", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
	mirrored.daemon(t, "containerd", mirrored.in("containerd", "-c", mirrored.path("etc/containerd.toml"), "--root",
		state+"/root", "--state", state+"/state", "-a", sock)...)
	until(t, "containerd answers", func() error {
		_, err := mirrored.try("ctr", "-a", sock, "version")
		return err
	})
	pull := func(ref string) (string, error) {
		return mirrored.try(mirrored.in("ctr", "-a", sock, "images", "pull", "--snapshotter", "native", "--hosts-dir",
			"/etc/containerd/certs.d", ref)...)
	}
	if out, err := pull("registry.k8s.io/pause:3.10"); err != nil {
		t.Errorf("a mirrored pull: %v\n%s", err, out)
	}
	const nobodys = "registry.nobody.example/team/app:1"
	if out, err := pull(nobodys); err == nil || !strings.Contains(out, "not found") ||
		strings.Contains(out, "lookup ") {
		t.Errorf("a registry nobody named should be not found, and nobody asked for its name: %v\n%s", err, out)
	}
	until(t, "the missing book names it", func() error {
		if out := b.sh(t, "casemate missing -o images"); !strings.Contains(out, nobodys) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}
