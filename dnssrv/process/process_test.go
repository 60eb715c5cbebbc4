package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"casemate/cluster/waittest"
	"casemate/dnssrv"
	"casemate/dnssrv/dnstest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, nil))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func node(name string, healthy bool) dnssrv.Node {
	addr := netip.AddrFrom4([4]byte{10, 0, 0, name[1] - '0'})
	return dnssrv.Node{Name: name, Addrs: []netip.Addr{addr}, Healthy: healthy}
}

// whole is all that a daemon says first.
func whole(records map[string][]dnssrv.Record, nodes ...dnssrv.Node) dnssrv.Update {
	return dnssrv.Update{
		Reset: true, Nodes: nodes, Origins: []string{"quay.io"}, Records: records,
		Base: &dnssrv.Base{
			Domain: "casemate.internal", Node: nodes[0].Name, TTL: 15 * time.Second,
			Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Forward: []dnssrv.Forward{{Zone: "corp.example",
				Resolvers: []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:53")}}},
		},
	}
}

func a(name, value string) map[string][]dnssrv.Record {
	return map[string][]dnssrv.Record{name: {{Name: name, Type: "A", Values: []string{value}, TTL: time.Minute}}}
}

// seen is a server that only records its calls.
type seen struct {
	mu    sync.Mutex
	list  []dnssrv.Update
	nodes []dnssrv.Node
	fail  error

	abandoned int
}

func (s *seen) Apply(u dnssrv.Update) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	s.list = append(s.list, u)
	if u.Nodes != nil {
		s.nodes = u.Nodes
	}
	return []string{"one thing\tand another"}, nil
}

func (s *seen) Abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandoned++
}

func (s *seen) Explain(ctx context.Context, in dnssrv.Inquiry) (dnssrv.Explanation, error) {
	switch in.Name {
	case "slow.example":
		<-ctx.Done()
	case "wrong":
		return dnssrv.Explanation{}, errors.New("the name is wrong")
	case "long.example":
		return dnssrv.Explanation{Records: []string{strings.Repeat("<", maxReport/4)}}, nil
	}
	return dnssrv.Explanation{
		Rcode: "NOERROR", Records: []string{in.Name + " 1 IN TXT \"\x1b[1m\""},
		Steps: []dnssrv.Step{{What: dnssrv.StepFailed, Text: "an odd\x00text"}},
	}, nil
}

func (s *seen) Resolvers() []dnssrv.Resolver {
	return []dnssrv.Resolver{{Zone: ".", Server: "10.0.0.53:53"}}
}

func (s *seen) Stats() dnssrv.Stats {
	return dnssrv.Stats{Answers: map[string]uint64{"NOERROR": 7}, Misses: queuedMisses * 2}
}

// healthy are the nodes that clients are sent to.
func (s *seen) healthy() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.Healthy {
			names = append(names, n.Name)
		}
	}
	return names
}

func (s *seen) updates() []dnssrv.Update {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

func newTestServer(t testing.TB, d *seen) *server {
	return &server{
		log: testLog(t), dns: d, ready: make(chan struct{}), misses: make(chan miss, queuedMisses),
		noise: make(chan miss, queuedNoise),
		cfg:   Config{Notify: func(string) {}, Version: "v2"}, fail: func(error) {},
	}
}

// pipes gives a link one connection after the other.
type pipes struct {
	conns chan net.Conn
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestTheStoryOfALink: connect, everything, one name more, a refused change, a lost link, everything again.
func TestTheStoryOfALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &seen{}
		s := newTestServer(t, d)
		p := &pipes{make(chan net.Conn)}
		needs := make(chan struct{}, 8)
		var said []string
		var misses, noise []string
		l := NewLink(LinkConfig{
			Dial: p.dial, Log: testLog(t), Version: "v1", Need: func() { needs <- struct{}{} },
			Applied: func(c []string, err error) { said = append(said, fmt.Sprint(c, err)) },
			Miss:    func(c netip.Addr, name, qtype string) { misses = append(misses, c.String()+" "+name+" "+qtype) },
			Noise:   func(c netip.Addr, name, qtype string) { noise = append(noise, c.String()+" "+name+" "+qtype) },
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { l.Run(ctx) })
		connect := func() net.Conn {
			daemons, process := net.Pipe()
			wg.Go(func() { s.session(ctx, process) })
			p.conns <- daemons
			<-needs
			return process
		}

		if _, err := l.Apply(whole(nil, node("n1", true))); err != nil {
			t.Errorf("a change without a connection: %v", err)
		}
		if l.Err() == nil {
			t.Error("DNS is counted on before it was there")
		}
		conn := connect()
		if _, err := l.Apply(dnssrv.Update{Nodes: []dnssrv.Node{node("n1", true)}}); !errors.Is(err, ErrReset) {
			t.Errorf("a change of nothing: %v", err)
		}
		conflicts, err := l.Apply(whole(a("a.example", "10.1.1.1"), node("n1", true)))
		if err != nil || !slices.Equal(conflicts, []string{"one thing?and another"}) {
			t.Errorf("%q, %v", conflicts, err)
		}
		if err := l.Err(); err != nil {
			t.Error(err)
		}
		if _, err := l.Apply(dnssrv.Update{Records: a("b.example", "10.1.1.2")}); err != nil {
			t.Error(err)
		}
		d.mu.Lock()
		d.fail = errors.New("a bad table")
		d.mu.Unlock()
		if _, err := l.Apply(dnssrv.Update{Origins: []string{"x"}}); err == nil || err.Error() != "a bad table" {
			t.Errorf("a refused change: %v", err)
		}
		d.mu.Lock()
		d.fail = nil
		d.mu.Unlock()
		s.miss(netip.MustParseAddr("10.0.0.9"), "nowhere.example", "A")
		s.miss(netip.MustParseAddr("10.0.0.9"), `odd\000.example`, "AAAA")
		s.unneeded(netip.MustParseAddr("10.0.0.9"), "9.0.0.10.in-addr.arpa", "PTR")
		synctest.Wait()
		if want := []string{"10.0.0.9 nowhere.example A", `10.0.0.9 odd\000.example AAAA`}; !slices.Equal(
			misses, want) {
			t.Errorf("misses %q", misses)
		}
		if want := []string{"10.0.0.9 9.0.0.10.in-addr.arpa PTR"}; !slices.Equal(noise, want) {
			t.Errorf("noise %q", noise)
		}
		if st := l.Stats(); st.Answers["NOERROR"] != 7 {
			t.Errorf("%+v", st)
		}

		conn.Close()
		time.Sleep(awayFor - time.Second)
		if err := l.Err(); err != nil {
			t.Errorf("a process that is started anew is missed: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := l.Err(); err == nil || !strings.Contains(err.Error(), "the DNS process is disconnected since") {
			t.Errorf("%v", err)
		}
		connect()
		if _, err := l.Apply(dnssrv.Update{Records: a("c.example", "10.1.1.3")}); !errors.Is(err, ErrReset) {
			t.Errorf("a change to a new process without a table: %v", err)
		}
		if _, err := l.Apply(whole(a("c.example", "10.1.1.3"), node("n1", true))); err != nil || l.Err() != nil {
			t.Errorf("%v, %v", err, l.Err())
		}
		want := []dnssrv.Update{
			whole(a("a.example", "10.1.1.1"), node("n1", true)),
			{Records: a("b.example", "10.1.1.2")},
			whole(a("c.example", "10.1.1.3"), node("n1", true)),
		}
		if got := d.updates(); !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%+v\nwant\n%+v", got, want)
		}
		if len(said) != 4 {
			t.Errorf("the daemon was told %q", said)
		}
		cancel()
		wg.Wait()
	})
}

// TestAChangeWaitsForARestartedProcess: who has set a name gets it from DNS, also from a process that has just been
// started and answers from the table that the one before left.
func TestAChangeWaitsForARestartedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t, &seen{})
		p := &pipes{make(chan net.Conn)}
		needs := make(chan struct{}, 8)
		l := NewLink(LinkConfig{
			Dial: p.dial, Log: testLog(t), Version: "v1", Need: func() { needs <- struct{}{} },
			Applied: func([]string, error) {},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { l.Run(ctx) })
		connect := func() net.Conn {
			daemons, process := net.Pipe()
			wg.Go(func() { s.session(ctx, process) })
			p.conns <- daemons
			<-needs
			return process
		}
		apply := func() <-chan error {
			done := make(chan error, 1)
			wg.Go(func() {
				_, err := l.Apply(dnssrv.Update{Records: a("a.example", "10.1.1.1")})
				done <- err
			})
			synctest.Wait()
			return done
		}
		waits := func(what string, done <-chan error) {
			t.Helper()
			select {
			case err := <-done:
				t.Errorf("%s: a change did not wait: %v", what, err)
			default:
			}
		}
		if err := <-apply(); err != nil {
			t.Errorf("before the process was there: %v", err)
		}
		conn := connect()
		if _, err := l.Apply(whole(nil, node("n1", true))); err != nil {
			t.Fatal(err)
		}

		conn.Close()
		synctest.Wait()
		done := apply()
		waits("while it is started anew", done)
		conn = connect()
		if err := <-done; !errors.Is(err, ErrReset) {
			t.Errorf("a new process wants everything: %v", err)
		}
		if _, err := l.Apply(whole(nil, node("n1", true))); err != nil {
			t.Fatal(err)
		}

		conn.Close()
		synctest.Wait()
		done = apply()
		waits("while it may come back", done)
		time.Sleep(awayFor)
		synctest.Wait()
		if err := <-done; err != nil {
			t.Errorf("a process that stays away is not waited for: %v", err)
		}
		if err := <-apply(); err != nil {
			t.Errorf("nor is it by the next change: %v", err)
		}

		conn = connect()
		if _, err := l.Apply(whole(nil, node("n1", true))); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		synctest.Wait()
		done = apply()
		waits("while it is started anew", done)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the daemon ends: %v", err)
		}
		wg.Wait()
	})
}

// TestTheNodeOfASilentDaemonGoesOut: after five beats that did not come, and back with the next.
func TestTheNodeOfASilentDaemonGoesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &seen{}
		s := newTestServer(t, d)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.watchDaemon(ctx) })
		u := whole(nil, node("n1", true), node("n2", true), node("n3", false))
		if _, err := s.apply(u, false); err != nil {
			t.Fatal(err)
		}
		is := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			if got := d.healthy(); !slices.Equal(got, want) {
				t.Errorf("%s: clients are sent to %q, want %q", when, got, want)
			}
		}
		time.Sleep(beatEvery/2 + 4*beatEvery)
		is("after four beats", "n1", "n2")
		s.heard()
		time.Sleep(4 * beatEvery)
		is("after a beat and four that did not come", "n1", "n2")
		time.Sleep(beatEvery)
		is("after five", "n2")
		// What comes late from a daemon that does not beat does not bring it back; only who hears of it does.
		if _, err := s.apply(dnssrv.Update{Nodes: []dnssrv.Node{node("n1", true), node("n2", false), node("n3", true)}},
			false); err != nil {
			t.Fatal(err)
		}
		is("with other health", "n3")
		s.heard()
		is("when it beats again", "n1", "n3")
		cancel()
		wg.Wait()
	})
}

// TestAChangeInSeveralUpdates shows nothing before its end, not in health either, and ends with the connection.
func TestAChangeInSeveralUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &seen{}
		s := newTestServer(t, d)
		p := &pipes{make(chan net.Conn)}
		needs := make(chan struct{}, 8)
		said := 0
		l := NewLink(LinkConfig{
			Dial: p.dial, Log: testLog(t), Version: "v1", Need: func() { needs <- struct{}{} },
			Applied: func([]string, error) { said++ },
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { l.Run(ctx) })
		connect := func() net.Conn {
			daemons, process := net.Pipe()
			wg.Go(func() { s.session(ctx, process) })
			p.conns <- daemons
			<-needs
			return process
		}
		apply := func(u dnssrv.Update) {
			t.Helper()
			if _, err := l.Apply(u); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		first := whole(a("a.example", "10.1.1.1"), node("n1", true), node("n2", true))
		first.More = true
		f, err := os.Create(filepath.Join(t.TempDir(), "table"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if s.cfg.Table, err = OpenTable(f); err != nil {
			t.Fatal(err)
		}
		kept := func(want int) {
			t.Helper()
			after := newTestServer(t, &seen{})
			if after.cfg.Table, err = OpenTable(f); err != nil {
				t.Fatal(err)
			}
			if err := after.restore(); err != nil {
				t.Error(err)
			}
			if got := len(after.dns.(*seen).updates()); got != want {
				t.Errorf("the next process begins with %d updates, want %d", got, want)
			}
		}
		conn := connect()
		apply(first)
		kept(0)
		if l.Err() == nil || said > 0 || !s.coming {
			t.Errorf("a part counts as a table: %v, %d", l.Err(), said)
		}
		select {
		case <-s.ready:
			t.Error("questions are read before the table is whole")
		default:
		}
		s.setAway(true)
		if got := d.updates(); len(got) != 1 {
			t.Errorf("in the middle of a change comes %+v", got)
		}
		apply(dnssrv.Update{Records: a("b.example", "10.1.1.2"), More: true})
		apply(dnssrv.Update{Records: a("c.example", "10.1.1.3")})
		<-s.ready
		kept(4) // the parts, and the health of nodes at the end
		if got := d.healthy(); l.Err() != nil || said != 1 || !slices.Equal(got, []string{"n2"}) {
			t.Errorf("after the last part: %v, told %d times, clients are sent to %q", l.Err(), said, got)
		}
		s.setAway(false)

		// A part that is refused ends the change: what would continue it is refused, too.
		apply(first)
		d.mu.Lock()
		d.fail = errors.New("a bad name")
		d.mu.Unlock()
		if _, err := l.Apply(dnssrv.Update{Records: a("x.example", "10.1.1.2"), More: true}); err == nil {
			t.Error("a bad part is no error")
		}
		d.mu.Lock()
		d.fail = nil
		d.mu.Unlock()
		n := len(d.updates())
		if _, err := l.Apply(dnssrv.Update{Records: a("y.example", "10.1.1.2")}); err == nil || len(d.updates()) != n {
			t.Errorf("what continues a refused change: %v", err)
		}
		apply(dnssrv.Update{Records: a("z.example", "10.1.1.2")})

		// The connection ends in the middle.
		apply(first)
		conn.Close()
		synctest.Wait()
		if d.abandoned != 1 || s.coming {
			t.Errorf("abandoned %d times", d.abandoned)
		}
		kept(5) // with z.example
		connect()
		if _, err := l.Apply(dnssrv.Update{Records: a("b.example", "10.1.1.2")}); !errors.Is(err, ErrReset) {
			t.Errorf("the rest of a change at another connection: %v", err)
		}
		cancel()
		wg.Wait()
	})
}

// TestASlowReaderLosesMisses: a slow reader loses misses and does not block the process.
func TestASlowReaderLosesMisses(t *testing.T) {
	s := newTestServer(t, &seen{})
	daemons, process := net.Pipe() // no reader
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.session(ctx, process) })
	const all = 2 * queuedMisses
	for i := range all {
		s.miss(netip.MustParseAddr("10.0.0.9"), fmt.Sprintf("n%d.example", i), "A")
	}
	for i := range 2 * queuedNoise {
		s.unneeded(netip.MustParseAddr("10.0.0.9"), fmt.Sprintf("n%d.invalid", i), "A")
	}
	if st := s.stats(); st.MissesLost == 0 || st.Misses+st.MissesLost != all {
		t.Errorf("%d misses and %d lost of %d", st.Misses, st.MissesLost, all)
	}
	cancel()
	daemons.Close()
	wg.Wait()
}

// TestAnUpdateInParts: an update of any size is the same after the transfer, and no part exceeds a frame.
func TestAnUpdateInParts(t *testing.T) {
	big := whole(map[string][]dnssrv.Record{}, node("n1", true), node("n2", false))
	for i := range 5000 {
		maps.Copy(big.Records, a(fmt.Sprintf("h%d.example", i), "10.2.3.4"))
		big.Origins = append(big.Origins, fmt.Sprintf("o%d.example.org", i))
	}
	long := dnssrv.Record{Name: "t.example", Type: "TXT"}
	for i := range 64 {
		long.Values = append(long.Values, fmt.Sprint(i)+strings.Repeat("\x01", 2040))
	}
	big.Records["t.example"] = []dnssrv.Record{long, long, long, long, long}
	for what, u := range map[string]dnssrv.Update{
		"large": big, "nothing": {}, "no origins": {Origins: []string{}},
		"a name less": {Records: map[string][]dnssrv.Record{"a.example": {}}}, "health": {Nodes: big.Nodes},
	} {
		var wire bytes.Buffer
		parts := 0
		err := split(7, u, false, func(p part) error {
			parts++
			b, err := encode(kindUpdate, p)
			wire.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var j joiner
		r := bufio.NewReader(&wire)
		for n := 1; ; n++ {
			_, body, err := readFrame(r, maxFrame)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			var p part
			if err := decode(body, &p); err != nil {
				t.Fatal(err)
			}
			got, whole, err := j.add(p)
			if err != nil {
				t.Fatal(err)
			}
			if !whole {
				continue
			}
			if n != parts || !reflect.DeepEqual(got, u) {
				t.Errorf("%s: it is another update after %d of %d parts", what, n, parts)
			}
			break
		}
		if what == "large" && parts < 5 {
			t.Errorf("%d parts", parts)
		}
	}
}

// TestWhatBreaksTheProtocol ends the connection, in both directions.
func TestWhatBreaksTheProtocol(t *testing.T) {
	frames := func(list ...any) (b []byte) {
		for i := 0; i < len(list); i += 2 {
			f, err := encode(list[i].(kind), list[i+1])
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, f...)
		}
		return b
	}
	hi := hello{Protocol: protocol}
	for what, in := range map[string][]byte{
		"another protocol":    frames(kindHello, hello{Protocol: 2}),
		"no hello":            frames(kindBeat, beat{}),
		"no JSON":             append(frames(kindHello, hi), 0, 0, 0, 1, byte(kindUpdate), 'x'),
		"a frame too long":    append(frames(kindHello, hi), 0xff, 0, 0, 0, byte(kindUpdate)),
		"updates mixed":       frames(kindHello, hi, kindUpdate, part{Seq: 1}, kindUpdate, part{Seq: 2}),
		"a reset in between":  frames(kindHello, hi, kindUpdate, part{Seq: 1}, kindUpdate, part{Seq: 1, Reset: true}),
		"a beat of something": frames(kindHello, hi, kindBeat, "x"),
	} {
		d := &seen{}
		if err := playDaemon(t, newTestServer(t, d), in); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("from the daemon: %s: %v", what, err)
		}
		if len(d.updates()) > 0 {
			t.Errorf("from the daemon: %s: it was applied", what)
		}
	}
	someone := netip.MustParseAddr("10.0.0.1")
	for what, in := range map[string][]byte{
		"another protocol":   frames(kindHello, hello{Protocol: 2}),
		"no hello":           frames(kindStats, stats{}),
		"a frame too long":   append(frames(kindHello, hi), 1, 0, 0, 0, byte(kindMisses)),
		"a future update":    frames(kindHello, hi, kindApplied, applied{Seq: 9}),
		"many conflicts":     frames(kindHello, hi, kindApplied, applied{Conflicts: make([]string, maxSentences+1)}),
		"a conflict's color": frames(kindHello, hi, kindApplied, applied{Conflicts: []string{"\x1b[31m"}}),
		"much noise":         frames(kindHello, hi, kindNoise, make([]miss, maxMisses+1)),
		"noise of nobody":    frames(kindHello, hi, kindNoise, []miss{{Name: "x", Type: "A"}}),
		"many misses":        frames(kindHello, hi, kindMisses, make([]miss, maxMisses+1)),
		"a miss of nobody":   frames(kindHello, hi, kindMisses, []miss{{Name: "x", Type: "A"}}),
		"a miss of a line":   frames(kindHello, hi, kindMisses, []miss{{netip.MustParseAddr("10.0.0.1"), "x\ny", "A"}}),
		"a miss of a book": frames(kindHello, hi, kindMisses,
			[]miss{{netip.MustParseAddr("10.0.0.1"), strings.Repeat("x", 2000), "A"}}),
		"many names":         frames(kindHello, hi, kindSeen, make([]sighting, maxSeen+1)),
		"a name of nobody":   frames(kindHello, hi, kindSeen, []sighting{{Name: "x", Count: 1}}),
		"a name of a line":   frames(kindHello, hi, kindSeen, []sighting{{Client: someone, Name: "x\ny", Count: 1}}),
		"an odd verdict":     frames(kindHello, hi, kindSeen, []sighting{{someone, "x", dnssrv.Refused + 1, 1}}),
		"a name for nothing": frames(kindHello, hi, kindSeen, []sighting{{Client: someone, Name: "x"}}),
		"labels for metrics": frames(kindHello, hi, kindStats,
			stats{Stats: dnssrv.Stats{Answers: map[string]uint64{"x\"}": 1}}}),
	} {
		if err := playProcess(t, in, func(string) {
			t.Errorf("from the process: %s: a miss was taken", what)
		}); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("from the process: %s: %v", what, err)
		}
	}
}

// TestSightingsCross: what DNS has counted reaches the daemon in pieces that it accepts, and what it would refuse stays
// behind.
func TestSightingsCross(t *testing.T) {
	s := &server{seen: make(chan []sighting, queuedSeen)}
	someone := netip.MustParseAddr("10.0.0.1")
	sent := []dnssrv.Sighting{{Client: someone, Name: "odd\x1bname", Count: 1}}
	for i := range maxSeen + 1 {
		sent = append(sent, dnssrv.Sighting{Client: someone, Name: fmt.Sprintf("n%d.example", i), Count: 2})
	}
	s.saw(sent)
	var got []dnssrv.Sighting
	l := NewLink(LinkConfig{Need: func() {}, Seen: func(list []dnssrv.Sighting) { got = append(got, list...) }})
	for len(s.seen) > 0 {
		body, err := json.Marshal(<-s.seen)
		if err != nil || len(body) > maxReport {
			t.Fatal(len(body), err)
		}
		if err := l.handleFrame(kindSeen, body); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(got, sent[1:]) {
		t.Errorf("%d arrived of %d", len(got), len(sent)-1)
	}
	for range 2 * queuedSeen { // a daemon that does not read
		s.saw(sent[1:3])
	}
}

// playDaemon lets a server hear in and then nothing.
func playDaemon(t testing.TB, s *server, in []byte) error {
	ours, theirs := net.Pipe()
	go io.Copy(io.Discard, ours)
	go func() {
		ours.Write(in)
		ours.Close()
	}()
	return s.session(context.Background(), theirs)
}

// playProcess lets a link hear in and then nothing.
func playProcess(t testing.TB, in []byte, miss func(string)) error {
	ours, theirs := net.Pipe()
	go io.Copy(io.Discard, ours)
	go func() {
		ours.Write(in)
		ours.Close()
	}()
	l := NewLink(LinkConfig{Need: func() {}, Miss: func(_ netip.Addr, name, _ string) { miss(name) },
		Seen: func(list []dnssrv.Sighting) {
			for _, s := range list {
				miss(s.Name)
			}
		}})
	return l.session(context.Background(), theirs)
}

// FuzzFromTheDaemon: whatever the daemon's end says, the process does not fall over it.
func FuzzFromTheDaemon(f *testing.F) {
	first, _ := encode(kindHello, hello{Protocol: protocol})
	f.Add([]byte(""))
	for _, u := range []dnssrv.Update{whole(a("a.example", "10.1.1.1"), node("n1", true)), {
		Records: map[string][]dnssrv.Record{"a.example": nil}}} {
		var in []byte
		split(1, u, false, func(p part) error {
			b, err := encode(kindUpdate, p)
			in = append(in, b...)
			return err
		})
		f.Add(in)
	}
	b, _ := encode(kindBeat, beat{})
	f.Add(append(b, 0, 0, 0, 1, byte(kindAsk), '7'))
	f.Add([]byte{0, 0, 0, 0, byte(kindStop)})
	b, _ = encode(kindQuery, query{ID: 1, Explain: &dnssrv.Inquiry{Name: "a.example", Type: "A"}, Resolvers: true})
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newTestServer(t, &seen{})
		s.dns = dnssrv.New(dnssrv.Config{})
		s.log = slog.New(slog.DiscardHandler)
		if err := playDaemon(t, s, append(slices.Clone(first), in...)); err == nil {
			t.Error("the connection ended without a reason")
		}
	})
}

// FuzzFromTheProcess: whatever a process says that strangers have taken over, the daemon takes no more from it than it
// may say.
func FuzzFromTheProcess(f *testing.F) {
	first, _ := encode(kindHello, hello{Protocol: protocol})
	for _, c := range []struct {
		k kind
		v any
	}{
		{kindMisses, []miss{{netip.MustParseAddr("10.0.0.1"), "x.example", "A"}}},
		{kindSeen, []sighting{{netip.MustParseAddr("10.0.0.1"), "x.example", dnssrv.Forwarded, 2}}},
		{kindStats, stats{Stats: dnssrv.Stats{Answers: map[string]uint64{"NOERROR": 1}}}},
		{kindApplied, applied{Conflicts: []string{"x"}}}, {kindWant, nil},
		{kindReply, reply{ID: 1, Explanation: &dnssrv.Explanation{Steps: []dnssrv.Step{{Name: "x"}}}}},
		{kindReply, reply{ID: 1, Resolvers: []dnssrv.Resolver{{Zone: ".", Server: "10.0.0.53:53"}}}},
	} {
		b, _ := encode(c.k, c.v)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		err := playProcess(t, append(slices.Clone(first), in...), func(name string) {
			if name == "" || len(name) > maxMissName || strings.ContainsAny(name, "\n\r\x1b ") {
				t.Errorf("a miss of %q", name)
			}
		})
		if err == nil {
			t.Error("the connection ended without a reason")
		}
	})
}

// TestARestartKeepsTheTable: if the process is killed at any moment, the next one answers from the old or from the new
// updates.
func TestARestartKeepsTheTable(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "table"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	open := func() *Table {
		t.Helper()
		table, err := OpenTable(file)
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	say := func(seq uint64, u dnssrv.Update, parts int) (in []byte) {
		n := 0
		split(seq, u, false, func(p part) error {
			if n++; n > parts {
				return nil
			}
			b, err := encode(kindUpdate, p)
			in = append(in, b...)
			return err
		})
		return in
	}
	first, _ := encode(kindHello, hello{Protocol: protocol})
	// life is a process that receives this and is killed then; after is the table of the next one.
	life := func(in ...[]byte) {
		s := newTestServer(t, &seen{})
		s.cfg.Table = open()
		playDaemon(t, s, slices.Concat(append([][]byte{first}, in...)...))
	}
	after := func(what string, want ...dnssrv.Update) {
		t.Helper()
		d := &seen{}
		s := newTestServer(t, d)
		s.cfg.Table = open()
		if err := s.restore(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got := d.updates(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%.300s\nwant\n%.300s", what, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
	after("nothing")
	one, more := whole(a("a.example", "10.1.1.1"), node("n1", true)), dnssrv.Update{Records: a("b.example", "10.1.1.2")}
	life(say(1, one, 99), say(2, more, 99))
	after("a table and a change", one, more)
	big := whole(map[string][]dnssrv.Record{}, node("n1", true))
	for i := range 3000 {
		maps.Copy(big.Records, a(fmt.Sprintf("h%d.example", i), "10.2.3.4"))
	}
	life(say(1, big, 2)) // killed in the middle of it
	after("half a table", one, more)
	life(say(1, big, 99))
	after("a new table", big)
	life(say(1, more, 99))
	after("a new table and a change", big, more)

	if _, err := file.WriteAt([]byte("another!"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTable(file); err == nil {
		t.Error("a table of another version is taken")
	}
}

// TestChangesDoNotGrowForEver: the daemon is asked for a whole table before its changes are much longer.
func TestChangesDoNotGrowForEver(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "table"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	table, err := OpenTable(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(reset bool, n int) {
		table.begin(reset)
		table.add(make([]byte, n))
		table.commit()
	}
	write(true, 1000)
	steps := 0
	for ; !table.large(); steps++ {
		write(false, 10_000)
	}
	if steps < 100 || steps > 110 {
		t.Errorf("after %d changes", steps)
	}
	write(true, 1000)
	if table.large() {
		t.Error("a whole table is too large")
	}
	if table.end-table.start > 2000 {
		t.Errorf("%d bytes", table.end-table.start)
	}
}

// running is a Serve on loopback.
type running struct {
	t    *testing.T
	addr netip.AddrPort
	wait func() error // until it ends by itself
	end  func() error
}

func serve(t *testing.T, cfg Config) *running {
	t.Helper()
	conns, ln, err := dnstest.Listen("127.0.0.1:0", 1)
	if err != nil {
		t.Fatal(err)
	}
	cfg.UDP, cfg.TCP, cfg.Log = conns, []net.Listener{ln}, testLog(t)
	r := &running{t: t, addr: conns[0].LocalAddr().(*net.UDPAddr).AddrPort()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, cfg) }()
	r.wait = sync.OnceValue(func() error { return <-done })
	r.end = func() error { cancel(); return r.wait() }
	t.Cleanup(func() { r.end() })
	return r
}

func (r *running) ask(name string) string {
	r.t.Helper()
	c := dns.Client{Timeout: time.Minute} // nothing here depends on it
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	if len(m.Answer) == 0 {
		return dns.RcodeToString[m.Rcode]
	}
	return m.Answer[0].(*dns.A).A.String()
}

// TestQuestionsWaitForTheFirstTable, and for a daemon that takes over from another.
func TestQuestionsWaitForTheFirstTable(t *testing.T) {
	dir, err := os.MkdirTemp("", "cm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "link")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, Config{Link: ln, Admit: AdmitOwner(path)})
	answered := make(chan string, 1)
	go func() { answered <- r.ask("quay.io.") }()

	daemon := func(addr string) (end func()) {
		needs := make(chan struct{}, 1)
		l := NewLink(LinkConfig{Dial: Connect(path), Log: testLog(t), Need: func() { needs <- struct{}{} }})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		<-needs
		if got := l.Addrs(); !slices.Equal(got, []netip.AddrPort{r.addr}) {
			t.Errorf("it says that it answers at %s", got)
		}
		select {
		case got := <-answered:
			t.Errorf("answered before there was a table: %s", got)
		default:
		}
		n := node("n1", true)
		n.Addrs = []netip.Addr{netip.MustParseAddr(addr)}
		if _, err := l.Apply(whole(nil, n)); err != nil {
			t.Error(err)
		}
		return func() { cancel(); <-done }
	}
	end := daemon("10.0.0.1")
	if got := <-answered; got != "10.0.0.1" {
		t.Errorf("the question that waited: %s", got)
	}
	end()
	if got := r.ask("quay.io."); got != "10.0.0.1" {
		t.Errorf("without a daemon: %s", got)
	}
	end = daemon("10.0.0.2")
	defer end()
	if got := r.ask("quay.io."); got != "10.0.0.2" {
		t.Errorf("with the next one: %s", got)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// TestStoppedForGood: a node that was removed forgets its table.
func TestStoppedForGood(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "table"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	table, err := OpenTable(file)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	r := serve(t, Config{Peer: theirs, Table: table})
	needs := make(chan struct{}, 1)
	p := &pipes{make(chan net.Conn, 1)}
	p.conns <- ours
	l := NewLink(LinkConfig{Dial: p.dial, Need: func() { needs <- struct{}{} }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	<-needs
	if _, err := l.Apply(whole(nil, node("n1", true))); err != nil {
		t.Fatal(err)
	}
	if table.end == table.start {
		t.Error("the table is not stored")
	}
	l.StopForGood(context.Background())
	if err := r.wait(); !errors.Is(err, ErrStopped) {
		t.Errorf("it ended with %v", err)
	}
	if info, err := file.Stat(); err != nil || info.Size() > 0 {
		t.Errorf("it has not forgotten its table: %v, %v", info, err)
	}
	cancel()
	<-done
}
