//go:build e2e

package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// nodePackages are packages that Kubespray installs on nodes before anything else: those that the test installs with
// apt-get, among them what Ansible's modules need, and those that it leaves to Ansible.
var nodePackages, ansiblePackages = []string{"conntrack", "ebtables", "ipvsadm", "rsync", "unzip", "python3-apt",
	"python3-setuptools", "python3-venv"}, []string{"socat", "ipset", "xfsprogs", "bash-completion"}

// TestAptAcrossTheGap collects packages from the repositories that this machine uses, carries them across, and installs
// them on a booted Debian that has the same sources and keys, with its own apt, which verifies the publisher's own
// signatures.
func TestAptAcrossTheGap(t *testing.T) {
	l := newLab(t)
	b := newBastion(t, l, "n1", machinePermits(t)...)
	b.serve(t)
	sources := machineSources(t)
	dir := t.TempDir()
	create := func(file string, packages string, more ...string) string {
		t.Helper()
		list := filepath.Join(dir, file+".list")
		if err := os.WriteFile(list, []byte(packages), 0o644); err != nil {
			t.Fatal(err)
		}
		args := []string{filepath.Join(repo(t), "bin", "casemate"), "bundle", "create", filepath.Join(dir, file),
			"--packages", list, "--cache", filepath.Join(dir, "cache")}
		for _, s := range sources {
			args = append(args, "--apt", s)
		}
		for _, k := range machineKeyrings(t) {
			args = append(args, "--keyring", k)
		}
		return must(t, append(args, more...)...)
	}
	create("first.tar", strings.Join(append(nodePackages, ansiblePackages...), "\n")+"\n")
	b.casemate(t, "import", filepath.Join(dir, "first.tar"))

	m := l.boot(t, "node", func(m *booted) {
		plainMachine(m)
		m.service("containerd", false)
		m.etc("systemd/network/10-eth0.network", "[Match]\nName=eth0\n[Network]\nAddress="+m.ip+"/24\nDNS="+b.ip+"\n")
		aptOfThisMachine(t, m, sources)
		root := filepath.Join(m.root, "usr/local/share/ca-certificates/casemate.crt")
		if err := os.WriteFile(root, []byte(b.casemate(t, "ca")), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	m.sh(t, "update-ca-certificates")
	// The verdict about the signature is apt's own.
	m.wrong(t, "is not signed", "apt-get -o Apt::Key::gpgvcommand=/bin/false update 2>&1")
	for range 2 {
		if out := m.sh(t, "apt-get update 2>&1"); strings.Contains(out, "W:") || strings.Contains(out, "Err:") {
			t.Errorf("apt-get update complains:\n%s", out)
		}
	}
	m.sh(t, "apt-get install -y "+strings.Join(nodePackages, " "))
	m.installed(t, nodePackages)
	m.says(t, "conntrack v", "conntrack --version")
	t.Run("Ansible", func(t *testing.T) { ansibleInstalls(t, b, m) })
	b.missedNothing(t)

	t.Run("a package outside of the list", func(t *testing.T) {
		m.wrong(t, "404", "apt-get install -y jq 2>&1")
		missed := b.casemate(t, "missing", "-o", "packages")
		if !strings.Contains(missed, "\njq:") {
			t.Errorf("the missing book should name jq:\n%s", missed)
		}
		inventory := filepath.Join(dir, "inventory.json")
		if err := os.WriteFile(inventory, []byte(b.casemate(t, "inventory")), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := create("next.tar", missed, "--since", inventory); !strings.Contains(out, "left out") {
			t.Errorf("the indices are held, so they should be left out:\n%s", out)
		}
		b.casemate(t, "import", filepath.Join(dir, "next.tar"))
		m.sh(t, "apt-get update && apt-get install -y jq")
		m.says(t, "jq-", "jq --version")
	})
}

// installed fails if dpkg has not unpacked and configured these packages.
func (m *booted) installed(t *testing.T, names []string) {
	t.Helper()
	for _, name := range names {
		m.says(t, "install ok installed", "dpkg-query -W -f='${Status}' "+name)
	}
}

// aptOfThisMachine gives a booted Debian the sources and keys of this machine, and no others.
func aptOfThisMachine(t *testing.T, m *booted, sources []string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(m.root, "etc/apt/sources.list")); err != nil {
		t.Fatal(err)
	}
	for _, file := range sources {
		must(t, "cp", file, filepath.Join(m.root, file))
	}
	for _, d := range []string{"/etc/apt/keyrings", "/etc/apt/trusted.gpg.d", "/usr/share/keyrings"} {
		if _, err := os.Stat(d); err == nil {
			must(t, "cp", "-r", "-n", d, filepath.Dir(filepath.Join(m.root, d)))
		}
	}
}

// machineKeyrings are the keys that apt on this machine trusts for sources that name none.
func machineKeyrings(t *testing.T) (files []string) {
	t.Helper()
	for _, pattern := range []string{"*.gpg", "*.asc"} {
		found, err := filepath.Glob(filepath.Join("/etc/apt/trusted.gpg.d", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	return files
}

// machinePermits are the flags of init for the hosts of this machine's repositories.
func machinePermits(t *testing.T) (flags []string) {
	t.Helper()
	for _, uri := range strings.Fields(must(t, "apt-get", "indextargets", "--format", "$(REPO_URI)",
		"Created-By: Packages")) {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(flags, u.Hostname()) {
			flags = append(flags, "--permit", u.Hostname())
		}
	}
	return flags
}

// aptOf is apt-get on a host, with directories of its own and no package installed.
type aptOf struct {
	*host
}

// machineSources are the files of sources that this machine uses.
func machineSources(t *testing.T) (files []string) {
	t.Helper()
	for _, pattern := range []string{"sources.list", "sources.list.d/*.list", "sources.list.d/*.sources"} {
		found, err := filepath.Glob(filepath.Join("/etc/apt", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Fatal("this machine has no sources of packages")
	}
	return files
}

func newApt(t *testing.T, h *host) *aptOf {
	t.Helper()
	for _, d := range []string{"apt/lists/partial", "apt/archives/partial", "apt/etc/apt.conf.d", "apt/log",
		"apt/etc/preferences.d"} {
		if err := os.MkdirAll(h.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write("apt/status", "")
	// The machine's own settings (Dir::Etc::parts) are not read.
	h.write("apt/apt.conf", fmt.Sprintf(`Dir::Etc %q;
Dir::Etc::parts "apt.conf.d";
Dir::Etc::sourcelist "none";
Dir::Etc::sourceparts "sources.list.d";
Dir::Etc::trusted "none";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::State::lists %q;
Dir::State::status %q;
Dir::Cache::archives %q;
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log %q;
APT::Sandbox::User "root";
APT::Architecture "amd64";
Acquire::Languages "en";
Acquire::Retries "0";
`, h.path("apt/etc"), h.path("apt/lists"), h.path("apt/status"), h.path("apt/archives"), h.path("apt/log")))
	return &aptOf{h}
}

func (a *aptOf) try(args ...string) (string, error) {
	return a.host.try(append([]string{"env", "APT_CONFIG=" + a.path("apt/apt.conf"), "apt-get"}, args...)...)
}

func (a *aptOf) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := a.try(args...)
	if err != nil {
		t.Fatalf("apt-get %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}
