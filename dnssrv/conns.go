package dnssrv

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// conns shares the places for TCP connections among clients. When all are taken, an idle connection gives way: of the
// address that has most, the one that was of use the longest ago. So a newcomer gets in while anybody is idle, or has
// more than one place.
type conns struct {
	max, perClient, perNetwork int           // tests set others before they serve,
	idle                       time.Duration // as of this

	clock atomic.Uint64 // counts what connections did

	mu   sync.Mutex
	open map[*place]struct{}
	by   map[netip.Addr]int   // by address
	nets map[netip.Prefix]int // by IPv6 network: one host there has as many addresses as it likes
}

// place is one connection's.
type place struct {
	client  netip.Addr
	network netip.Prefix // of an IPv6 client
	close   func()       // called when the place is taken away; it must not wait

	busy atomic.Int64  // questions that are being answered
	used atomic.Uint64 // conns.clock when it was opened, or an answer sent
}

func newConns() *conns {
	return &conns{
		max: maxConns, perClient: maxConnsPerClient, perNetwork: maxConnsPerNetwork, idle: idleTimeout,
		open: make(map[*place]struct{}), by: make(map[netip.Addr]int), nets: make(map[netip.Prefix]int),
	}
}

// acquire gives a client a place, if need be that of another connection, which is closed then. It gives nil if there is
// none.
func (c *conns) acquire(client netip.Addr, close func()) (p *place, evicted bool) {
	p = &place{client: client, close: close}
	if client.Is6() {
		p.network, _ = client.Prefix(64)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var old *place
	switch {
	case c.by[client] >= c.perClient:
		old = c.victim(p, func(o *place) bool { return o.client == client })
	case p.network.IsValid() && c.nets[p.network] >= c.perNetwork:
		old = c.victim(p, func(o *place) bool { return o.network == p.network })
	case len(c.open) >= c.max:
		old = c.victim(p, func(*place) bool { return true })
	default:
		c.add(p)
		return p, false
	}
	if old == nil {
		return nil, false
	}
	c.remove(old)
	old.close()
	c.add(p)
	return p, true
}

// victim chooses, among some, the place that p gets: an idle one of its own client or of who has more, or a busy one of
// who would still have as many. Idle ones go first, then those of who has most, then the one that was of use the
// longest ago.
func (c *conns) victim(p *place, among func(*place) bool) *place {
	has := c.by[p.client]
	var best *place
	var bestIdle bool
	var bestBy int
	var bestUsed uint64
	for o := range c.open {
		idle, by, used := o.busy.Load() == 0, c.by[o.client], o.used.Load()
		may := by >= has+2 || idle && (by > has || o.client == p.client)
		if !may || !among(o) {
			continue
		}
		better := best == nil || idle && !bestIdle
		if !better && idle == bestIdle {
			better = by > bestBy || by == bestBy && used < bestUsed
		}
		if better {
			best, bestIdle, bestBy, bestUsed = o, idle, by, used
		}
	}
	return best
}

func (c *conns) add(p *place) {
	p.used.Store(c.clock.Add(1))
	c.open[p] = struct{}{}
	c.by[p.client]++
	if p.network.IsValid() {
		c.nets[p.network]++
	}
}

// remove must be called with c.mu held. A place that was taken away before is left alone.
func (c *conns) remove(p *place) {
	if _, ok := c.open[p]; !ok {
		return
	}
	delete(c.open, p)
	if c.by[p.client]--; c.by[p.client] == 0 {
		delete(c.by, p.client)
	}
	if p.network.IsValid() {
		if c.nets[p.network]--; c.nets[p.network] == 0 {
			delete(c.nets, p.network)
		}
	}
}

func (c *conns) release(p *place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(p)
}

// served says that a connection's client got an answer.
func (c *conns) served(p *place) { p.used.Store(c.clock.Add(1)) }

func (c *conns) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) > c.max/2
}
