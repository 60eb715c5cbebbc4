package share

import (
	"container/list"
	"sync"
	"sync/atomic"
)

const (
	maxBehaved = 4096 // number of clients that are remembered as having behaved
	keptOfOne  = 8    // reserved places that one client that has behaved may hold
)

// Config bounds the places.
type Config struct {
	// Max is the number of places, at least 1.
	Max int
	// PerClient is how many places one client may hold. 0: three eighths of Max, so that two leave places for a third.
	PerClient int
	// Kept is how many of Max are reserved for Known clients and those that have behaved. 0: none.
	Kept int
	// Known reports whether a client may take any place; it is called only when few are left. Nil: no client.
	Known func(client string) bool
}

// Places divide a bounded number of connections among the clients that request one.
//
// They promise: there are never more connections than allowed, in total and for each client. A client without a
// connection gets one as long as another client holds several or an idle one. The connection that is closed to make
// room is the least recently useful one of the client that holds most. Some places are reserved for clients that are
// known or have behaved. "Recently" counts events.
//
// All methods are safe for concurrent use.
type Places struct {
	cfg Config
	seq atomic.Uint64 // counts events; used instead of a clock

	mu      sync.Mutex // guards the fields below, and the non-atomic fields of clients and places
	open    int
	refused uint64
	evicted uint64
	clients map[string]*client
	greedy  *Ranking[*client]
	good    *Recent[struct{}] // clients that have behaved
}

// client is the set of places that one client holds.
type client struct {
	Rank
	name string
	idle *list.List // of *Place, the least recently useful first
	busy map[*Place]struct{}
}

func (c *client) count() int { return c.idle.Len() + len(c.busy) }

// Place is the place of one connection. Its methods do nothing after Free or eviction.
type Place struct {
	p     *Places
	c     *client
	close func()
	idle  *list.Element // nil while a request is under way
	under int           // requests under way: HTTP/2 and DNS have several on one connection
	since uint64        // when it was last useful, or taken if it never was; Served is noticed later
	used  atomic.Uint64 // when Served was last called
	last  atomic.Uint64 // when a byte was last transferred
	gone  bool
}

// New makes the places.
func New(cfg Config) *Places {
	cfg.Max = max(1, cfg.Max)
	if cfg.PerClient <= 0 {
		cfg.PerClient = (cfg.Max*3 + 7) / 8
	}
	cfg.Kept = min(max(0, cfg.Kept), cfg.Max-1)
	return &Places{
		cfg: cfg, clients: map[string]*client{}, greedy: NewRanking(greedier),
		good: NewRecent[struct{}](maxBehaved, nil),
	}
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
		for p.notice(c) {
		}
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
		c = &client{name: name, idle: list.New(), busy: map[*Place]struct{}{}}
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
	if p.good.Has(name) && held < keptOfOne {
		return p.cfg.Max - p.cfg.Kept/2
	}
	return strangers
}

// victim is the connection to evict for a client that holds so many; nil if there is none.
func (p *Places) victim(held int) *Place {
	if p.greedy.Len() == 0 {
		return nil
	}
	top := p.greedy.First()
	for p.notice(top) {
		top = p.greedy.First()
	}
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

// notice reports whether the connection of a client that would be evicted has been of use since it was last ranked, and
// ranks it again. Each call of Served is noticed at most once.
func (p *Places) notice(c *client) bool {
	pl := c.leastUseful()
	if pl == nil || pl.used.Load() <= pl.since {
		return false
	}
	pl.since = pl.used.Load()
	after := c.idle.Back()
	for after != pl.idle && after.Value.(*Place).since > pl.since {
		after = after.Prev()
	}
	c.idle.MoveAfter(pl.idle, after)
	p.fix(c)
	return true
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

// fix restores the order after a client's number of places has changed.
func (p *Places) fix(c *client) {
	if c.count() > 0 {
		p.greedy.Fix(c)
		return
	}
	p.greedy.Remove(c)
	delete(p.clients, c.name)
}

// greedier orders clients by who makes room first: those with an idle connection, then by the most places, then by the
// idle connection that was useful longest ago.
func greedier(x, y *client) bool {
	a, b := x.leastUseful(), y.leastUseful()
	if (a != nil) != (b != nil) {
		return a != nil
	}
	if m, n := x.count(), y.count(); m != n {
		return m > n
	}
	return a != nil && a.since < b.since
}

// Begin reports that a request has begun. Each has its End.
func (pl *Place) Begin() {
	pl.p.mu.Lock()
	defer pl.p.mu.Unlock()
	if pl.under++; pl.gone || pl.idle == nil {
		return
	}
	pl.c.idle.Remove(pl.idle)
	pl.idle = nil
	pl.c.busy[pl] = struct{}{}
	pl.last.Store(pl.p.seq.Add(1))
	pl.p.fix(pl.c)
}

// End reports that a request has ended; useful tells whether the client got what it requested. After the last one the
// connection is idle.
func (pl *Place) End(useful bool) {
	pl.p.mu.Lock()
	defer pl.p.mu.Unlock()
	if useful && pl.p.cfg.Kept > 0 {
		pl.p.behaved(pl.c.name)
	}
	if pl.under = max(0, pl.under-1); pl.under > 0 || pl.gone || pl.idle != nil {
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

// Served reports that the client got what it requested, where requests are too short for Begin and End. It is cheap,
// and remembers no client as having behaved.
func (pl *Place) Served() { pl.used.Store(pl.p.seq.Add(1)) }

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

// behaved remembers a client.
func (p *Places) behaved(name string) {
	if _, ok := p.good.See(name); !ok {
		p.good.Add(name, struct{}{})
	}
}

// Counts returns the number of taken places, refused connections, and connections that were evicted.
func (p *Places) Counts() (open int, refused, evicted uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open, p.refused, p.evicted
}

// Crowded reports whether more than half of the places are taken.
func (p *Places) Crowded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open > p.cfg.Max/2
}
