package dnssrv

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"casemate/cluster/share"
	"casemate/dnssrv/dnstest"
)

// raw sends packet from a client's address and gives the next answer.
func (r *running) raw(client string, packets ...[]byte) []byte {
	r.t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(client)}}).Dial("udp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	for _, p := range packets {
		if _, err := c.Write(p); err != nil {
			r.t.Fatal(err)
		}
	}
	c.SetReadDeadline(time.Now().Add(2 * time.Minute))
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		r.t.Fatalf("from %s: %v", client, err)
	}
	return buf[:n]
}

func packet(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpacked(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	return m
}

func TestStrangersAreRefused(t *testing.T) {
	spec := threeNodes()
	spec.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	spec.Forward = []Forward{{Zone: ".", Resolvers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.9:9")}}}
	r := start(t, spec)
	for _, name := range []string{"docker.io", "example.com", "casemate.internal"} {
		m := question(name, dns.TypeANY)
		m.SetEdns0(4096, true)
		q := packet(t, m)
		b := r.raw("127.0.0.2", q)
		resp := unpacked(t, b)
		if resp.Rcode != dns.RcodeRefused || len(resp.Answer)+len(resp.Ns) != 0 || len(resp.Extra) != 1 ||
			resp.RecursionAvailable || resp.Id != m.Id || resp.Question[0] != m.Question[0] {
			t.Errorf("%s: want REFUSED with an OPT and nothing else, got %v", name, resp)
		}
		if len(b) > len(q) {
			t.Errorf("%s: %d bytes refused with %d: amplified", name, len(q), len(b))
		}
	}
	if got := r.ask(question("docker.io", dns.TypeA)); len(got.Answer) != 2 || !got.RecursionAvailable {
		t.Errorf("an allowed client is answered, and sees that we forward: got %v", got)
	}
	// Over TCP the connection is closed without an answer.
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}}).Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("want a closed connection, read %d bytes", n)
	}
	if s := r.Stats(); s.Refused != 4 || s.Forwarded != 0 || s.Answers["REFUSED"] != 3 {
		t.Errorf("want 4 refused and nothing forwarded, got %+v", s)
	}
	spec.Allow = nil
	r.SetTable(table(t, spec))
	if got := r.ask(question("docker.io", dns.TypeA)); got.Rcode != dns.RcodeRefused {
		t.Errorf("no client may ask where none is allowed, got %v", got)
	}
}

func TestNoTableIsSERVFAIL(t *testing.T) {
	r := start(t, threeNodes())
	r.SetTable(nil)
	for _, network := range []string{"udp", "tcp"} {
		if got := r.over(network, question("docker.io", dns.TypeA)); got.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: want SERVFAIL, so that the next bastion is asked, got %v", network, got)
		}
	}
}

func TestFlags(t *testing.T) {
	r := start(t, threeNodes())
	for _, edns := range []bool{false, true} {
		for _, name := range []string{"docker.io", "n1.casemate.internal", "nowhere.example"} {
			for bits := range 8 {
				m := question(name, dns.TypeA)
				m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = bits&1 != 0, bits&2 != 0, bits&4 != 0
				if edns {
					m.SetEdns0(4096, true)
				}
				resp := r.ask(m)
				if resp.AuthenticatedData || resp.RecursionAvailable || !resp.Authoritative || resp.Truncated ||
					resp.Zero ||
					resp.RecursionDesired != m.RecursionDesired || resp.CheckingDisabled != m.CheckingDisabled {
					t.Errorf("%s edns=%v: want RD and CD as asked, AA, and neither AD nor RA, got %v", name, edns, resp)
				}
				opt := resp.IsEdns0()
				if (opt != nil) != edns {
					t.Errorf("%s edns=%v: got %v", name, edns, resp)
				}
				if opt != nil && (opt.Do() || opt.UDPSize() != 1232 || opt.Version() != 0 || len(opt.Option) != 0) {
					t.Errorf("want a plain OPT of 1232 bytes without DO, got %v", opt)
				}
			}
		}
	}
}

func TestEDNS(t *testing.T) {
	r := start(t, threeNodes())
	m := question("docker.io", dns.TypeA)
	m.SetEdns0(1232, false)
	m.IsEdns0().SetVersion(1)
	resp := r.ask(m)
	if resp.Rcode != dns.RcodeBadVers || resp.IsEdns0() == nil || resp.IsEdns0().Version() != 0 ||
		len(resp.Answer) != 0 {
		t.Errorf("want BADVERS, got %v", resp)
	}
	// Cookies are ignored, by the packed answers too; NSID is answered with the node's name.
	m = question("docker.io", dns.TypeA)
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	before := r.Stats().Fast
	if resp = r.ask(m); len(resp.Answer) != 2 || len(resp.IsEdns0().Option) != 0 || r.Stats().Fast != before+1 {
		t.Errorf("want a fast answer and no cookie, got %v", resp)
	}
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
	resp = r.ask(m)
	if o := resp.IsEdns0().Option; len(o) != 1 || o[0].(*dns.EDNS0_NSID).Nsid != hex.EncodeToString([]byte("n1")) {
		t.Errorf("want NSID n1, got %v", resp)
	}
	// Two OPTs, an OPT with a name, and something that is no OPT: FORMERR.
	two := packet(t, m)
	two = append(two, two[len(two)-len(optRR)-4:]...)
	two[11] = 2
	named := question("docker.io", dns.TypeA)
	named.Extra = []dns.RR{&dns.OPT{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeOPT, Class: 1232}}}
	strange := question("docker.io", dns.TypeA)
	strange.Extra = []dns.RR{
		&dns.A{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypeA, Class: 1}, A: net.IPv4(1, 1, 1, 1)},
		&dns.A{Hdr: dns.RR_Header{Name: "b.", Rrtype: dns.TypeA, Class: 1}, A: net.IPv4(1, 1, 1, 1)},
	}
	for i, b := range [][]byte{two, packet(t, named), packet(t, strange)} {
		if resp := unpacked(t, r.raw("127.0.0.1", b)); resp.Rcode != dns.RcodeFormatError {
			t.Errorf("%d: want FORMERR, got %v", i, resp)
		}
	}
	signed := question("docker.io", dns.TypeA)
	signed.Extra = []dns.RR{&dns.TSIG{
		Hdr:       dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: dns.ClassANY},
		Algorithm: dns.HmacSHA256, MACSize: 4, MAC: "00112233",
	}}
	if resp := unpacked(t, r.raw("127.0.0.1", packet(t, signed))); resp.Rcode != dns.RcodeNotAuth {
		t.Errorf("want NOTAUTH for a key that we do not have, got %v", resp)
	}
}

func TestQuestionsThatAreNotAnswered(t *testing.T) {
	r := start(t, threeNodes())
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			what  string
			m     *dns.Msg
			rcode int
		}{
			{"version.bind", &dns.Msg{Question: []dns.Question{
				{Name: "version.bind.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}}}, dns.RcodeRefused},
			{"class ANY", &dns.Msg{Question: []dns.Question{
				{Name: "docker.io.", Qtype: dns.TypeA, Qclass: dns.ClassANY}}}, dns.RcodeRefused},
			{"class HS", &dns.Msg{Question: []dns.Question{
				{Name: "docker.io.", Qtype: dns.TypeA, Qclass: dns.ClassHESIOD}}}, dns.RcodeRefused},
			{"AXFR", question("casemate.internal", dns.TypeAXFR), dns.RcodeRefused},
			{"IXFR", new(dns.Msg).SetIxfr("casemate.internal.", 1, "a.", "b."), dns.RcodeRefused},
			{"NOTIFY", new(dns.Msg).SetNotify("casemate.internal."), dns.RcodeNotImplemented},
			{"UPDATE", new(dns.Msg).SetUpdate("casemate.internal."), dns.RcodeNotImplemented},
			{"IQUERY", &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeIQuery}, Question: question("a.", 1).Question},
				dns.RcodeNotImplemented},
			{"STATUS", &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeStatus}}, dns.RcodeNotImplemented},
			{"type 0", question("docker.io", 0), dns.RcodeNotImplemented},
			{"type OPT", question("docker.io", dns.TypeOPT), dns.RcodeNotImplemented},
			{"MAILB", question("docker.io", dns.TypeMAILB), dns.RcodeNotImplemented},
		} {
			c.m.Id = dns.Id()
			co, err := dns.Dial(network, r.addr)
			if err != nil {
				t.Fatal(err)
			}
			co.SetDeadline(time.Now().Add(2 * time.Minute))
			if err := co.WriteMsg(c.m); err != nil {
				t.Fatal(err)
			}
			resp, err := co.ReadMsg()
			co.Close()
			if err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			if resp.Rcode != c.rcode || len(resp.Answer)+len(resp.Ns)+len(resp.Extra) != 0 || resp.Id != c.m.Id ||
				resp.Opcode != c.m.Opcode || !resp.Response {
				t.Errorf("%s %s: want %s and nothing else, got %v", network, c.what, dns.RcodeToString[c.rcode], resp)
			}
		}
	}
}

func TestANYIsMinimal(t *testing.T) {
	spec := threeNodes()
	spec.Forward = []Forward{{Zone: "corp.example",
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.9:9")}}}
	r := start(t, spec)
	for _, name := range []string{"docker.io", "casemate.internal", "host.corp.example"} {
		for _, network := range []string{"udp", "tcp"} {
			resp := r.over(network, question(name, dns.TypeANY))
			if len(resp.Answer) != 1 || resp.Answer[0].Header().Rrtype != dns.TypeHINFO || len(resp.Ns)+
				len(resp.Extra) != 0 {
				t.Errorf("%s %s: want one HINFO (RFC 8482), got %v", network, name, resp)
			}
		}
	}
	if resp := r.ask(question("nowhere.example", dns.TypeANY)); resp.Rcode != dns.RcodeNameError {
		t.Errorf("want NXDOMAIN, got %v", resp)
	}
}

func TestMalformedPackets(t *testing.T) {
	r := start(t, threeNodes())
	good := packet(t, question("docker.io", dns.TypeA))
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	// Dropped: packets too short for a header, and answers (two servers would answer each other for ever). The received
	// answer is that to the good packet.
	for i, b := range [][]byte{
		{}, {0}, good[:11], bytes.Repeat([]byte{0xff}, 100),
		change(func(b []byte) []byte { b[2] |= bitQR; return b }),
		change(func(b []byte) []byte { b[2] |= bitQR; b[5] = 0; return b }),
		bytes.Repeat([]byte{0}, maxQuery+1),
	} {
		if len(b) > 1 {
			b[1] ^= 0xff // not the good packet's id
		}
		resp := unpacked(t, r.raw("127.0.0.1", b, good))
		if resp.Id != binary.BigEndian.Uint16(good) || len(resp.Answer) != 2 {
			t.Errorf("%d: want no answer to %x, got %v", i, b, resp)
		}
	}
	// Readable as far as the header: FORMERR, never longer than the packet.
	for i, b := range [][]byte{
		good[:12], good[:len(good)-1], good[:20],
		change(func(b []byte) []byte { b[5] = 0; return b[:12] }),
		change(func(b []byte) []byte { b[5] = 2; return append(b, b[12:]...) }),
		change(func(b []byte) []byte { b[4] = 255; return b }),
		change(func(b []byte) []byte { b[7] = 1; return b }),
		change(func(b []byte) []byte { b[9] = 2; return b }),
		change(func(b []byte) []byte { b[11] = 1; return b }),
		change(func(b []byte) []byte { b[11] = 255; return b }),
		change(func(b []byte) []byte { b[12] = 0xc0; b[13] = 12; return b }), // points to itself
		change(func(b []byte) []byte { b[12] = 0x40; return b }),             // a label type that never came to be
		append(change(func(b []byte) []byte { b[11] = 1; return b }), 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 9),
		longName(300), longName(256),
	} {
		answer := r.raw("127.0.0.1", b)
		resp := unpacked(t, answer)
		if resp.Rcode != dns.RcodeFormatError || resp.Id != binary.BigEndian.Uint16(b) || len(answer) > len(b) {
			t.Errorf("%d: want a short FORMERR to %x, got %v", i, b, resp)
		}
	}
	if resp := unpacked(t, r.raw("127.0.0.1", longName(255))); resp.Rcode != dns.RcodeNameError {
		t.Errorf("a name of 255 bytes is a name: got %v", resp)
	}
	// Bytes after the message are ignored.
	if resp := unpacked(t, r.raw("127.0.0.1", append(bytes.Clone(good), 1, 2, 3))); len(resp.Answer) != 2 {
		t.Errorf("trailing bytes: got %v", resp)
	}
	r.stop()
	if s := r.Stats(); s.Dropped != 7 || s.Answers["FORMERR"] != 15 {
		t.Errorf("want 7 dropped and 15 FORMERR, got %+v", s)
	}
}

// longName is a question whose name takes n bytes on the wire.
func longName(n int) []byte {
	b := []byte{1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for n--; n > 0; {
		l := min(n-1, 63)
		if n-1-l == 1 {
			l-- // no room for an empty label
		}
		b = append(append(b, byte(l)), bytes.Repeat([]byte{'x'}, l)...)
		n -= l + 1
	}
	return append(b, 0, 0, 1, 0, 1)
}

func TestTruncation(t *testing.T) {
	spec := threeNodes()
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("192.0.2.%d", i+1))
	}
	spec.Records = []Record{
		{Name: "many.example", Type: "A", Values: many},
		{Name: "one.example", Type: "TXT", Values: []string{strings.Repeat("x", 2000)}},
		{Name: "_x._tcp.example", Type: "SRV", Values: []string{"0 0 1 many.example"}},
		{Name: "huge.example", Type: "TXT", Values: []string{strings.Repeat("x", 2000), strings.Repeat("y", 2000)}},
	}
	r := start(t, spec)
	for _, c := range []struct {
		name  string
		qtype uint16
		size  uint16 // 0: no EDNS
		limit int
		tc    bool
	}{
		{"many.example", dns.TypeA, 0, 512, true},
		{"many.example", dns.TypeA, 100, 512, true}, // less than 512 is 512 (RFC 6891 §6.2.3)
		{"many.example", dns.TypeA, 900, 900, true},
		{"many.example", dns.TypeA, 1232, 1232, false},
		{"many.example", dns.TypeA, 65535, 1232, false},
		{"huge.example", dns.TypeTXT, 65535, 1232, true},
		{"one.example", dns.TypeTXT, 0, 512, true},
		{"one.example", dns.TypeTXT, 1232, 1232, true},
		{"_x._tcp.example", dns.TypeSRV, 0, 512, false}, // what does not fit was only added
		{"_x._tcp.example", dns.TypeSRV, 1232, 1232, false},
		{"docker.io", dns.TypeA, 0, 512, false},
	} {
		m := question(c.name, c.qtype)
		if c.size > 0 {
			m.SetEdns0(c.size, false)
		}
		b := r.raw("127.0.0.1", packet(t, m))
		resp := unpacked(t, b)
		if resp.Truncated != c.tc || len(b) > c.limit || (resp.IsEdns0() != nil) != (c.size > 0) {
			t.Errorf("%s %d: want at most %d bytes and TC %v, got %d bytes: %v", c.name, c.size, c.limit, c.tc, len(b),
				resp.MsgHdr)
		}
		whole := r.over("tcp", m)
		if want := map[string]int{"many.example": 60, "huge.example": 2, "docker.io": 2, "one.example": 1,
			"_x._tcp.example": 1}[c.name]; whole.Truncated || len(whole.Answer) != want {
			t.Errorf("%s: want all %d over TCP, got %d", c.name, want, len(whole.Answer))
		}
	}
	if s := r.Stats(); s.Truncated != 6 {
		t.Errorf("want 6 truncated, got %+v", s)
	}
}

func TestIPv6AndSourceAddress(t *testing.T) {
	pc, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback: %v", err)
	}
	pc.Close()
	spec := threeNodes()
	r := startOn(t, "[::1]:0", spec)
	for _, network := range []string{"udp", "tcp"} {
		if got := r.over(network, question("docker.io", dns.TypeAAAA)); len(got.Answer) != 2 {
			t.Errorf("%s: got %v", network, got)
		}
	}
	// Connected clients take an answer only from the address that they asked.
	r = startOn(t, "127.0.0.77:0", spec)
	if got := r.ask(question("docker.io", dns.TypeA)); len(got.Answer) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestWildcardSocketIsRefused(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "[::]:0"} {
		conns, err := dnstest.ListenUDP(addr, 1)
		if err != nil {
			t.Skip(err)
		}
		if err := New(Config{}).ServeUDP(t.Context(), conns[0]); err == nil ||
			!strings.Contains(err.Error(), "must be bound to one address") {
			t.Errorf("%s: want an error, got %v", addr, err)
		}
	}
}

func TestSeveralSocketsShareAnAddress(t *testing.T) {
	conns, err := dnstest.ListenUDP("127.0.0.1:0", 3)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{})
	s.SetTable(table(t, threeNodes()))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			if err := s.ServeUDP(ctx, c); err != nil {
				t.Errorf("ServeUDP: %v", err)
			}
		})
	}
	r := &running{Server: s, t: t, addr: conns[0].LocalAddr().String()}
	for range 30 {
		if got := r.ask(question("docker.io", dns.TypeA)); len(got.Answer) != 2 {
			t.Errorf("got %v", got)
		}
	}
	cancel()
	wg.Wait()
	for _, c := range conns {
		if err := c.SetDeadline(past); !errors.Is(err, net.ErrClosed) {
			t.Errorf("want the socket closed, got %v", err)
		}
	}
	if _, err := dnstest.ListenUDP("127.0.0.1:1:1", 1); err == nil {
		t.Error("want an error for a bad address")
	}
	one, err := dnstest.ListenUDP("127.0.0.1:0", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer one[0].Close()
	if _, err := dnstest.ListenUDP(one[0].LocalAddr().String(), 1); err == nil {
		t.Error("want an error for a taken port")
	}
	if _, _, err := dnstest.Listen(one[0].LocalAddr().String(), 1); err == nil {
		t.Error("want an error for a port that UDP has not free")
	}
}

// A listener that others close ends ServeTCP; a UDP socket is ServeUDP's own from the call on.
func TestSocketClosedByOthers(t *testing.T) {
	conn, ln := sockets(t, "127.0.0.1:0")
	s := New(Config{Miss: func(netip.Addr, string, string) {}})
	s.SetTable(table(t, threeNodes()))
	ctx, cancel := context.WithCancel(t.Context())
	udp, tcp := make(chan error, 1), make(chan error, 1)
	go func() { udp <- s.ServeUDP(ctx, conn) }()
	go func() { tcp <- s.ServeTCP(ctx, ln) }()
	r := &running{Server: s, t: t, addr: ln.Addr().String()}
	r.over("udp", question("docker.io", dns.TypeA))
	r.over("tcp", question("docker.io", dns.TypeA))
	if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("want net.ErrClosed for a socket that is ServeUDP's, got %v", err)
	}
	ln.Close()
	if err := <-tcp; !errors.Is(err, net.ErrClosed) {
		t.Errorf("want net.ErrClosed, got %v", err)
	}
	r.over("udp", question("docker.io", dns.TypeA))
	cancel()
	if err := <-udp; err != nil {
		t.Errorf("ServeUDP: %v", err)
	}
}

func TestBuffersAreRaisedAndNeverLowered(t *testing.T) {
	conn, ln := sockets(t, "127.0.0.1:0")
	defer conn.Close()
	defer ln.Close()
	size := func(option int) (n int) {
		t.Helper()
		if err := control(conn, func(fd int) (err error) {
			n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 2 {
		receive, send := size(unix.SO_RCVBUF), size(unix.SO_SNDBUF)
		if err := raiseBuffers(conn); err != nil {
			t.Fatal(err)
		}
		if size(unix.SO_RCVBUF) < receive || size(unix.SO_SNDBUF) < send {
			t.Errorf("want at least %d and %d bytes, got %d and %d",
				receive, send, size(unix.SO_RCVBUF), size(unix.SO_SNDBUF))
		}
	}
	if got, err := sendBuffer(conn); err != nil || got != size(unix.SO_SNDBUF) {
		t.Errorf("got %d, %v", got, err)
	}
}

func TestTCPPipelining(t *testing.T) {
	r := start(t, threeNodes())
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	var stream []byte
	want := map[uint16]bool{}
	for i := range 200 {
		m := question([]string{"docker.io", "nowhere.example", "casemate.internal"}[i%3], dns.TypeA)
		m.Id = uint16(i)
		want[m.Id] = true
		b := packet(t, m)
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(b))), b...)
	}
	// In pieces that know nothing of messages.
	go func() {
		for len(stream) > 0 {
			n := min(len(stream), 7)
			c.Write(stream[:n])
			stream = stream[n:]
		}
		c.(*net.TCPConn).CloseWrite()
	}()
	co := &dns.Conn{Conn: c}
	for range 200 {
		resp, err := co.ReadMsg()
		if err != nil {
			t.Fatalf("%d answers are missing: %v", len(want), err)
		}
		if !want[resp.Id] {
			t.Fatalf("%d answered twice", resp.Id)
		}
		delete(want, resp.Id)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("want the connection closed after the last answer, got %v", err)
	}
}

func TestTCPGarbageIsClosed(t *testing.T) {
	// so it was not that
	r := startOn(t, "127.0.0.1:0", threeNodes(), func(s *Server) { s.tcp.idle = 24 * time.Hour })
	for i, b := range [][]byte{{0, 0}, {0, 5, 1, 2, 3, 4, 5}, {0xff, 0xff}, []byte("GET / HTTP/1.1\r\n\r\n")} {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(b)
		c.SetReadDeadline(time.Now().Add(10 * time.Minute)) // ends what hangs
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: want a closed connection, read %d bytes, %v", b, n, err)
		}
		c.Close()
		if got := r.Stats().Dropped; got != uint64(i+1) {
			t.Errorf("%q: want it counted as dropped, got %d", b, got)
		}
	}
}

// tapped remembers what is accepted.
type tapped struct {
	net.Listener
	conns chan *net.TCPConn
}

func (l tapped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns <- c.(*net.TCPConn)
	}
	return c, err
}

// The kernel keeps little for a connection, whatever its client does.
func TestTCPBuffersAreSmall(t *testing.T) {
	s := New(Config{})
	s.SetTable(table(t, threeNodes()))
	conn, ln := sockets(t, "127.0.0.1:0")
	defer conn.Close()
	l := tapped{ln, make(chan *net.TCPConn, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeTCP(ctx, l) })
	defer wg.Wait()
	defer cancel()
	r := &running{Server: s, t: t, addr: ln.Addr().String()}
	if err := works(r.tcpFrom("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	c := <-l.conns
	for option, most := range map[int]int{unix.SO_RCVBUF: 2 * tcpReadBuffer, unix.SO_SNDBUF: 2 * tcpWriteBuffer} {
		if err := control(c, func(fd int) error {
			got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
			if got > most {
				t.Errorf("option %d: want at most %d bytes, got %d", option, most, got)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

// tcpFrom opens a connection from a loopback address.
func (r *running) tcpFrom(client string) *dns.Conn {
	r.t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}).Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Minute))
	return &dns.Conn{Conn: c}
}

func works(co *dns.Conn) error {
	if err := co.WriteMsg(question("docker.io", dns.TypeA)); err != nil {
		return err
	}
	_, err := co.ReadMsg()
	return err
}

// A few addresses take all connections and hold them. A newcomer still gets in, replacing one of the client with most.
func TestTCPNewcomersGetIn(t *testing.T) {
	for _, tt := range []struct {
		name string
		hog  func(t *testing.T, co *dns.Conn)
	}{
		{"connections that ask nothing", func(*testing.T, *dns.Conn) {}},
		{"connections that asked once", func(t *testing.T, co *dns.Conn) {
			if err := works(co); err != nil {
				t.Error(err)
			}
		}},
		{"half a question", func(_ *testing.T, co *dns.Conn) { co.Conn.Write([]byte{0, 40, 1, 2, 3}) }},
		{"questions that wait for resolvers", func(_ *testing.T, co *dns.Conn) {
			co.WriteMsg(question("www.slow.example", dns.TypeA))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			const most, each = 36, 5
			r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), "slow.example", newResolver(t, silent)),
				func(s *Server) {
					s.tcp.conns = share.New(share.Config{Max: most, PerClient: each})
					s.tcp.idle, s.tcp.crowded = 24*time.Hour, 24*time.Hour
					s.forward.timeout = time.Hour
				})
			// One of them is quite idle: it is not what keeps the others out.
			for i := range most {
				tt.hog(t, r.tcpFrom(fmt.Sprintf("127.0.1.%d", 1+i/each)))
			}
			for r.Stats().OpenTCP < most {
				time.Sleep(time.Millisecond)
			}
			for i := range most / 2 {
				if err := works(r.tcpFrom(fmt.Sprintf("127.0.2.%d", 1+i))); err != nil {
					t.Fatalf("newcomer %d: %v", i, err)
				}
			}
			if s := r.Stats(); s.ClosedTCP != most/2 || s.RefusedTCP != 0 {
				t.Errorf("got %+v", s)
			}
			r.stop()
			if s := r.Stats(); s.OpenTCP != 0 {
				t.Errorf("connections are still counted: %+v", s)
			}
			if open, _, _ := r.tcp.conns.Counts(); open != 0 {
				t.Errorf("%d places are still taken", open)
			}
		})
	}
}

// A slow-loris sends byte by byte and is cut when the message as a whole is late: the deadline does not move with its
// bytes.
func TestTCPDeadlineIsForTheWholeMessage(t *testing.T) {
	spec := threeNodes()
	s := New(Config{})
	s.SetTable(table(t, spec))
	c := &lorisConn{bytes: append([]byte{0, 40}, make([]byte, 100)...), addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	s.serveConn(t.Context(), c, s.tcp.accept(netip.MustParseAddr("127.0.0.1"), func() {}))
	if c.deadlines != 1 || c.read != 30 {
		t.Errorf("want one deadline for all of a message's bytes, got %d after %d bytes", c.deadlines, c.read)
	}
}

// lorisConn gives one byte a read and then runs into its deadline.
type lorisConn struct {
	net.Conn
	addr      net.Addr
	bytes     []byte
	read      int
	deadlines int
}

func (c *lorisConn) Read(p []byte) (int, error) {
	if c.read == 30 {
		return 0, errors.New("timeout")
	}
	p[0] = c.bytes[c.read]
	c.read++
	return 1, nil
}
func (c *lorisConn) SetReadDeadline(time.Time) error { c.deadlines++; return nil }
func (c *lorisConn) Close() error                    { return nil }

func TestMissesNeverBlockAnswers(t *testing.T) {
	release := make(chan struct{})
	s := New(Config{Miss: func(netip.Addr, string, string) { <-release }})
	s.SetTable(table(t, threeNodes()))
	conns, err := dnstest.ListenUDP("127.0.0.1:0", 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.ServeUDP(ctx, conns[0]) })
	r := &running{Server: s, t: t, addr: conns[0].LocalAddr().String()}
	const storm = 1500
	for i := range storm {
		if got := r.ask(question(fmt.Sprintf("x%d.default.svc.cluster.local", i),
			dns.TypeA)); got.Rcode != dns.RcodeNameError {
			t.Fatalf("got %v", got)
		}
	}
	st := s.Stats()
	if st.Misses+st.MissesLost != storm || st.MissesLost < storm-1024-2 || st.MissesLost > storm-1024 {
		t.Errorf("want about 1024 misses queued and the others counted as lost, got %+v", st)
	}
	close(release)
	cancel()
	wg.Wait()
}

func TestOrderIsTheSameOnAllBastions(t *testing.T) {
	// The order is part of what three bastions agree on without talking: it must not change between versions.
	spec := threeNodes()
	spec.Nodes[2].Healthy = true
	tab := table(t, spec)
	var got []string
	for _, client := range []string{"10.0.0.50", "10.0.0.60", "10.0.0.70", "fd00::50", "fd00::51"} {
		var buf [maxNodes]*member
		var names []string
		for _, m := range order(tab.live[v4], netip.MustParseAddr(client), &buf) {
			names = append(names, m.name[:2])
		}
		got = append(got, strings.Join(names, " "))
	}
	if want := []string{"n3 n1 n2", "n1 n2 n3", "n3 n1 n2", "n3 n2 n1", "n2 n3 n1"}; !slices.Equal(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
}
