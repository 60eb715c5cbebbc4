// Package share divides a bounded number of connections among the clients that request one.
//
// It promises: there are never more connections than allowed, in total and for each client. A client without a
// connection gets one as long as another client holds several or an idle one. The connection that is closed to make
// room is the least recently useful one of the client that holds most. Some places are reserved for clients that are
// known or have behaved. The package reads no clock: "recently" counts events.
package share

import (
	"container/heap"
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	maxBehaved = 4096 // number of clients that are remembered as having behaved
	keptOfOne  = 8    // reserved places that one client that has behaved may hold
)

// Of returns the key of a client: an IPv4 address, or the /64 of an IPv6 address, since one host has all of it.
func Of(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p.String()
	}
	return a.String()
}

// Config bounds the places.
type Config struct {
	// Max is the number of places, at least 1.
	Max int
	// PerClient is how many places one client may hold. 0: a quarter of Max.
	PerClient int
	// Kept is how many of Max are reserved for Known clients and those that have behaved. 0: none.
	Kept int
	// Known reports whether a client may take any place; it is called only when few are left. Nil: no client.
	Known func(client string) bool
}

// Places are the open connections. All methods are safe for concurrent use.
type Places struct {
	cfg Config
	seq atomic.Uint64 // counts events; used instead of a clock

	mu      sync.Mutex // guards the fields below, and the non-atomic fields of clients and places
	open    int
	refused uint64
	evicted uint64
	clients map[string]*client
	greedy  greedy
	good    map[string]*list.Element // clients that have behaved
	order   *list.List               // their names, the least recently seen first
}

// client is the set of places that one client holds.
type client struct {
	name  string
	idle  *list.List // of *Place, the least recently useful first
	busy  map[*Place]struct{}
	index int // in greedy
}

func (c *client) count() int { return c.idle.Len() + len(c.busy) }

// Place is the place of one connection. Its methods do nothing after Free or eviction.
type Place struct {
	p     *Places
	c     *client
	close func()
	idle  *list.Element // nil while a request is under way
	since uint64        // when it was last useful, or taken if it never was
	last  atomic.Uint64 // when a byte was last transferred
	gone  bool
}

// New makes the places.
func New(cfg Config) *Places {
	cfg.Max = max(1, cfg.Max)
	if cfg.PerClient <= 0 {
		cfg.PerClient = (cfg.Max + 3) / 4
	}
	cfg.Kept = min(max(0, cfg.Kept), cfg.Max-1)
	return &Places{cfg: cfg, clients: map[string]*client{}, good: map[string]*list.Element{}, order: list.New()}
}

// Take gives a client a place for a connection, or refuses it. If another connection is evicted, its close is called
// once before Take returns. close must not block and must not call Take.
func (p *Places) Take(name string, close func()) (*Place, bool) {
	p.mu.Lock()
	c := p.clients[name]
	held := 0
	if c != nil {
		held = c.count()
	}
	var victim *Place
	full := false
	switch {
	case held >= p.cfg.PerClient:
		full = true
		victim = c.leastUseful() // its own connection: other clients do not make room for it
	case p.open >= p.limit(name, held):
		full = true
		victim = p.victim(held)
	}
	if full && victim == nil {
		p.refused++
		p.mu.Unlock()
		return nil, false
	}
	if victim != nil {
		p.evicted++
		p.remove(victim)
	}
	if c = p.clients[name]; c == nil { // the victim may have been its last
		c = &client{name: name, idle: list.New(), busy: map[*Place]struct{}{}, index: -1}
		p.clients[name] = c
	}
	pl := &Place{p: p, c: c, close: close, since: p.seq.Add(1)}
	pl.last.Store(pl.since)
	pl.idle = c.idle.PushBack(pl)
	p.open++
	p.fix(c)
	p.mu.Unlock()
	if victim != nil {
		victim.close()
	}
	return pl, true
}

// limit is the number of taken places from which on this client gets no free one.
func (p *Places) limit(name string, held int) int {
	strangers := p.cfg.Max - p.cfg.Kept
	if p.open < strangers {
		return strangers
	}
	if p.cfg.Known != nil && p.cfg.Known(name) {
		return p.cfg.Max
	}
	if p.good[name] != nil && held < keptOfOne {
		return p.cfg.Max - p.cfg.Kept/2
	}
	return strangers
}

// victim is the connection to evict for a client that holds so many; nil if there is none.
func (p *Places) victim(held int) *Place {
	if len(p.greedy) == 0 {
		return nil
	}
	top := p.greedy[0]
	if pl := top.leastUseful(); pl != nil {
		return pl
	}
	// All are busy. Only a client with much more than its share is interrupted, at its connection with the least
	// progress.
	if top.count() < 2*(held+1) {
		return nil
	}
	var stale *Place
	for pl := range top.busy {
		if stale == nil || pl.last.Load() < stale.last.Load() {
			stale = pl
		}
	}
	return stale
}

func (c *client) leastUseful() *Place {
	if e := c.idle.Front(); e != nil {
		return e.Value.(*Place)
	}
	return nil
}

func (p *Places) remove(pl *Place) {
	if pl.idle != nil {
		pl.c.idle.Remove(pl.idle)
		pl.idle = nil
	} else {
		delete(pl.c.busy, pl)
	}
	pl.gone = true
	p.open--
	p.fix(pl.c)
}

// fix restores the order of the heap after a client's number of places has changed.
func (p *Places) fix(c *client) {
	switch {
	case c.count() == 0:
		heap.Remove(&p.greedy, c.index)
		delete(p.clients, c.name)
	case c.index < 0:
		heap.Push(&p.greedy, c)
	default:
		heap.Fix(&p.greedy, c.index)
	}
}

// Begin reports that a request has begun.
func (pl *Place) Begin() {
	pl.p.mu.Lock()
	defer pl.p.mu.Unlock()
	if pl.gone || pl.idle == nil {
		return
	}
	pl.c.idle.Remove(pl.idle)
	pl.idle = nil
	pl.c.busy[pl] = struct{}{}
	pl.last.Store(pl.p.seq.Add(1))
	pl.p.fix(pl.c)
}

// End reports that the request has ended; useful tells whether the client got what it requested.
func (pl *Place) End(useful bool) {
	pl.p.mu.Lock()
	defer pl.p.mu.Unlock()
	if useful {
		pl.p.behaved(pl.c.name)
	}
	if pl.gone || pl.idle != nil {
		return
	}
	delete(pl.c.busy, pl)
	if useful {
		pl.since = pl.p.seq.Add(1)
		pl.idle = pl.c.idle.PushBack(pl)
	} else {
		pl.idle = pl.c.idle.PushFront(pl) // evicted first
	}
	pl.p.fix(pl.c)
}

// Touch reports that bytes were transferred. It is cheap.
func (pl *Place) Touch() { pl.last.Store(pl.p.seq.Load()) }

// Free frees the place. It may be called more than once.
func (pl *Place) Free() {
	pl.p.mu.Lock()
	defer pl.p.mu.Unlock()
	if !pl.gone {
		pl.p.remove(pl)
	}
}

// Gone reports whether the place was freed or evicted.
func (pl *Place) Gone() bool {
	pl.p.mu.Lock()
	defer pl.p.mu.Unlock()
	return pl.gone
}

// behaved remembers a client. Beyond maxBehaved, the least recently seen client is forgotten.
func (p *Places) behaved(name string) {
	if e := p.good[name]; e != nil {
		p.order.MoveToBack(e)
		return
	}
	if p.order.Len() >= maxBehaved {
		delete(p.good, p.order.Remove(p.order.Front()).(string))
	}
	p.good[name] = p.order.PushBack(name)
}

// Counts returns the number of taken places, refused connections, and connections that were evicted.
func (p *Places) Counts() (open int, refused, evicted uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.refused, p.evicted
}

// greedy is a heap of clients: first those with an idle connection, then by the most places, then by the idle
// connection that was useful longest ago.
type greedy []*client

func (g greedy) Len() int { return len(g) }

func (g greedy) Less(i, j int) bool {
	a, b := g[i].leastUseful(), g[j].leastUseful()
	if (a != nil) != (b != nil) {
		return a != nil
	}
	if x, y := g[i].count(), g[j].count(); x != y {
		return x > y
	}
	return a != nil && a.since < b.since
}

func (g greedy) Swap(i, j int) {
	g[i], g[j] = g[j], g[i]
	g[i].index, g[j].index = i, j
}

func (g *greedy) Push(x any) {
	c := x.(*client)
	c.index = len(*g)
	*g = append(*g, c)
}

func (g *greedy) Pop() any {
	old := *g
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*g = old[:len(old)-1]
	c.index = -1
	return c
}
