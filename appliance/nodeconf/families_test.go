package nodeconf

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// network is what a node's network is like: to which of the bastions' addresses it has routes, and at which of these
// nothing answers.
type network struct {
	name           string
	routes, silent []string
	own            []string // addresses of the node itself, of a node-local DNS for instance
	linkLocal      []string // destinations to which there is a route, but no address to send from
	nameless       bool     // no name resolves through the bastions, nor through another resolver
}

// functions are those of the script that touch the running machine, as a node in this network has them.
func (n network) functions() string {
	var b strings.Builder
	b.WriteString("live() { :; }\nid() { echo 0; }\nrun() { say \"running: $*\"; }\nsystemd() { return 1; }\n" +
		"refreshTrust() { :; }\nsleep() { :; }\nip() {\n\tcase \"$1 $4\" in\n")
	answer := func(list []string, text string) {
		for _, a := range list {
			family := "-4"
			if strings.Contains(a, ":") {
				family = "-6"
			}
			fmt.Fprintf(&b, "\t\"%s %s\") echo '%s' ;;\n", family, a, strings.ReplaceAll(text, "ADDR", a))
		}
	}
	answer(n.routes, "ADDR dev eth0 src SOME metric 256")
	answer(n.own, "local ADDR dev lo table local src ADDR metric 0")
	answer(n.linkLocal, "ADDR from :: dev eth0 src fe80::50 metric 1024")
	// What old kernels say of an address without a route, with exit code 0.
	b.WriteString("\t-6*) echo \"unreachable $4 dev lo metric 4294967295 error -101\" ;;\n" +
		"\t*) return 2 ;;\n\tesac\n}\n")
	b.WriteString("curl() {\n\tfor c_url; do :; done\n\tcase \"$c_url\" in\n")
	for _, a := range n.silent {
		fmt.Fprintf(&b, "\t\"http://%s/\"*) return 28 ;;\n", URLHost(netip.MustParseAddr(a)))
	}
	b.WriteString("\tesac\n}\n")
	if n.nameless {
		b.WriteString("resolve() { :; }\n")
	} else {
		b.WriteString("resolve() { printf '%s\\n' \"$SERVERS\"; }\n")
	}
	return b.String()
}

// mainLine is the last line of the script.
const mainLine = "main \"$@\"\n"

// live runs the script on the tree as if that were a running node in the network.
func (tr *tree) live(s *Site, n network, code int, args ...string) string {
	tr.t.Helper()
	return tr.liveWith(s, n.functions(), code, args...)
}

// liveWith is live with these functions.
func (tr *tree) liveWith(s *Site, functions string, code int, args ...string) string {
	tr.t.Helper()
	script, err := s.Script()
	if err != nil {
		tr.t.Fatal(err)
	}
	text, ok := strings.CutSuffix(script, mainLine)
	if !ok {
		tr.t.Fatal("the script does not end with main")
	}
	file := filepath.Join(tr.t.TempDir(), "enroll")
	if err := os.WriteFile(file, []byte(text+functions+mainLine), 0o600); err != nil {
		tr.t.Fatal(err)
	}
	cmd := exec.Command(tr.shell[0], append(slices.Concat(tr.shell[1:], []string{file, "--root", tr.dir}), args...)...)
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != code || err != nil && got < 0 {
		tr.t.Fatalf("%v: exit code %d (%v), want %d:\n%s", args, got, err, code, out)
	}
	return string(out)
}

func addrList(list ...string) (addrs []netip.Addr) {
	for _, a := range list {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs
}

// siteOf is newSite with these addresses of the bastions n1, n2, ….
func siteOf(t *testing.T, addrs ...[]netip.Addr) *Site {
	s := newSite(t)
	s.Nodes = nil
	for i, list := range addrs {
		s.Nodes = append(s.Nodes, Node{fmt.Sprintf("n%d", i+1), list})
	}
	return s
}

// dualSite has three bastions with an address of each family, IPv6 first or last.
func dualSite(t *testing.T, sixFirst bool) *Site {
	var list [][]netip.Addr
	for i := 11; i <= 13; i++ {
		addrs := addrList(fmt.Sprintf("10.0.0.%d", i), fmt.Sprintf("fd00::%d", i))
		if sixFirst {
			slices.Reverse(addrs)
		}
		list = append(list, addrs)
	}
	return siteOf(t, list...)
}

var (
	fours = []string{"10.0.0.11", "10.0.0.12", "10.0.0.13"}
	sixes = []string{"fd00::11", "fd00::12", "fd00::13"}
	both  = slices.Concat(fours, sixes)
)

const anyID = "0123456789abcdef0123456789abcdef"

// ordered returns the bastions in the order of a node.
func ordered(s *Site, id string) []Node {
	key := func(n Node) string {
		line := n.Name
		for _, a := range n.Addrs {
			line += " " + a.String()
		}
		sum := sha256.Sum256([]byte(id + " " + line))
		return hex.EncodeToString(sum[:])
	}
	return slices.SortedFunc(slices.Values(s.Nodes), func(a, b Node) int { return strings.Compare(key(a), key(b)) })
}

// chosen runs the script's own choice for each network, all in one shell: the resolvers, those left out, the silent
// family.
func chosen(t *testing.T, shell []string, s *Site, networks ...network) (list [][3]string) {
	t.Helper()
	script, err := s.Script()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSuffix(script, mainLine) + "ROOT=$1 STATE=$1/none WORK=$2\n"
	for _, n := range networks {
		text += n.functions() +
			"choose\nprintf '%s\\n' \"$(asked | oneLine)|$(printf '%s\\n' \"$UNROUTED\" | oneLine)|$SILENT\"\n"
	}
	tr := newTree(t, shell, nil)
	if len(networks) > 0 && len(networks[0].own) > 0 {
		tr.write(map[string]string{"etc/resolv.conf": "nameserver " + networks[0].own[0] + "\n"})
	}
	file := filepath.Join(t.TempDir(), "choose")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(shell[0], append(slices.Clone(shell[1:]), file, tr.dir, t.TempDir())...)
	var warnings strings.Builder
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, warnings.String())
	}
	for line := range strings.Lines(string(out)) {
		list = append(list, [3]string(strings.Split(strings.TrimSpace(line), "|")))
	}
	if len(list) != len(networks) {
		t.Fatalf("%d choices for %d networks:\n%s", len(list), len(networks), out)
	}
	return list
}

// TestFamilies: a node gets resolvers of the families that it has, one of each within the first three, and the
// bastions in its own order.
func TestFamilies(t *testing.T) {
	four, six := dualSite(t, false), dualSite(t, true)
	one := siteOf(t, addrList("10.0.0.11", "fd00::11"))
	mixed := siteOf(t, addrList("10.0.0.11"), addrList("10.0.0.12", "fd00::12"), addrList("10.0.0.13", "fd00::13"))
	ulaGUA := siteOf(t, addrList("10.0.0.11", "2001:db8::11", "fd00::11"),
		addrList("10.0.0.12", "2001:db8::12", "fd00::12"), addrList("10.0.0.13", "2001:db8::13", "fd00::13"))
	gua := []string{"2001:db8::11", "2001:db8::12", "2001:db8::13"}
	// Letters stand for the bastions in this node's order; 4 and 6 for the family, G for the global IPv6 address.
	for i, c := range []struct {
		name    string
		site    *Site
		network network
		want    string // the first three
		silent  string
	}{
		{"IPv4 only", four, network{routes: fours}, "a4 b4 c4", ""},
		{"IPv4 only, IPv6 first", six, network{routes: fours}, "a4 b4 c4", ""},
		{"IPv6 only", four, network{routes: sixes}, "a6 b6 c6", ""},
		{"IPv6 only, IPv6 first", six, network{routes: sixes}, "a6 b6 c6", ""},
		{"both", four, network{routes: both}, "a4 b4 c6", ""},
		{"both, IPv6 first", six, network{routes: both}, "a6 b6 c4", ""},
		{"both, and IPv6 is lost on the way", six, network{routes: both, silent: sixes}, "a4 b4 c6", "6"},
		{"both, and IPv4 is lost on the way", four, network{routes: both, silent: fours}, "a6 b6 c4", "4"},
		{"both, and one bastion is down", six, network{routes: both, silent: []string{"10.0.0.11", "fd00::11"}},
			"a6 b6 c4", ""},
		{"both, and all bastions are down", six, network{routes: both, silent: both}, "a6 b6 c4", ""},
		{"IPv6 with link-local addresses only", six, network{routes: fours, linkLocal: sixes}, "a4 b4 c4", ""},
		{"no route at all", four, network{}, "a4 b4 c6", ""},
		{"one bastion", one, network{routes: both}, "a4 a6", ""},
		{"one bastion, IPv6 only", one, network{routes: sixes}, "a6", ""},
		{"one bastion, and IPv6 is lost", one, network{routes: both, silent: sixes}, "a4 a6", "6"},
		{"IPv6 only, and one bastion has none", mixed, network{routes: sixes}, "6 6", ""},
		{"both, and one bastion has no IPv6", mixed, network{routes: both}, "4 6 4", ""},
		{"unique local addresses only", ulaGUA, network{routes: sixes}, "a6 b6 c6", ""},
		{"global IPv6 addresses only", ulaGUA, network{routes: gua}, "aG bG cG", ""},
		{"IPv4, global and unique local", ulaGUA, network{routes: slices.Concat(both, gua)}, "a4 b4 cG", ""},
		{"node-local DNS over IPv6", four, network{routes: both, own: []string{"fd77::53"}}, "fd77::53 a4 b6", ""},
		{"node-local DNS over IPv6 on a node without IPv4", four,
			network{routes: sixes, own: []string{"fd77::53"}}, "fd77::53 a6 b6", ""},
		{"a bastion enrols itself", four, network{routes: both, own: []string{"fd00::11"}}, "a4 b4 c6", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			nodes := ordered(c.site, anyID)
			list := map[string][]string{"quick": quick(t)}
			if soak || i%3 == 0 {
				list = shells(t)
			}
			for name, shell := range list {
				got := chosen(t, shell, c.site, c.network)[0]
				resolvers := strings.Fields(got[0])
				first := resolvers[:min(3, len(resolvers))]
				if is := symbols(first, nodes, c.want); is != c.want {
					t.Errorf("%s: %q is %s, want %s", name, got[0], is, c.want)
				}
				if got[2] != c.silent {
					t.Errorf("%s: the silent family is %q, want %q", name, got[2], c.silent)
				}
				used := slices.Concat(resolvers, strings.Fields(got[1]))
				for _, a := range c.site.Addrs() {
					routed := slices.Contains(slices.Concat(c.network.routes, c.network.own), a.String())
					if slices.Contains(resolvers, a.String()) != (routed || len(c.network.routes) == 0) ||
						!slices.Contains(used, a.String()) {
						t.Errorf("%s: %s, which has a route: %v, in %q", name, a, routed, got)
					}
				}
			}
		})
	}
}

// TestHostsByFamily: without the resolver a node has the addresses in its hosts file that it can use, those of a family
// that is lost last.
func TestHostsByFamily(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		network network
		want    string // of n2
	}{
		{network{routes: both}, "fd00::12 10.0.0.12"},
		{network{routes: fours}, "10.0.0.12"},
		{network{routes: sixes}, "fd00::12"},
		{network{routes: both, silent: sixes}, "10.0.0.12 fd00::12"},
		// None of its own: all, so that its name is known.
		{network{routes: []string{"fd00::11"}}, "fd00::12 10.0.0.12"},
	} {
		tr := newTree(t, quick(t), map[string]string{"etc/hosts": "127.0.0.1 localhost\n"})
		tr.live(dualSite(t, true), c.network, 0, "--no-resolver")
		var got []string
		for line := range strings.Lines(tr.read("etc/hosts")) {
			if strings.Contains(line, " n2.casemate.internal ") {
				got = append(got, strings.Fields(line)[0])
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %q, want %q", c.network, got, c.want)
		}
	}
}

// symbols writes addresses as TestFamilies wants them: a, b and c are the bastions in order; without these letters in
// want only the family.
func symbols(list []string, nodes []Node, want string) string {
	var out []string
	for _, text := range list {
		a := netip.MustParseAddr(text)
		i := slices.IndexFunc(nodes, func(n Node) bool { return slices.Contains(n.Addrs, a) })
		s := map[bool]string{true: "4", false: "6"}[a.Is4()]
		switch {
		case i < 0:
			s = text
		case strings.HasPrefix(text, "2001:"):
			s = string(rune('a'+i)) + "G"
		case strings.ContainsAny(want, "abc"):
			s = string(rune('a'+i)) + s
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// TestShellAndGoAgree: the script's arrange and Resolvers give the same order for random sites.
func TestShellAndGoAgree(t *testing.T) {
	t.Parallel()
	shell := quick(t)
	random := rand.New(rand.NewPCG(1, 2))
	const rounds = 200
	var want []string
	script, err := newSite(t).Script()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSuffix(script, mainLine) + "WORK=$1\n"
	for range rounds {
		var nodes []Node
		for i := range 1 + random.IntN(5) {
			n := Node{Name: fmt.Sprintf("n%d", i)}
			for j := range 1 + random.IntN(3) {
				n.Addrs = append(n.Addrs, netip.MustParseAddr(
					fmt.Sprintf([]string{"10.0.%d.%d", "fd00:%d::%d"}[random.IntN(2)], i+1, j+1)))
			}
			nodes = append(nodes, n)
		}
		places := random.IntN(5)
		var lines, addrs []string
		for _, n := range nodes {
			lines = append(lines, n.Name+" "+strings.Join(texts(n.Addrs), " "))
		}
		for _, a := range (&Site{Nodes: nodes}).Addrs() {
			addrs = append(addrs, a.String())
		}
		want = append(want, strings.Join(texts(Resolvers(nodes, places)), " "))
		text += fmt.Sprintf("printf '%%s\\n' '%s' >\"$WORK/nodes\"\n"+
			"printf '%%s\\n' %s | arrange %d '' | oneLine\necho\n",
			strings.Join(lines, "\n"), strings.Join(addrs, " "), places)
	}
	file := filepath.Join(t.TempDir(), "arrange")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(shell[0], append(slices.Clone(shell[1:]), file, t.TempDir())...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(got) != rounds {
		t.Fatalf("%d lines, want %d:\n%s", len(got), rounds, out)
	}
	for i := range got {
		if strings.TrimSpace(got[i]) != want[i] {
			t.Errorf("round %d: the script has %q, Resolvers %q", i, got[i], want[i])
		}
	}
}

func texts(addrs []netip.Addr) (list []string) {
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}

// Without the program ip a node uses the families of its routing tables.
func TestRoutesWithoutIP(t *testing.T) {
	t.Parallel()
	script, err := newSite(t).Script()
	if err != nil {
		t.Fatal(err)
	}
	const zero = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
	four := "Iface\tDestination\tGateway\neth0\t00000000\t0100000A\n"
	six := zero + "fd000000000000000000000000000001 00000400 1 0 3 eth0\n"
	for _, c := range []struct{ name, four, six, want string }{
		{"both", four, six, "10.0.0.1 fd00::1"},
		{"IPv4", four, "fe80" + zero[4:] + "0 0 1 0 1 eth0\nff00" + zero[4:] + "0 0 1 0 1 eth0\n" + zero +
			"0 ffffffff 1 0 200200 lo\n", "10.0.0.1"},
		{"IPv6", "Iface\tDestination\nlo\t0000007F\n", six, "fd00::1"},
		{"neither", "", "", ""},
	} {
		for name, shell := range shells(t) {
			text := strings.TrimSuffix(script, mainLine) + "live() { :; }\ncommand() { return 1; }\n" +
				"procNet() { case $1 in route) printf '%s' \"$FOUR\" ;; *) printf '%s' \"$SIX\" ;; esac; }\n" +
				"for a in 10.0.0.1 fd00::1; do if routed $a; then echo $a; fi; done\n"
			cmd := exec.Command(shell[0], append(slices.Clone(shell[1:]), "-c", text)...)
			cmd.Env = append(os.Environ(), "FOUR="+c.four, "SIX="+c.six)
			out, err := cmd.CombinedOutput()
			if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != c.want {
				t.Errorf("%s, %s: %q (%v), want %q", c.name, name, out, err, c.want)
			}
		}
	}
}

// formatted are the set-ups that together have every format in which resolvers are written.
var formatted = []string{"resolved stub with networkd", "NetworkManager alone",
	"NetworkManager and a file that it has not written", "ifupdown with dhclient", "dhcpcd", "resolvconf",
	"netconfig of SUSE", "plain file", "openresolv"}

// TestFormatsByFamily compares every file that has resolvers in it, for each format and each kind of network, with
// testdata/families.txt.
func TestFormatsByFamily(t *testing.T) {
	site := dualSite(t, true)
	shell := quick(t)
	networks := []network{{name: "IPv4", routes: fours}, {name: "IPv6", routes: sixes}, {name: "both", routes: both},
		{name: "both, no IPv6 answer", routes: both, silent: sixes}}
	ways := append(setups(), setup{name: "openresolv", files: map[string]string{
		"etc/resolv.conf": "-> /run/resolvconf/resolv.conf", "run/resolvconf/resolv.conf": "nameserver 192.168.1.1\n",
		"etc/resolvconf.conf": "resolv_conf=/etc/resolv.conf\n"}})
	ways = slices.DeleteFunc(ways, func(s setup) bool { return !slices.Contains(formatted, s.name) })
	if len(ways) != len(formatted) {
		t.Fatalf("%d set-ups, want %d", len(ways), len(formatted))
	}
	found := make([]string, len(ways)*len(networks))
	t.Run("all", func(t *testing.T) {
		for i, way := range ways {
			for j, n := range networks {
				t.Run(way.name+"/"+n.name, func(t *testing.T) {
					t.Parallel()
					tr := newTree(t, shell, way.files)
					tr.live(site, n, 0)
					var b strings.Builder
					fmt.Fprintf(&b, "== %s, %s\n", way.name, n.name)
					all := tr.all()
					for _, name := range slices.Sorted(maps.Keys(all)) {
						if strings.HasPrefix(name, "var/") || name == "etc/casemate/bastions" {
							continue
						}
						for line := range strings.Lines(all[name]) {
							if strings.Contains(line, "10.0.0.1") || strings.Contains(line, "fd00::") {
								fmt.Fprintf(&b, "%s: %s\n", name, strings.TrimRight(line, "\n"))
							}
						}
					}
					found[i*len(networks)+j] = b.String()
				})
			}
		}
	})
	file := filepath.Join("testdata", "families.txt")
	got := strings.Join(found, "")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", file, got)
	}
	if strings.ContainsAny(got, "[]") {
		t.Error("no format of a resolver's address has brackets")
	}
}
