package dnssrv

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// conns shares the slots for TCP connections among clients. When all are in use, a newcomer replaces an idle
// connection: the least recently used one of the address that has most. So a newcomer gets a slot while any connection
// is idle or any client has more than one.
type conns struct {
	max, perClient, perNetwork int           // tests set other values before they serve,
	idle                       time.Duration // as of idle

	clock atomic.Uint64 // counts the events of all connections

	mu   sync.Mutex
	open map[*slot]struct{}
	by   map[netip.Addr]int   // by address
	nets map[netip.Prefix]int // by IPv6 network: a host there can use any number of addresses
}

// slot is the place of one connection.
type slot struct {
	client  netip.Addr
	network netip.Prefix // of an IPv6 client
	close   func()       // called when the slot is reclaimed; must not block

	busy atomic.Int64  // questions being answered
	used atomic.Uint64 // conns.clock when the connection was opened or last got an answer
}

func newConns() *conns {
	return &conns{
		max: maxConns, perClient: maxConnsPerClient, perNetwork: maxConnsPerNetwork, idle: idleTimeout,
		open: make(map[*slot]struct{}), by: make(map[netip.Addr]int), nets: make(map[netip.Prefix]int),
	}
}

// acquire gives a client a slot. If none is free, it may close another connection and use its slot. It returns nil if
// no slot can be had.
func (c *conns) acquire(client netip.Addr, close func()) (p *slot, evicted bool) {
	p = &slot{client: client, close: close}
	if client.Is6() {
		p.network, _ = client.Prefix(64)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var old *slot
	switch {
	case c.by[client] >= c.perClient:
		old = c.victim(p, func(o *slot) bool { return o.client == client })
	case p.network.IsValid() && c.nets[p.network] >= c.perNetwork:
		old = c.victim(p, func(o *slot) bool { return o.network == p.network })
	case len(c.open) >= c.max:
		old = c.victim(p, func(*slot) bool { return true })
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

// victim chooses the slot that p gets among those that among selects: an idle one of the same client or of a client
// that has more, or a busy one of a client that would still have as many. Idle slots come first, then those of the
// client that has most, then the least recently used one.
func (c *conns) victim(p *slot, among func(*slot) bool) *slot {
	has := c.by[p.client]
	var best *slot
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

func (c *conns) add(p *slot) {
	p.used.Store(c.clock.Add(1))
	c.open[p] = struct{}{}
	c.by[p.client]++
	if p.network.IsValid() {
		c.nets[p.network]++
	}
}

// remove must be called with c.mu held. It ignores a slot that was reclaimed before.
func (c *conns) remove(p *slot) {
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

func (c *conns) release(p *slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(p)
}

// served records that a connection's client got an answer.
func (c *conns) served(p *slot) { p.used.Store(c.clock.Add(1)) }

func (c *conns) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) > c.max/2
}
