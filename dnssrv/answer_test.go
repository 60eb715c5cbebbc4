package dnssrv

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestOverriddenNameAnswersWithEveryHealthyNode(t *testing.T) {
	r := start(t, threeNodes())
	for _, network := range []string{"udp", "tcp"} {
		for _, name := range []string{"registry.k8s.io", "docker.io", "registry-1.docker.io", "ReGiStRy.K8S.io"} {
			resp := r.over(network, question(name, dns.TypeA))
			got := values(resp.Answer, dns.TypeA)
			slices.Sort(got)
			if want := []string{"10.0.0.11", "10.0.0.12"}; !slices.Equal(got, want) || !resp.Authoritative ||
				resp.Rcode != dns.RcodeSuccess {
				t.Errorf("%s %s: want %v, got %v", network, name, want, resp)
			}
			for _, rr := range resp.Answer {
				if rr.Header().Ttl != 15 || rr.Header().Name != dns.Fqdn(name) {
					t.Errorf("%s: want TTL 15 and the name as asked, got %v", name, rr)
				}
			}
			if resp.Question[0].Name != dns.Fqdn(name) {
				t.Errorf("%s: the case of the question is not preserved: %v", name, resp.Question)
			}
			got = values(r.over(network, question(name, dns.TypeAAAA)).Answer, dns.TypeAAAA)
			slices.Sort(got)
			if want := []string{"fd00::11", "fd00::12"}; !slices.Equal(got, want) {
				t.Errorf("%s %s: want %v, got %v", network, name, want, got)
			}
		}
	}
	if r.Stats().Fast == 0 {
		t.Error("no answer came from packed bytes")
	}
	if m := r.misses(); len(m) != 0 {
		t.Errorf("want no miss, got %v", m)
	}
}

func TestAllNodesIfNoneIsHealthy(t *testing.T) {
	spec := threeNodes()
	for i := range spec.Nodes {
		spec.Nodes[i].Healthy = false
	}
	r := start(t, spec)
	if got := r.ask(question("docker.io", dns.TypeA)).Answer; len(got) != 3 {
		t.Errorf("want all three nodes, got %v", got)
	}
}

func TestTableIsSwapped(t *testing.T) {
	spec := threeNodes()
	r := start(t, spec)
	spec.Nodes[0].Healthy = false
	spec.Origins = append(spec.Origins, "quay.io")
	r.SetTable(table(t, spec))
	for _, name := range []string{"docker.io", "quay.io"} {
		if got := values(r.ask(question(name, dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
			[]string{"10.0.0.12"}) {
			t.Errorf("%s: want the one node that is still healthy, got %v", name, got)
		}
	}
}

// Every answer comes whole from one table, however often tables are swapped meanwhile.
func TestTableIsSwappedUnderLoad(t *testing.T) {
	spec := threeNodes()
	r := start(t, spec)
	both := table(t, spec)
	for i := range spec.Nodes {
		spec.Nodes[i].Healthy = i == 2
	}
	third := table(t, spec)
	done := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		for tab := third; ; {
			select {
			case <-done:
				return
			default:
				r.SetTable(tab)
			}
			if tab == third {
				tab = both
			} else {
				tab = third
			}
		}
	})
	seen := map[string]bool{}
	for i := 0; i < 200 || len(seen) < 2; i++ {
		got := values(r.over([]string{"udp", "tcp"}[i%10/9], question("docker.io", dns.TypeA)).Answer, dns.TypeA)
		slices.Sort(got)
		seen[strings.Join(got, " ")] = true
	}
	close(done)
	swaps.Wait()
	if want := map[string]bool{"10.0.0.11 10.0.0.12": true, "10.0.0.13": true}; !maps.Equal(seen, want) {
		t.Errorf("want %v, got %v", want, seen)
	}
}

func TestOrderIsStablePerClientAndSpreadsClients(t *testing.T) {
	spec := threeNodes()
	spec.Nodes[2].Healthy = true
	r := start(t, spec)
	first := map[string]int{}
	for i := range 60 {
		client := fmt.Sprintf("127.0.1.%d", i+1)
		got := values(r.askFrom(client, question("docker.io", dns.TypeA)).Answer, dns.TypeA)
		first[got[0]]++
		// The same for another name, through the slow path (TCP aside), and again.
		m := question("registry.k8s.io", dns.TypeA)
		m.SetEdns0(1232, true)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
		again := values(r.askFrom(client, m).Answer, dns.TypeA)
		if !slices.Equal(got, again) {
			t.Fatalf("%s: got %v, then %v", client, got, again)
		}
	}
	for _, a := range []string{"10.0.0.11", "10.0.0.12", "10.0.0.13"} {
		if first[a] < 10 {
			t.Errorf("want each node first for about 20 of 60 clients, got %v", first)
		}
	}
}

func TestOrderOfTheOthersStaysWhenANodeGoes(t *testing.T) {
	spec := threeNodes()
	spec.Nodes = append(spec.Nodes, Node{Name: "n4", Addrs: addrs("10.0.0.14")},
		Node{Name: "n5", Addrs: addrs("10.0.0.15")})
	for i := range spec.Nodes {
		spec.Nodes[i].Healthy = true
	}
	all := table(t, spec)
	spec.Nodes[1].Healthy = false
	less := table(t, spec)
	names := func(tab *Table, client netip.Addr) (out []string) {
		var buf [maxNodes]*member
		for _, m := range order(tab.live[v4], client, &buf) {
			out = append(out, m.name)
		}
		return out
	}
	next := map[string]int{}
	for i := range 300 {
		client := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		was, is := names(all, client), names(less, client)
		if was[0] == "n2.casemate.internal." {
			next[is[0]]++
		}
		was = slices.DeleteFunc(was, func(n string) bool { return n == "n2.casemate.internal." })
		if !slices.Equal(was, is) {
			t.Fatalf("%s: want %v, got %v", client, was, is)
		}
	}
	if len(next) != 4 {
		t.Errorf("the clients of the node that went must spread over all others, got %v", next)
	}
}

func TestOtherTypesOfOverriddenNamesAreNODATA(t *testing.T) {
	spec := threeNodes()
	for i := range spec.Nodes {
		spec.Nodes[i].Addrs = spec.Nodes[i].Addrs[:1] // v4 only
	}
	r := start(t, spec)
	for _, qtype := range []uint16{dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeMX, dns.TypeTXT, dns.TypeNS,
		dns.TypeCNAME, dns.TypeDS, dns.TypeCAA, dns.TypeSRV, 65280} {
		for _, network := range []string{"udp", "tcp"} {
			resp := r.over(network, question("registry.k8s.io", qtype))
			if owner := soaOf(t, resp); resp.Rcode != dns.RcodeSuccess || owner != "registry.k8s.io." ||
				!resp.Authoritative {
				t.Errorf("%s: want NODATA, got %v", dns.Type(qtype), resp)
			}
		}
	}
	if m := r.misses(); len(m) != 0 {
		t.Errorf("NODATA must not be a miss, got %v", m)
	}
}

func TestNamesAroundOverriddenNames(t *testing.T) {
	r := start(t, threeNodes())
	// Below: denied at once by the SOA of the overridden name. Above: it exists, because something below it does.
	// Beside: denied by the root's.
	for _, c := range []struct {
		name, soa string
		rcode     int
	}{
		{"foo.docker.io", "docker.io.", dns.RcodeNameError},
		{"a.b.c.docker.io", "docker.io.", dns.RcodeNameError},
		{"k8s.io", ".", dns.RcodeSuccess},
		{"io", ".", dns.RcodeSuccess},
		{"example.io", ".", dns.RcodeNameError},
		{"kubernetes.default.svc.cluster.local", ".", dns.RcodeNameError},
	} {
		resp := r.ask(question(c.name, dns.TypeA))
		if owner := soaOf(t, resp); resp.Rcode != c.rcode || owner != c.soa {
			t.Errorf("%s: want %s with the SOA of %s, got %v", c.name, dns.RcodeToString[c.rcode], c.soa, resp)
		}
	}
	want := []string{"foo.docker.io/A", "a.b.c.docker.io/A", "k8s.io/A", "io/A", "example.io/A",
		"kubernetes.default.svc.cluster.local/A"}
	if got := r.misses(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("misses: want %v, got %v", want, got)
	}
}

func TestOwnZone(t *testing.T) {
	spec := threeNodes()
	r := start(t, spec)
	for _, name := range []string{"casemate.internal", "registry.casemate.internal", "files.casemate.internal",
		"ns.casemate.internal"} {
		if got := r.ask(question(name, dns.TypeA)).Answer; len(got) != 2 {
			t.Errorf("%s: want the healthy nodes, got %v", name, got)
		}
	}
	// <node>.<domain> is that node alone, healthy or not.
	for name, want := range map[string]string{"n1": "10.0.0.11", "n3": "10.0.0.13"} {
		if got := values(r.ask(question(name+".casemate.internal", dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
			[]string{want}) {
			t.Errorf("%s: want %s, got %v", name, want, got)
		}
	}
	if got := values(r.ask(question("n3.casemate.internal", dns.TypeAAAA)).Answer, dns.TypeAAAA); !slices.Equal(got,
		[]string{"fd00::13"}) {
		t.Errorf("n3 AAAA: got %v", got)
	}
	soa := r.ask(question("casemate.internal", dns.TypeSOA))
	if len(soa.Answer) != 1 || soa.Answer[0].(*dns.SOA).Ns != "ns.casemate.internal." {
		t.Errorf("SOA: got %v", soa)
	}
	ns := r.ask(question("casemate.internal", dns.TypeNS))
	if got := values(ns.Answer, dns.TypeNS); !slices.Equal(got, []string{"ns.casemate.internal."}) ||
		len(values(ns.Extra, dns.TypeA)) != 2 || len(values(ns.Extra, dns.TypeAAAA)) != 2 {
		t.Errorf("want NS with glue, got %v", ns)
	}
	for _, rev := range []string{"11.0.0.10.in-addr.arpa.", mustReverse(t, "fd00::11")} {
		if got := values(r.ask(question(rev, dns.TypePTR)).Answer, dns.TypePTR); !slices.Equal(got,
			[]string{"n1.casemate.internal."}) {
			t.Errorf("PTR %s: got %v", rev, got)
		}
		if resp := r.ask(question(rev, dns.TypeA)); soaOf(t, resp) != rev || resp.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: want NODATA, got %v", rev, resp)
		}
	}
	nx := r.ask(question("nobody.casemate.internal", dns.TypeA))
	if soaOf(t, nx) != "casemate.internal." || nx.Rcode != dns.RcodeNameError {
		t.Errorf("want NXDOMAIN with the own zone's SOA, got %v", nx)
	}
	if got := r.misses(); !slices.Equal(got, []string{"nobody.casemate.internal/A"}) {
		t.Errorf("misses: got %v", got)
	}
}

func mustReverse(t testing.TB, a string) string {
	t.Helper()
	rev, err := dns.ReverseAddr(a)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestOperatorRecords(t *testing.T) {
	long := strings.Repeat(`a\"`, 100) + "end"
	spec := threeNodes()
	spec.Records = []Record{
		{Name: "Git.Bank.Example.", Type: "a", Values: []string{"192.0.2.1", "192.0.2.2", "192.0.2.1"},
			TTL: time.Minute},
		{Name: "git.bank.example", Type: "AAAA", Values: []string{"2001:db8::1"}},
		{Name: "git.bank.example", Type: "TXT", Values: []string{long, `back\slash`}},
		{Name: "_ldap._tcp.bank.example", Type: "SRV", Values: []string{"0 5 389 git.bank.example"}},
		{Name: "www.bank.example", Type: "CNAME", Values: []string{"git.bank.example"}},
		{Name: "mirror.bank.example", Type: "CNAME", Values: []string{"registry.k8s.io"}},
		{Name: "gone.bank.example", Type: "CNAME", Values: []string{"elsewhere.example"}},
		{Name: "one.bank.example", Type: "CNAME", Values: []string{"two.bank.example"}},
		{Name: "two.bank.example", Type: "CNAME", Values: []string{"one.bank.example"}},
		{Name: "jump.casemate.internal", Type: "A", Values: []string{"10.9.9.9"}},
	}
	r := start(t, spec)
	for _, network := range []string{"udp", "tcp"} {
		a := r.over(network, question("git.bank.example", dns.TypeA))
		if got := values(a.Answer, dns.TypeA); !slices.Equal(got, []string{"192.0.2.1", "192.0.2.2"}) ||
			a.Answer[0].Header().Ttl != 60 {
			t.Errorf("A: got %v", a)
		}
		if got := values(r.over(network, question("git.bank.example", dns.TypeAAAA)).Answer,
			dns.TypeAAAA); !slices.Equal(got, []string{"2001:db8::1"}) {
			t.Errorf("AAAA: got %v", got)
		}
		txt := r.over(network, question("git.bank.example", dns.TypeTXT))
		if len(txt.Answer) != 2 || unescaped(txt.Answer[0].(*dns.TXT).Txt) != long ||
			unescaped(txt.Answer[1].(*dns.TXT).Txt) != `back\slash` {
			t.Errorf("TXT: got %v", txt)
		}
		srv := r.over(network, question("_ldap._tcp.bank.example", dns.TypeSRV))
		if got := values(srv.Answer, dns.TypeSRV); !slices.Equal(got, []string{"0 5 389 git.bank.example."}) ||
			len(srv.Extra) != 3 {
			t.Errorf("want SRV with its target's addresses, got %v", srv)
		}
		www := r.over(network, question("www.bank.example", dns.TypeA))
		if !slices.Equal(values(www.Answer, dns.TypeCNAME), []string{"git.bank.example."}) ||
			!slices.Equal(values(www.Answer, dns.TypeA), []string{"192.0.2.1", "192.0.2.2"}) {
			t.Errorf("CNAME: got %v", www)
		}
		if got := r.over(network, question("www.bank.example", dns.TypeCNAME)); len(got.Answer) != 1 {
			t.Errorf("the CNAME itself: got %v", got)
		}
		if got := r.over(network, question("mirror.bank.example", dns.TypeA)); len(got.Answer) != 3 ||
			len(values(got.Answer, dns.TypeA)) != 2 {
			t.Errorf("want a CNAME to an overridden name to end at the nodes, got %v", got)
		}
		if got := r.over(network, question("www.bank.example", dns.TypeMX)); len(got.Answer) != 1 || len(got.Ns) != 1 ||
			got.Rcode != dns.RcodeSuccess {
			t.Errorf("want a CNAME and NODATA, got %v", got)
		}
		if got := r.over(network, question("one.bank.example", dns.TypeA)); got.Rcode != dns.RcodeServerFailure {
			t.Errorf("want SERVFAIL for a loop, got %v", got)
		}
		if got := values(r.over(network, question("jump.casemate.internal", dns.TypeA)).Answer,
			dns.TypeA); !slices.Equal(got, []string{"10.9.9.9"}) {
			t.Errorf("a record in the own zone: got %v", got)
		}
		if got := r.over(network, question("git.bank.example", dns.TypeMX)); soaOf(t, got) != "git.bank.example." ||
			got.Rcode != dns.RcodeSuccess {
			t.Errorf("want NODATA, got %v", got)
		}
		if got := r.over(network, question("_tcp.bank.example", dns.TypeA)); soaOf(t, got) != "." ||
			got.Rcode != dns.RcodeSuccess {
			t.Errorf("an empty non-terminal exists: got %v", got)
		}
	}
	gone := r.ask(question("gone.bank.example", dns.TypeA))
	if gone.Rcode != dns.RcodeNameError || len(gone.Answer) != 1 || len(gone.Ns) != 1 {
		t.Errorf("want the CNAME, and NXDOMAIN for its target (RFC 6604), got %v", gone)
	}
	if got := r.misses(); !slices.Contains(got, "elsewhere.example/A") || slices.Contains(got, "gone.bank.example/A") {
		t.Errorf("the target is what is missing: got %v", got)
	}
}

// unescaped joins character-strings as miekg/dns unpacks them.
func unescaped(txt []string) string {
	s := strings.Join(txt, "")
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s)
}

// The zone of RFC 4592 §2.2.1, as far as our types go.
func TestWildcards(t *testing.T) {
	spec := threeNodes()
	spec.Domain = "example"
	spec.Records = []Record{
		{Name: "*.example", Type: "TXT", Values: []string{"this is a wildcard"}},
		{Name: "sub.*.x.example", Type: "A", Values: []string{"192.0.2.9"}},
		{Name: "host1.example", Type: "A", Values: []string{"192.0.2.1"}},
		{Name: "_ssh._tcp.host1.example", Type: "SRV", Values: []string{"0 0 22 host1.example"}},
		{Name: "*.apps.bank.test", Type: "A", Values: []string{"192.0.2.80"}},
		{Name: "*.alias.test", Type: "CNAME", Values: []string{"host1.example"}},
	}
	if _, err := NewTable(spec); err == nil {
		t.Fatal("a wildcard inside a name must be an error")
	}
	spec.Records = slices.Delete(spec.Records, 1, 2)
	r := start(t, spec)
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string
	}{
		{"host3.example", dns.TypeTXT, dns.RcodeSuccess, `"this is a wildcard"`},
		{"host3.example", dns.TypeA, dns.RcodeSuccess, ""}, // NODATA: the wildcard has no A
		{"foo.bar.example", dns.TypeTXT, dns.RcodeSuccess, `"this is a wildcard"`},
		{"host1.example", dns.TypeTXT, dns.RcodeSuccess, ""},                // exists
		{"_telnet._tcp.host1.example", dns.TypeSRV, dns.RcodeNameError, ""}, // closest encloser is _tcp.host1
		{"_tcp.host1.example", dns.TypeTXT, dns.RcodeSuccess, ""},           // empty non-terminal
		{"deep.host1.example", dns.TypeTXT, dns.RcodeNameError, ""},         // closest encloser is host1
		{"*.example", dns.TypeTXT, dns.RcodeSuccess, `"this is a wildcard"`},
		{"Web.Apps.Bank.Test", dns.TypeA, dns.RcodeSuccess, "192.0.2.80"},
		{"a.b.apps.bank.test", dns.TypeA, dns.RcodeSuccess, "192.0.2.80"},
		{"apps.bank.test", dns.TypeA, dns.RcodeSuccess, ""}, // not itself
		{`wei\.rd.apps.bank.test`, dns.TypeA, dns.RcodeSuccess, "192.0.2.80"},
		{"x.alias.test", dns.TypeA, dns.RcodeSuccess, "192.0.2.1"},
	} {
		resp := r.ask(question(c.name, c.qtype))
		got := strings.Join(values(resp.Answer, c.qtype), ",")
		if resp.Rcode != c.rcode || got != c.want || len(resp.Answer) > 0 &&
			resp.Answer[0].Header().Name != dns.Fqdn(c.name) {
			t.Errorf("%s %s: want %s %q, got %v", c.name, dns.Type(c.qtype), dns.RcodeToString[c.rcode], c.want, resp)
		}
		if c.want == "" {
			soaOf(t, resp)
		}
	}
}

func TestConflictsAreSettledByRule(t *testing.T) {
	spec := threeNodes()
	spec.Nodes = append(spec.Nodes, Node{Name: "files", Addrs: addrs("10.0.0.14")})
	spec.Records = []Record{
		{Name: "docker.io", Type: "A", Values: []string{"192.0.2.1"}},
		{Name: "registry.k8s.io", Type: "TXT", Values: []string{"hello"}},
		{Name: "registry-1.docker.io", Type: "CNAME", Values: []string{"docker.io"}},
		{Name: "registry.casemate.internal", Type: "A", Values: []string{"10.0.0.99"}},
		{Name: "casemate.internal", Type: "CNAME", Values: []string{"docker.io"}},
		{Name: "n1.casemate.internal", Type: "A", Values: []string{"10.0.0.98"}},
		{Name: "both.example", Type: "CNAME", Values: []string{"docker.io"}},
		{Name: "both.example", Type: "A", Values: []string{"192.0.2.7"}},
	}
	spec.Forward = []Forward{
		{Zone: "casemate.internal", Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}},
		{Zone: "loop.example", Resolvers: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.12:53")}},
	}
	r := start(t, spec)
	if got := r.table.Load().Conflicts(); len(got) != 9 {
		t.Errorf("want 9 conflicts, got %d:\n%s", len(got), strings.Join(got, "\n"))
	}
	for _, c := range []struct {
		name  string
		qtype uint16
		want  []string
	}{
		{"docker.io", dns.TypeA, []string{"192.0.2.1"}},
		{"docker.io", dns.TypeAAAA, nil}, // the name is the operator's as a whole
		{"registry.k8s.io", dns.TypeTXT, []string{`"hello"`}},
		{"registry-1.docker.io", dns.TypeA, []string{"192.0.2.1"}},
		{"registry.casemate.internal", dns.TypeA, []string{"10.0.0.99"}},
		{"n1.casemate.internal", dns.TypeA, []string{"10.0.0.11"}},
		{"both.example", dns.TypeA, []string{"192.0.2.7"}},
		{"nobody.casemate.internal", dns.TypeA, nil},
	} {
		if got := values(r.ask(question(c.name, c.qtype)).Answer, c.qtype); !slices.Equal(got, c.want) {
			t.Errorf("%s %s: want %v, got %v", c.name, dns.Type(c.qtype), c.want, got)
		}
	}
	if got := r.ask(question("registry.k8s.io", dns.TypeA)).Answer; len(got) != 2 {
		t.Errorf("a TXT beside our addresses must leave them, got %v", got)
	}
	if got := r.ask(question("x.loop.example", dns.TypeA)); got.Rcode != dns.RcodeServerFailure {
		t.Errorf("want SERVFAIL where all resolvers are ourselves, got %v", got)
	}
}

func TestSpecIsChecked(t *testing.T) {
	res := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
	for _, c := range []struct {
		want   string
		change func(*Spec)
	}{
		{"domain must not be empty", func(s *Spec) { s.Domain = "" }},
		{"domain must be a name, not an address", func(s *Spec) { s.Domain = "10.0.0.1" }},
		{"node must be one label", func(s *Spec) { s.Node = "a b" }},
		{"between 1 and 16 nodes, got 0", func(s *Spec) { s.Nodes = nil }},
		{"node name must be one label", func(s *Spec) { s.Nodes[0].Name = "a.b" }},
		{"node name must be unique", func(s *Spec) { s.Nodes[0].Name = "N2" }},
		{"node name must be made of letters", func(s *Spec) { s.Nodes[0].Name = "a b" }},
		{"node n1 must have between 1 and 16 addresses", func(s *Spec) { s.Nodes[0].Addrs = nil }},
		{"address of node n1 must be a unicast address", func(s *Spec) { s.Nodes[0].Addrs = addrs("0.0.0.0") }},
		{"address of node n1 must be a unicast address", func(s *Spec) { s.Nodes[0].Addrs = addrs("fe80::1%eth0") }},
		{"origin must be made of", func(s *Spec) { s.Origins = []string{"localhost:5000"} }},
		{"origin must be made of", func(s *Spec) { s.Origins = []string{"*.docker.io"} }},
		{"origin must have labels of 1 to 63 bytes", func(s *Spec) { s.Origins = []string{strings.Repeat("a", 64)} }},
		{"origin must have at most 253 bytes", func(s *Spec) { s.Origins = []string{strings.Repeat("a.", 127) + "a"} }},
		{`dns.ttl must be between 1s and 1h, got "500ms"`, func(s *Spec) { s.TTL = 500 * time.Millisecond }},
		{"dns.response_rate must be between 0 (no limit) and 10000, got -1", func(s *Spec) { s.ResponseRate = -1 }},
		{"dns.response_rate must be", func(s *Spec) { s.ResponseRate = MaxResponseRate + 1 }},
		{"dns.ttl must be", func(s *Spec) { s.TTL = 2 * time.Hour }},
		{"dns.allow must be", func(s *Spec) { s.Allow = []netip.Prefix{{}} }},
		{"zone . must have between 1 and 8 resolvers", func(s *Spec) { s.Forward = []Forward{{Zone: "."}} }},
		{"dns.forward: zone must not be empty", func(s *Spec) { s.Forward = []Forward{{Resolvers: res}} }},
		{"zone . must be given once", func(s *Spec) { s.Forward = []Forward{{".", res}, {".", res}} }},
		{"must be a unicast address and a port", func(s *Spec) { s.Forward = []Forward{{".", []netip.AddrPort{{}}}} }},
		{"must be given once", func(s *Spec) {
			s.Records = []Record{{Name: "a.b", Type: "A", Values: []string{"1.1.1.1"}}, {
				Name: "A.B.", Type: "a", Values: []string{"1.1.1.2"}}}
		}},
		{"type must be A, AAAA", func(s *Spec) {
			s.Records = []Record{{Name: "a.b", Type: "MX", Values: []string{"1 a.b"}}}
		}},
	} {
		spec := threeNodes()
		c.change(&spec)
		if _, err := NewTable(spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	spec := threeNodes()
	spec.Allow = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}
	if tab := table(t, spec); !tab.allowed(netip.MustParseAddr("10.1.1.1")) ||
		tab.allowed(netip.MustParseAddr("11.0.0.1")) {
		t.Errorf("a mapped network must be the v4 network, got %v", tab.allow)
	}
}

func TestValidateRecord(t *testing.T) {
	for _, c := range []struct {
		rec  Record
		want string // of the error; "" is none
	}{
		{Record{Name: "*.apps.example", Type: "A", Values: []string{"10.0.0.1"}}, ""},
		{Record{Name: "a.example", Type: "TXT", Values: []string{""}}, ""},
		{Record{Name: "a.example", Type: "SRV", Values: []string{"0 0 0 ."}}, ""},
		{Record{Name: "a.example", Type: "A", Values: []string{"10.0.0.1"}, TTL: 168 * time.Hour}, ""},
		{Record{Name: "", Type: "A", Values: []string{"10.0.0.1"}}, "name must not be empty"},
		{Record{Name: "*", Type: "A", Values: []string{"10.0.0.1"}}, `must not be "*" alone`},
		{Record{Name: "a..b", Type: "A", Values: []string{"10.0.0.1"}}, "labels of 1 to 63"},
		{Record{Name: "-a.b", Type: "A", Values: []string{"10.0.0.1"}}, "must be made of"},
		{Record{Name: "bücher.example", Type: "A", Values: []string{"10.0.0.1"}}, "must be made of"},
		{Record{Name: "a.b", Type: "A"}, "between 1 and 64 values"},
		{Record{Name: "a.b", Type: "A", Values: []string{"fd00::1"}}, "must be an IPv4 address"},
		{Record{Name: "a.b", Type: "AAAA", Values: []string{"10.0.0.1"}}, "must be an IPv6 address"},
		{Record{Name: "a.b", Type: "AAAA", Values: []string{"::ffff:10.0.0.1"}}, "must be an IPv6 address"},
		{Record{Name: "a.b", Type: "AAAA", Values: []string{"fe80::1%eth0"}}, "must be an IPv6 address"},
		{Record{Name: "a.b", Type: "CNAME", Values: []string{"c.d", "e.f"}}, "must have one value"},
		{Record{Name: "a.b", Type: "CNAME", Values: []string{"A.B"}}, "must not point to itself"},
		{Record{Name: "a.b", Type: "CNAME", Values: []string{"*.d"}}, "must be made of"},
		{Record{Name: "a.b", Type: "TXT", Values: []string{strings.Repeat("x", 2049)}}, "at most 2048 bytes, got 2049"},
		{Record{Name: "a.b", Type: "SRV", Values: []string{"0 0 389"}}, "priority weight port target"},
		{Record{Name: "a.b", Type: "SRV", Values: []string{"0 0 65536 c.d"}}, "between 0 and 65535"},
		{Record{Name: "a.b", Type: "PTR", Values: []string{"c.d"}}, "type must be"},
		{Record{Name: "a.b", Type: "A", Values: []string{"10.0.0.1"}, TTL: time.Millisecond},
			"ttl must be between 1s and 168h"},
	} {
		err := ValidateRecord(c.rec)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: want %q, got %v", c.rec, c.want, err)
		}
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%+v: the error is %d bytes long", c.rec, len(err.Error()))
		}
	}
}
