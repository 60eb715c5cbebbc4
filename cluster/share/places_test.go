package share

import (
	"fmt"
	"testing"
)

// crowd is connections that know whether they were closed.
type crowd struct {
	t      *testing.T
	p      *Places
	closed []string // in order
}

func newCrowd(t *testing.T, cfg Config) *crowd { return &crowd{t: t, p: New(cfg)} }

func (c *crowd) take(client, name string) *Place {
	c.t.Helper()
	pl, ok := c.p.Take(client, func() { c.closed = append(c.closed, name) })
	if !ok {
		c.t.Fatalf("%s is refused its connection %s", client, name)
	}
	return pl
}

func (c *crowd) refused(client string) {
	c.t.Helper()
	if _, ok := c.p.Take(client, func() {}); ok {
		c.t.Errorf("%s gets one more connection", client)
	}
}

func (c *crowd) wantClosed(names ...string) {
	c.t.Helper()
	if fmt.Sprint(c.closed) != fmt.Sprint(names) {
		c.t.Errorf("closed: %v, want %v", c.closed, names)
	}
	c.closed = nil
}

// The client that holds most makes room, by the connection that was not useful for longest.
func TestTheGreediestMakesRoom(t *testing.T) {
	c := newCrowd(t, Config{Max: 6, PerClient: 4})
	a1, a2 := c.take("a", "a1"), c.take("a", "a2")
	c.take("a", "a3")
	c.take("b", "b1")
	c.take("b", "b2")
	c.take("c", "c1")
	for _, pl := range []*Place{a1, a2} { // a3 was never useful, but a1 was taken first
		pl.Begin()
		pl.End(true)
	}
	c.take("d", "d1")
	c.wantClosed("a3")
	c.take("e", "e1") // a and b hold two each, b1 waits for longer
	c.wantClosed("b1")
	a1.Begin()
	a1.End(false) // refused: the first to go
	c.take("f", "f1")
	c.wantClosed("a1")
	if open, refused, evicted := c.p.Counts(); open != 6 || refused != 0 || evicted != 3 {
		t.Errorf("%d open, %d refused, %d closed", open, refused, evicted)
	}
}

func TestOneClientHasAShareOnly(t *testing.T) {
	c := newCrowd(t, Config{Max: 100, PerClient: 2})
	a1, a2 := c.take("a", "a1"), c.take("a", "a2")
	c.take("a", "a3")
	c.wantClosed("a1") // its own
	a1.Free()          // as its server does, later
	a1.Begin()
	a1.End(true)
	a2.Begin()
	c.take("a", "a4")
	c.wantClosed("a3")
	a4, ok := c.p.Take("b", nil)
	if !ok {
		t.Error("another client is refused")
	}
	a4.Free()
	a4.Free()
	if open, _, _ := c.p.Counts(); open != 2 {
		t.Errorf("%d open, want 2", open)
	}
	for pl := range c.p.clients["a"].busy {
		pl.End(true)
	}
}

// What is under way is interrupted only for who has nothing, and only where one client has several.
func TestWorkIsInterruptedForWhoHasNone(t *testing.T) {
	c := newCrowd(t, Config{Max: 4, PerClient: 4})
	var a []*Place
	for i := range 3 {
		pl := c.take("a", fmt.Sprint("a", i+1))
		pl.Begin()
		a = append(a, pl)
	}
	b := c.take("b", "b1")
	b.Begin()
	a[0].Touch() // goes on
	a[2].Touch()
	c.refused("a")
	c1 := c.take("c", "c1")
	c.wantClosed("a2")
	c1.Begin()
	c.take("d", "d1").Begin() // a holds two, d none
	if len(c.closed) != 1 || c.closed[0][0] != 'a' {
		t.Errorf("closed: %v, want one of a's", c.closed)
	}
	c.refused("e") // each of four has one that is at work
	c.refused("b")
}

// Short requests count without Begin and End: who was served lately is not the first to go, among a client's own
// connections and among those of all.
func TestServedStays(t *testing.T) {
	c := newCrowd(t, Config{Max: 6, PerClient: 3})
	a := []*Place{c.take("a", "a1"), c.take("a", "a2"), c.take("a", "a3")}
	a[0].Served()
	c.take("a", "a4")
	c.wantClosed("a2")
	b := []*Place{c.take("b", "b1"), c.take("b", "b2"), c.take("b", "b3")}
	for _, pl := range append(a, b[0], b[1]) {
		pl.Served()
	}
	c.take("c", "c1") // a4 and b3 were not served; a4 is older
	c.wantClosed("a4")
	c.take("d", "d1")
	c.wantClosed("b3")
	c.take("e", "e1") // all were served, a1 first
	c.wantClosed("a1")
}

// A connection may carry several requests at once: it is idle only after the last of them.
func TestOneOfTwoRequestsEnds(t *testing.T) {
	for _, ended := range []int{1, 2} {
		c := newCrowd(t, Config{Max: 2, PerClient: 2})
		a := c.take("a", "a1")
		a.Begin()
		a.Begin()
		for range ended {
			a.End(true)
		}
		b := c.take("b", "b1")
		b.Begin()
		if ended == 1 {
			c.refused("c") // both are at work
			c.wantClosed()
			continue
		}
		c.take("c", "c1")
		c.wantClosed("a1")
	}
}

// However many addresses hold all there is, one that has none gets in.
func TestAnHonestClientAlwaysGetsIn(t *testing.T) {
	for _, crowds := range []struct{ clients, each int }{{4, 64}, {64, 4}, {128, 2}, {256, 1}} {
		for _, busy := range []bool{false, true} {
			if busy && crowds.each == 1 {
				continue // then every client has a share: see below
			}
			p := New(Config{Max: 256, PerClient: 64})
			for i := range crowds.clients {
				for range crowds.each {
					pl, ok := p.Take(fmt.Sprint("hostile ", i), func() {})
					if !ok {
						t.Fatal("refused before all were taken")
					}
					if busy {
						pl.Begin()
					}
				}
			}
			for i := range 32 {
				if _, ok := p.Take(fmt.Sprint("honest ", i), func() {}); !ok {
					t.Fatalf("%d clients with %d each, busy %v: honest client %d is refused", crowds.clients,
						crowds.each, busy, i)
				}
				if open, _, _ := p.Counts(); open > 256 {
					t.Fatalf("%d are open, 256 may be", open)
				}
			}
		}
	}
}

// Where each of many addresses has one that is at work, there is room for known clients and for those that behaved.
func TestPlacesAreKept(t *testing.T) {
	c := newCrowd(t, Config{Max: 20, Kept: 8, Known: func(client string) bool { return client == "member" }})
	good := c.take("good", "g")
	good.Begin()
	good.End(true)
	good.Free()
	for i := range 12 {
		c.take(fmt.Sprint("hostile ", i), "h").Begin()
	}
	c.refused("stranger")
	for range 4 {
		c.take("good", "g").Begin()
	}
	c.refused("good") // the other half is for who is known
	for range 4 {
		c.take("member", "m").Begin()
	}
	if open, _, _ := c.p.Counts(); open != 20 {
		t.Errorf("%d open, want 20", open)
	}
	c.wantClosed()
}

func TestWhoBehavedIsForgottenInTheEnd(t *testing.T) {
	p := New(Config{Max: 10, Kept: 1})
	for i := range maxBehaved + 10 {
		pl, _ := p.Take(fmt.Sprint(i), func() {})
		pl.Begin()
		pl.End(true)
		pl.Free()
	}
	if p.good.Len() != maxBehaved || p.good.Has("9") || !p.good.Has("10") {
		t.Errorf("%d are remembered", p.good.Len())
	}
	if len(p.clients) != 0 || p.greedy.Len() != 0 {
		t.Errorf("%d clients hold nothing and are kept", len(p.clients))
	}
}

func BenchmarkTakeWhenFull(b *testing.B) {
	p := New(Config{Max: 8192})
	for i := range 8192 {
		p.Take(fmt.Sprint(i%1000), func() {})
	}
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	for i := range b.N {
		p.Take(names[i%1000], func() {})
	}
}

// What an answer costs on one of a thousand connections.
func BenchmarkServed(b *testing.B) {
	p := New(Config{Max: 1024})
	var all []*Place
	for i := range 1024 {
		pl, _ := p.Take(fmt.Sprint(i%300), func() {})
		all = append(all, pl)
	}
	b.ReportAllocs()
	for i := range b.N {
		all[i%len(all)].Served()
	}
}
