package dnssrv

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// worldwide is a resolver whose names have addresses of both families, wherever an answer can have them.
func worldwide(t testing.TB) func(q *dns.Msg, network string) []*dns.Msg {
	const signed = " 60 RRSIG AAAA 8 3 60 20300101000000 20200101000000 1 corp.example. AAAA\n"
	data := map[string]string{
		"both.corp.example./A":    "both.corp.example. 60 A 192.0.2.1",
		"both.corp.example./AAAA": "both.corp.example. 60 AAAA 2001:db9::1\nboth.corp.example." + signed,
		"both.corp.example./MX":   "both.corp.example. 60 MX 5 both.corp.example.",
		"chain.corp.example./A": "chain.corp.example. 60 CNAME both.corp.example.\n" +
			"both.corp.example. 60 A 192.0.2.1",
		"chain.corp.example./AAAA": "chain.corp.example. 60 CNAME both.corp.example.\n" +
			"both.corp.example. 60 AAAA 2001:db9::1",
		"synth.corp.example./AAAA": "synth.corp.example. 60 AAAA 64:ff9b::c000:201",
		"ours.corp.example./A":     "ours.corp.example. 60 CNAME registry.k8s.io.",
		"ours.corp.example./AAAA":  "ours.corp.example. 60 CNAME registry.k8s.io.",
		"both.corp.example./HTTPS": `both.corp.example. 60 HTTPS 1 . mandatory="ipv4hint,ipv6hint" alpn="h2" ` +
			`ipv4hint="192.0.2.1" ipv6hint="2001:db9::1"`,
		"_dns.corp.example./SVCB": `_dns.corp.example. 60 SVCB 1 both.corp.example. mandatory="ipv6hint" ` +
			`ipv4hint="192.0.2.1" ipv6hint="2001:db9::1"`,
	}
	return func(q *dns.Msg, _ string) []*dns.Msg {
		name := dns.CanonicalName(q.Question[0].Name)
		rrs, known := data[name+"/"+dns.Type(q.Question[0].Qtype).String()]
		m := said(t, dns.RcodeSuccess, rrs, "corp.example. 60 SOA ns.corp.example. h.corp.example. 1 2 3 4 60",
			"both.corp.example. 60 A 192.0.2.1\nboth.corp.example. 60 AAAA 2001:db9::1")
		if !known && strings.HasPrefix(name, "no.") {
			m.Rcode = dns.RcodeNameError
		}
		m.Id, m.Question = q.Id, q.Question
		return []*dns.Msg{m}
	}
}

// No answer has an address of a family that dns.families leaves out, wherever it comes from and in which section it
// would be. Everything else stays, and a name whose addresses are left out exists.
func TestFamilies(t *testing.T) {
	spec := threeNodes()
	spec.Records = []Record{
		{Name: "git.bank.example", Type: "A", Values: []string{"192.0.2.7"}},
		{Name: "git.bank.example", Type: "AAAA", Values: []string{"2001:db9::7"}},
		{Name: "six.bank.example", Type: "AAAA", Values: []string{"2001:db9::8"}},
		{Name: "*.apps.bank.example", Type: "AAAA", Values: []string{"2001:db9::9"}},
		{Name: "www.bank.example", Type: "CNAME", Values: []string{"git.bank.example"}},
		{Name: "far.bank.example", Type: "CNAME", Values: []string{"both.corp.example"}},
		{Name: "_git._tcp.bank.example", Type: "SRV", Values: []string{"0 5 443 git.bank.example"}},
		{Name: "_own._tcp.bank.example", Type: "SRV", Values: []string{"0 5 443 registry.casemate.internal"}},
	}
	spec = forwardTo(spec, "corp.example", newResolver(t, worldwide(t)))
	questions := []struct {
		name  string
		types []uint16
	}{
		{"registry.k8s.io.", nil}, {"casemate.internal.", nil}, {"n1.casemate.internal.", nil}, {"localhost.", nil},
		{"git.bank.example.", nil}, {"six.bank.example.", nil}, {"x.apps.bank.example.", nil},
		{"www.bank.example.", nil}, {"far.bank.example.", nil}, {"both.corp.example.", nil},
		{"chain.corp.example.", nil}, {"synth.corp.example.", nil}, {"ours.corp.example.", nil},
		{"no.corp.example.", nil}, {"nothing.example.", nil}, {"k8s.io.", nil},
		{"casemate.internal.", []uint16{dns.TypeNS, dns.TypeSOA, dns.TypeANY}},
		{"_git._tcp.bank.example.", []uint16{dns.TypeSRV}}, {"_own._tcp.bank.example.", []uint16{dns.TypeSRV}},
		{mustReverse(t, "fd00::11"), []uint16{dns.TypePTR}}, {mustReverse(t, "10.0.0.11"), []uint16{dns.TypePTR}},
		{"both.corp.example.", []uint16{dns.TypeHTTPS, dns.TypeMX, dns.TypeANY}},
		{"_dns.corp.example.", []uint16{dns.TypeSVCB}}, {"registry.k8s.io.", []uint16{dns.TypeHTTPS, dns.TypeANY}},
	}
	servers := map[string]*running{}
	for _, families := range []string{"", BothFamilies, OnlyIPv4, OnlyIPv6} {
		spec.Families = families
		servers[families] = start(t, spec)
	}
	with := func(families, network, name string, qtype uint16, edns bool) (*dns.Msg, []string) {
		q := question(name, qtype)
		if edns {
			q.SetEdns0(1232, true)
		}
		m := servers[families].over(network, q)
		return m, slices.Concat(short(m.Answer), short(m.Extra))
	}
	gone := map[string][]string{OnlyIPv4: {" AAAA ", "ipv6hint", "key6"}, OnlyIPv6: {" A ", "ipv4hint", "key4"}}
	seen := map[string]int{}
	for _, q := range questions {
		types := q.types
		if types == nil {
			types = []uint16{dns.TypeA, dns.TypeAAAA}
		}
		for _, qtype := range types {
			for _, network := range []string{"udp", "tcp"} {
				for _, edns := range []bool{false, true} {
					all, want := with("", network, q.name, qtype, edns)
					if _, got := with(BothFamilies, network, q.name, qtype, edns); !slices.Equal(got, want) {
						t.Errorf("%s %s: both families give %q, no setting %q", q.name, dns.Type(qtype), got, want)
					}
					for families, words := range gone {
						m, got := with(families, network, q.name, qtype, edns)
						what := strings.Join([]string{families, network, q.name, dns.Type(qtype).String()}, " ")
						for _, line := range got {
							for _, word := range words {
								if strings.Contains(line, word) {
									t.Errorf("%s: %q", what, line)
								}
							}
						}
						if m.Rcode != all.Rcode {
							t.Errorf("%s: %s, with both families %s", what, dns.RcodeToString[m.Rcode],
								dns.RcodeToString[all.Rcode])
						}
						kept := slices.DeleteFunc(slices.Clone(want), func(line string) bool {
							return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) })
						})
						hint := qtype == dns.TypeHTTPS || qtype == dns.TypeSVCB
						if !hint && !slices.Equal(kept, got) {
							t.Errorf("%s: got %q, want %q", what, got, kept)
						}
						if hint && len(got) != len(want) {
							t.Errorf("%s: got %q of %q", what, got, want)
						}
						if f, ok := family(qtype); ok && len(want) > len(kept) && len(kept) == countCNAMEs(got) {
							seen[families]++
							if len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA || m.Ns[0].Header().Ttl > 60 {
								t.Errorf("%s (family %d): a name without data needs an SOA, got %v", what, f, m.Ns)
							}
						}
					}
				}
			}
		}
	}
	if seen[OnlyIPv4] < 20 || seen[OnlyIPv6] < 20 {
		t.Errorf("too few answers had something to leave out: %v", seen)
	}
	for _, families := range []string{OnlyIPv4, OnlyIPv6} {
		for _, miss := range servers[families].misses() {
			if !strings.HasPrefix(miss, "no.corp.example/") && !strings.HasPrefix(miss, "nothing.example/") &&
				!strings.HasPrefix(miss, "k8s.io/") {
				t.Errorf("%s: %s is reported as missing", families, miss)
			}
		}
	}
}

func countCNAMEs(lines []string) (n int) {
	for _, line := range lines {
		if strings.Contains(line, " CNAME ") {
			n++
		}
	}
	return n
}

// What remains of an HTTPS or SVCB record is well-formed.
func TestHintsOfOneFamily(t *testing.T) {
	for _, c := range []struct{ families, rr, want string }{
		{OnlyIPv4, `x.example. 60 HTTPS 1 . alpn="h2" ipv4hint="192.0.2.1" ipv6hint="2001:db9::1"`,
			`alpn="h2" ipv4hint="192.0.2.1"`},
		{OnlyIPv6, `x.example. 60 HTTPS 1 . alpn="h2" ipv4hint="192.0.2.1" ipv6hint="2001:db9::1"`,
			`alpn="h2" ipv6hint="2001:db9::1"`},
		{OnlyIPv4, `x.example. 60 SVCB 1 . mandatory="alpn,ipv6hint" alpn="h2" ipv6hint="2001:db9::1"`,
			`mandatory="alpn" alpn="h2"`},
		{OnlyIPv4, `x.example. 60 SVCB 1 . mandatory="ipv6hint" ipv6hint="2001:db9::1" port="443"`, `port="443"`},
		{OnlyIPv4, `x.example. 60 HTTPS 0 y.example.`, ``},
		{BothFamilies, `x.example. 60 HTTPS 1 . ipv4hint="192.0.2.1" ipv6hint="2001:db9::1"`,
			`ipv4hint="192.0.2.1" ipv6hint="2001:db9::1"`},
	} {
		spec := threeNodes()
		spec.Families = c.families
		rr := parsed(t, c.rr)
		table(t, spec).withoutHints(rr)
		if got := rr.String(); !strings.HasSuffix(strings.TrimSpace(got), c.want) || c.want == "" &&
			strings.Contains(got, "hint") {
			t.Errorf("%s: %s\nbecomes %s\nwant %s", c.families, c.rr, got, c.want)
		}
		if _, err := dns.PackRR(rr, make([]byte, 512), 0, nil, false); err != nil {
			t.Errorf("%s cannot be sent: %v", rr, err)
		}
	}
}

func TestNodesWithoutAnAddressOfTheFamily(t *testing.T) {
	spec := threeNodes()
	spec.Nodes = []Node{
		{Name: "n1", Addrs: addrs("10.0.0.11", "fd00::11"), Healthy: true},
		{Name: "n2", Addrs: addrs("fd00::12"), Healthy: true}, {Name: "n3", Addrs: addrs("::ffff:10.0.0.13")},
	}
	for families, want := range map[string]string{
		"": "", BothFamilies: "",
		OnlyIPv4: "dns.families is ipv4, and node n2 has no such address: no name leads to it",
		OnlyIPv6: "dns.families is ipv6, and node n3 has no such address: no name leads to it",
	} {
		spec.Families = families
		if got := strings.Join(table(t, spec).Conflicts(), "\n"); got != want {
			t.Errorf("%s: got %q, want %q", families, got, want)
		}
	}
	spec.Families = "ipv5"
	if _, err := NewTable(spec); err == nil || err.Error() != `dns.families must be both, ipv4 or ipv6, got "ipv5"` {
		t.Errorf("got %v", err)
	}
}
