package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"casemate/cluster/treetest"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestInitRefusesContradictions(t *testing.T) {
	for _, c := range []struct {
		what    string
		edit    func(*Spec)
		enabled []string
		want    string
	}{
		{"no domain", func(s *Spec) { s.Domain = "" }, nil, `domain: "" is not a host name`},
		{"domain is an address", func(s *Spec) { s.Domain = "10.0.0.1" }, nil, "domain 10.0.0.1 is an address"},
		{"domain swallows an origin", func(s *Spec) { s.Domain = "io" }, nil, "domain io holds the public zone"},
		{"domain is an origin", func(s *Spec) { s.Domain = "docker.io" }, nil,
			"domain docker.io holds the public zone docker.io"},
		{"domain excluded", func(s *Spec) { s.Exclude = []string{"internal"} }, nil,
			"exclude internal forbids the domain casemate.internal itself"},
		{"permit in exclude", func(s *Spec) {
			s.Permit, s.Exclude = []string{"a.corp.example"},
				[]string{"corp.example"}
		}, nil, "permit a.corp.example is in exclude corp.example"},
		{"permit is exclude", func(s *Spec) {
			s.Permit, s.Exclude = []string{"Corp.Example."},
				[]string{"corp.example"}
		}, nil, "permit corp.example is in exclude corp.example"},
		{"range in range", func(s *Spec) { s.Permit, s.Exclude = []string{"192.0.2.0/28"}, []string{"192.0.2.0/24"} },
			nil, "permit 192.0.2.0/28 is in exclude 192.0.2.0/24"},
		{"advertised excluded", func(s *Spec) { s.Exclude = []string{"127.0.0.0/8"} }, nil,
			"advertised address 127.0.0.1 is in exclude 127.0.0.0/8"},
		{"advertised unspecified", func(s *Spec) {
			s.Addrs = addrs("0.0.0.0")
		}, nil, "advertised address 0.0.0.0 cannot be in a certificate"},
		{"too wide a zone", func(s *Spec) { s.Permit = []string{"com"} }, nil,
			"permit com is wider than the public zone"},
		{"too wide a range", func(s *Spec) { s.Permit = []string{"0.0.0.0/0"} }, nil,
			"permit 0.0.0.0/0 is most of the internet"},
		{"bits behind the prefix", func(s *Spec) { s.Permit = []string{"192.0.2.1/24"} }, nil, "write 192.0.2.0/24"},
		{"node", func(s *Spec) { s.Node = "../x" }, nil, `node name "../x" is not allowed in a path`},
		{"wildcard", func(s *Spec) { s.Permit = []string{"*.corp.example"} }, nil,
			`write a zone without the leading "*."`},
		{"leading dot", func(s *Spec) { s.Exclude = []string{".corp.example"} }, nil,
			`write a zone without the leading "."`},
		{"rubbish", func(s *Spec) { s.Exclude = []string{"corp example"} }, nil,
			`exclude "corp example" is neither a zone nor a CIDR`},
		{"public range", func(s *Spec) { s.Public = []string{"10.0.0.0/8"} }, nil,
			"public zone 10.0.0.0/8 is an address range"},
		{"enabled but not permitted", nil, []string{"registry.bank.example"},
			"name registry.bank.example: not permitted"},
		{"enabled but excluded", func(s *Spec) { s.Exclude = []string{"github.com"} }, []string{"github.com"},
			"name github.com is in the excluded zone github.com"},
		{"enabled rubbish", nil, []string{"a b"}, `enabled "a b" is not a host name`},
	} {
		t.Run(c.what, func(t *testing.T) {
			tree := treetest.New(t)
			spec := testSpec(newClock())
			if c.edit != nil {
				c.edit(&spec)
			}
			err := Init(t.Context(), tree, newSealer(t), spec, c.enabled)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, ErrNotPermitted) {
				t.Errorf("%v is not told from trouble of ours", err)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one sentence: %v", err)
			}
			if list, _ := tree.ReadDir("."); len(list) != 0 {
				t.Errorf("something was written: %v", list)
			}
		})
	}
}

func TestInitTwice(t *testing.T) {
	h := build(t, nil)
	if err := Init(t.Context(), h.tree, h.cfg.Sealer, testSpec(h.clock), nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
}

func TestOpenWithoutCA(t *testing.T) {
	cfg := Config{Tree: treetest.New(t), Sealer: newSealer(t), Dir: t.TempDir(), Domain: "casemate.internal"}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func TestSpecPermits(t *testing.T) {
	spec := testSpec(newClock())
	spec.Permit, spec.Exclude = []string{"corp.example", "203.0.113.0/24"}, []string{"vault.corp.example", "gcr.io"}
	for _, good := range []string{"registry.k8s.io", "Registry.K8S.io.", "app.corp.example", "10.1.2.3", "203.0.113.5",
		"fd00::1", "[fd00::1]", "::ffff:10.0.0.1", "*.corp.example.casemate.internal", "casemate.internal"} {
		if err := spec.Permits(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"bank.example", "k8s.io.evil.example", "evilk8s.io", "vault.corp.example",
		"x.vault.corp.example", "*.corp.example", "us.gcr.io", "8.8.8.8", "2001:db8::1"} {
		if err := spec.Permits(bad); !errors.Is(err, ErrNotPermitted) {
			t.Errorf("%s: got %v, want ErrNotPermitted", bad, err)
		}
	}
	for _, rubbish := range []string{"", "a..b", "-a.b", "a b", "fe80::1%eth0", strings.Repeat("a", 2000), "a.b.1",
		strings.Repeat("a.", 200) + "b"} {
		if err := spec.Permits(rubbish); err == nil || errors.Is(err, ErrNotPermitted) {
			t.Errorf("%.20q: got %v, want a sentence about the name", rubbish, err)
		}
	}
}

func TestPublicZonesAreSane(t *testing.T) {
	zones := PublicZones()
	for _, z := range zones {
		if c, err := canonical(z); err != nil || c != z {
			t.Errorf("%s: %v", z, err)
		}
		if !strings.Contains(z, ".") {
			t.Errorf("%s is a whole top-level domain", z)
		}
		if slices.Contains([]string{"google.com", "googleapis.com", "microsoft.com", "amazonaws.com", "oracle.com",
			"redhat.com", "nvidia.com"}, z) {
			t.Errorf("%s is a whole company", z)
		}
	}
}

// The names of a large site do not fit into one record: chains and lists are cut (Mem refuses records above 4096
// bytes).
func TestManyNames(t *testing.T) {
	h := build(t, func(s *Spec, _ *Config) { s.Permit = []string{"corp.example"} })
	names := slices.Clone(enabled)
	for i := range 600 {
		names = append(names, fmt.Sprintf("a-rather-long-registry-name-%03d.corp.example", i))
	}
	h.constrain(names...)
	h.know(names...)
	if _, err := h.handshake(h.ca.Roots(), names[len(names)-1]); err != nil {
		t.Error(err)
	}
	h.reopen()
	if _, err := h.handshake(h.ca.Roots(), names[300]); err != nil {
		t.Error(err)
	}
}

// A bound exists, and is said in a sentence.
func TestTooManyNames(t *testing.T) {
	h := build(t, func(s *Spec, _ *Config) { s.Permit = []string{"corp.example"} })
	var names []string
	for i := range 12000 {
		names = append(names, fmt.Sprintf("a-rather-long-registry-name-%05d.corp.example", i))
	}
	write, err := h.ca.Constrain(names)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.tree.Update(t.Context(), write); err == nil || !strings.Contains(err.Error(), "enable fewer names") {
		t.Errorf("got %v", err)
	}
}

// The default root is wide enough for the hosts of operating systems' packages and of Python's.
func TestPublicZonesOfPackages(t *testing.T) {
	for _, host := range []string{
		"deb.debian.org", "security.debian.org", "archive.debian.org", "ftp.de.debian.org", "snapshot.debian.org",
		"archive.ubuntu.com", "de.archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com", "esm.ubuntu.com",
		"ppa.launchpadcontent.net",
		"mirrors.rockylinux.org", "dl.rockylinux.org", "mirrors.almalinux.org", "repo.almalinux.org",
		"mirrors.centos.org", "mirror.stream.centos.org", "vault.centos.org", "mirrors.fedoraproject.org",
		"dl.fedoraproject.org", "download.fedoraproject.org", "download.opensuse.org", "cdn.opensuse.org",
		"yum.oracle.com", "cdn.redhat.com", "cdn-ubi.redhat.com", "cdn.amazonlinux.com", "repo.openeuler.org",
		"updates.suse.com",
		"developer.download.nvidia.com", "nvidia.github.io", "download.docker.com", "pkgs.k8s.io",
		"prod-cdn.packages.k8s.io", "packages.cloud.google.com", "apt.releases.hashicorp.com",
		"rpm.releases.hashicorp.com", "packages.gitlab.com", "packagecloud.io", "packages.microsoft.com",
		"rpm.rancher.io", "pypi.org", "files.pythonhosted.org",
	} {
		if !slices.ContainsFunc(PublicZones(), func(zone string) bool { return within(host, zone) }) {
			t.Errorf("no default zone has %s", host)
		}
	}
	for _, host := range []string{"redhat.com", "launchpad.net", "microsoft.com", "openeuler.org"} {
		if slices.ContainsFunc(PublicZones(), func(zone string) bool { return within(host, zone) }) {
			t.Errorf("a default zone has %s: zones are of software distribution, not of whole companies", host)
		}
	}
}
