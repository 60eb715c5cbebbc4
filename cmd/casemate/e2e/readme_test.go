//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// readme returns the shell blocks of a section of the README, command by command: a line that ends in \ goes on in the
// next one.
func readme(t *testing.T, section string) (blocks [][]string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(repo(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(data), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for {
		var block string
		if _, text, ok = strings.Cut(text, "```sh\n"); !ok {
			return blocks
		}
		block, text, _ = strings.Cut(text, "\n```")
		blocks = append(blocks, strings.Split(strings.ReplaceAll(block, "\\\n", ""), "\n"))
	}
}

// plainMachine is one with networkd and resolved, as most servers are, and systemd runs its containerd.
func plainMachine(m *booted) {
	m.service("systemd-networkd", true)
	m.service("systemd-resolved", true)
	m.service("NetworkManager", false)
	m.etc("systemd/network/10-eth0.network", "[Match]\nName=eth0\n[Network]\nAddress="+m.ip+"/24\nGateway=10.77.0.1\n")
	m.etc("resolv.conf", "-> ../run/systemd/resolve/stub-resolv.conf")
	m.etc("hostname", m.name+"\n")
	// containerd's own layers do not go onto the layers that this machine is made of.
	m.etc("systemd/system/containerd.service.d/disk.conf", "[Service]\nStateDirectory=containerd\nExecStartPre=sh -c "+
		"'mountpoint -q /var/lib/containerd || mount -t tmpfs tmpfs /var/lib/containerd'\n")
}

// TestReadme types the commands of the README, from the package to the first pull and to a second bastion, on machines
// that systemd has booted.
func TestReadme(t *testing.T) {
	dir := t.TempDir()
	packages(t, "v0.1.0", dir)
	l := newLab(t)

	// The connected side makes the file that is carried.
	up := newInternet(t, l)
	col := l.host("collector", "")
	col.trust(up.pem)
	col.write("etc/hosts", "127.0.0.1 localhost\n"+up.ip+" registry.k8s.io\n"+up.ip+" dl.k8s.io\n")
	up.put(t, "registry.k8s.io/pause:3.10", platforms(t, pauseImage(t)))
	file := make([]byte, 8<<20)
	rand.Read(file)
	up.files["dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm"] = file
	bundle := col.path("cluster.tar")
	col.must(t, filepath.Join(repo(t), "bin", "casemate"), "bundle", "create", bundle, "--cache", col.path("cache"),
		"--platform", "linux/"+goarch(),
		"--images", col.write("images.list", "registry.k8s.io/pause:3.10\n"), "--files",
		col.write("files.list", "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubeadm\n"))

	carry := func(m *booted) {
		must(t, "cp", filepath.Join(dir, "casemate_0.1.0-1_"+goarch()+".deb"), m.root+"/mnt")
		must(t, "mkdir", "-p", m.root+"/media/usb")
		must(t, "cp", bundle, m.root+"/media/usb/cluster.tar")
	}
	b := l.boot(t, "b1", plainMachine)
	carry(b)
	blocks := readme(t, "From the package to the first pull")
	if len(blocks) != 2 {
		t.Fatalf("%d blocks", len(blocks))
	}
	count := 0
	var line string
	for _, command := range blocks[0] {
		count++
		out := b.sh(t, "cd /mnt && "+command+" 2>/tmp/talk || { cat /tmp/talk; exit 1; }")
		if strings.HasPrefix(command, "casemate enroll") {
			line = strings.TrimSpace(out)
		}
	}
	n := l.boot(t, "node", plainMachine)
	count++
	if out := n.sh(t, line); !strings.Contains(out, "containerd") {
		t.Errorf("the runtime was not started anew:\n%s", out)
	}
	for _, command := range blocks[1] {
		count++
		n.sh(t, "cd /mnt && "+command)
	}
	if got, err := os.ReadFile(n.root + "/mnt/kubeadm"); err != nil || string(got) != string(file) {
		t.Errorf("kubeadm is another one: %v", err)
	}
	if count >= 10 {
		t.Errorf("%d commands from the package to the first pull; it should be under ten", count)
	}
	t.Logf("%d commands from the package to the first pull", count)

	// A second bastion.
	blocks = readme(t, "One or three bastions")
	if len(blocks) != 2 {
		t.Fatalf("%d blocks", len(blocks))
	}
	token := b.sh(t, blocks[0][0]+" 2>/dev/null")
	b2 := l.boot(t, "b2", plainMachine)
	carry(b2)
	b2.sh(t, "dpkg -i /mnt/casemate_*_$(dpkg --print-architecture).deb")
	if err := os.WriteFile(b2.root+"/mnt/token", []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range blocks[1] {
		b2.sh(t, "cd /mnt && "+strings.ReplaceAll(command, "10.0.0.11", b.ip))
	}
	until(t, "the second bastion votes", func() error {
		if out := b2.sh(t, "casemate member list"); strings.Count(out, "voter")+strings.Count(out, "leader") != 2 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if line2 := b2.sh(t, "casemate enroll 2>/dev/null"); line2 == line ||
		line2 != b.sh(t, "casemate enroll 2>/dev/null") {
		t.Errorf("with two bastions there is another line, and it is the same on both: %q", line2)
	}
}
