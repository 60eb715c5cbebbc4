package dnssrv

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// fuzzSpec has a bit of everything.
func fuzzSpec() Spec {
	spec := threeNodes()
	var many []string
	for i := range 60 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String())
	}
	spec.Records = []Record{
		{Name: "git.bank.example", Type: "A", Values: []string{"192.0.2.1", "192.0.2.2"}, TTL: time.Minute},
		{Name: "git.bank.example", Type: "TXT", Values: []string{`a"b\c`, strings.Repeat("x", 300)}},
		{Name: "registry.k8s.io", Type: "TXT", Values: []string{"beside our addresses"}},
		{Name: "_ldap._tcp.bank.example", Type: "SRV", Values: []string{"0 5 389 git.bank.example"}},
		{Name: "_https._tcp.casemate.internal", Type: "SRV", Values: []string{"0 5 443 casemate.internal"}},
		{Name: "www.bank.example", Type: "CNAME", Values: []string{"git.bank.example"}},
		{Name: "mirror.bank.example", Type: "CNAME", Values: []string{"registry.k8s.io"}},
		{Name: "loop.bank.example", Type: "CNAME", Values: []string{"pool.bank.example"}},
		{Name: "pool.bank.example", Type: "CNAME", Values: []string{"loop.bank.example"}},
		{Name: "*.apps.bank.example", Type: "A", Values: []string{"192.0.2.80"}},
		{Name: "*.casemate.internal", Type: "AAAA", Values: []string{"fd00::80"}},
		{Name: "many.example", Type: "A", Values: many},
	}
	spec.Forward = []Forward{{Zone: "corp.example",
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}}}
	spec.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	return spec
}

// fuzzTables are of fuzzSpec without and with a resolver for everything else, and with one family of addresses.
func fuzzTables(t testing.TB) []*Table {
	four, six := fuzzSpec(), fuzzSpec()
	four.Families, six.Families = OnlyIPv4, OnlyIPv6
	all := fuzzSpec()
	all.Forward = append(all.Forward, Forward{Zone: ".",
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.54:53")}})
	return []*Table{table(t, fuzzSpec()), table(t, all), table(t, four), table(t, six)}
}

var (
	fuzzNames = []string{
		"registry.k8s.io.", "docker.io.", "foo.docker.io.", "k8s.io.", "io.", ".", "casemate.internal.",
		"registry.casemate.internal.",
		"ns.casemate.internal.", "n1.casemate.internal.", "n3.casemate.internal.", "nobody.casemate.internal.",
		"git.bank.example.",
		"bank.example.", "_ldap._tcp.bank.example.", "_tcp.bank.example.", "_https._tcp.casemate.internal.",
		"www.bank.example.",
		"mirror.bank.example.", "loop.bank.example.", "x.apps.bank.example.", "*.apps.bank.example.", "many.example.",
		"host.corp.example.",
		"11.0.0.10.in-addr.arpa.", "10.in-addr.arpa.", "kubernetes.default.svc.cluster.local.",
		"a.b.", "x.k8s.io.", "apps.bank.example.", "corp.example.", "x.11.0.0.10.in-addr.arpa.",
		"localhost.", "a.b.localhost.", "1.0.0.127.in-addr.arpa.", "9.0.0.127.in-addr.arpa.", "x.invalid.", "test.",
		"_dns.resolver.arpa.",
		"_http._tcp.registry.k8s.io.", "_tcp.docker.io.", "_dmarc.git.bank.example.",
		"registry.k8s.io.svc.cluster.local.",
	}
	fuzzTypes = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeTXT, dns.TypeSRV, dns.TypeNS, dns.TypeSOA,
		dns.TypePTR, dns.TypeCNAME, dns.TypeANY, dns.TypeAXFR, dns.TypeOPT, dns.TypeMX, 0, 65280}
	fuzzClients = addrs("10.0.0.50", "10.1.2.3", "fd00::50", "192.0.2.99")
)

// same says whether two answers say the same, whatever case and compression the owners have.
func same(a, b *dns.Msg) bool {
	lower := func(rrs []dns.RR) (out []string) {
		for _, rr := range rrs {
			out = append(out, strings.ToLower(rr.String()))
		}
		return out
	}
	return a.MsgHdr == b.MsgHdr && slices.Equal(a.Question, b.Question) &&
		slices.Equal(lower(a.Answer), lower(b.Answer)) && slices.Equal(lower(a.Ns), lower(b.Ns)) &&
		slices.Equal(lower(a.Extra), lower(b.Extra))
}

// check handles a packet and holds every answer to what all answers must be.
func check(t *testing.T, s *Server, tab *Table, in []byte, client netip.Addr, udp bool) {
	given := slices.Clone(in)
	out, slowOut := make([]byte, maxUDP), make([]byte, maxUDP)
	resp, j := s.handle(tab, out, in, client, udp)
	if !slices.Equal(given, in) {
		t.Fatal("the packet was written to")
	}
	if resp != nil && j != nil {
		t.Fatal("answered and to be forwarded")
	}
	if j != nil {
		if !j.req.RecursionDesired || len(j.table.forward[j.res.zone]) == 0 {
			t.Fatalf("must not be forwarded: %v", j.req)
		}
		resp = s.fail(j, "a reason")
	}
	if resp == nil {
		if len(in) >= headerLen && in[2]&bitQR == 0 {
			t.Fatal("a question was dropped")
		}
		return
	}
	m := new(dns.Msg)
	if err := m.Unpack(resp); err != nil {
		t.Fatalf("the answer cannot be read: %v\n%x", err, resp)
	}
	switch {
	case m.Id != binary.BigEndian.Uint16(in) || !m.Response:
		t.Fatalf("not an answer to this question: %v", m)
	case m.AuthenticatedData || m.Zero:
		t.Fatalf("AD or Z set: %v", m)
	case m.RecursionAvailable && !tab.allowed(client):
		t.Fatalf("RA for a stranger: %v", m)
	case udp && len(resp) > maxUDP, udp && len(resp) > dns.MinMsgSize && in[11] == 0:
		t.Fatalf("too long: %d bytes", len(resp))
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError && m.Rcode != dns.RcodeServerFailure &&
		m.Rcode != dns.RcodeBadVers && len(resp) > len(in):
		t.Fatalf("%d bytes refused with %d", len(in), len(resp))
	}
	if len(m.Question) == 1 {
		q := new(dns.Msg)
		if err := q.Unpack(in); err == nil && len(q.Question) == 1 && q.Question[0] != m.Question[0] {
			t.Fatalf("want the question as asked, %v, got %v", q.Question, m.Question)
		}
	}
	if n, _, ok := tab.fast(out, in, client, udp); ok && tab.allowed(client) {
		b, j := s.slow(tab, slowOut, in, client, udp)
		if j != nil || b == nil {
			t.Fatalf("fast answers what slow does not: %x", out[:n])
		}
		if fast, slow := unpacked(t, out[:n]), unpacked(t, b); !same(fast, slow) {
			t.Fatalf("fast and slow differ:\n%v\n%v", fast, slow)
		}
	}
}

// FuzzPacket: whatever comes, nothing panics, answers are answers, and both paths say the same.
func FuzzPacket(f *testing.F) {
	for i, name := range fuzzNames {
		m := question(name, fuzzTypes[i%len(fuzzTypes)])
		if i%2 == 0 {
			m.SetEdns0(uint16(i*100), i%4 == 0)
			m.IsEdns0().Option = []dns.EDNS0{
				&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
				&dns.EDNS0_NSID{Code: dns.EDNS0NSID},
				&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{10, 0, 0, 0}},
			}[:i%4]
		}
		f.Add(packet(f, m), uint8(i), i%3 != 0)
	}
	f.Add(longName(255), uint8(0), true)
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}, uint8(0), true)
	s, tabs := New(Config{}), fuzzTables(f)
	f.Fuzz(func(t *testing.T, in []byte, client uint8, udp bool) {
		if len(in) > maxQuery {
			return
		}
		for _, tab := range tabs {
			check(t, s, tab, in, fuzzClients[int(client)%len(fuzzClients)], udp)
		}
	})
}

// FuzzQuestion stays where packed answers are: well-formed questions, in all spellings, flags and sizes.
func FuzzQuestion(f *testing.F) {
	for i := range fuzzNames {
		f.Add(uint8(i), uint8(i), uint64(i)*0x5555555, uint8(i), uint16(i*60), []byte(nil), uint8(i), i%2 == 0)
	}
	f.Add(uint8(0), uint8(0), uint64(0), uint8(7), uint16(1232), []byte{0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8},
		uint8(0), true)
	s, tabs := New(Config{}), fuzzTables(f)
	f.Fuzz(func(t *testing.T, name, qtype uint8, spelling uint64, flags uint8, size uint16, options []byte,
		client uint8, udp bool) {
		b := []byte(fuzzNames[int(name)%len(fuzzNames)])
		for i := range b {
			if b[i] >= 'a' && b[i] <= 'z' && spelling>>(i%64)&1 != 0 {
				b[i] -= 0x20
			}
		}
		m := question(string(b), fuzzTypes[int(qtype)%len(fuzzTypes)])
		m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = flags&1 != 0, flags&2 != 0, flags&4 != 0
		in := packet(t, m)
		if flags&8 != 0 {
			if len(options) > 1000 {
				return
			}
			in[11] = 1
			in = append(in, 0, 0, dnsTypeOPT)
			in = binary.BigEndian.AppendUint16(in, size)
			in = append(in, 0, flags>>6, flags<<3&0x80, 0)
			in = binary.BigEndian.AppendUint16(in, uint16(len(options)))
			in = append(in, options...)
		}
		for _, tab := range tabs {
			check(t, s, tab, in, fuzzClients[int(client)%len(fuzzClients)], udp)
		}
	})
}

// FuzzAnswer: whatever a resolver sends, it is passed on within bounds or not at all.
func FuzzAnswer(f *testing.F) {
	q := question("host.corp.example.", dns.TypeA)
	q.Id = 0x0102
	ask := packet(f, q)
	for _, reply := range []func(*dns.Msg, string) []*dns.Msg{good("192.0.2.1"), rcode(dns.RcodeNameError),
		rcode(dns.RcodeServerFailure), lying(func(m *dns.Msg) { m.Id++ })} {
		f.Add(packet(f, reply(q, "udp")[0]), uint16(512))
	}
	big := new(dns.Msg).SetReply(q)
	for i := range 100 {
		big.Answer = append(big.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT,
			Class: 1}, Txt: []string{strings.Repeat(`\`, i)}})
	}
	f.Add(packet(f, big), uint16(1232))
	chain := new(dns.Msg).SetReply(q)
	for _, rr := range []string{"host.corp.example. 1 CNAME a.corp.example.", "corp.example. 1 DNAME registry.k8s.io.",
		"a.corp.example. 1 A 192.0.2.1"} {
		chain.Answer = append(chain.Answer, parsed(f, rr))
	}
	f.Add(packet(f, chain), uint16(1232))
	s, tab := New(Config{}), table(f, fuzzSpec())
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		m, as := read(b, ask)
		if as == foreign || as == garbled || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return
		}
		req := q.Copy()
		req.SetEdns0(size, false)
		limit := udpLimit(size)
		j := &job{table: tab, req: req, limit: limit,
			res: result{forward: true, zone: "corp.example.", next: q.Question[0].Name}}
		r := j.res
		if tab.take(&r, m, dns.TypeA, fuzzClients[0]) != nil || r.forward {
			return
		}
		for end, i := q.Question[0].Name, 0; i < len(r.answer); i++ {
			// Each record is of the chain that begins with the question.
			switch rr := r.answer[i].(type) {
			case *dns.CNAME:
				if rr.Hdr.Name != end {
					t.Fatalf("not of the chain: %v", r.answer)
				}
				end = rr.Target
			default:
				if rr.Header().Name != end || rr.Header().Ttl > maxForwardedTTL {
					t.Fatalf("not of the chain: %v", r.answer)
				}
			}
		}
		out := s.finish(j, r)
		if out == nil {
			return
		}
		got := unpacked(t, out)
		if len(out) > limit || got.Id != q.Id || got.Question[0] != q.Question[0] || got.AuthenticatedData ||
			got.Authoritative {
			t.Fatalf("%d bytes: %v", len(out), got)
		}
	})
}

// FuzzRecord: what ValidateRecord takes, a table takes and answers with.
func FuzzRecord(f *testing.F) {
	for _, rec := range fuzzSpec().Records {
		f.Add(rec.Name, rec.Type, rec.Values[0])
	}
	f.Add("a.b", "TXT", "\x00\\\"\xff")
	f.Fuzz(func(t *testing.T, name, rrtype, value string) {
		rec := Record{Name: name, Type: rrtype, Values: []string{value}}
		if ValidateRecord(rec) != nil {
			return
		}
		spec := threeNodes()
		spec.Records = []Record{rec}
		tab, err := NewTable(spec)
		if err != nil {
			t.Fatalf("valid alone, and not in a table: %v", err)
		}
		if len(tab.Conflicts()) > 0 {
			return
		}
		s := New(Config{})
		m := question(name, dns.StringToType[strings.ToUpper(rrtype)])
		b, j := s.handle(tab, make([]byte, maxUDP), packet(t, m), netip.MustParseAddr("127.0.0.1"), false)
		if j != nil {
			t.Fatal("forwarded")
		}
		if resp := unpacked(t, b); resp.Rcode != dns.RcodeNameError && len(resp.Answer) == 0 {
			t.Fatalf("%+v: got %v", rec, resp)
		}
	})
}
