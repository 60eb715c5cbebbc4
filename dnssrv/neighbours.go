package dnssrv

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

// An answer to an address of the host's own networks waits in the kernel until a neighbour confirms that it has the
// address (RFC 826, RFC 4861). Nobody confirms a forged address: its answer waits for three seconds, and takes a part
// of the send buffer and of the kernel's neighbour table, which holds 1024 entries by default. So once many answers
// wait, the guard asks the kernel which neighbours are reachable. Answers to these are sent as usual. Answers to others
// are held for a moment, because a neighbour may have appeared since the last look, and then sent at a rate that the
// kernel can sustain.

const (
	// guardAt is how many bytes in a large send buffer activate the guard: some 150 answers.
	guardAt = 128 << 10
	// sampleEvery is after how many answers a worker checks how many bytes wait.
	sampleEvery = 32
	// guardFor is how long the guard stays active after that.
	guardFor = 5 * time.Second
	// lookEvery is the shortest time between two looks; looks use at most one part in lookShare of a core.
	lookEvery, lookShare = 20 * time.Millisecond, 10
	// maxHeld answers are held between two looks; at most half of them for addresses that the last look found absent.
	maxHeld = 4096
	// strangersPerSecond is how many answers go to addresses that may be absent: three seconds' worth are less than a
	// third of the kernel's table. An address that did not answer the kernel recently costs as much as goneCost others.
	strangersPerSecond, goneCost = 100, 10
	// maxAtOnce answers to one of them count as one: clients ask for A and AAAA together.
	maxAtOnce = 2
	// maxAbsent is how many absent addresses the kernel's table may hold before no new one is tried. From 512 entries
	// on the kernel evicts old ones first, and those are reachable hosts.
	maxAbsent = 200
	// Hosts that were reachable within seenFor, at most maxSeen of them, are answered even when the kernel has
	// forgotten them.
	seenFor, maxSeen = 10 * time.Minute, 1 << 14
)

// presence is what the kernel knows about an address.
type presence int

const (
	present presence = iota // a reachable neighbour, or no neighbour at all: behind a router
	unknown                 // not resolved so far
	asking                  // being resolved
	gone                    // did not answer
)

// neighbours is a snapshot of the kernel's neighbour table. It is immutable.
type neighbours struct {
	networks []netip.Prefix // the host's own, on links with neighbour discovery
	state    map[netip.Addr]presence
}

func (v *neighbours) of(a netip.Addr) presence {
	if v == nil {
		return present
	}
	if p, ok := v.state[a]; ok {
		return p
	}
	for _, n := range v.networks {
		if n.Contains(a) {
			return unknown
		}
	}
	return present
}

// add adds what is known of an address. It may be on several links: the best state counts.
func (v *neighbours) add(a netip.Addr, p presence) {
	if old, ok := v.state[a]; !ok || p < old {
		v.state[a] = p
	}
}

// deferred is an answer, or a question to be forwarded, that waits for the next look.
type deferred struct {
	client netip.Addr
	send   func()
}

// guard is one socket's.
type guard struct {
	now  func() time.Time
	look func() (*neighbours, error)

	start time.Time
	until atomic.Int64 // since start; the guard is active before that
	view  atomic.Pointer[neighbours]
	wake  chan struct{}
	queue chan deferred

	// Owned by run.
	allowance float64
	filled    time.Time
	absent    int // absent addresses in the kernel's table
	seen      map[netip.Addr]time.Time
}

func newGuard(now func() time.Time, look func() (*neighbours, error)) *guard {
	return &guard{
		now: now, look: look, start: now(), wake: make(chan struct{}, 1), queue: make(chan deferred, maxHeld),
		seen: make(map[netip.Addr]time.Time),
	}
}

// press activates the guard: many answers wait, or the send buffer is full.
func (g *guard) press() {
	g.until.Store(int64(g.now().Sub(g.start) + guardFor))
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// on reports whether answers must be passed to hold before they are sent.
func (g *guard) on() bool {
	until := g.until.Load()
	return until != 0 && int64(g.now().Sub(g.start)) < until
}

// doubts reports whether a client's address may be forged.
func (g *guard) doubts(client netip.Addr) bool { return g.on() && g.view.Load().of(client) != present }

// hold queues h until the next look, if there is room.
func (g *guard) hold(h deferred) bool {
	if len(g.queue) > maxHeld/2 && g.view.Load().of(h.client) != unknown {
		return false
	}
	select {
	case g.queue <- h:
		return true
	default:
		return false
	}
}

// run looks at the neighbours when necessary and sends what was held, until ctx is done. drop is called for each item
// that is not sent.
func (g *guard) run(ctx context.Context, drop func()) {
	// An early look finds the reachable hosts: under attack, the first moments are then spent on the others only.
	g.refresh()
	for {
		var first *deferred
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case h := <-g.queue:
			first = &h
		}
		began := g.now()
		view := g.refresh()
		g.fill(began)
		sent := make(map[netip.Addr]int)
		deliver := func(h deferred) {
			if g.worth(view.of(h.client), sent[h.client]) {
				sent[h.client]++
				h.send()
			} else {
				drop()
			}
		}
		if first != nil {
			deliver(*first)
		}
		for range len(g.queue) {
			deliver(<-g.queue)
		}
		pause := time.NewTimer(max(lookEvery, lookShare*g.now().Sub(began)))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// refresh looks at the neighbours, records the reachable ones, and adds recent ones.
func (g *guard) refresh() *neighbours {
	view, err := g.look()
	if err != nil {
		view = nil // then nothing is held
	}
	if view != nil {
		now := g.now()
		g.absent = 0
		for a, p := range view.state {
			switch {
			case p != present:
				g.absent++
			case len(g.seen) < maxSeen:
				g.seen[a] = now
			}
		}
		for a, at := range g.seen {
			if now.Sub(at) > seenFor {
				delete(g.seen, a)
			} else if _, ok := view.state[a]; !ok {
				view.state[a] = present
			}
		}
	}
	g.view.Store(view)
	return view
}

// fill increases the allowance by the time since the last call.
func (g *guard) fill(now time.Time) {
	more := now.Sub(g.filled).Seconds() * strangersPerSecond
	g.allowance = min(g.allowance+more, strangersPerSecond)
	g.filled = now
}

// worth reports whether an answer to an address of that presence is sent; sent is how many were sent in this round.
func (g *guard) worth(p presence, sent int) bool {
	cost := 1.0
	switch {
	case p == present:
		return true
	case p == asking:
		return false // the kernel is still resolving the address; answers wait there
	case sent > 0:
		return sent < maxAtOnce
	case p == gone:
		cost = goneCost
	case g.absent >= maxAbsent:
		return false
	}
	if g.allowance < cost {
		return false
	}
	g.allowance -= cost
	if p == unknown {
		g.absent++ // until the host has answered
	}
	return true
}

// sender sends the answers of one socket. It never blocks: answers that the kernel has no room for are dropped and
// counted. Clients repeat questions, and a worker that blocks answers none.
type sender struct {
	stats   *counters
	pressed *atomic.Pointer[guard] // Server.pressed
	sock    syscall.Conn
	conn    batchConn
	guard   *guard
	most    int // bytes in the send buffer that activate the guard
	lates   atomic.Uint64
}

func newSender(s *Server, sock syscall.Conn, conn batchConn, g *guard) *sender {
	o := &sender{stats: &s.stats, pressed: &s.pressed, sock: sock, conn: conn, guard: g, most: guardAt}
	if size, err := sendBuffer(sock); err == nil {
		o.most = min(o.most, size/4)
	}
	return o
}

// batch sends ms, answers to the addresses that sent the questions.
func (o *sender) batch(ms []ipv4.Message) {
	for len(ms) > 0 {
		n, err := o.conn.WriteBatch(ms, dontWait)
		switch {
		case n > 0:
			ms = ms[n:]
		case full(err):
			o.stats.unsent.Add(uint64(len(ms)))
			o.press()
			return
		default:
			// The first cannot be sent (no route, filtered); the others may be.
			o.stats.dropped.Add(1)
			ms = ms[1:]
		}
	}
}

// one sends a single answer: one that came later than its batch, or that was held.
func (o *sender) one(msg []byte, to net.Addr) {
	o.batch([]ipv4.Message{{Buffers: [][]byte{msg}, Addr: to}})
}

// late sends an answer to a forwarded question.
func (o *sender) late(msg []byte, to net.Addr, client netip.Addr) {
	if o.guard.doubts(client) {
		o.hold(deferred{client, func() { o.one(msg, to) }})
		return
	}
	o.one(msg, to)
	if o.lates.Add(1)%sampleEvery == 0 {
		o.sample()
	}
}

// hold queues an item for a client that may be absent.
func (o *sender) hold(h deferred) {
	if !o.guard.hold(h) {
		o.stats.absent.Add(1)
	}
}

// sample activates the guard if too many bytes wait.
func (o *sender) sample() {
	waits := 0
	err := control(o.sock, func(fd int) (err error) {
		waits, err = unsent(fd)
		return err
	})
	if err == nil && waits > o.most {
		o.press()
	}
}

func (o *sender) press() {
	o.guard.press()
	o.pressed.Store(o.guard)
}

// run is the guard's loop.
func (o *sender) run(ctx context.Context) {
	o.guard.run(ctx, func() { o.stats.absent.Add(1) })
}
