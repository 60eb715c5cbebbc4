//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/doctor"
)

// TestSiteIPv6: a site without IPv4. Three bastions join over IPv6, a node is enrolled as it was installed, doctor
// finds nothing, containerd, docker, podman, curl and apt find everything under its upstream name; then a bastion is
// killed.
func TestSiteIPv6(t *testing.T) {
	wholeSite(t, onlyIPv6)
}

// TestSiteDeadIPv6: the same in a site whose hosts have IPv6 addresses that lead nowhere.
func TestSiteDeadIPv6(t *testing.T) {
	wholeSite(t, deadIPv6, "--set", "dns.families=ipv4")
}

func wholeSite(t *testing.T, f family, initArgs ...string) {
	l := newLabOf(t, f)
	tr := newTrio(t, l, append(initArgs, "--permit", "corp.example")...)
	b := tr.nodes[0]
	if f == deadIPv6 {
		if out, err := b.try("ping", "-6", "-c", "1", "-W", "1", l.host("other", "").ips[1]); err == nil {
			t.Fatalf("the path over IPv6 is not dead:\n%s", out)
		}
	}
	filled(t, b)
	tr.whole(3)

	n := l.fresh(t, "node")
	n.fails(t, "Could not resolve host", "curl", "-sS", "https://registry.k8s.io/v2/")
	if out := n.must(t, "sh", "-c", b.line(t)); !strings.Contains(out, "done: ") {
		t.Errorf("the node is not enrolled:\n%s", out)
	}
	if working, all := n.resolvers(t, tr.nodes); len(working) < 2 || working[0] != all[0] {
		t.Errorf("of the node's resolvers %v, only %v work", all, working)
	}
	t.Run("doctor", func(t *testing.T) {
		r := n.doctor(t, 0)
		for _, c := range r.Checks {
			if c.State == doctor.Skipped || c.State == doctor.Failed {
				t.Errorf("%s is %s: %s", c.Name, c.State, c.Text)
			}
		}
		if f == onlyIPv6 && r.Warnings > 0 {
			t.Error("there is nothing to warn of")
		}
		t.Logf("\n%s", show(r))
	})
	n.uses(t)
	leader, followers := tr.roles()
	tr.kill(leader)
	t.Run("without the leader", func(t *testing.T) {
		has, _ := n.addressType()
		until(t, "DNS names the others alone", func() error {
			out, _ := n.try("dig", "+short", "+tries=1", "+time=1", "@"+followers[0].ip, "registry.k8s.io", has)
			if strings.Contains(out, leader.ip) || out == "" {
				return fmt.Errorf("%q", out)
			}
			return nil
		})
		n.must(t, "curl", "-fsS", "-o", "/dev/null", siteFile)
		if out := n.must(t, "dig", "+short", "-x", followers[0].ip); out != followers[0].name+".casemate.internal.\n" {
			t.Errorf("PTR of %s is %q", followers[0].ip, out)
		}
		until(t, "another node leads", func() error {
			out, err := followers[0].try(followers[0].bin(), "--socket", followers[0].socket, "name", "set",
				"late.corp.example", "TXT", "written")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	})
}

// resolvers returns the resolvers of a node, and those of them at which a bastion answers.
func (h *host) resolvers(t *testing.T, bastions []*bastion) (working, all []string) {
	t.Helper()
	conf, err := os.ReadFile(h.path("etc/resolv.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(conf)) {
		addr, ok := strings.CutPrefix(strings.TrimSpace(line), "nameserver ")
		if !ok {
			continue
		}
		all = append(all, addr)
		if slices.ContainsFunc(bastions, func(b *bastion) bool { return b.ip == addr }) {
			working = append(working, addr)
		}
	}
	return working, all
}

// siteFile and siteImage are what filled brings.
const (
	siteFile  = "https://dl.k8s.io/release/v1.35.4/bin/linux/amd64/kubectl"
	siteImage = "registry.k8s.io/pause:3.10"
)

// filled brings a bastion an image, a file and a repository of packages.
func filled(t *testing.T, b *bastion) {
	t.Helper()
	b.casemate(t, "import", "--name", "pause", writeImage(t, b.path("pause"), pauseImage(t)), "--repository", siteImage)
	b.casemate(t, "import", "--name", "large", writeImage(t, b.path("large"), randomImage(t, 6<<20, 1)), "--repository",
		"quay.io/team/large:1")
	b.write("kubectl", "#!/bin/sh\n")
	b.casemate(t, "file", "put", siteFile, b.path("kubectl"))
	b.casemate(t, "origin", "add", "deb.corp.example")
	aptRepository(t, b.path("mirror/deb.corp.example"))
	b.casemate(t, "import", "--name", "deb", b.path("mirror"))
}

// uses lets the clients of an enrolled node take what filled has brought.
func (h *host) uses(t *testing.T) {
	t.Helper()
	t.Run("curl", func(t *testing.T) {
		if out := h.must(t, "curl", "-fsS", siteFile); out != "#!/bin/sh\n" {
			t.Errorf("%q", out)
		}
		h.must(t, "curl", "-fsS", "https://n1.casemate.internal/healthz")
	})
	t.Run("containerd", func(t *testing.T) {
		sock := h.containerd(t)
		h.must(t, "ctr", "-a", sock, "images", "pull", "--snapshotter", "native", siteImage)
		os.Remove(h.path("etc/containerd.toml")) // the lab's, not the node's
	})
	t.Run("docker", func(t *testing.T) {
		sock := h.dockerd(t)
		h.must(t, "docker", "-H", "unix://"+sock, "--config", h.path("tmp/docker"), "pull", siteImage)
	})
	t.Run("podman", func(t *testing.T) {
		runroot, err := os.MkdirTemp("", "pr") // podman wants a short one
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(runroot)
		policy := h.write("tmp/policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
		h.must(t, "podman", "--root", h.path("tmp/podman"), "--runroot", runroot, "--storage-driver", "vfs", "pull",
			"--signature-policy", policy, siteImage)
	})
	t.Run("apt", func(t *testing.T) {
		list := h.write("tmp/apt/sources.list", "deb [trusted=yes] http://deb.corp.example/ stable main\n")
		for _, dir := range []string{"state/lists/partial", "cache/archives/partial"} {
			if err := os.MkdirAll(h.path("tmp/apt/"+dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		h.write("tmp/apt/status", "")
		apt := []string{"apt-get", "-o", "Dir::Etc::SourceList=" + list, "-o", "Dir::Etc::SourceParts=/dev/null", "-o",
			"Dir::State=" + h.path("tmp/apt/state"), "-o", "Dir::State::status=" + h.path("tmp/apt/status"), "-o",
			"Dir::Cache=" + h.path("tmp/apt/cache"), "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"}
		h.must(t, append(apt, "update", "--error-on=any")...)
		h.must(t, append(apt, "install", "--download-only", "--yes", "hello-site")...)
		if found, _ := filepath.Glob(h.path("tmp/apt/cache/archives/hello-site_1.0_all.deb")); len(found) != 1 {
			t.Errorf("the package is not there")
		}
	})
}

// aptRepository makes a repository with one package, as a mirror has it on its disk.
func aptRepository(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write := func(name, text string) {
		if err := os.WriteFile(at(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := t.TempDir()
	if err := os.MkdirAll(filepath.Join(build, "DEBIAN"), 0o755); err != nil {
		t.Fatal(err)
	}
	control := "Package: hello-site\nVersion: 1.0\nArchitecture: all\nMaintainer: Site <ops@corp.example>\n" +
		"Description: a package of the site\n"
	if err := os.WriteFile(filepath.Join(build, "DEBIAN/control"), []byte(control), 0o644); err != nil {
		t.Fatal(err)
	}
	const pool = "pool/main/h/hello-site/hello-site_1.0_all.deb"
	must(t, "dpkg-deb", "--build", "--root-owner-group", build, at(pool))
	deb, err := os.ReadFile(at(pool))
	if err != nil {
		t.Fatal(err)
	}
	arch := strings.TrimSpace(must(t, "dpkg", "--print-architecture"))
	packages := fmt.Sprintf("%sFilename: %s\nSize: %d\nSHA256: %x\n\n", control, pool, len(deb), sha256.Sum256(deb))
	index := "main/binary-" + arch + "/Packages"
	write("dists/stable/"+index, packages)
	must(t, "xz", "--keep", at("dists/stable/"+index))
	packed, err := os.ReadFile(at("dists/stable/" + index + ".xz"))
	if err != nil {
		t.Fatal(err)
	}
	var release bytes.Buffer
	fmt.Fprintf(&release, "Origin: Site\nSuite: stable\nCodename: stable\nArchitectures: %s all\nComponents: main\n"+
		"Acquire-By-Hash: yes\nDate: Tue, 01 Jan 2019 00:00:00 UTC\nSHA256:\n", arch)
	for name, data := range map[string][]byte{index: []byte(packages), index + ".xz": packed} {
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		fmt.Fprintf(&release, " %s %d %s\n", sum, len(data), name)
		write("dists/stable/"+filepath.Dir(name)+"/by-hash/SHA256/"+sum, string(data))
	}
	write("dists/stable/Release", release.String())
}
