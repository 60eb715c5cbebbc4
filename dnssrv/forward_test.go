package dnssrv

import (
	"casemate/cluster/share"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// resolver is a fake one on loopback, UDP and TCP.
type resolver struct {
	t    testing.TB
	addr netip.AddrPort

	udp, tcp atomic.Int64 // questions that it got
	mu       sync.Mutex
	last     *dns.Msg
	asked    []*dns.Msg
	ports    map[int]bool    // source ports seen
	ids      map[uint16]bool // and ids
}

// newResolver answers with what reply makes of a question; nothing if that is nil. More than one are sent one after the
// other.
func newResolver(t testing.TB, reply func(q *dns.Msg, network string) []*dns.Msg) *resolver {
	t.Helper()
	return newBox(t, func(q *dns.Msg, network string) (out [][]byte) {
		for _, m := range reply(q, network) {
			out = append(out, packet(t, m))
		}
		return out
	})
}

// newBox is a resolver that may answer with bytes that are no message.
func newBox(t testing.TB, reply func(q *dns.Msg, network string) [][]byte) *resolver {
	t.Helper()
	conn, ln := sockets(t, "127.0.0.1:0")
	r := &resolver{t: t, addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), ports: map[int]bool{},
		ids: map[uint16]bool{}}
	got := func(q *dns.Msg, from net.Addr) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.last = q
		r.asked = append(r.asked, q)
		r.ids[q.Id] = true
		if a, ok := from.(*net.UDPAddr); ok {
			r.ports[a.Port] = true
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			q := unpacked(t, buf[:n])
			r.udp.Add(1)
			got(q, from)
			for _, b := range reply(q, "udp") {
				conn.WriteTo(b, from)
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			co := &dns.Conn{Conn: c}
			if q, err := co.ReadMsg(); err == nil {
				r.tcp.Add(1)
				got(q, c.RemoteAddr())
				for _, b := range reply(q, "tcp") {
					co.Write(b)
				}
			}
			c.Close()
		}
	})
	t.Cleanup(func() { conn.Close(); ln.Close(); wg.Wait() })
	return r
}

// good answers every A with one address and records in a comment what a careless relay would pass on.
func good(addr string) func(q *dns.Msg, network string) []*dns.Msg {
	return func(q *dns.Msg, _ string) []*dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable, m.AuthenticatedData, m.Authoritative = true, true, true
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: 1,
				Ttl: 99}, A: net.ParseIP(addr).To4()}}
		}
		m.SetEdns0(4096, true)
		return []*dns.Msg{m}
	}
}

func rcode(code int) func(q *dns.Msg, network string) []*dns.Msg {
	return func(q *dns.Msg, _ string) []*dns.Msg { return []*dns.Msg{new(dns.Msg).SetRcode(q, code)} }
}

func silent(*dns.Msg, string) []*dns.Msg { return nil }

func forwardTo(spec Spec, zone string, rs ...*resolver) Spec {
	f := Forward{Zone: zone}
	for _, r := range rs {
		f.Resolvers = append(f.Resolvers, r.addr)
	}
	spec.Forward = append(spec.Forward, f)
	return spec
}

func TestForwardingPerZone(t *testing.T) {
	rest, corp, sub := newResolver(t, good("192.0.2.1")), newResolver(t, good("192.0.2.2")),
		newResolver(t, good("192.0.2.3"))
	own, below := newResolver(t, good("192.0.2.4")), newResolver(t, good("192.0.2.5"))
	spec := forwardTo(threeNodes(), ".", rest)
	spec = forwardTo(spec, "Corp.Example.", corp)
	spec = forwardTo(spec, "ad.corp.example", sub)
	spec = forwardTo(spec, "ad.casemate.internal", own)
	spec = forwardTo(spec, "docker.io", below)
	spec.Records = []Record{{Name: "git.corp.example", Type: "A", Values: []string{"10.9.9.9"}}}
	r := startOnce(t, spec)
	for _, network := range []string{"udp", "tcp"} {
		for name, want := range map[string]string{
			"elsewhere.example":       "192.0.2.1",
			"xcorp.example":           "192.0.2.1", // a zone ends at a dot
			"corp.example":            "192.0.2.2",
			"WWW.corp.EXAMPLE":        "192.0.2.2",
			"dc.ad.corp.example":      "192.0.2.3",
			"ad.casemate.internal":    "192.0.2.4",
			"dc.ad.casemate.internal": "192.0.2.4",
			"api.docker.io":           "192.0.2.5",
			"k8s.io":                  "192.0.2.1", // exists only because of a name below it: resolvers know more
			"git.corp.example":        "10.9.9.9",  // the operator's word goes first
		} {
			m := question(name, dns.TypeA)
			m.SetEdns0(4096, true)
			m.AuthenticatedData = true
			resp := r.over(network, m)
			if got := values(resp.Answer, dns.TypeA); !slices.Equal(got, []string{want}) ||
				resp.Question[0] != m.Question[0] {
				t.Errorf("%s %s: want %s, got %v", network, name, want, resp)
			}
			if resp.AuthenticatedData || !resp.RecursionAvailable || resp.Authoritative != (want == "10.9.9.9") {
				t.Errorf("%s: want RA, no AD, AA only for our own, got %v", name, resp.MsgHdr)
			}
			if opt := resp.IsEdns0(); opt == nil || opt.Do() || opt.UDPSize() != 1232 || len(resp.Extra) != 1 {
				t.Errorf("%s: want our own OPT without DO, got %v", name, resp.Extra)
			}
		}
		// What is ours is never asked elsewhere.
		for name, rcode := range map[string]int{"docker.io": dns.RcodeSuccess,
			"nobody.casemate.internal": dns.RcodeNameError, "casemate.internal": dns.RcodeSuccess} {
			if resp := r.over(network, question(name, dns.TypeMX)); resp.Rcode != rcode || !resp.Authoritative ||
				!resp.RecursionAvailable {
				t.Errorf("%s: want %s of our own, got %v", name, dns.RcodeToString[rcode], resp)
			}
		}
	}
	corp.mu.Lock()
	defer corp.mu.Unlock()
	if q := corp.last; q.IsEdns0() == nil || q.IsEdns0().Do() || q.AuthenticatedData || !q.RecursionDesired {
		t.Errorf("want RD and an OPT without DO upstream, got %v", q)
	}
	if corp.tcp.Load()+rest.tcp.Load() != 0 {
		t.Error("want UDP first, whatever the client came by")
	}
	if got := r.misses(); !slices.Equal(got, []string{"nobody.casemate.internal/MX", "nobody.casemate.internal/MX"}) {
		t.Errorf("misses: got %v", got)
	}
}

func TestForwardedAnswersPassOn(t *testing.T) {
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: 1, Ttl: 30}, Ns: "a.example.",
		Mbox: "b.example.", Minttl: 30}
	up := newResolver(t, func(q *dns.Msg, _ string) []*dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Ns = []dns.RR{soa}
		if strings.HasPrefix(strings.ToLower(q.Question[0].Name), "nx.") {
			m.Rcode = dns.RcodeNameError
		}
		return []*dns.Msg{m}
	})
	spec := forwardTo(threeNodes(), ".", up)
	spec.Records = []Record{
		{Name: "www.bank.test", Type: "CNAME", Values: []string{"target.example"}},
		{Name: "gone.bank.test", Type: "CNAME", Values: []string{"nx.example"}},
	}
	r := start(t, spec)
	if resp := r.ask(question("nodata.example", dns.TypeMX)); resp.Rcode != dns.RcodeSuccess || len(resp.Ns) != 1 {
		t.Errorf("NODATA: got %v", resp)
	}
	if resp := r.ask(question("nx.example", dns.TypeA)); resp.Rcode != dns.RcodeNameError || len(resp.Ns) != 1 {
		t.Errorf("NXDOMAIN: got %v", resp)
	}
	// The client is a stub that follows no CNAME: what our data begins is finished elsewhere.
	if resp := r.ask(question("www.bank.test", dns.TypeA)); resp.Rcode != dns.RcodeSuccess || len(resp.Answer) != 1 ||
		len(resp.Ns) != 1 || resp.Authoritative {
		t.Errorf("CNAME to elsewhere: got %v", resp)
	}
	if resp := r.ask(question("gone.bank.test", dns.TypeA)); resp.Rcode != dns.RcodeNameError || len(resp.Answer) != 1 {
		t.Errorf("CNAME to nowhere: got %v", resp)
	}
	norec := question("nodata.example", dns.TypeA)
	norec.RecursionDesired = false
	before := up.udp.Load()
	if resp := r.ask(norec); resp.Rcode != dns.RcodeRefused || up.udp.Load() != before {
		t.Errorf("without RD nothing is asked elsewhere, got %v", resp)
	}
	if got := r.misses(); !slices.Equal(got, []string{"nx.example/A", "nx.example/A"}) {
		t.Errorf("a name that a resolver denies is a miss, too: got %v", got)
	}
}

func TestForwardedCNAMEIsFollowed(t *testing.T) {
	up := newResolver(t, good("192.0.2.1"))
	spec := forwardTo(threeNodes(), ".", up)
	spec.Records = []Record{{Name: "www.bank.test", Type: "CNAME", Values: []string{"target.example"}}}
	r := start(t, spec)
	resp := r.ask(question("www.bank.test", dns.TypeA))
	if !slices.Equal(values(resp.Answer, dns.TypeCNAME), []string{"target.example."}) ||
		!slices.Equal(values(resp.Answer, dns.TypeA), []string{"192.0.2.1"}) {
		t.Errorf("got %v", resp)
	}
}

func TestTruncatedAnswerIsFetchedOverTCP(t *testing.T) {
	up := newResolver(t, func(q *dns.Msg, network string) []*dns.Msg {
		m := new(dns.Msg).SetReply(q)
		if network == "udp" {
			m.Truncated = true
			return []*dns.Msg{m}
		}
		for i := range 100 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: 1, Class: 1},
				A: net.IPv4(192, 0, 2, byte(i))})
		}
		return []*dns.Msg{m}
	})
	r := startOnce(t, forwardTo(threeNodes(), ".", up))
	if resp := r.over("tcp", question("many.example", dns.TypeA)); len(resp.Answer) != 100 || resp.Truncated {
		t.Errorf("want all 100, got %d", len(resp.Answer))
	}
	if resp := r.ask(question("many.example", dns.TypeA)); !resp.Truncated || len(resp.Answer) == 0 {
		t.Errorf("want what fits and TC, got %v", resp)
	}
	if up.tcp.Load() != 2 {
		t.Errorf("want TCP asked twice, got %d", up.tcp.Load())
	}
}

func TestResolversAreTriedInOrder(t *testing.T) {
	for _, c := range []struct {
		what string
		bad  func(q *dns.Msg, network string) []*dns.Msg
	}{
		{"SERVFAIL", rcode(dns.RcodeServerFailure)},
		{"REFUSED", rcode(dns.RcodeRefused)},
		{"NOTIMP", rcode(dns.RcodeNotImplemented)},
		{"silent", silent},
		{"cut and no TCP", func(q *dns.Msg, network string) []*dns.Msg {
			if network == "tcp" {
				return nil
			}
			m := new(dns.Msg).SetReply(q)
			m.Truncated = true
			return []*dns.Msg{m}
		}},
		{"wrong id", lying(func(m *dns.Msg) { m.Id ^= 1 })},
		{"a question itself", lying(func(m *dns.Msg) { m.Response = false })},
		{"another name", lying(func(m *dns.Msg) { m.Question[0].Name = "evil.example." })},
		{"another type", lying(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA })},
		{"another class", lying(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })},
		{"no question", lying(func(m *dns.Msg) { m.Question = nil })},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			first, second := newResolver(t, c.bad), newResolver(t, good("192.0.2.2"))
			r := start(t, forwardTo(threeNodes(), ".", first, second))
			resp := r.ask(question("www.example", dns.TypeA))
			if got := values(resp.Answer, dns.TypeA); !slices.Equal(got, []string{"192.0.2.2"}) {
				t.Errorf("want the second resolver's answer, got %v", resp)
			}
			if first.udp.Load() == 0 {
				t.Error("the first was not asked first")
			}
		})
	}
}

// A slow resolver is not given up when another is asked: it may be the only one that knows.
func TestSlowResolverMayStillAnswer(t *testing.T) {
	asked := make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	silentOne := newResolver(t, func(*dns.Msg, string) []*dns.Msg {
		once()
		return nil
	})
	slow := newResolver(t, func(q *dns.Msg, network string) []*dns.Msg {
		<-asked
		return good("192.0.2.1")(q, network)
	})
	r := start(t, forwardTo(threeNodes(), ".", slow, silentOne))
	if got := values(r.ask(question("www.example", dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
		[]string{"192.0.2.1"}) {
		t.Errorf("got %v", got)
	}
}

// lying gives an answer with an evil address that is changed to not belong to the question.
func lying(change func(*dns.Msg)) func(q *dns.Msg, network string) []*dns.Msg {
	return func(q *dns.Msg, network string) []*dns.Msg {
		m := good("203.0.113.66")(q, network)[0]
		change(m)
		return []*dns.Msg{m}
	}
}

func TestForgedAnswersBeforeTheTrueOneAreIgnored(t *testing.T) {
	up := newResolver(t, func(q *dns.Msg, network string) []*dns.Msg {
		var out []*dns.Msg
		for i := range 20 {
			out = append(out, lying(func(m *dns.Msg) { m.Id += uint16(i) + 1 })(q, network)...)
		}
		return append(out, good("192.0.2.1")(q, network)...)
	})
	r := startOnce(t, forwardTo(threeNodes(), ".", up))
	if got := values(r.ask(question("www.example", dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
		[]string{"192.0.2.1"}) {
		t.Errorf("got %v", got)
	}
	if up.udp.Load() != 1 {
		t.Errorf("want one question, got %d", up.udp.Load())
	}
}

func TestIdsAndPortsAreRandom(t *testing.T) {
	up := newResolver(t, good("192.0.2.1"))
	r := start(t, forwardTo(threeNodes(), ".", up))
	for i := range 50 {
		m := question(fmt.Sprintf("x%d.example", i), dns.TypeA)
		m.Id = 7
		if resp := r.ask(m); resp.Id != 7 || len(resp.Answer) != 1 {
			t.Fatalf("got %v", resp)
		}
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	if len(up.ids) < 45 || len(up.ports) < 40 {
		t.Errorf("want 50 questions from different ids and ports, got %d ids and %d ports", len(up.ids), len(up.ports))
	}
}

// nobodyListens returns an address that refuses questions over UDP and TCP until the test ends. A port that was only
// closed could become another test's: this one stays bound, over UDP to answers of one other socket, over TCP without
// listen(2).
func nobodyListens(t *testing.T) netip.AddrPort {
	t.Helper()
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	for try := 0; ; try++ {
		conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, other.LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err == nil {
			t.Cleanup(func() { conn.Close(); unix.Close(fd) })
			return at
		}
		conn.Close()
		unix.Close(fd)
		if try == 20 { // the port is free for UDP and was taken for TCP each time
			t.Fatal(err)
		}
	}
}

// A question has exactly forwardTimeout; the sockets show that every kind of dead resolver ends by it.
const _ = uint(2*time.Second - forwardTimeout - 100*time.Millisecond)

func TestDeadForwarderIsSERVFAILWithinTwoSeconds(t *testing.T) {
	closed, refusing := newResolver(t, silent), nobodyListens(t)
	for _, c := range []struct {
		what      string
		resolvers []netip.AddrPort
	}{
		{"silent", []netip.AddrPort{closed.addr}},
		{"nobody listens", []netip.AddrPort{refusing}},
		{"both", []netip.AddrPort{refusing, closed.addr}},
		{"eight silent", slices.Repeat([]netip.AddrPort{closed.addr}, 8)},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			spec := threeNodes()
			spec.Forward = []Forward{{Zone: ".", Resolvers: c.resolvers}}
			r := startOn(t, "127.0.0.1:0", spec)
			var wg sync.WaitGroup
			for _, network := range []string{"udp", "tcp"} {
				wg.Go(func() {
					m := question("www.example", dns.TypeA)
					m.SetEdns0(1232, false)
					client := dns.Client{Net: network, Timeout: 2 * time.Minute}
					resp, _, err := client.Exchange(m, r.addr)
					if err != nil {
						t.Errorf("%s: no answer: %v", network, err)
						return
					}
					if resp.Rcode != dns.RcodeServerFailure || !resp.RecursionAvailable || resp.Authoritative {
						t.Errorf("%s: want SERVFAIL, got %v", network, resp)
					}
					opt := resp.IsEdns0()
					if len(opt.Option) != 1 ||
						opt.Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeNoReachableAuthority {
						t.Errorf("%s: want the reason (RFC 8914), got %v", network, opt)
					}
				})
			}
			wg.Wait()
			if got := r.misses(); !slices.Equal(got, []string{"www.example/A", "www.example/A"}) {
				t.Errorf("what could not be got is a miss: got %v", got)
			}
			if s := r.Stats(); s.Forwarded != 2 || s.ForwardFailed != 2 {
				t.Errorf("got %+v", s)
			}
		})
	}
}

func TestOurNamesAnswerWhileForwardsHang(t *testing.T) {
	up := newResolver(t, silent)
	r := start(t, forwardTo(threeNodes(), ".", up))
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	co := &dns.Conn{Conn: c}
	slow, quick := question("www.example", dns.TypeA), question("docker.io", dns.TypeA)
	for _, m := range []*dns.Msg{slow, quick} {
		if err := co.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []*dns.Msg{quick, slow} {
		resp, err := co.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		if resp.Id != want.Id {
			t.Errorf("want %s answered now, got %v", want.Question[0].Name, resp)
		}
	}
}

// exchange asks resolvers and takes whatever answer there is.
func exchange(t *testing.T, f *forwarder, resolvers []netip.AddrPort, q dns.Question) (got *dns.Msg, err error) {
	take := func(_ netip.AddrPort, m *dns.Msg) error {
		got = m
		return nil
	}
	err = f.exchange(t.Context(), time.Now().Add(time.Minute), resolvers, q, asker{}, take)
	return got, err
}

func TestBadResolverIsAskedLast(t *testing.T) {
	var dead atomic.Bool
	dead.Store(true)
	first := newResolver(t, func(q *dns.Msg, network string) []*dns.Msg {
		if dead.Load() {
			return nil
		}
		return good("192.0.2.1")(q, network)
	})
	second := newResolver(t, good("192.0.2.2"))
	f := newForwarder(testLogger(t), time.Now)
	resolvers := []netip.AddrPort{first.addr, second.addr}
	for range badAfter {
		f.report(first.addr, context.DeadlineExceeded)
	}
	if got := f.order(resolvers); !slices.Equal(got, []netip.AddrPort{second.addr, first.addr}) {
		t.Errorf("want the bad one last, got %v", got)
	}
	q := question("www.example", dns.TypeA).Question[0]
	if m, err := exchange(t, f, resolvers, q); err != nil || first.udp.Load() != 0 {
		t.Errorf("want the second alone asked, got %v, %v", m, err)
	}
	// It need not be reported from outside: answers that others must give in its stead count, one a question.
	g := newForwarder(testLogger(t), time.Now)
	for i := range badAfter {
		if m, err := exchange(t, g, resolvers, q); err != nil || values(m.Answer, dns.TypeA)[0] != "192.0.2.2" {
			t.Fatalf("%d: got %v, %v", i, m, err)
		}
	}
	if got := g.order(resolvers); got[0] != second.addr {
		t.Errorf("want the silent one last after %d questions, got %v", badAfter, got)
	}
	// A bad one that is alone is asked nevertheless, and is good again when it answers.
	dead.Store(false)
	if _, err := exchange(t, f, resolvers[:1], q); err != nil {
		t.Error(err)
	}
	if got := f.order(resolvers); !slices.Equal(got, resolvers) {
		t.Errorf("want the order as configured, got %v", got)
	}
	// What no table names is forgotten.
	f.report(second.addr, context.DeadlineExceeded)
	f.retain(table(t, forwardTo(threeNodes(), ".", first)))
	if len(f.known) != 1 {
		t.Errorf("want only the first resolver known, got %v", f.known)
	}
}

// A client that asks for names that a resolver cannot resolve, and for others in between, must not fill the log.
func TestResolversThatComeAndGoAreLoggedRarely(t *testing.T) {
	var lines strings.Builder
	now := time.Unix(1000, 0)
	log := slog.New(slog.NewTextHandler(&lines, nil))
	f := newForwarder(log, func() time.Time { return now })
	r := netip.MustParseAddrPort("10.1.1.1:53")
	count := func(want string) int { return strings.Count(lines.String(), want) }
	fail := func(times int) {
		for range times {
			f.report(r, context.DeadlineExceeded)
		}
	}
	for range 1000 {
		fail(badAfter)
		f.report(r, nil)
	}
	if down, up := count("does not answer"), count("answers again"); down != 1 || up != 1 {
		t.Errorf("want one line each, got %d and %d", down, up)
	}
	// One that is really dead is not overlooked because it was logged a moment ago.
	fail(badAfter)
	now = now.Add(logEvery)
	fail(10)
	if down, up := count("does not answer"), count("answers again"); down != 2 || up != 1 {
		t.Errorf("want a second line that it is down, got %d and %d", down, up)
	}
	if !strings.Contains(lines.String(), "times=1000") {
		t.Errorf("want the number of times that were not logged, got\n%s", lines.String())
	}
	f.report(r, nil)
	if up := count("answers again"); up != 2 {
		t.Errorf("want a line that it answers, got %d", up)
	}
}

// A host of an IPv6 network may ask from each of its addresses: it has one client's share all the same.
func TestForwardsAreCountedByClient(t *testing.T) {
	for _, c := range []struct {
		name, one, other string // %x counts
		most             int
	}{
		{"an IPv4 address", "10.0.0.1", "10.0.0.2", maxForwardsPerClient},
		{"a /64", "fd00::%x", "fd00:0:0:1::%x", maxForwardsPerNetwork},
		{"a /64 that floods, for IPv4", "fd00::%x", "10.0.0.1", maxForwardsPerNetwork},
	} {
		f := newForwarder(testLogger(t), time.Now)
		at := func(form string, i int) netip.Addr {
			if strings.Contains(form, "%") {
				form = fmt.Sprintf(form, i+1)
			}
			return netip.MustParseAddr(form)
		}
		n := 0
		for i := 0; i < maxForwards && f.begin(at(c.one, i), func(error) {}) != nil; i++ {
			n++
		}
		if n != c.most {
			t.Errorf("%s has %d questions in flight, want %d", c.name, n, c.most)
		}
		if f.begin(at(c.other, 0), func(error) {}) == nil {
			t.Errorf("%s keeps another client out", c.name)
		}
	}
}

func TestForwardsAreBounded(t *testing.T) {
	now := time.Unix(0, 0)
	f := newForwarder(testLogger(t), func() time.Time { return now })
	client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	begin := func(i int) *flight { return f.begin(client(i), func(error) {}) }
	for i := range maxForwardsPerClient {
		if begin(1) == nil {
			t.Fatalf("%d: want room", i)
		}
	}
	if begin(1) != nil {
		t.Error("one client must not have more than its share")
	}
	n := maxForwardsPerClient
	for i := 2; begin(i) != nil; n++ {
		if f.by[share.Net(client(i))].Len() == maxForwardsPerClient {
			i++
		}
	}
	if n != maxForwards || f.flights.Len() != n {
		t.Errorf("want %d, got %d and %d", maxForwards, n, f.flights.Len())
	}
	for e := f.flights.Front(); e != nil; e = f.flights.Front() {
		fl := e.Value.(*flight)
		f.end(fl, false)
		f.end(fl, false) // also when it gave way before
	}
	if len(f.by) != 0 {
		t.Errorf("want nothing left, got %v", f.by)
	}

	// Beyond the bound: SERVFAIL at once.
	up := newResolver(t, silent)
	r := start(t, forwardTo(threeNodes(), ".", up))
	me := netip.MustParseAddr("127.0.0.1")
	r.forward.now = func() time.Time { return now }
	for range maxForwardsPerClient {
		r.forward.begin(me, func(error) {})
	}
	for _, network := range []string{"udp", "tcp"} {
		if resp := r.over(network, question("www.example", dns.TypeA)); resp.Rcode != dns.RcodeServerFailure {
			t.Errorf("got %v", resp)
		}
	}
	if s := r.Stats(); s.ForwardShed != 2 || up.udp.Load() != 0 {
		t.Errorf("want 2 shed and nothing asked, got %+v", s)
	}
}

// Where all slots are in use by questions without an answer, those that are answered at once still get in.
func TestSlowForwardsGiveWay(t *testing.T) {
	const client, other = 1, 2
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for _, tt := range []struct {
		name    string
		holders int           // that have all places
		waited  time.Duration // for so long
		typical time.Duration // that answers take
		who     int
		want    bool
	}{
		{"all came just now", 1024, lateAfter, 0, 5000, false},
		{"all have waited", 1024, lateAfter + 1, 0, 5000, true},
		{"four clients have waited", 4, lateAfter + 1, 0, 5000, true},
		{"the client's own have waited", 4, lateAfter + 1, 0, client, true},
		{"the client's own came just now", 4, lateAfter, 0, client, false},
		{"answers take long in general", 1024, time.Second, 300 * time.Millisecond, 5000, false},
		{"answers are quick", 1024, time.Second, 20 * time.Millisecond, 5000, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			f := newForwarder(testLogger(t), func() time.Time { return now })
			f.typical = tt.typical
			var order []int
			for i := range maxForwards {
				if f.begin(addr(1+i%tt.holders), func(err error) {
					if !errors.Is(err, errShed) {
						t.Errorf("got %v", err)
					}
					order = append(order, i)
				}) == nil {
					t.Fatalf("%d: want room", i)
				}
			}
			now = now.Add(tt.waited)
			if got := f.begin(addr(tt.who), func(error) {}) != nil; got != tt.want {
				t.Errorf("want room %v, got %v", tt.want, got)
			}
			if got := len(order) > 0; got != tt.want || f.flights.Len() != maxForwards {
				t.Errorf("gave way: %v; %d in flight", order, f.flights.Len())
			}
		})
	}

	// The one that gives way is of the client that has most.
	now := time.Unix(1000, 0)
	f := newForwarder(testLogger(t), func() time.Time { return now })
	gone := 0
	for i := range maxForwards {
		who := 100 + i // one each
		if i%4 == 1 {
			who = client
		}
		f.begin(addr(who), func(error) {
			if who != client {
				t.Errorf("the question of %d gave way", who)
			}
			gone++
		})
	}
	now = now.Add(time.Second)
	if f.begin(addr(other), func(error) {}); gone != 1 {
		t.Errorf("want one to give way, got %d", gone)
	}
}

func TestQuickForwardsGetInBesideSlowOnes(t *testing.T) {
	slow, quick := newResolver(t, silent), newResolver(t, good("192.0.2.1"))
	spec := forwardTo(forwardTo(threeNodes(), "slow.example", slow), "quick.example", quick)
	var skew atomic.Int64
	r := startOn(t, "127.0.0.1:0", spec, func(s *Server) {
		s.forward.timeout = time.Hour
		s.forward.now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	})
	conns := make([]net.Conn, 8)
	for i := range conns {
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(1+i))}}).Dial("udp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	for i := range maxForwards {
		conns[i%len(conns)].Write(packet(t, question(fmt.Sprintf("x%d.slow.example", i), dns.TypeA)))
		if i%64 == 63 {
			r.ask(question("docker.io", dns.TypeA)) // so that none is lost
		}
	}
	for r.Stats().Forwarded < maxForwards {
		r.ask(question("docker.io", dns.TypeA))
	}
	skew.Store(int64(time.Minute))
	for i := range 20 {
		if resp := r.ask(question(fmt.Sprintf("x%d.quick.example", i), dns.TypeA)); len(resp.Answer) != 1 {
			t.Fatalf("%d: got %v", i, resp)
		}
	}
}

func TestWhatCannotBePackedIsSERVFAIL(t *testing.T) {
	s, tab := New(Config{Log: testLogger(t)}), table(t, fuzzSpec())
	req := question("host.corp.example", dns.TypeTXT)
	req.SetEdns0(1232, false)
	m := new(dns.Msg).SetReply(req)
	m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: "host.corp.example.", Rrtype: dns.TypeTXT, Class: 1},
		Txt: []string{strings.Repeat("x", 256)}}}
	j := &job{table: tab, req: req, limit: maxUDP,
		res: result{forward: true, zone: "corp.example.", next: "host.corp.example."}}
	r := j.res
	if err := tab.take(&r, m, dns.TypeTXT, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	resp := unpacked(t, s.finish(j, r))
	if resp.Rcode != dns.RcodeServerFailure || len(resp.Answer) != 0 || resp.IsEdns0() == nil {
		t.Errorf("got %v", resp)
	}
}

func TestStopEndsForwards(t *testing.T) {
	up := newResolver(t, silent)
	r := start(t, forwardTo(threeNodes(), ".", up))
	c, err := net.Dial("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asked := r.Stats().Forwarded
	for i := range 20 {
		c.Write(packet(t, question(fmt.Sprintf("x%d.example", i), dns.TypeA)))
	}
	// The last one is answered at once, after all before it have been taken.
	for r.Stats().Forwarded < asked+20 {
		r.ask(question("docker.io", dns.TypeA))
	}
	r.stop() // goleak watches that nothing is left
	if got := r.misses(); len(got) != 0 {
		t.Errorf("a question that we cancelled is no miss: got %v", got)
	}
}

// parsed reads a record in presentation form.
func parsed(t testing.TB, rr string) dns.RR {
	t.Helper()
	out, err := dns.NewRR(rr)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
