package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"casemate/dnssrv"
)

const (
	// silentBeats in a row without a frame mean that the process hangs.
	silentBeats = 10
	// applyWait is how long Apply waits for the process to confirm.
	applyWait = 5 * time.Second
	// statsWait is how long Stats waits for fresh numbers.
	statsWait = 250 * time.Millisecond
	// awayFor is how long the process may be disconnected before that is an error: it usually returns by itself.
	awayFor = 5 * time.Second
	// maxQueue bounds the updates that wait to be sent. Beyond it the connection is closed, and the next one begins
	// with the whole table.
	maxQueue = 256
	// Pauses between connections.
	minPause, maxPause = 50 * time.Millisecond, 5 * time.Second
)

// ErrReset is returned by Apply: the process has no table that an update could change.
var ErrReset = errors.New("the DNS process needs everything anew")

// LinkConfig configures a Link.
type LinkConfig struct {
	// Dial connects to the process; it starts the process if the daemon runs it. The Link owns the connection.
	Dial func(ctx context.Context) (net.Conn, error)
	// Log gets one line per change of state; nil discards.
	Log *slog.Logger
	// Level is the level that the process logs at; nil leaves it unchanged.
	Level slog.Leveler
	// Version is sent to the other end.
	Version string
	// Need is called when the process needs everything: an update with Reset has to be applied soon. It must not block.
	Need func()
	// Applied is called for each update that the process has applied, or for the last of several: with the conflicts of
	// its whole table, or with the reason why it refused the update. It must not block.
	Applied func(conflicts []string, err error)
	// Miss and Noise are those of dnssrv.Config.
	Miss, Noise func(client netip.Addr, name, qtype string)
	// Seen is called with what dnssrv.Config.Seen got, in pieces. It must not block. nil: it is dropped.
	Seen func([]dnssrv.Sighting)
}

// Link is the daemon's end. All methods are safe for concurrent use.
type Link struct {
	cfg LinkConfig

	mu      sync.Mutex
	conn    net.Conn // nil: no connection has exchanged hellos
	reset   bool     // the whole table was sent on conn, so updates may follow
	seq     uint64   // of the newest update
	queue   []queued
	open    bool // the newest update has More set
	waiters map[uint64]waiter
	late    uint64 // an update up to which no call waits: it was not confirmed in time
	stop    bool   // the process must stop for good
	ended   bool   // Run has ended
	stopped chan struct{}
	wake    chan struct{} // of capacity 1: there is something to send

	there   chan struct{} // closed while the process is connected, or when Run has ended
	ever    chan struct{} // closed when the first update was confirmed
	since   time.Time     // when it was first found disconnected; zero: it is connected
	why     error
	addrs   []netip.AddrPort
	stats   dnssrv.Stats
	asked   uint64
	ask     uint64 // statistics request to be sent; 0: none
	answers map[uint64]chan struct{}

	queries bool                  // the process replies to queries
	toAsk   []query               // to be sent
	replies map[uint64]chan reply // for the calls that wait
}

type queued struct {
	seq       uint64
	u         dnssrv.Update
	continues bool // whether the previous update has More set
}

// waiter waits for an update to be confirmed; it may have given up.
type waiter struct {
	ch   chan applied
	more bool // the change continues: nothing of it is visible yet
}

// NewLink returns a link that Run connects.
func NewLink(cfg LinkConfig) *Link {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Link{
		cfg: cfg, waiters: make(map[uint64]waiter), answers: make(map[uint64]chan struct{}),
		replies: make(map[uint64]chan reply),
		wake:    make(chan struct{}, 1), stopped: make(chan struct{}), ever: make(chan struct{}),
		there: make(chan struct{}),
	}
}

// Run keeps the process connected until ctx is done, and returns nil.
func (l *Link) Run(ctx context.Context) error {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ended = true
		close(l.there)
	}()
	pause, said := minPause, false
	for {
		began := time.Now()
		conn, err := l.cfg.Dial(ctx)
		if err == nil {
			err = l.session(ctx, conn)
		}
		if ctx.Err() != nil {
			return nil
		}
		l.mu.Lock()
		stop := l.stop
		if l.why = err; l.since.IsZero() {
			l.since = time.Now()
		}
		l.mu.Unlock()
		if stop {
			<-ctx.Done() // it was told to stop for good
			return nil
		}
		if time.Since(began) > maxPause {
			pause, said = minPause, false
		}
		if !said {
			l.cfg.Log.Warn("the DNS process is not connected, trying again", "err", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// session talks to the process until the connection ends.
func (l *Link) session(ctx context.Context, conn net.Conn) (err error) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r := bufio.NewReader(quietReader{conn, silentBeats})
	first, err := encode(kindHello, hello{Protocol: protocol, Version: l.cfg.Version})
	if err != nil {
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(silentBeats * beatEvery))
	if _, err := conn.Write(first); err != nil {
		return err
	}
	conn.SetWriteDeadline(time.Time{}) // the reader ends a connection that hangs
	var h hello
	k, body, err := readFrame(r, maxReport)
	if err != nil {
		return err
	}
	if k != kindHello {
		return broken("it begins with kind %d", k)
	}
	if err := decode(body, &h); err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return err
	}
	l.mu.Lock()
	l.conn, l.reset, l.queue, l.open, l.addrs = conn, false, nil, false, h.Addrs
	l.queries, l.toAsk = h.Queries, nil
	close(l.there)
	l.mu.Unlock()
	l.cfg.Log.Info("DNS process connected", "version", h.Version)
	l.cfg.Need()

	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := l.write(conn, done); err != nil {
			conn.Close()
		}
	})
	defer func() {
		conn.Close()
		close(done)
		writing.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conn, l.reset, l.queue, l.there = nil, false, nil, make(chan struct{})
		for seq, w := range l.waiters {
			close(w.ch)
			delete(l.waiters, seq)
		}
		for id, ch := range l.replies {
			close(ch)
			delete(l.replies, id)
		}
	}()
	for {
		k, body, err := readFrame(r, maxReport)
		if err != nil {
			return err
		}
		if err := l.handleFrame(k, body); err != nil {
			return err
		}
	}
}

// handleFrame handles one frame of the process.
func (l *Link) handleFrame(k kind, body []byte) error {
	switch k {
	case kindApplied:
		var a applied
		if err := errors.Join(decode(body, &a), a.check()); err != nil {
			return err
		}
		return l.confirmed(a)
	case kindMisses, kindNoise:
		var list []miss
		if err := decode(body, &list); err != nil {
			return err
		}
		if len(list) > maxMisses {
			return broken("%d misses at a time", len(list))
		}
		for _, m := range list {
			if err := m.check(); err != nil {
				return err
			}
		}
		tell := l.cfg.Miss
		if k == kindNoise {
			tell = l.cfg.Noise
		}
		for _, m := range list {
			if tell != nil {
				tell(m.Client, m.Name, m.Type)
			}
		}
	case kindSeen:
		var list []sighting
		if err := decode(body, &list); err != nil {
			return err
		}
		if len(list) > maxSeen {
			return broken("%d names at a time", len(list))
		}
		sightings := make([]dnssrv.Sighting, len(list))
		for i, s := range list {
			if err := s.check(); err != nil {
				return err
			}
			sightings[i] = dnssrv.Sighting(s)
		}
		if l.cfg.Seen != nil {
			l.cfg.Seen(sightings)
		}
	case kindStats:
		var s stats
		if err := decode(body, &s); err != nil {
			return err
		}
		if err := s.check(); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stats = s.Stats
		for n, ch := range l.answers {
			if n <= s.Ask {
				close(ch)
				delete(l.answers, n)
			}
		}
	case kindReply:
		var r reply
		if err := decode(body, &r); err != nil {
			return err
		}
		if err := r.check(); err != nil {
			return err
		}
		l.replied(r)
	case kindWant:
		l.cfg.Need()
	}
	return nil
}

// confirmed notifies the calls that wait for an update, or for one before it.
func (l *Link) confirmed(a applied) error {
	l.mu.Lock()
	if a.Seq > l.seq {
		l.mu.Unlock()
		return broken("it has taken update %d of %d", a.Seq, l.seq)
	}
	if a.More > 0 {
		a.Conflicts = append(a.Conflicts, fmt.Sprintf("DNS has %d more conflicts like these", a.More))
	}
	more := l.waiters[a.Seq].more
	if a.Error == "" && !more {
		l.since, l.why = time.Time{}, nil
		select {
		case <-l.ever:
		default:
			close(l.ever)
		}
	}
	var waiters []chan applied
	for seq, w := range l.waiters {
		if seq <= a.Seq {
			waiters = append(waiters, w.ch)
			delete(l.waiters, seq)
		}
	}
	l.mu.Unlock()
	if l.cfg.Applied != nil && (!more || a.Error != "") {
		l.cfg.Applied(a.Conflicts, a.err()) // first: a caller that has changed something may look at once
	}
	for _, ch := range waiters {
		ch <- a
	}
	return nil
}

func (a applied) err() error {
	if a.Error == "" {
		return nil
	}
	return errors.New(a.Error)
}

// write sends what is queued, and beats.
func (l *Link) write(conn net.Conn, done <-chan struct{}) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	send := func(k kind, v any) error {
		b, err := encode(k, v)
		if err != nil {
			return err
		}
		_, err = conn.Write(b)
		return err
	}
	for first := true; ; first = false {
		beats := first
		if !first {
			select {
			case <-done:
				return nil
			case <-tick.C:
				beats = true
			case <-l.wake:
			}
		}
		if beats {
			var b beat
			if l.cfg.Level != nil {
				level := int(l.cfg.Level.Level())
				b.Level = &level
			}
			if err := send(kindBeat, b); err != nil {
				return err
			}
		}
		for {
			l.mu.Lock()
			ask, stop, queue, queries := l.ask, l.stop, l.queue, l.toAsk
			l.ask, l.queue, l.toAsk = 0, nil, nil
			l.mu.Unlock()
			for _, q := range queue {
				err := split(q.seq, q.u, q.continues, func(p part) error { return send(kindUpdate, p) })
				if err != nil {
					return err
				}
			}
			if ask > 0 {
				if err := send(kindAsk, ask); err != nil {
					return err
				}
			}
			for _, q := range queries {
				if err := send(kindQuery, q); err != nil {
					return err
				}
			}
			if stop {
				err := send(kindStop, nil)
				select {
				case <-l.stopped:
				default:
					close(l.stopped)
				}
				if err != nil {
					return err
				}
				<-done
				return nil
			}
			if ask == 0 && len(queue) == 0 && len(queries) == 0 {
				break
			}
		}
	}
}

func (l *Link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Apply sends an update to the process and waits a bounded time until it is applied. Apply waits for a process that is
// being restarted, because that process may answer from an old table already. While the process is not connected,
// nothing is queued: it will need everything. ErrReset means that it needs everything now. Any other error comes from
// the process: nothing has changed there.
func (l *Link) Apply(u dnssrv.Update) (conflicts []string, err error) {
	l.awaitRestart()
	l.mu.Lock()
	switch {
	case l.conn == nil || l.stop:
		l.mu.Unlock()
		return nil, nil
	case !u.Reset && !l.reset:
		l.mu.Unlock()
		return nil, ErrReset
	case u.Reset:
		l.queue, l.reset = nil, true // the next whole table contains the change
	case len(l.queue) >= maxQueue:
		l.conn.Close()
		l.mu.Unlock()
		return nil, nil
	}
	l.seq++
	seq := l.seq
	l.queue = append(l.queue, queued{seq, u, l.open && !u.Reset})
	l.open = u.More
	ch := make(chan applied, 1)
	patient := len(l.waiters) == 0 || l.late == 0
	l.waiters[seq] = waiter{ch, u.More}
	l.mu.Unlock()
	l.poke()
	if !patient {
		return nil, nil
	}
	timeout := time.NewTimer(applyWait)
	defer timeout.Stop()
	select {
	case a, ok := <-ch:
		if ok {
			l.mu.Lock()
			l.late = 0
			l.mu.Unlock()
		}
		return a.Conflicts, a.err()
	case <-timeout.C:
		l.mu.Lock()
		l.late = seq
		l.mu.Unlock()
		l.cfg.Log.Warn("the DNS process has not applied a change yet", "after", applyWait)
		return nil, nil
	}
}

// awaitRestart waits for a process that was connected and has been away for less than awayFor.
func (l *Link) awaitRestart() {
	l.mu.Lock()
	there, left := l.there, awayFor
	if !l.since.IsZero() {
		left -= time.Since(l.since)
	}
	wait := l.conn == nil && !l.stop && !l.ended
	l.mu.Unlock()
	select {
	case <-l.ever:
	default:
		return // it was never there
	}
	if !wait || left <= 0 {
		return
	}
	timeout := time.NewTimer(left)
	defer timeout.Stop()
	select {
	case <-there:
	case <-l.stopped:
	case <-timeout.C:
	}
}

// Stats are the process's counters, as fresh as a short wait allows. They restart at zero with the process.
func (l *Link) Stats() dnssrv.Stats {
	l.mu.Lock()
	if l.conn == nil {
		defer l.mu.Unlock()
		return l.stats
	}
	l.asked++
	n, ch := l.asked, make(chan struct{})
	l.ask, l.answers[n] = n, ch
	l.mu.Unlock()
	l.poke()
	timeout := time.NewTimer(statsWait)
	defer timeout.Stop()
	select {
	case <-ch:
	case <-timeout.C:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.answers, n)
	return l.stats
}

// Addrs are the addresses that the process answers on; nil before the first connection.
func (l *Link) Addrs() []netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addrs
}

// Ready is closed when the process answers from a table of this daemon.
func (l *Link) Ready() <-chan struct{} { return l.ever }

// Err returns why this node's DNS is unreliable; nil if it is not. A restart of the process is no error for a few
// seconds: questions wait for it.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.ever:
	default:
		if l.why != nil {
			return fmt.Errorf("DNS does not answer yet: %w", l.why)
		}
		return errors.New("DNS does not answer yet")
	}
	if !l.since.IsZero() && time.Since(l.since) > awayFor {
		return fmt.Errorf("the DNS process is disconnected since %s: %w", l.since.UTC().Format(time.RFC3339), l.why)
	}
	return nil
}

// StopForGood tells the process to forget its table and to end, because this node is no longer a member of the cluster.
// It waits until the frame is sent, but not longer than ctx.
func (l *Link) StopForGood(ctx context.Context) {
	l.mu.Lock()
	l.stop = true
	there := l.conn != nil
	l.mu.Unlock()
	if !there {
		return
	}
	l.poke()
	select {
	case <-l.stopped:
	case <-ctx.Done():
	}
}
