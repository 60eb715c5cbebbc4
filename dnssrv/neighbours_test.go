package dnssrv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/ipv4"
)

// fakeConn is a socket whose send buffer has room for so many messages; sending to a bad address is an error.
type fakeConn struct {
	batchConn
	room int
	bad  string
	sent []string
}

func (c *fakeConn) WriteBatch(ms []ipv4.Message, flags int) (int, error) {
	if flags&dontWait == 0 {
		panic("this call may wait")
	}
	for i, m := range ms {
		err := error(nil)
		switch {
		case c.room == 0:
			err = syscall.EAGAIN
		case m.Addr.String() == c.bad:
			err = syscall.ENETUNREACH
		}
		if err != nil {
			if i > 0 {
				return i, nil
			}
			return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("sendmmsg", err)}
		}
		c.room--
		c.sent = append(c.sent, m.Addr.String())
	}
	return len(ms), nil
}

func udpAddr(s string) *net.UDPAddr { return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

func TestSendingNeverWaits(t *testing.T) {
	for _, tt := range []struct {
		name            string
		room            int
		bad             string
		sent            int
		unsent, dropped uint64
		pressed         bool
	}{
		{"room for all", 10, "", 5, 0, 0, false},
		{"room for some", 3, "", 3, 2, 0, true},
		{"no room", 0, "", 0, 5, 0, true},
		{"one cannot be reached", 10, "10.0.0.2:53", 4, 0, 1, false},
		{"the last cannot be reached", 10, "10.0.0.4:53", 4, 0, 1, false},
		{"no room behind one that cannot be reached", 2, "10.0.0.0:53", 2, 2, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(Config{})
			stats := &s.stats
			c := &fakeConn{room: tt.room, bad: tt.bad}
			g := newGuard(time.Now, lookAround)
			o := &sender{stats: stats, pressed: &s.pressed, conn: c, guard: g}
			var ms []ipv4.Message
			for i := range 5 {
				ms = append(ms, ipv4.Message{Addr: udpAddr(fmt.Sprintf("10.0.0.%d:53", i))})
			}
			o.batch(ms)
			if len(c.sent) != tt.sent || stats.unsent.Load() != tt.unsent || stats.dropped.Load() != tt.dropped {
				t.Errorf("sent %d, unsent %d, dropped %d", len(c.sent), stats.unsent.Load(), stats.dropped.Load())
			}
			if g.on() != tt.pressed {
				t.Errorf("want the guard on: %v, got %v", tt.pressed, g.on())
			}
		})
	}
}

func TestPresence(t *testing.T) {
	v := &neighbours{
		networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")},
		state:    make(map[netip.Addr]presence),
	}
	for a, p := range map[string]presence{"10.0.0.2": present, "10.0.0.3": asking, "10.0.0.4": gone,
		"fd00::2": present} {
		v.add(netip.MustParseAddr(a), p)
	}
	// The same address on two links: one that is there is there.
	v.add(netip.MustParseAddr("10.0.0.2"), gone)
	v.add(netip.MustParseAddr("10.0.0.3"), gone)
	for a, want := range map[string]presence{
		"10.0.0.2": present, "10.0.0.3": asking, "10.0.0.4": gone, "10.0.0.5": unknown, "10.0.1.5": present,
		"fd00::2": present, "fd00::3": unknown, "fd00:0:0:1::3": present,
	} {
		if got := v.of(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: want %d, got %d", a, want, got)
		}
	}
	if (*neighbours)(nil).of(netip.MustParseAddr("10.0.0.5")) != present {
		t.Error("an address that was not looked up must not be held")
	}
}

// The guard lets answers to neighbours through at once, sends one to who shows up until the next look, and to those
// who do not, no more than the kernel can keep.
func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := netip.MustParsePrefix("10.0.0.0/16")
		here := []string{"10.0.0.2"}
		asked := map[string]presence{}
		looks := 0
		var fail error
		g := newGuard(time.Now, func() (*neighbours, error) {
			looks++
			v := &neighbours{networks: []netip.Prefix{network}, state: make(map[netip.Addr]presence)}
			for a, p := range asked {
				v.add(netip.MustParseAddr(a), p)
			}
			for _, a := range here {
				v.add(netip.MustParseAddr(a), present)
			}
			return v, fail
		})
		var sent []string
		dropped := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.run(ctx, func() { dropped++ })
		}()
		defer func() { cancel(); <-done }()
		settle := func() {
			time.Sleep(2 * lookEvery)
			synctest.Wait()
		}
		hold := func(client string) (holds, kept bool) {
			a := netip.MustParseAddr(client)
			if !g.doubts(a) {
				return false, false
			}
			return true, g.hold(deferred{a, func() { sent = append(sent, client) }})
		}
		settle()
		if g.on() || looks != 1 {
			t.Fatalf("before any trouble: on %v, %d looks", g.on(), looks)
		}
		g.press()
		if !g.on() {
			t.Fatal("want the guard on")
		}
		settle()
		if holds, _ := hold("10.0.0.2"); holds {
			t.Error("an answer to a neighbour that is there must go out at once")
		}
		if holds, _ := hold("192.168.7.7"); holds {
			t.Error("an answer that goes to a router must go out at once")
		}
		// A newcomer, after a flood that fills the queue.
		here = append(here, "10.0.0.9")
		if holds, kept := hold("10.0.0.9"); !holds || !kept {
			t.Error("want an answer to a newcomer held until the next look")
		}
		// One that the kernel does not know asks for A and AAAA, and once more.
		for range 3 {
			hold("10.0.0.8")
		}
		full := false
		for i := range 2 * maxHeld {
			_, kept := hold(fmt.Sprintf("10.0.%d.%d", 1+i/250, 1+i%250))
			full = full || !kept
		}
		if !full {
			t.Error("held answers must be bounded")
		}
		settle()
		if !slices.Contains(sent, "10.0.0.9") {
			t.Error("an answer to a newcomer was not sent")
		}
		if n := strings.Count(strings.Join(sent, " ")+" ", "10.0.0.8 "); n != maxAtOnce {
			t.Errorf("want %d answers to one that is asked for, got %d", maxAtOnce, n)
		}
		if n := len(sent); n < 2 || n > strangersPerSecond+10 || dropped < maxHeld-n {
			t.Errorf("want about %d answers to strangers sent, got %d, and %d dropped", strangersPerSecond,
				n-1, dropped)
		}
		if !g.on() {
			t.Error("want the guard still on")
		}
		// An address being resolved has an answer on its way; a silent one gets few.
		time.Sleep(time.Second)
		sent = nil
		silent := func(i int) string { return fmt.Sprintf("10.0.200.%d", i) }
		waiting := func(i int) string { return fmt.Sprintf("10.0.201.%d", i) }
		for i := range 50 {
			asked[silent(i)], asked[waiting(i)] = gone, asking
		}
		for i := range 50 {
			hold(silent(i))
			hold(waiting(i))
		}
		settle()
		if n := len(sent); n != strangersPerSecond/goneCost {
			t.Errorf("want %d answers to silent addresses, got %v", strangersPerSecond/goneCost, sent)
		}
		// A table with too many absent entries: no new address is tried, but hosts that were reachable are answered,
		// even when the kernel has forgotten them.
		time.Sleep(time.Second)
		for i := range maxAbsent {
			asked[fmt.Sprintf("10.0.202.%d", i)] = asking
		}
		here, sent = nil, nil
		g.press()
		settle()
		for i := range 50 {
			hold(fmt.Sprintf("10.0.203.%d", i))
		}
		settle()
		if len(sent) != 0 {
			t.Errorf("want no new address tried, got %v", sent)
		}
		if holds, _ := hold("10.0.0.2"); holds {
			t.Error("a host that was there must be answered at once")
		}
		time.Sleep(seenFor)
		g.press()
		settle()
		if holds, _ := hold("10.0.0.2"); !holds {
			t.Error("want a host forgotten that was not there for long")
		}
		settle()
		// The trouble is over.
		time.Sleep(guardFor)
		if g.on() {
			t.Error("want the guard off")
		}
		// Without information from the kernel nothing is held.
		fail = errors.New("no netlink here")
		g.press()
		settle()
		if holds, _ := hold("10.0.77.77"); holds {
			t.Error("want nothing held without a look")
		}
	})
}

// Names in forged questions must not fill the missing book.
func TestForgedMissesAreNotReported(t *testing.T) {
	s := New(Config{Miss: func(netip.Addr, string, string) {}})
	tab := table(t, threeNodes())
	g := newGuard(time.Now, lookAround)
	g.view.Store(&neighbours{
		networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		state: map[netip.Addr]presence{netip.MustParseAddr("10.0.0.2"): present,
			netip.MustParseAddr("10.0.0.3"): gone},
	})
	miss := func(client string) bool {
		before := len(s.misses)
		s.miss(tab, netip.MustParseAddr(client), "www.example.", 1)
		return len(s.misses) > before
	}
	clients := []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "192.168.0.1"}
	for _, c := range clients {
		if !miss(c) {
			t.Errorf("%s: want the miss reported while all is well", c)
		}
	}
	(&sender{pressed: &s.pressed, guard: g}).press()
	for i, want := range []bool{true, false, false, true} {
		if got := miss(clients[i]); got != want {
			t.Errorf("%s: want reported %v, got %v", clients[i], want, got)
		}
	}
	if st := s.Stats(); st.Misses != 6 || st.MissesLost != 2 {
		t.Errorf("got %+v", st)
	}
}

func TestLookAround(t *testing.T) {
	v, err := lookAround()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("needs Linux")
	}
	if err != nil {
		t.Fatal(err)
	}
	if p := v.of(netip.MustParseAddr("127.0.0.1")); p != present {
		t.Errorf("want this host itself there, got %d", p)
	}
	if slices.ContainsFunc(v.networks, func(p netip.Prefix) bool { return p.Addr().IsLoopback() }) {
		t.Errorf("no address is resolved on the loopback, got %v", v.networks)
	}
}
