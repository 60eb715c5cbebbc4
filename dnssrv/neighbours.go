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

// An answer to an address of the host's own networks must wait in the kernel until a neighbour has said that the
// address is his (RFC 826, RFC 4861). Nobody says so for a forged one: the answer waits for three seconds and takes its
// part of the send buffer, and of the kernel's table of neighbours, which holds 1024 by default. So once many answers
// wait, the guard asks the kernel which neighbours are there. Answers to them go out as ever; those to the others are
// held back for a moment, because a neighbour may have shown up since the last look, and then sent at a rate at which
// the kernel can keep them.

const (
	// guardAt is how many bytes must wait in the send buffer, if it is large, for the guard to look: some 150 answers.
	guardAt = 128 << 10
	// sampleEvery is after how many answers a worker asks how many wait.
	sampleEvery = 32
	// guardFor is how long the guard goes on after that.
	guardFor = 5 * time.Second
	// A look is taken at most this often, and takes at most a tenth of one core.
	lookEvery, lookShare = 20 * time.Millisecond, 10
	// maxHeld answers are held back between two looks, of those that the last look knew to be absent half as many.
	maxHeld = 4096
	// strangersPerSecond is how many answers go to addresses that may not be there: three seconds' worth are below a
	// third of the kernel's table. An address that did not answer the kernel lately counts for goneCost others.
	strangersPerSecond, goneCost = 100, 10
	// maxAtOnce answers to one of them count as one: A and AAAA are asked for together.
	maxAtOnce = 2
	// maxAbsent is how many addresses that are not there the kernel's table may hold before no new one is tried. From
	// 512 entries on it throws out old ones first, and those are hosts that are there.
	maxAbsent = 200
	// Hosts that were there within seenFor are answered also when the kernel has forgotten them, up to maxSeen.
	seenFor, maxSeen = 10 * time.Minute, 1 << 14
)

// presence is what the kernel knows of an address.
type presence int

const (
	present presence = iota // a neighbour that is there, or no neighbour at all: behind a router
	unknown                 // one that was not asked for
	asking                  // one that is being asked for
	gone                    // one that did not answer
)

// neighbours is what the kernel knew when it was asked. It is immutable.
type neighbours struct {
	networks []netip.Prefix // the host's own, on links where neighbours are asked for
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

// note adds what is known of an address. It may be on several links: the best counts.
func (v *neighbours) note(a netip.Addr, p presence) {
	if old, ok := v.state[a]; !ok || p < old {
		v.state[a] = p
	}
}

// held is an answer, or a question that others must be asked, that waits for the next look.
type held struct {
	client netip.Addr
	send   func()
}

// guard is one socket's.
type guard struct {
	now  func() time.Time
	look func() (*neighbours, error)

	start time.Time
	until atomic.Int64 // since start; it is on before that
	view  atomic.Pointer[neighbours]
	wake  chan struct{}
	held  chan held

	// Owned by run.
	allowance float64
	filled    time.Time
	absent    int // addresses in the kernel's table that are not there
	seen      map[netip.Addr]time.Time
}

func newGuard(now func() time.Time, look func() (*neighbours, error)) *guard {
	return &guard{
		now: now, look: look, start: now(), wake: make(chan struct{}, 1), held: make(chan held, maxHeld),
		seen: make(map[netip.Addr]time.Time),
	}
}

// press says that many answers wait, or that there is no room for more.
func (g *guard) press() {
	g.until.Store(int64(g.now().Sub(g.start) + guardFor))
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// on says whether answers must be shown to hold before they are sent.
func (g *guard) on() bool {
	until := g.until.Load()
	return until != 0 && int64(g.now().Sub(g.start)) < until
}

// doubts says whether a client may be forged.
func (g *guard) doubts(client netip.Addr) bool { return g.on() && g.view.Load().of(client) != present }

// hold keeps h until the next look, if there is room.
func (g *guard) hold(h held) bool {
	if len(g.held) > maxHeld/2 && g.view.Load().of(h.client) != unknown {
		return false
	}
	select {
	case g.held <- h:
		return true
	default:
		return false
	}
}

// run looks when it must and sends what was held, until ctx is done. drop is called for what is not sent.
func (g *guard) run(ctx context.Context, drop func()) {
	// Who is there before any trouble: then the first moments of it are spent on the others alone.
	g.refresh()
	for {
		var first *held
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case h := <-g.held:
			first = &h
		}
		began := g.now()
		view := g.refresh()
		g.fill(began)
		sent := make(map[netip.Addr]int)
		deliver := func(h held) {
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
		for range len(g.held) {
			deliver(<-g.held)
		}
		pause := time.NewTimer(max(lookEvery, lookShare*g.now().Sub(began)))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// refresh looks, remembers who is there, and adds who was.
func (g *guard) refresh() *neighbours {
	view, err := g.look()
	if err != nil {
		view = nil // then nobody is held up
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

// fill adds to the allowance what the time since it was last filled gives.
func (g *guard) fill(now time.Time) {
	more := now.Sub(g.filled).Seconds() * strangersPerSecond
	g.allowance = min(g.allowance+more, strangersPerSecond)
	g.filled = now
}

// worth says whether an answer to an address of that presence is sent, beside so many in this round.
func (g *guard) worth(p presence, sent int) bool {
	cost := 1.0
	switch {
	case p == present:
		return true
	case p == asking:
		return false // answers are already on their way to it, if it is there
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
		g.absent++ // as long as he has not answered
	}
	return true
}

// sender sends the answers of one socket. It never waits: what the kernel has no room for is dropped and counted, since
// clients repeat questions and a worker that waits answers nobody.
type sender struct {
	stats   *counters
	pressed *atomic.Pointer[guard] // Server.pressed
	sock    syscall.Conn
	conn    batchConn
	guard   *guard
	most    int // bytes waiting in the send buffer from which on the guard looks
	lates   atomic.Uint64
}

func newSender(s *Server, sock syscall.Conn, conn batchConn, g *guard) *sender {
	o := &sender{stats: &s.stats, pressed: &s.pressed, sock: sock, conn: conn, guard: g, most: guardAt}
	if size, err := sendBuffer(sock); err == nil {
		o.most = min(o.most, size/4)
	}
	return o
}

// batch sends ms. Its messages' addresses were asked for by who sent the questions.
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
			// The first cannot be sent (no route, filtered); the others can.
			o.stats.dropped.Add(1)
			ms = ms[1:]
		}
	}
}

// one sends an answer that came later than its batch, or that was held.
func (o *sender) one(msg []byte, to net.Addr) {
	o.batch([]ipv4.Message{{Buffers: [][]byte{msg}, Addr: to}})
}

// late sends an answer that others had to be asked for.
func (o *sender) late(msg []byte, to net.Addr, client netip.Addr) {
	if o.guard.doubts(client) {
		o.hold(held{client, func() { o.one(msg, to) }})
		return
	}
	o.one(msg, to)
	if o.lates.Add(1)%sampleEvery == 0 {
		o.sample()
	}
}

// hold keeps what is for a client that may not be there.
func (o *sender) hold(h held) {
	if !o.guard.hold(h) {
		o.stats.absent.Add(1)
	}
}

// sample presses the guard if too much waits.
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
