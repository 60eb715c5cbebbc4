package nodeconf

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func newRoot(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// rootFile is the name under which the first root of a site is installed.
func rootFile(t *testing.T, pemText string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(pemText))
	sum := sha256.Sum256(block.Bytes)
	return "casemate-" + hex.EncodeToString(sum[:8]) + ".crt"
}

func newSite(t *testing.T) *Site {
	addr := netip.MustParseAddr
	return &Site{
		Domain: "casemate.internal",
		Nodes: []Node{{"n1", []netip.Addr{addr("10.0.0.11")}}, {"n2", []netip.Addr{addr("10.0.0.12")}}, {
			"n3", []netip.Addr{addr("10.0.0.13"), addr("fd00::13")}}},
		Roots: newRoot(t),
		Origins: []Origin{{Host: "dl.k8s.io"}, {Host: "docker.io",
			Aliases: []string{"index.docker.io", "registry-1.docker.io"}, Registry: true},
			{Host: "registry.k8s.io", Registry: true}},
	}
}

// shells are those that nodes have: dash is Debian's and Ubuntu's, bash RHEL's and SUSE's, busybox's stands for the
// smallest.
func shells(t *testing.T) map[string][]string {
	list := map[string][]string{}
	for name, args := range map[string][]string{"dash": {"dash"}, "bash": {"bash", "--posix"}, "busybox": {
		"busybox", "sh"}} {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Logf("%s is not installed, the script is not run with it", name)
			continue
		}
		list[name] = args
	}
	return list
}

// dash is what most of it is tried with: every Debian has it, so it is skipped elsewhere only.
func dash(t *testing.T) []string {
	t.Helper()
	shell := shells(t)["dash"]
	if shell == nil {
		t.Skip("needs dash")
	}
	return shell
}

// quick is busybox, whose programs are part of it: a run costs a third of one in dash. It is for what depends on the
// script and not on the shell.
func quick(t *testing.T) []string {
	t.Helper()
	if shell := shells(t)["busybox"]; shell != nil {
		return shell
	}
	return dash(t)
}

// A tree is a node's root directory.
type tree struct {
	t     *testing.T
	dir   string
	shell []string
}

// newTree makes a tree of files; "-> target" is a symbolic link, a name with a slash at its end a directory.
func newTree(t *testing.T, shell []string, files map[string]string) *tree {
	t.Helper()
	tr := &tree{t, t.TempDir(), shell}
	tr.write(map[string]string{"etc/machine-id": "0123456789abcdef0123456789abcdef\n", "usr/share/ca-certificates/": "",
		"var/lib/": ""})
	tr.write(files)
	return tr
}

func (tr *tree) write(files map[string]string) {
	tr.t.Helper()
	for name, text := range files {
		path := filepath.Join(tr.dir, name)
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			os.Remove(path)
			if to, link := strings.CutPrefix(text, "-> "); link {
				err = os.Symlink(to, path)
			} else {
				err = os.WriteFile(path, []byte(text), 0o640) // not the mode that the script would choose
			}
		}
		if err != nil {
			tr.t.Fatal(err)
		}
	}
}

// all is everything in the tree: kind, mode, content or target.
func (tr *tree) all() map[string]string {
	tr.t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(tr.dir, func(path string, d fs.DirEntry, err error) error {
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
		name, _ := filepath.Rel(tr.dir, path)
		list[name] = text
		return nil
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	return list
}

// run runs the site's script on the tree and returns its output.
func (tr *tree) run(s *Site, code int, args ...string) string {
	tr.t.Helper()
	script, err := s.Script()
	if err != nil {
		tr.t.Fatal(err)
	}
	file := filepath.Join(tr.t.TempDir(), "enroll")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		tr.t.Fatal(err)
	}
	cmd := exec.Command(tr.shell[0], append(slices.Concat(tr.shell[1:], []string{file, "--root", tr.dir}), args...)...)
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code || err != nil && got < 0 {
		tr.t.Fatalf("%v: exit code %d (%v), want %d:\n%s", args, got, err, code, out)
	}
	return string(out)
}

// same fails unless the tree is as it was.
func (tr *tree) same(was map[string]string, when string) {
	tr.t.Helper()
	is := tr.all()
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if got, ok := is[name]; !ok {
			tr.t.Errorf("%s: %s is gone", when, name)
		} else if got != was[name] {
			tr.t.Errorf("%s: %s was %q, is %q", when, name, was[name], got)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if _, ok := was[name]; !ok {
			tr.t.Errorf("%s: %s is new: %q", when, name, is[name])
		}
	}
}

func (tr *tree) read(name string) string {
	tr.t.Helper()
	data, err := os.ReadFile(filepath.Join(tr.dir, name))
	if err != nil {
		tr.t.Fatal(err)
	}
	return string(data)
}

// setup is a way in which a node's resolver is set up.
type setup struct {
	name  string
	files map[string]string
	// after the run: a pattern that each of these files has to match; "" is a file that must not be there
	want map[string]string
}

const (
	enabled = "-> /lib/systemd/system/x.service"
	wants   = "etc/systemd/system/multi-user.target.wants/"
	// Three bastions, and both families: only n3 has an IPv6 address.
	addr1 = `(10\.0\.0\.1[12]|fd00::13)`
	three = `(?m)^nameserver ` + addr1 + `\nnameserver ` + addr1 + `\nnameserver ` + addr1 + `\n`
	list3 = addr1 + `SEP` + addr1 + `SEP` + addr1
	four3 = `10\.0\.0\.1[123], 10\.0\.0\.1[123], 10\.0\.0\.1[123]`
)

func sep(s string) string { return strings.ReplaceAll(list3, "SEP", s) }

func setups() []setup {
	resolved := `(?m)^DNS=\nDNS=` + sep(" ") + ` 10\.0\.0\.13\nDomains=~\.`
	link := `(?m)^\[Network\]\nDNS=\n\n\[DHCPv4\]\nUseDNS=no$`
	return []setup{
		{"resolved stub with networkd", map[string]string{
			"etc/resolv.conf":                      "-> ../run/systemd/resolve/stub-resolv.conf",
			"run/systemd/resolve/stub-resolv.conf": "nameserver 127.0.0.53\nsearch corp.example lab.example\n",
			"etc/systemd/network/10-eth0.network":  "[Match]\nName=eth0\n[Network]\nDHCP=yes\n",
			wants + "systemd-resolved.service":     enabled, "etc/systemd/resolved.conf": "[Resolve]\n",
		}, map[string]string{
			"etc/systemd/resolved.conf.d/casemate.conf": resolved +
				` corp\.example lab\.example\nDNSSEC=no$`,
			"etc/systemd/network/10-eth0.network.d/casemate.conf":        link,
			"etc/NetworkManager/conf.d/zz-casemate.conf":                 "",
			"run/systemd/resolve/stub-resolv.conf":                       `^nameserver 127\.0\.0\.53\nsearch corp.example lab.example\n$`,
			"etc/systemd/network/10-netplan-eth0.network.d/anything.txt": "",
		}},
		{"resolved with netplan", map[string]string{
			"etc/resolv.conf": "-> /run/systemd/resolve/stub-resolv.conf",
			"etc/netplan/50-cloud-init.yaml": "# c\nnetwork:\n    version: 2\n    ethernets:\n        eth0:\n        " +
				"    dhcp4: true\n            match:\n                macaddress: aa:bb\n        \"eth1\":\n         " +
				"   nameservers:\n                addresses: [1.1.1.1]\n    vlans:\n        vlan.7:\n            id: " +
				"7\n",
		}, map[string]string{
			"etc/systemd/resolved.conf.d/casemate.conf":                     resolved + `\nDNSSEC=no$`,
			"etc/systemd/network/10-netplan-eth0.network.d/casemate.conf":   link,
			"etc/systemd/network/10-netplan-eth1.network.d/casemate.conf":   link,
			"etc/systemd/network/10-netplan-vlan.7.network.d/casemate.conf": link,
			"etc/systemd/network/10-netplan-match.network.d/casemate.conf":  "",
		}},
		{"resolved with netplan that has run", map[string]string{
			"etc/resolv.conf": "-> ../run/systemd/resolve/resolv.conf",
			"run/systemd/network/10-netplan-ens3.network": "[Match]\n",
		}, map[string]string{"etc/systemd/network/10-netplan-ens3.network.d/casemate.conf": link}},
		{"resolved with NetworkManager", map[string]string{
			"etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf", wants + "NetworkManager.service": enabled,
			"etc/NetworkManager/NetworkManager.conf":  "[main]\n",
			"etc/netplan/01-network-manager-all.yaml": "network:\n  version: 2\n  renderer: NetworkManager\n",
		}, map[string]string{
			"etc/systemd/resolved.conf.d/casemate.conf":  resolved,
			"etc/NetworkManager/conf.d/zz-casemate.conf": `(?m)^\[main\]\ndns=none\nsystemd-resolved=false$`,
		}},
		{"resolved that only reads resolv.conf", map[string]string{
			"etc/resolv.conf": "nameserver 192.168.1.1\n", wants + "systemd-resolved.service": enabled,
		}, map[string]string{"etc/systemd/resolved.conf.d/casemate.conf": resolved, "etc/resolv.conf": three}},
		{"NetworkManager alone", map[string]string{
			"etc/resolv.conf": "# Generated by NetworkManager\nsearch " +
				"corp.example\nnameserver 192.168.1.1\n",
			wants + "NetworkManager.service":         enabled,
			"etc/NetworkManager/NetworkManager.conf": "[main]\n#dns=none\n", "etc/pki/ca-trust/source/anchors/": "",
		}, map[string]string{
			"etc/NetworkManager/conf.d/zz-casemate.conf": `(?m)^\[global-dns\]\nsearches=corp\.example\noptions=timeout:2,attempts:2\n\n\[global-dns-domain-\*\]\nservers=` + sep(",") + `$`,
			"etc/resolv.conf": `192\.168\.1\.1`, // its to write
		}},
		{"NetworkManager and a file that it has not written", map[string]string{
			"etc/resolv.conf": "nameserver 192.168.1.1\n", wants + "NetworkManager.service": enabled,
		}, map[string]string{"etc/NetworkManager/conf.d/zz-casemate.conf": `global-dns`, "etc/resolv.conf": three}},
		{"NetworkManager with resolved beside it", map[string]string{
			"etc/resolv.conf":                "# Generated by NetworkManager\nnameserver 192.168.1.1\n",
			wants + "NetworkManager.service": enabled, wants + "systemd-resolved.service": enabled,
		}, map[string]string{
			"etc/NetworkManager/conf.d/zz-casemate.conf": `(?m)^\[main\]\nsystemd-resolved=false\n\n\[global-dns\]\n`,
			"etc/systemd/resolved.conf.d/casemate.conf":  resolved,
		}},
		{"NetworkManager that keeps its hands off", map[string]string{
			"etc/resolv.conf": "nameserver 192.168.1.1\n", wants + "NetworkManager.service": enabled,
			"etc/NetworkManager/conf.d/dns.conf": "[main]\ndns=none\n",
		}, map[string]string{"etc/NetworkManager/conf.d/zz-casemate.conf": "", "etc/resolv.conf": three}},
		{"ifupdown with dhclient", map[string]string{
			"etc/resolv.conf":        "domain corp.example\nsearch corp.example\nnameserver 192.168.1.1\n",
			"etc/network/interfaces": "auto eth0\niface eth0 inet dhcp\n",
			"etc/dhcp/dhclient.conf": "option rfc3442 code 121;\nsend host-name = gethostname();", // no end of line
		}, map[string]string{
			"etc/resolv.conf": `(?m)^domain corp.example\nsearch corp.example\n` + three[5:] +
				`options timeout:2 attempts:2\n$`,
			"etc/dhcp/dhclient.conf": `(?m)^send host-name = gethostname\(\);\n# BEGIN .*\nsupersede domain-name-servers ` + four3 + `;\nsupersede dhcp6\.name-servers fd00::13;\n# END casemate-enroll\n$`,
		}},
		{"dhcpcd", map[string]string{"etc/resolv.conf": "nameserver 192.168.1.1\n",
			"etc/dhcpcd.conf": "hostname\ninterface eth0\nmetric 1\n"},
			map[string]string{"etc/dhcpcd.conf": `^# BEGIN .*\nstatic domain_name_servers=` + sep(" ") +
				`\n# END .*\nhostname\ninterface eth0\n`}},
		{"resolvconf", map[string]string{
			"etc/resolv.conf":                    "-> ../run/resolvconf/resolv.conf",
			"run/resolvconf/resolv.conf":         "nameserver 192.168.1.1\n",
			"run/resolvconf/interface/eth0.inet": "nameserver 192.168.1.1\nsearch corp.example\n",
			"etc/resolvconf/resolv.conf.d/head":  "# Dynamic\n",
			"etc/network/interfaces": "iface eth0 inet static\n\taddress 10.0.0.50/24\n\tdns-nameservers " +
				"192.168.1.1 192.168.1.2\n\tdns-search corp.example\n",
		}, map[string]string{
			"etc/network/interfaces": `(?m)^\tdns-nameservers ` + sep(" ") +
				`\n\tdns-search corp.example\n$`,
			"etc/resolvconf/resolv.conf.d/head":  `^# Dynamic\n# BEGIN .*\n` + three[5:],
			"run/resolvconf/interface/eth0.inet": `^` + three[5:] + `search corp.example\n$`,
		}},
		{"netconfig of SUSE", map[string]string{
			"etc/resolv.conf":           "-> /run/netconfig/resolv.conf",
			"run/netconfig/resolv.conf": "search corp.example\nnameserver 192.168.1.1\n", "etc/pki/trust/anchors/": "",
			"etc/sysconfig/network/config": "NETCONFIG_DNS_POLICY=\"auto\"\nNETCONFIG_DNS_STATIC_SEARCHLIST=\"\"\nNETCONFIG_DNS_STATIC_SERVERS=\"\"\nOTHER=\"x\"\n",
		},
			map[string]string{
				"etc/sysconfig/network/config": `^NETCONFIG_DNS_POLICY="STATIC"\nNETCONFIG_DNS_STATIC_SEARCHLIST="corp\.example"\nNETCONFIG_DNS_STATIC_SERVERS="` + sep(" ") + `"\nOTHER="x"\n$`}},
		{"plain file", map[string]string{"etc/resolv.conf": "# mine\nsearch corp.example\noptions rotate timeout:5 " +
			"edns0\nnameserver 192.168.1.1\nnameserver 192.168.1.2\n"},
			map[string]string{
				"etc/resolv.conf": `^# mine\nsearch corp.example\noptions rotate edns0 timeout:2 attempts:2\n` +
					three[5:] + `$`}},
		{"no resolv.conf at all", nil, map[string]string{"etc/resolv.conf": `^` + three[5:] +
			`options timeout:2 attempts:2\n$`}},
		{"resolv.conf is a link to a file of the admin", map[string]string{"etc/resolv.conf": "-> resolv.static",
			"etc/resolv.static": "nameserver 192.168.1.1\n"},
			map[string]string{"etc/resolv.static": three}},
		{"resolv.conf is a link to what is gone at the next boot",
			map[string]string{"etc/resolv.conf": "-> /run/my/resolv.conf",
				"run/my/resolv.conf": "nameserver 192.168.1.1\n"},
			map[string]string{"etc/resolv.conf": three, "run/my/resolv.conf": `^nameserver 192\.168\.1\.1\n$`}},
	}
}

func (tr *tree) check(s setup) {
	tr.t.Helper()
	for name, pattern := range s.want {
		if pattern == "" {
			if _, err := os.Lstat(filepath.Join(tr.dir, name)); !errors.Is(err, fs.ErrNotExist) {
				tr.t.Errorf("%s should not be there (%v)", name, err)
			}
		} else if text := tr.read(name); !regexp.MustCompile(pattern).MatchString(text) {
			tr.t.Errorf("%s does not match %s:\n%s", name, pattern, text)
		}
	}
}

// Each set-up is enrolled and undone in dash, and three of them in the other shells. All that can be done to a node is
// done to those three in busybox, where it costs least; make soak does it to each set-up in each shell.
func TestEveryResolverSetup(t *testing.T) {
	site := newSite(t)
	for name, shell := range shells(t) {
		for i, s := range setups() {
			// resolved, NetworkManager, netconfig: files beside the system's, a file of ours alone, a line within a
			// file
			chosen := i%6 == 0
			switch {
			case soak || chosen && name == "busybox":
				t.Run(name+"/"+s.name, func(t *testing.T) {
					t.Parallel()
					tr, was := everything(t, site, shell, s)
					if soak || i == 0 { // it does not depend on what runs the resolver
						withoutResolver(site, tr, was, s)
					}
				})
			case chosen || name == "dash":
				t.Run(name+"/"+s.name, func(t *testing.T) {
					t.Parallel()
					tr := newTree(t, shell, s.files)
					was := tr.all()
					if i%3 == 1 {
						tr.run(site, 0, "--dry-run")
						tr.same(was, "after a dry run")
					}
					tr.run(site, 0)
					tr.check(s)
					if i%3 == 2 {
						tr.again(site)
					}
					tr.run(site, 0, "--undo")
					tr.same(was, "after undo")
				})
			}
		}
	}
}

// again runs the script once more, which changes nothing.
func (tr *tree) again(site *Site) {
	tr.t.Helper()
	enrolled := tr.all()
	if out := tr.run(site, 0); !strings.Contains(out, "nothing to do") {
		tr.t.Errorf("the second run said:\n%s", out)
	}
	tr.same(enrolled, "after a second run")
}

// everything: a dry run changes nothing; the run does what it should; a second one writes nothing; after the site has
// changed it follows; undo puts back every byte.
func everything(t *testing.T, site *Site, shell []string, s setup) (tr *tree, was map[string]string) {
	tr = newTree(t, shell, s.files)
	was = tr.all()
	out := tr.run(site, 0, "--dry-run")
	tr.same(was, "after a dry run")
	if !strings.Contains(out, "\n+") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("the dry run shows no diff:\n%s", out)
	}
	if out := tr.run(site, 0, "--undo"); !strings.Contains(out, "nothing to do") {
		t.Errorf("undo of what was never done said:\n%s", out)
	}

	tr.run(site, 0)
	tr.check(s)
	dir := "usr/local/share/ca-certificates"
	for _, d := range []string{"etc/pki/ca-trust/source/anchors", "etc/pki/trust/anchors"} {
		if _, ok := s.files[d+"/"]; ok {
			dir = d
		}
	}
	if tr.read(dir+"/"+rootFile(t, site.Roots)) != site.Roots {
		t.Error("the root in the trust store is another one")
	}
	tr.again(site)

	// Another bastion and another root: both follow, the old ones go.
	next := *site
	next.Nodes = slices.Concat(site.Nodes[1:], []Node{{"n4", []netip.Addr{netip.MustParseAddr("10.0.0.14")}}})
	next.Roots = newRoot(t) + newRoot(t)
	tr.run(&next, 0)
	if _, err := os.Stat(filepath.Join(tr.dir, dir, rootFile(t, site.Roots))); err == nil {
		t.Error("the old root is still trusted")
	}
	if tr.read(dir+"/"+rootFile(t, next.Roots)) == "" {
		t.Error("the new root is not there")
	}
	later := tr.all()
	if out := tr.run(&next, 0, "--dry-run"); !strings.Contains(out, "nothing to do") {
		t.Errorf("a dry run of what is done said:\n%s", out)
	}
	out = tr.run(&next, 0, "--undo", "--dry-run")
	tr.same(later, "after a dry run of undo")
	if !strings.Contains(out, "would restore") {
		t.Errorf("the dry run of undo said:\n%s", out)
	}
	tr.run(&next, 0, "--undo")
	tr.same(was, "after undo")
	return tr, was
}

// withoutResolver enrols without the resolver, then with it, and then undoes both.
func withoutResolver(site *Site, tr *tree, was map[string]string, s setup) {
	t := tr.t
	tr.run(site, 0, "--no-resolver")
	if hosts := tr.read("etc/hosts"); !regexp.MustCompile(
		`(?m)^10\.0\.0\.11 n1\.casemate\.internal casemate\.internal registry\.casemate\.internal files\.casemate\.internal$`).MatchString(hosts) {
		t.Errorf("etc/hosts:\n%s", hosts)
	}
	// No resolver says where the bastions are: casemate doctor reads it here.
	if got := slices.Sorted(slices.Values(strings.Fields(tr.read("var/lib/casemate-enroll/bastions")))); !slices.Equal(
		got, slices.Sorted(slices.Values(strings.Fields(addrs(site))))) {
		t.Errorf("bastions: %q", got)
	}
	tr.run(site, 0)
	tr.check(s)
	tr.run(site, 0, "--no-resolver")
	tr.run(site, 0, "--undo")
	tr.same(was, "after undo without the resolver")
}

// Files that others have changed are never overwritten by undo, and are reported.
func TestUndoLeavesWhatOthersHaveChanged(t *testing.T) {
	site := newSite(t)
	list := map[string][]string{"quick": quick(t)}
	if soak {
		list = shells(t)
	}
	for name, shell := range list {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTree(t, shell, map[string]string{"etc/resolv.conf": "nameserver 192.168.1.1\n"})
			was := tr.all()
			tr.run(site, 0)
			tr.write(map[string]string{"etc/resolv.conf": "nameserver 9.9.9.9\n"})
			out := tr.run(site, 3, "--undo")
			if !strings.Contains(out, "/etc/resolv.conf is not restored: others have changed it since") {
				t.Errorf("undo said:\n%s", out)
			}
			if tr.read("etc/resolv.conf") != "nameserver 9.9.9.9\n" ||
				tr.read("etc/resolv.conf.casemate-orig") != "nameserver 192.168.1.1\n" {
				t.Error("the change is lost, or the original is not beside it")
			}
			tr.run(site, 0, "--undo", "--force")
			tr.same(was, "after undo by force")

			// A run after somebody's change keeps what they added, and undo does not lose it.
			tr.run(site, 0)
			tr.write(map[string]string{"etc/resolv.conf": "search new.example\nnameserver 9.9.9.9\n"})
			if out := tr.run(site, 0); !strings.Contains(out, "/etc/resolv.conf was changed by others") {
				t.Errorf("the run said:\n%s", out)
			}
			if text := tr.read("etc/resolv.conf"); !regexp.MustCompile(
				`search new\.example\nnameserver ` + addr1 + `\n`).MatchString(text) {
				t.Errorf("after the run:\n%s", text)
			}
			tr.run(site, 3, "--undo")
			if text := tr.read("etc/resolv.conf"); !strings.Contains(text, "search new.example") {
				t.Errorf("undo lost somebody's change:\n%s", text)
			}
			tr.run(site, 0, "--undo", "--force")
			tr.same(was, "after the second undo by force")
		})
	}
}

// A run keeps what somebody has edited since the last one, whatever kind of file it is; only what says whom the node
// trusts is written anew, with a copy of theirs kept.
func TestRunKeepsWhatOthersHaveEdited(t *testing.T) {
	site := newSite(t)
	next := *site
	next.Nodes = slices.Clone(site.Nodes)
	next.Nodes[0].Addrs = []netip.Addr{netip.MustParseAddr("10.0.0.77")}
	const dropIn = "etc/systemd/resolved.conf.d/casemate.conf"
	tr := newTree(t, quick(t), map[string]string{
		"etc/resolv.conf":                      "-> ../run/systemd/resolve/stub-resolv.conf",
		"run/systemd/resolve/stub-resolv.conf": "nameserver 127.0.0.53\n",
		"etc/systemd/system/multi-user.target.wants/systemd-resolved.service": "-> /lib/systemd/system/systemd-resolved.service",
	})
	was := tr.all()
	tr.run(site, 0)
	ours := tr.read(dropIn)
	if !strings.Contains(ours, "10.0.0.1") {
		t.Fatalf("resolved is not told: %q", ours)
	}
	edited := ours + "Cache=no # by hand\n"
	tr.write(map[string]string{dropIn: edited, "etc/casemate/ca.crt": "broken\n"})
	for _, s := range []*Site{site, &next} {
		out := tr.run(s, 3)
		if tr.read(dropIn) != edited || !strings.Contains(out,
			"/"+dropIn+" was changed by others since the last run: it is not touched") {
			t.Errorf("the edit is lost, or not said:\n%s\n%s", out, tr.read(dropIn))
		}
	}
	if text := tr.read("etc/casemate/ca.crt"); !strings.Contains(text, "BEGIN CERTIFICATE") {
		t.Errorf("the roots are %q", text)
	}
	kept := false
	for name, text := range tr.all() {
		kept = kept || strings.Contains(name, "/theirs/") && strings.Contains(text, "broken")
	}
	if !kept {
		t.Error("their version of the roots is lost")
	}
	// Removed, it is written anew.
	if err := os.Remove(filepath.Join(tr.dir, dropIn)); err != nil {
		t.Fatal(err)
	}
	tr.run(&next, 0)
	if text := tr.read(dropIn); !strings.Contains(text, "10.0.0.77") {
		t.Errorf("after its removal: %q", text)
	}
	tr.run(&next, 0, "--undo")
	tr.same(was, "after undo")
}

// NetworkManager writes the file anew after a run: that is no change of somebody's, and a later run and undo take it as
// it is.
func TestNetworkManagerWritesAgain(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	shell := quick(t)
	tr := newTree(t, shell, map[string]string{"etc/resolv.conf": "nameserver 192.168.1.1\n",
		wants + "NetworkManager.service": enabled})
	was := tr.all()
	tr.run(site, 0)
	os.WriteFile(filepath.Join(tr.dir, "etc/resolv.conf"),
		[]byte("# Generated by NetworkManager\nnameserver 10.0.0.12\n"), 0o644)
	if out := tr.run(site, 0); !strings.Contains(out, "nothing to do") {
		t.Errorf("the second run said:\n%s", out)
	}
	tr.run(site, 0, "--undo")
	tr.same(was, "after undo")
}

// So does a DHCP client.
func TestADHCPClientWritesAgain(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	shell := quick(t)
	tr := newTree(t, shell, map[string]string{"etc/resolv.conf": "nameserver 192.168.1.1\n",
		"etc/dhcp/dhclient.conf": "# mine\n"})
	was := tr.all()
	tr.run(site, 0)
	anew := regexp.MustCompile(`(?m)^options.*\n`).ReplaceAllString(tr.read("etc/resolv.conf"), "") +
		"search dhcp.example\n"
	os.WriteFile(filepath.Join(tr.dir, "etc/resolv.conf"), []byte(anew), 0o644)
	if out := tr.run(site, 0); !strings.Contains(out, "nothing to do") {
		t.Errorf("the second run said:\n%s", out)
	}
	next := *site
	next.Nodes = site.Nodes[1:]
	if out := tr.run(&next, 0); strings.Contains(out, "somebody else") {
		t.Errorf("a run after a bastion went said:\n%s", out)
	}
	tr.run(site, 0, "--undo")
	tr.same(was, "after undo")
}

// TestNodeLocalDNSStays: what Kubespray has put in front of the bastions is there after the script has run again, or
// for the first time, and nothing else is.
func TestNodeLocalDNSStays(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	const local = "169.254.25.10"
	two := addr1 + `SEP` + addr1
	lines := `(?m)^nameserver 169\.254\.25\.10\nnameserver ` + addr1 + `\nnameserver ` + addr1 + `\n(search|options)`
	for _, c := range []struct {
		name      string
		files     map[string]string // before
		kubespray map[string]string // what it writes
		want      map[string]string
	}{
		{"a plain file", map[string]string{"etc/resolv.conf": "nameserver 192.168.1.1\n"},
			map[string]string{"etc/resolv.conf": "nameserver " + local +
				"\nnameserver 10.0.0.11\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:2 " +
				"timeout:2 attempts:2\n"},
			map[string]string{"etc/resolv.conf": lines}},
		{"resolved", map[string]string{"etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf",
			"run/systemd/resolve/stub-resolv.conf": "nameserver 127.0.0.53\n"},
			map[string]string{"etc/systemd/resolved.conf": "[Resolve]\n#DNS=169.254.20.10\nDNS=" + local +
				" 10.0.0.11\nDomains=default.svc.cluster.local\n"},
			map[string]string{"etc/systemd/resolved.conf.d/casemate.conf": `(?m)^DNS=\nDNS=169\.254\.25\.10 ` +
				sep(" ") + ` 10\.0\.0\.13\n`}},
		{"NetworkManager", map[string]string{"etc/resolv.conf": "# Generated by NetworkManager\nnameserver " +
			"192.168.1.1\n", wants + "NetworkManager.service": enabled},
			map[string]string{"etc/NetworkManager/conf.d/dns.conf": "[global-dns-domain-*]\nservers = " + local +
				",10.0.0.11\n"},
			map[string]string{"etc/NetworkManager/conf.d/zz-casemate.conf": `(?m)^servers=169\.254\.25\.10,` +
				strings.ReplaceAll(two, "SEP", ",") + `$`}},
		{"dhclient", map[string]string{"etc/resolv.conf": "nameserver 192.168.1.1\n",
			"etc/dhcp/dhclient.conf": "# mine\n"},
			map[string]string{"etc/dhcp/dhclient.conf": "# mine\n# Ansible entries BEGIN\nsupersede " +
				"domain-name-servers " + local + ", 10.0.0.11;\n# Ansible entries END\n"},
			map[string]string{"etc/resolv.conf": strings.TrimSuffix(lines, "(search|options)"),
				"etc/dhcp/dhclient.conf": `(?m)^# Ansible entries END\n# BEGIN casemate.*\nsupersede domain-name-servers 169\.254\.25\.10, 10\.0\.0\.1[123], 10\.0\.0\.1[123];\n`}},
		{"a cloud's resolver", map[string]string{"etc/resolv.conf": "nameserver 169.254.169.253\n"},
			map[string]string{"etc/resolv.conf": "#nameserver " + local + "\nnameserver 169.254.169.253\nnameserver " +
				"10.0.0.11\noptions edns0\n"},
			map[string]string{"etc/resolv.conf": three}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := newTree(t, quick(t), c.files)
			again := c.name == "a plain file" // in one of them, because each run costs
			if again {
				tr.run(site, 0)
			}
			tr.write(c.kubespray)
			tr.run(site, 0)
			for name, pattern := range c.want {
				if text := tr.read(name); !regexp.MustCompile(pattern).MatchString(text) {
					t.Errorf("%s does not match %s:\n%s", name, pattern, text)
				}
			}
			if got := tr.read("etc/casemate/bastions"); strings.Contains(got, "169.254") {
				t.Errorf("doctor takes it for a bastion:\n%s", got)
			}
			if again {
				tr.again(site)
				tr.run(site, 0, "--undo", "--force")
				if got := tr.read("etc/resolv.conf"); got != c.files["etc/resolv.conf"] {
					t.Errorf("after undo: %s", got)
				}
			}
		})
	}
}

// A run that is killed at any of its writes can be repeated, and can be undone.
func TestARunThatBreaksOff(t *testing.T) {
	site := newSite(t)
	shell := quick(t)
	script, err := site.Script()
	if err != nil {
		t.Fatal(err)
	}
	// it has the most files
	way := setups()[slices.IndexFunc(setups(), func(s setup) bool { return s.name == "resolvconf" })]
	// The shell's own commands that change something are made to end the run, one place after the other.
	places := regexp.MustCompile(
		`(?m)^\t+(rm -rf "\$STATE/files.new"|mv "\$STATE/files.new".*|cat "\$WORK/want/.*"\$w_tmp".*|place "\$w_tmp" "\$1"|mv "\$w_entry/next".*|finish|if isPending (runtimes|verify).*)$`).FindAllStringIndex(script, -1)
	undo := [2]int{strings.Index(script, "\nundo() {"), strings.Index(script, "\nfinish() {")}
	places = slices.DeleteFunc(places, func(p []int) bool { return p[0] > undo[0] && p[0] < undo[1] })
	if len(places) < 8 {
		t.Fatalf("only %d places found: is the script still what this test reads?", len(places))
	}
	for i, p := range places {
		for _, nth := range []int{1, 2} {
			for k, then := range []string{"again", "undo"}[nth-1:] {
				if !soak && (i+nth+k)%3 != 0 {
					continue // each place in one of the three ways
				}
				t.Run(fmt.Sprintf("%d-%d-%s", i, nth, then), func(t *testing.T) {
					t.Parallel()
					tr := newTree(t, shell, way.files)
					was := tr.all()
					kill := fmt.Sprintf("\nCOUNT=$((${COUNT-0} + 1)); [ $COUNT -lt %d ] || kill -9 $$\n", nth)
					file := filepath.Join(t.TempDir(), "enroll")
					if err := os.WriteFile(file, []byte(script[:p[0]]+kill+script[p[0]:]), 0o600); err != nil {
						t.Fatal(err)
					}
					cmd := exec.Command(shell[0], file, "--root", tr.dir)
					cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // killed, it leaves its own behind
					out, err := cmd.CombinedOutput()
					if err == nil && nth == 1 {
						t.Fatalf("the run was not killed at %s:\n%s", script[p[0]:p[1]], out)
					}
					if then == "again" {
						tr.run(site, 0)
						tr.check(way)
						done := tr.all()
						if out := tr.run(site, 0); !strings.Contains(out, "nothing to do") {
							t.Errorf("the run after the repeated one said:\n%s", out)
						}
						tr.same(done, "after the third run")
					}
					tr.run(site, 0, "--undo")
					tr.same(was, "after undo")
				})
			}
		}
	}
}

// Every node has an order of its own, always the same, and all bastions come first equally often.
func addrs(s *Site) (list string) {
	for _, a := range s.Addrs() {
		list += a.String() + " "
	}
	return list
}

func TestNodesSpread(t *testing.T) {
	t.Parallel()
	script, err := newSite(t).Script()
	if err != nil {
		t.Fatal(err)
	}
	shell := quick(t)
	// The script's own functions, for all nodes in one run of the shell.
	const tail = "main \"$@\"\n"
	if !strings.HasSuffix(script, tail) {
		t.Fatal("the script does not end with main")
	}
	text := strings.TrimSuffix(script, tail) + "WORK=$1; shift\nfor ROOT; do ID=$(nodeID); inOrder | head -n 1; done\n"
	args := append(slices.Clone(shell[1:]), "-c", text, "enroll", t.TempDir())
	for i := range 24 {
		args = append(args, newTree(t, shell, map[string]string{"etc/machine-id": fmt.Sprintf("%032x\n", i)}).dir)
	}
	out, err := exec.Command(shell[0], args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first := map[string]int{}
	for line := range strings.Lines(string(out)) {
		first[strings.TrimSpace(line)]++
	}
	if first["10.0.0.11"]+first["10.0.0.12"]+first["10.0.0.13"] != 24 {
		t.Errorf("of 24 nodes, those that ask each bastion first: %v", first)
	}
	for _, a := range []string{"10.0.0.11", "10.0.0.12", "10.0.0.13"} {
		if first[a] < 3 {
			t.Errorf("of 24 nodes, those that ask each bastion first: %v", first)
			break
		}
	}
}

func TestProxiesAndOtherRoots(t *testing.T) {
	site := newSite(t)
	shell := quick(t)
	for _, c := range []struct{ name, file, text, want, not string }{
		{"no no_proxy", "etc/environment", "http_proxy=http://proxy:3128\n",
			"/etc/environment sets a proxy, which would get requests that the bastions serve; add to no_proxy there: " +
				"registry.k8s.io,docker.io,index.docker.io,registry-1.docker.io,dl.k8s.io,.casemate.internal", ""},
		{"some", "etc/systemd/system/containerd.service.d/p.conf",
			"[Service]\nEnvironment=\"HTTPS_PROXY=http://proxy:3128\" " +
				"\"NO_PROXY=.k8s.io,*.casemate.internal,10.0.0.0/8\"\n",
			"no_proxy there: docker.io,index.docker.io,registry-1.docker.io\n", ""},
		{"all", "etc/environment", "https_proxy=http://proxy:3128\nno_proxy=docker.io,k8s.io,.casemate.internal\n",
			"", "proxy"},
		{"commented out", "etc/environment", "#https_proxy=http://proxy:3128\n", "", "proxy"},
		{"apt", "etc/apt/apt.conf.d/proxy", "Acquire::http::Proxy \"http://proxy:3128\";\n",
			"/etc/apt/apt.conf.d/proxy sets a proxy for packages", ""},
		{"containerd with roots of its own", "etc/systemd/system/containerd.service.d/ca.conf",
			"[Service]\nEnvironment=SSL_CERT_FILE=/x\n", "SSL_CERT_FILE or SSL_CERT_DIR is set for containerd", ""},
		{"dockerd with roots of its own", "etc/systemd/system/docker.service.d/ca.conf",
			"[Service]\nEnvironment=SSL_CERT_FILE=/x\n", "wrote /etc/docker/certs.d/registry.k8s.io/casemate-", ""},
		{"dockerd as it is", "etc/docker/daemon.json", "{}\n", "", "docker"},
		{"DNS over TLS", "etc/systemd/resolved.conf", "[Resolve]\nDNSOverTLS=yes\n", "DNSOverTLS=yes is set", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTree(t, shell, map[string]string{c.file: c.text,
				"etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf"})
			was := tr.all()
			real := soak || strings.HasPrefix(c.want, "wrote ")
			var args []string
			if !real {
				args = []string{"--dry-run"} // it warns of the same
			}
			out := tr.run(site, 0, args...)
			if !strings.Contains(out, c.want) || c.not != "" && strings.Contains(out, c.not) {
				t.Errorf("should have said %q and not %q:\n%s", c.want, c.not, out)
			}
			if real {
				tr.run(site, 0, "--undo")
			}
			tr.same(was, "after undo")
		})
	}
}

func TestWrongUsage(t *testing.T) {
	site := newSite(t)
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t, shell, nil)
			was := tr.all()
			if out := tr.run(site, 2, "--nonsense"); !strings.Contains(out, "unknown argument --nonsense\nusage: ") {
				t.Error(out)
			}
			if out := tr.run(site, 1, "--root", tr.dir+"/nowhere"); !strings.Contains(out,
				"the directory does not exist") {
				t.Error(out)
			}
			os.RemoveAll(filepath.Join(tr.dir, "usr"))
			if out := tr.run(site, 1); !strings.Contains(out, "install the distribution's package ca-certificates") {
				t.Error(out)
			}
			tr.write(map[string]string{"usr/share/ca-certificates/": ""})
			tr.same(was, "after what was refused")
		})
	}
}

// Nothing of the site gets into a script that runs as root without being what it should be.
func TestInjection(t *testing.T) {
	const evil = "x'; touch /tmp/evil; '"
	addr := netip.MustParseAddr("10.0.0.1")
	for name, change := range map[string]func(*Site){
		"domain":              func(s *Site) { s.Domain = evil },
		"domain with a line":  func(s *Site) { s.Domain = "a.example\nb" },
		"no domain":           func(s *Site) { s.Domain = "" },
		"node":                func(s *Site) { s.Nodes[0].Name = evil },
		"node with a blank":   func(s *Site) { s.Nodes[0].Name = "a b" },
		"node that is a flag": func(s *Site) { s.Nodes[0].Name = "-a" },
		"no nodes":            func(s *Site) { s.Nodes = nil },
		"no address":          func(s *Site) { s.Nodes[0].Addrs = nil },
		"zero address":        func(s *Site) { s.Nodes[0].Addrs = []netip.Addr{{}} },
		"address with a zone": func(s *Site) {
			s.Nodes[0].Addrs = []netip.Addr{netip.MustParseAddr("fe80::1").WithZone(evil), addr}
		},
		"origin":               func(s *Site) { s.Origins[0].Host = evil },
		"alias":                func(s *Site) { s.Origins[1].Aliases = []string{"$(touch /tmp/evil)"} },
		"alias that is a glob": func(s *Site) { s.Origins[1].Aliases = []string{"*.example"} },
		"no roots":             func(s *Site) { s.Roots = "" },
		"text behind the root": func(s *Site) { s.Roots += "EOF\ntouch /tmp/evil\n" },
		"another PEM block": func(s *Site) {
			s.Roots += string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
		},
		"no certificate": func(s *Site) {
			s.Roots = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
		},
	} {
		s := newSite(t)
		change(s)
		for _, f := range Formats {
			if files, err := s.Enroll(f); err == nil {
				t.Errorf("%s, %s: taken: %.200s", name, f, files[0].Text)
			}
		}
	}
	// Text before and between blocks and headers in them are legal PEM, and stay out.
	s := newSite(t)
	block, _ := pem.Decode([]byte(s.Roots))
	block.Headers = map[string]string{"Comment": "EOF"}
	s.Roots = "touch /tmp/evil\nEOF\n" + string(pem.EncodeToMemory(block))
	script, err := s.Script()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(script, "evil") || strings.Contains(script, "Comment") {
		t.Error("what stood around the certificate is in the script")
	}
	if _, err := s.Enroll("xml"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("format xml: %v", err)
	}
}

func enroll(t *testing.T, s *Site, format string) []File {
	t.Helper()
	files, err := s.Enroll(format)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestLine(t *testing.T) {
	s := newSite(t)
	script := enroll(t, s, "sh")[0].Text
	if again := enroll(t, s, "sh")[0].Text; again != script {
		t.Error("the same site gives two scripts")
	}
	sum := sha256.Sum256([]byte(script))
	want :=
		`sh -c 'f=$(mktemp) && head -c 1048576 /dev/zero >"$f" || { rm -f "$f"; echo "casemate-enroll: no room in ${TMPDIR:-/tmp}: free 1 MiB there, or name another directory with TMPDIR; nothing was done" >&2; exit 1; }; ` +
			`for b in "10.0.0.11" "10.0.0.12" "10.0.0.13" "[fd00::13]"; do u="http://$b/enroll"; ` +
			`if command -v curl >/dev/null; then curl -gfsS --noproxy "*" --connect-timeout 5 -m 20 -o "$f" "$u"; else http_proxy= wget -q -t 1 -T 10 -O "$f" "$u"; fi || continue; ` +
			`if echo "` + hex.EncodeToString(sum[:]) +
			`  $f" | sha256sum -c - >/dev/null 2>&1; then sh "$f" "$@"; r=$?; rm -f "$f"; exit $r; fi; echo "casemate-enroll: $u has a wrong checksum" >&2; done; ` +
			`rm -f "$f"; echo "casemate-enroll: no bastion served the script; nothing was done" >&2; exit 1' casemate-enroll` + "\n"
	if got := enroll(t, s, "line")[0].Text; got != want {
		t.Errorf("the line is\n%s, want\n%s", got, want)
	}
}

// The line uses the first bastion that serves the right bytes, passes on the appended arguments, and runs nothing
// else.
func TestLineTriesEveryBastion(t *testing.T) {
	s := newSite(t)
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			curl := "#!/bin/sh\nfor a; do last=$a; done\nwhile [ \"$1\" != -o ]; do shift; done\nf=" + dir +
				"/$(echo \"$last\" | tr -d /:)\n[ -f \"$f\" ] || { echo 'curl: (7)' >&2; exit 7; }\ncat \"$f\" > " +
				"\"$2\"\n"
			if err := os.WriteFile(filepath.Join(dir, "curl"), []byte(curl), 0o755); err != nil {
				t.Fatal(err)
			}
			line := func(code int, behind string) string {
				t.Helper()
				cmd := exec.Command(shell[0], append(slices.Clone(shell[1:]), "-c",
					strings.TrimSpace(enroll(t, s, "line")[0].Text)+behind)...)
				cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "TMPDIR="+dir+"/tmp")
				out, _ := cmd.CombinedOutput()
				if got := cmd.ProcessState.ExitCode(); got != code {
					t.Fatalf("exit code %d, want %d:\n%s", got, code, out)
				}
				if left, _ := os.ReadDir(dir + "/tmp"); len(left) > 0 {
					t.Errorf("the line leaves %v behind", left)
				}
				return string(out)
			}
			if out := line(1, ""); !strings.Contains(out, "no room in "+dir+"/tmp") {
				t.Errorf("with no directory for temporary files it says\n%s", out)
			}
			if err := os.Mkdir(dir+"/tmp", 0o755); err != nil {
				t.Fatal(err)
			}
			// One that is full.
			mktemp := "#!/bin/sh\nln -s /dev/full " + dir + "/tmp/f && echo " + dir + "/tmp/f\n"
			if err := os.WriteFile(filepath.Join(dir, "mktemp"), []byte(mktemp), 0o755); err != nil {
				t.Fatal(err)
			}
			// BusyBox takes its own mktemp.
			if out := line(1, ""); name != "busybox" &&
				!strings.Contains(out, "free 1 MiB there, or name another directory with TMPDIR; nothing was done") {
				t.Errorf("with no room for temporary files it says\n%s", out)
			}
			if err := os.Remove(filepath.Join(dir, "mktemp")); err != nil {
				t.Fatal(err)
			}
			if out := line(1, ""); !strings.Contains(out, "no bastion served the script; nothing was done") {
				t.Error(out)
			}
			os.WriteFile(dir+"/http10.0.0.12enroll", []byte("touch "+dir+"/evil\n"), 0o600)
			if out := line(1, ""); !strings.Contains(out, "http://10.0.0.12/enroll has a wrong checksum") {
				t.Error(out)
			}
			os.WriteFile(dir+"/http10.0.0.13enroll", []byte(enroll(t, s, "sh")[0].Text), 0o600)
			if out := line(0, " --help"); !strings.Contains(out, "usage: casemate-enroll") {
				t.Error(out)
			}
			line(2, " --nonsense")
			if _, err := os.Stat(dir + "/evil"); err == nil {
				t.Error("the script with another checksum was run")
			}
		})
	}
}

func TestCloudInit(t *testing.T) {
	s := newSite(t)
	text := enroll(t, s, "cloud-init")[0].Text
	if !strings.HasPrefix(text, "#cloud-config\n") {
		t.Error("cloud-init knows its user data by the first line")
	}
	var data struct {
		WriteFiles []struct {
			Path, Permissions, Owner, Content string
		} `yaml:"write_files"`
		Runcmd [][]string
	}
	d := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	d.KnownFields(true)
	if err := d.Decode(&data); err != nil {
		t.Fatal(err)
	}
	if len(data.WriteFiles) != 1 || len(data.Runcmd) != 1 || data.Runcmd[0][0] != data.WriteFiles[0].Path ||
		data.WriteFiles[0].Permissions != "0755" {
		t.Fatalf("the user data is %+v", data)
	}
	if data.WriteFiles[0].Content != enroll(t, s, "sh")[0].Text {
		t.Error("the script in it is another one")
	}
}

func TestRole(t *testing.T) {
	s := newSite(t)
	var names []string
	for _, f := range enroll(t, s, "ansible") {
		names = append(names, f.Path)
		if strings.HasSuffix(f.Path, ".yml") {
			var any any
			if err := yaml.Unmarshal([]byte(f.Text), &any); err != nil {
				t.Errorf("%s: %v", f.Path, err)
			}
		}
	}
	if want := []string{"README.md", "defaults/main.yml", "files/casemate-enroll.sh", "tasks/main.yml"}; !slices.Equal(
		names, want) {
		t.Errorf("the role is %v, want %v", names, want)
	}
}

func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("needs shellcheck")
	}
	s := newSite(t)
	for _, format := range []string{"sh", "line"} {
		cmd := exec.Command("shellcheck", "-s", "sh", "-")
		cmd.Stdin = strings.NewReader(enroll(t, s, format)[0].Text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", format, err, out)
		}
	}
}
