package dnssrv

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// dumb is a forwarder that copies questions, as edit changes them, to one resolver, and its answers back.
type dumb struct {
	addr netip.AddrPort
	mu   sync.Mutex
	to   netip.AddrPort
}

func newDumb(t *testing.T, at string, edit func(q *dns.Msg)) *dumb {
	t.Helper()
	conn, ln := sockets(t, at+":0")
	ln.Close()
	d := &dumb{addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	local := &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(at)}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			buf := make([]byte, 4096)
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			wg.Go(func() {
				q := new(dns.Msg)
				if q.Unpack(buf[:n]) != nil {
					return
				}
				id := q.Id
				edit(q)
				d.mu.Lock()
				to := d.to
				d.mu.Unlock()
				c := dns.Client{Timeout: time.Minute, Dialer: local}
				resp, _, err := c.Exchange(q, to.String())
				if err != nil {
					return
				}
				resp.Id = id
				if b, err := resp.Pack(); err == nil {
					conn.WriteTo(b, from)
				}
			})
		}
	})
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return d
}

func (d *dumb) forwardTo(a netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to = a
}

// sites are servers that have a name for their own record each, and forward everything else.
func sites(t *testing.T, names ...string) (list []*running) {
	t.Helper()
	for i, name := range names {
		spec := threeNodes()
		spec.Nodes[0].Name = fmt.Sprintf("n%d", i)
		list = append(list, startOn(t, "127.0.0.1:0", threeNodes(), patient(nil, false), func(s *Server) {
			s.alone = siteOf(name)
		}))
	}
	return list
}

func (r *running) at() netip.AddrPort { return netip.MustParseAddrPort(r.addr) }

// sendsTo lets a server forward everything to these.
func (r *running) sendsTo(own string, to ...netip.AddrPort) {
	r.t.Helper()
	spec := threeNodes()
	spec.Forward = []Forward{{Zone: ".", Resolvers: to}}
	if own != "" {
		spec.Records = []Record{{Name: own, Type: "A", Values: []string{"192.0.2.7"}}}
	}
	r.SetTable(table(r.t, spec))
}

func plain(q *dns.Msg) { q.Extra = nil }

// Whatever a loop is made of, a question that nobody knows gets one quick SERVFAIL after a few questions, and names
// that a site of the loop knows are still answered.
func TestLoops(t *testing.T) {
	const nobody = "nobody.knows.example"
	for _, c := range []struct {
		what  string
		build func(t *testing.T) []*running
		most  uint64 // questions forwarded, all servers together
	}{
		{"to itself", func(t *testing.T) []*running {
			s := sites(t, "a")
			s[0].sendsTo("", s[0].at())
			return s
		}, 1},
		{"two sites", func(t *testing.T) []*running {
			s := sites(t, "a", "b")
			s[0].sendsTo("", s[1].at())
			s[1].sendsTo("b.example", s[0].at())
			return s
		}, 2},
		{"a ring of three", func(t *testing.T) []*running {
			s := sites(t, "a", "b", "c")
			s[0].sendsTo("", s[1].at())
			s[1].sendsTo("", s[2].at())
			s[2].sendsTo("b.example", s[0].at())
			return s
		}, 3},
		{"two sites of three nodes", func(t *testing.T) []*running {
			s := sites(t, "a", "a", "a", "b", "b", "b")
			for i, r := range s {
				own, to := "", s[3:]
				if i >= 3 {
					own, to = "b.example", s[:3]
				}
				r.sendsTo(own, to[0].at(), to[1].at(), to[2].at())
			}
			return s
		}, 4},
		{"through a forwarder that copies", func(t *testing.T) []*running {
			s, d := sites(t, "a"), newDumb(t, "127.0.0.1", func(*dns.Msg) {})
			s[0].sendsTo("", d.addr)
			d.forwardTo(s[0].at())
			return s
		}, 1},
		{"through one that drops EDNS", func(t *testing.T) []*running {
			s, d := sites(t, "a"), newDumb(t, "127.0.0.1", plain)
			s[0].sendsTo("", d.addr)
			d.forwardTo(s[0].at())
			return s
		}, 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := c.build(t)
			m := question(nobody, dns.TypeA)
			m.SetEdns0(1232, false)
			resp := s[0].ask(m)
			if resp.Rcode != dns.RcodeServerFailure {
				t.Errorf("%v", resp)
			}
			forwarded, looped, named := uint64(0), uint64(0), ""
			for _, r := range s {
				st := r.Stats()
				forwarded, looped = forwarded+st.Forwarded, looped+st.ForwardLooped
				for _, l := range st.Loops {
					named += l.Resolver + " " + l.Name + "\n"
				}
			}
			if forwarded > c.most || looped == 0 {
				t.Errorf("%d questions were forwarded, want at most %d; %d came back", forwarded, c.most, looped)
			}
			first := s[0].table.Load().forward["."][0].String()
			if !strings.Contains(named, first+" "+nobody) {
				t.Errorf("no loop by %s: %q", first, named)
			}
			if strings.Contains(c.what, "sites") {
				if resp := s[0].ask(question("b.example", dns.TypeA)); len(resp.Answer) != 1 {
					t.Errorf("a name of the other site: %v", resp)
				}
			}
			if missed := s[0].misses(); len(missed) > 2 {
				t.Errorf("missed %q", missed)
			}
		})
	}
}

// What tells a question of ours that came back from one of another client.
func TestComingBack(t *testing.T) {
	up := netip.MustParseAddrPort("10.0.0.9:53")
	client, other, local := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"),
		netip.MustParseAddr("127.0.0.1")
	const sent, same, folded = "wwW.some.NAme.example", "wwW.some.NAme.example", "www.some.name.example"
	for _, c := range []struct {
		what, name string
		qtype      uint16
		from       netip.Addr
		known, is  bool
	}{
		{"the same client again", folded, dns.TypeA, client, false, false},
		{"another client", folded, dns.TypeA, other, false, false},
		{"another client in another case", flipped(sent), dns.TypeA, other, false, false},
		{"as it was sent", same, dns.TypeA, other, false, true},
		{"as it was sent, another type", same, dns.TypeAAAA, other, false, false},
		{"from the resolver", folded, dns.TypeA, up.Addr(), false, true},
		{"from the resolver, another type", folded, dns.TypeAAAA, up.Addr(), false, false},
		{"from the resolver, another name", "www.example", dns.TypeA, up.Addr(), false, false},
		{"with our mark", folded, dns.TypeA, other, true, true},
		{"with our mark, after the answer", "www.example", dns.TypeA, other, true, true},
	} {
		var f inFlight
		done := f.add(packet(t, question(sent, dns.TypeA)), true, up, client)
		r, is := f.back(packet(t, question(c.name, c.qtype)), c.from, c.known)
		if is != c.is || is && r != up && !strings.Contains(c.what, "after the answer") {
			t.Errorf("%s: %v %v", c.what, r, is)
		}
		done()
		if _, is := f.back(packet(t, question(c.name, c.qtype)), c.from, false); is || len(f.by) > 0 {
			t.Errorf("%s: after it was answered", c.what)
		}
	}
	// A name of few letters is spelled the same by chance, and a resolver on this host has no address of its own.
	var f inFlight
	f.add(packet(t, question("wW.ex", dns.TypeA)), true, up, client)
	f.add(packet(t, question("a.example", dns.TypeA)), true, netip.AddrPortFrom(local, 5353), client)
	for name, from := range map[string]netip.Addr{"wW.ex": other, "a.example": local} {
		if _, is := f.back(packet(t, question(name, dns.TypeA)), from, false); is {
			t.Errorf("%s from %s", name, from)
		}
	}
	// In its plainest form a question is spelled as a client has spelled it, which asks again or through another
	// server.
	f.add(packet(t, question(sent, dns.TypeA)), false, up, client)
	for _, from := range []netip.Addr{client, other} {
		if _, is := f.back(packet(t, question(sent, dns.TypeA)), from, false); is {
			t.Errorf("a client's own spelling from %s", from)
		}
	}
}

// The client of a loop gets the reason, if it can read one.
func TestLoopReason(t *testing.T) {
	s := sites(t, "a", "b")
	s[0].sendsTo("", s[1].at())
	s[1].sendsTo("", s[0].at())
	m := question("nobody.knows.example", dns.TypeA)
	m.SetEdns0(1232, false)
	if resp := s[0].ask(m); !saysLoop(resp) {
		t.Errorf("%v", resp)
	}
	if resp := s[0].ask(question("nobody.knows.example", dns.TypeAAAA)); resp.Rcode != dns.RcodeServerFailure ||
		len(resp.Extra) > 0 {
		t.Errorf("%v", resp)
	}
}

// A resolver beside the one that loops is asked all the same.
func TestLoopBesideAGoodResolver(t *testing.T) {
	s, up := sites(t, "a", "b"), newResolver(t, good("192.0.2.9"))
	s[0].sendsTo("", s[1].at(), up.addr)
	s[1].sendsTo("", s[0].at())
	if got := values(s[0].ask(question("www.example", dns.TypeA)).Answer, dns.TypeA); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

// Clients that ask again, at once or in the case of others, and chains of sites are no loops.
func TestNoLoops(t *testing.T) {
	open := make(chan struct{})
	up := newBox(t, func(q *dns.Msg, _ string) [][]byte {
		<-open
		return [][]byte{packet(t, good("192.0.2.1")(q, "udp")[0])}
	})
	s := sites(t, "a", "b", "c")
	s[0].sendsTo("", s[1].at())
	s[1].sendsTo("", s[2].at())
	s[2].sendsTo("", up.addr)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			name := "www.some.name.example"
			if i%3 == 1 {
				name = flipped(name)
			}
			resp := s[i%2].askFrom(fmt.Sprintf("127.0.0.%d", 1+i%7), question(name, dns.TypeA))
			if len(resp.Answer) != 1 {
				t.Errorf("client %d: %v", i, resp)
			}
		})
	}
	for s[2].Stats().Forwarded < 60 {
		time.Sleep(time.Millisecond)
	}
	close(open)
	wg.Wait()
	for i, r := range s {
		if st := r.Stats(); st.ForwardLooped > 0 || len(st.Loops) > 0 {
			t.Errorf("server %d: %+v", i, st)
		}
		if n := len(r.forward.sent.by); n > 0 {
			t.Errorf("server %d remembers %d questions", i, n)
		}
	}
}

// A loop is logged once and reported for a while, however many questions it takes.
func TestLoopIsReportedForAWhile(t *testing.T) {
	var clock manual
	var log bytes.Buffer
	f := newForwarder(slog.New(slog.NewTextHandler(&log, nil)), clock.now)
	r := netip.MustParseAddrPort("10.0.0.9:53")
	for range 1000 {
		f.looped(r, "a.example.", netip.MustParseAddr("10.0.0.7"))
	}
	if n := strings.Count(log.String(), "dns forwarding loop"); n != 1 || !strings.Contains(log.String(), r.String()) {
		t.Errorf("%d lines: %s", n, log.String())
	}
	want := Loop{Resolver: r.String(), Name: "a.example", Client: "10.0.0.7", Count: 1000}
	if got := f.loopList(); len(got) != 1 || got[0] != want {
		t.Errorf("%+v", got)
	}
	clock.add(loopMatters)
	if got := f.loopList(); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	f.looped(r, "b.example.", netip.Addr{})
	if got := f.loopList(); len(got) != 1 || got[0].Client != "" {
		t.Errorf("%+v", got)
	}
	for i := range 100 {
		f.looped(netip.AddrPortFrom(r.Addr(), uint16(i+1)), "c.example.", netip.Addr{})
	}
	if got := f.loopList(); len(got) != maxLoops {
		t.Errorf("%d resolvers are listed", len(got))
	}
}

// What clients write into the option does no harm.
func TestHostilePaths(t *testing.T) {
	here := siteOf("a")
	for _, c := range []struct {
		data []byte
		back bool
	}{
		{nil, false}, {[]byte("x"), false}, {here[:7], false}, {append(here[:], 1), false}, {here[:], true},
		{bytes.Repeat([]byte{1}, siteLen), false}, {append(bytes.Repeat([]byte{1}, siteLen), here[:]...), true},
		{bytes.Repeat([]byte{1}, siteLen*(maxSites-1)), false}, {bytes.Repeat([]byte{1}, siteLen*maxSites), true},
		{bytes.Repeat([]byte{1}, 60000), true},
	} {
		opt := &dns.OPT{Option: []dns.EDNS0{&dns.EDNS0_LOCAL{Code: loopOption, Data: c.data}}}
		if got := visited(path(opt), here); got != c.back {
			t.Errorf("%d bytes: %v", len(c.data), got)
		}
	}
}
