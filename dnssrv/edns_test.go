package dnssrv

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// Every answer has an OPT record exactly if the question had one (RFC 6891, 6.1.1 and 7), whatever the answer is.
func TestAnOPTForAnOPT(t *testing.T) {
	spec := threeNodes()
	spec.Forward = []Forward{{Zone: "corp.example",
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}}}
	tab := table(t, spec)
	s := New(Config{Log: testLogger(t)})
	for what, c := range map[string]struct {
		edit   func(*dns.Msg)
		table  *Table
		client string
		rcode  int
	}{
		"ours": {table: tab, rcode: dns.RcodeSuccess},
		"NODATA": {edit: func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }, table: tab,
			rcode: dns.RcodeSuccess},
		"denied": {edit: func(m *dns.Msg) { m.Question[0].Name = "nobody.example." }, table: tab,
			rcode: dns.RcodeNameError},
		"localhost": {edit: func(m *dns.Msg) { m.Question[0].Name = "localhost." }, table: tab,
			rcode: dns.RcodeSuccess},
		"forwarded in vain": {edit: func(m *dns.Msg) { m.Question[0].Name = "x.corp.example." }, table: tab,
			rcode: dns.RcodeServerFailure},
		"a stranger":   {table: tab, client: "203.0.113.1", rcode: dns.RcodeRefused},
		"no table yet": {rcode: dns.RcodeServerFailure},
		"a zone transfer": {edit: func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, table: tab,
			rcode: dns.RcodeRefused},
		"class CHAOS": {edit: func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, table: tab,
			rcode: dns.RcodeRefused},
		"an update": {edit: func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, table: tab,
			rcode: dns.RcodeNotImplemented},
		"a type that is none": {edit: func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMAILB }, table: tab,
			rcode: dns.RcodeNotImplemented},
		"forwarded without RD": {edit: func(m *dns.Msg) {
			m.Question[0].Name, m.RecursionDesired = "x.corp.example.", false
		}, table: tab, rcode: dns.RcodeRefused},
	} {
		for _, edns := range []bool{false, true} {
			m := question("registry.k8s.io", dns.TypeA)
			if c.edit != nil {
				c.edit(m)
			}
			if edns {
				m.SetEdns0(4096, true)
			}
			client := netip.MustParseAddr("127.0.0.1")
			if c.client != "" {
				client = netip.MustParseAddr(c.client)
			}
			in := packet(t, m)
			b, j := s.handle(c.table, make([]byte, maxUDP), in, client, true)
			if j != nil {
				b = s.fail(j, "a reason")
			}
			resp := unpacked(t, b)
			opt := resp.IsEdns0()
			if (opt != nil) != edns || opt != nil && (opt.UDPSize() != maxUDP || opt.Do() || opt.Version() != 0) ||
				resp.Rcode != c.rcode {
				t.Errorf("%s, asked with an OPT: %v: want %s, got %v", what, edns, dns.RcodeToString[c.rcode], resp)
			}
			if c.client != "" && len(b) > len(in) {
				t.Errorf("%s: %d bytes for %d", what, len(b), len(in))
			}
		}
	}
}
