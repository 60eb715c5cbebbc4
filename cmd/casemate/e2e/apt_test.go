//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nodePackages are packages that Kubespray installs on nodes before anything else.
var nodePackages = []string{"conntrack", "socat", "ipset", "ebtables", "ipvsadm", "rsync", "unzip"}

// TestAptAcrossTheGap collects packages from the repositories that this machine uses, carries them across, and installs
// them with the same sources and the real apt, which verifies the publisher's own signatures.
func TestAptAcrossTheGap(t *testing.T) {
	l := newLab(t)
	b := newBastion(t, l, "n1")
	b.serve(t)
	n := l.host("node", b.ip)
	n.trust(b.casemate(t, "ca"))
	apt := newApt(t, n, machineSources(t))
	dir := t.TempDir()
	list := filepath.Join(dir, "packages.list")
	if err := os.WriteFile(list, []byte(strings.Join(nodePackages, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "apt.tar")
	create := func(file, list string, more ...string) string {
		return must(t, append([]string{filepath.Join(repo(t), "bin", "casemate"), "bundle", "create", file,
			"--packages",
			list, "--cache", filepath.Join(dir, "cache")}, append(apt.sourceFlags(), more...)...)...)
	}
	create(file, list)
	b.casemate(t, "import", file)

	for range 2 {
		out := apt.must(t, "update")
		if strings.Contains(out, "W:") || strings.Contains(out, "Err:") {
			t.Errorf("apt-get update complains:\n%s", out)
		}
	}
	apt.must(t, append([]string{"install", "--download-only", "-y"}, nodePackages...)...)
	for _, name := range nodePackages {
		if got, _ := filepath.Glob(n.path("apt/archives/" + name + "_*.deb")); len(got) != 1 {
			t.Errorf("%s was not fetched: %v", name, got)
		}
	}
	if out := b.casemate(t, "missing", "-o", "files"); strings.Contains(out, "http") {
		t.Errorf("the missing book should be empty:\n%s", out)
	}

	t.Run("a package outside of the list", func(t *testing.T) {
		if out, err := apt.try("install", "--download-only", "-y", "jq"); err == nil || !strings.Contains(out, "404") {
			t.Errorf("want 404, got %v\n%s", err, out)
		}
		if out := b.casemate(t, "missing", "-o", "files"); !strings.Contains(out, "/jq_") {
			t.Errorf("the missing book should name jq:\n%s", out)
		}
		if err := os.WriteFile(list, []byte("jq\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		inventory := filepath.Join(dir, "inventory.json")
		if err := os.WriteFile(inventory, []byte(b.casemate(t, "inventory")), 0o644); err != nil {
			t.Fatal(err)
		}
		next := filepath.Join(dir, "next.tar")
		if out := create(next, list, "--since", inventory); !strings.Contains(out, "left out") {
			t.Errorf("the indices are held, so they should be left out:\n%s", out)
		}
		b.casemate(t, "import", next)
		apt.must(t, "update")
		apt.must(t, "install", "--download-only", "-y", "jq")
	})
}

// aptOf is apt-get on a host, with directories of its own and no package installed.
type aptOf struct {
	*host
	sources []string // files
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

func newApt(t *testing.T, h *host, sources []string) *aptOf {
	t.Helper()
	a := &aptOf{host: h}
	for _, file := range sources {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		a.sources = append(a.sources, h.write("apt/etc/sources.list.d/"+filepath.Base(file), string(text)))
	}
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
	return a
}

// sourceFlags are those that name the sources to bundle create.
func (a *aptOf) sourceFlags() (flags []string) {
	for _, file := range a.sources {
		flags = append(flags, "--apt", file)
	}
	return flags
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
