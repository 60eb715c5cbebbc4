package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"casemate/dnssrv"
)

const (
	// awayBeats without a frame mean that the daemon does not serve: clients are sent to other nodes.
	awayBeats = 5
	// waitForTable is how long questions wait for the first table. After that they are answered with SERVFAIL, which
	// sends clients to the next bastion.
	waitForTable = 10 * time.Second
	// queuedMisses is how many misses wait for a daemon that does not read; more are lost and counted.
	queuedMisses = 4096
	// queuedSeen is how many frames of sightings wait for it: those of two reports.
	queuedSeen = 16
	// queuedNoise is the same bound for noise, whose losses are not counted.
	queuedNoise = 512
)

// ErrStopped is returned by Serve when the daemon has told it to stop for good.
var ErrStopped = errors.New("the daemon says that this node is no longer a member")

// Config configures the process. Serve owns the sockets and connections.
type Config struct {
	Log *slog.Logger
	// Level follows the level that the daemon sends; nil ignores it.
	Level *slog.LevelVar
	// Version is sent to the other end.
	Version string
	UDP     []*net.UDPConn
	TCP     []net.Listener
	// Peer is the connection to the daemon that started this process. The process ends with it.
	Peer net.Conn
	// Link is where daemons connect, one after the other; the newest replaces the others. It is used if Peer is nil.
	Link net.Listener
	// Admit returns why a connection at Link is refused; nil accepts all.
	Admit func(net.Conn) error
	// Table stores the answers for the next process; nil stores nothing.
	Table *Table
	// Notify sends a state to the service manager; nil: there is none.
	Notify func(state string)
	// Watchdog is how often the service manager must be told that questions are answered; 0: never.
	Watchdog time.Duration
}

// server is the running process.
type server struct {
	cfg Config
	log *slog.Logger
	dns interface {
		Apply(dnssrv.Update) ([]string, error)
		Abandon()
		Stats() dnssrv.Stats
		Explain(context.Context, dnssrv.Inquiry) (dnssrv.Explanation, error)
		Resolvers() []dnssrv.Resolver
	}
	fail   context.CancelCauseFunc
	ready  chan struct{} // closed with the first table
	misses chan miss
	noise  chan miss
	seen   chan []sighting
	lost   atomic.Uint64 // misses

	silent atomic.Int32 // beats since the last frame of the daemon

	mu     sync.Mutex // guards the fields below, and the order of tables
	domain string
	self   string
	nodes  []dnssrv.Node // as the daemon sent them
	away   bool          // this node is removed from the answers
	coming bool          // a change has begun that continues in the next update
}

// Serve answers DNS until ctx is done, which is no error, until the daemon that owns it is gone, or until a socket
// fails.
func Serve(ctx context.Context, cfg Config) error {
	s := &server{
		cfg: cfg, log: cfg.Log, ready: make(chan struct{}), misses: make(chan miss, queuedMisses),
		noise: make(chan miss, queuedNoise), seen: make(chan []sighting, queuedSeen),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Notify == nil {
		s.cfg.Notify = func(string) {}
	}
	dns := dnssrv.New(dnssrv.Config{Log: s.log, Miss: s.miss, Noise: s.unneeded, Seen: s.saw})
	s.dns = dns

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.fail = cancel
	var wg sync.WaitGroup
	start := func(f func(ctx context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	if err := s.restore(); err != nil {
		s.log.Warn("the stored table cannot be used, questions wait for the daemon", "err", err)
	}
	if cfg.Peer != nil {
		start(func(ctx context.Context) error {
			err := s.session(ctx, cfg.Peer)
			if ctx.Err() == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
				cancel(nil) // the daemon has ended, or ends this process
			} else if ctx.Err() == nil {
				return err
			}
			return nil
		})
	} else {
		start(s.accept)
	}
	start(s.watchDaemon)
	start(func(ctx context.Context) error { return s.answer(ctx, dns) })
	if cfg.Watchdog > 0 {
		start(s.watchdog)
	}
	s.cfg.Notify("READY=1")
	s.reportStatus()
	<-ctx.Done()
	s.cfg.Notify("STOPPING=1")
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// answer reads questions once there is a table.
func (s *server) answer(ctx context.Context, dns *dnssrv.Server) error {
	late := time.NewTimer(waitForTable)
	defer late.Stop()
	select {
	case <-s.ready:
	case <-late.C:
		s.log.Warn("there is no table yet, questions are answered with SERVFAIL", "after", waitForTable)
	case <-ctx.Done():
		for _, c := range s.cfg.UDP {
			c.Close()
		}
		for _, l := range s.cfg.TCP {
			l.Close()
		}
		return nil
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(s.cfg.UDP)+len(s.cfg.TCP))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	serve := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	for _, c := range s.cfg.UDP {
		serve(func() error { return dns.ServeUDP(ctx, c) })
	}
	for _, l := range s.cfg.TCP {
		serve(func() error { return dns.ServeTCP(ctx, l) })
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// apply changes the table. While the daemon is away, it removes this node from the answers.
func (s *server) apply(u dnssrv.Update, continues bool) (conflicts []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if continues && !s.coming {
		return nil, errors.New("the change that this one continues was refused")
	}
	s.coming = false
	send := u
	if s.away && u.Nodes != nil {
		self := s.self
		if u.Base != nil {
			self = u.Base.Node
		}
		send.Nodes = without(u.Nodes, self)
	}
	if conflicts, err = s.dns.Apply(send); err != nil {
		return nil, err
	}
	if u.Base != nil {
		s.self, s.domain = u.Base.Node, u.Base.Domain
	}
	if u.Nodes != nil {
		s.nodes = u.Nodes
	}
	if s.coming = u.More; s.coming {
		return nil, nil
	}
	if continues { // the daemon may have gone away or returned since its nodes arrived
		s.applyHealth()
	}
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
	return conflicts, nil
}

// without returns nodes with one of them not healthy. If no other one is healthy, all are answered (dnssrv.Node).
func without(nodes []dnssrv.Node, name string) []dnssrv.Node {
	list := slices.Clone(nodes)
	for i := range list {
		list[i].Healthy = list[i].Healthy && list[i].Name != name
	}
	return list
}

// watchDaemon counts missing beats.
func (s *server) watchDaemon(ctx context.Context) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s.silent.Add(1) == awayBeats {
			s.setAway(true)
		}
	}
}

// heard records that the daemon is alive.
func (s *server) heard() {
	if s.silent.Swap(0) >= awayBeats {
		s.setAway(false)
	}
}

func (s *server) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away == away {
		return
	}
	s.away = away
	others := slices.ContainsFunc(s.nodes, func(n dnssrv.Node) bool { return n.Healthy && n.Name != s.self })
	if !s.coming { // otherwise the end of the change applies it
		s.applyHealth()
	}
	switch {
	case !away:
		s.log.Info("the daemon is back")
	case others:
		s.log.Warn("the daemon is silent: clients are sent to other nodes, answers continue", "seconds", awayBeats)
	default:
		s.log.Warn("the daemon is silent: answers continue from the last table", "seconds", awayBeats)
	}
	s.reportStatusLocked()
}

// applyHealth applies whether the daemon is away. s.mu is held, and no change is in progress.
func (s *server) applyHealth() {
	if s.nodes == nil {
		return
	}
	nodes := s.nodes
	if s.away {
		nodes = without(nodes, s.self)
	}
	if _, err := s.dns.Apply(dnssrv.Update{Nodes: nodes}); err != nil {
		s.log.Error("this node's health cannot be applied", "err", err)
	}
}

// abandon drops a change that will not continue.
func (s *server) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.coming {
		return
	}
	s.coming = false
	s.dns.Abandon()
	s.applyHealth()
}

// reportStatus sends the status line of systemctl status.
func (s *server) reportStatus() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reportStatusLocked()
}

func (s *server) reportStatusLocked() {
	state := "answering"
	switch {
	case s.nodes == nil:
		state = "waiting for the daemon's first table (systemctl status casemate)"
	case s.away:
		state = "answering from the last table, the daemon is silent (systemctl status casemate)"
	}
	s.cfg.Notify("STATUS=" + state)
}

// accept accepts daemons, one after the other.
func (s *server) accept(ctx context.Context) error {
	defer s.cfg.Link.Close()
	defer context.AfterFunc(ctx, func() { s.cfg.Link.Close() })()
	end := func() {}
	defer func() { end() }()
	for failed := 0; ; {
		conn, err := s.cfg.Link.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("the daemon's socket: %w", err)
		}
		if err != nil {
			if failed++; failed&(failed-1) == 0 {
				s.log.Warn("a daemon's connection is not accepted", "err", err, "failed", failed)
			}
			select {
			case <-ctx.Done():
			case <-time.After(beatEvery):
			}
			continue
		}
		if s.cfg.Admit != nil {
			if err := s.cfg.Admit(conn); err != nil {
				s.log.Warn("a connection is refused", "err", err)
				conn.Close()
				continue
			}
		}
		end() // the newest connection counts
		own, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			err := s.session(own, conn)
			switch {
			case errors.Is(err, ErrStopped):
				s.fail(err)
			case own.Err() == nil:
				s.log.Info("the daemon is gone, answers continue", "err", err)
			}
		}()
		end = func() { cancel(); <-done }
	}
}

// session talks to a daemon until the connection ends.
func (s *server) session(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reports := make(chan []byte, 16) // encoded frames; when it is full, no more updates are read
	done := make(chan struct{})
	written := make(chan struct{})
	go func() {
		defer close(written)
		if err := s.report(conn, reports, done); err != nil {
			conn.Close()
		}
	}()
	defer func() {
		conn.Close() // first: it may be in a write
		close(done)
		<-written
	}()
	say := func(k kind, v any) error {
		b, err := encode(k, v)
		if err != nil {
			return err
		}
		select {
		case reports <- b:
			return nil
		case <-written:
			return io.EOF
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	first := hello{Protocol: protocol, Version: s.cfg.Version, Addrs: s.addrs(), Queries: true}
	if err := say(kindHello, first); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	k, body, err := readFrame(r, maxReport)
	if err != nil {
		return err
	}
	var h hello
	if k != kindHello {
		return broken("it begins with kind %d", k)
	}
	if err := decode(body, &h); err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return err
	}
	if s.cfg.Peer == nil { // with Peer, the daemon logs it, to the same log
		s.log.Info("daemon connected", "version", h.Version)
	}
	s.heard()
	defer s.abandon()
	asking, cancel := context.WithCancel(ctx)
	on := &queries{ctx: asking, slot: make(chan struct{}, maxQueries), say: say}
	defer on.wg.Wait()
	defer conn.Close() // it ends the writer, for which a reply may wait
	defer cancel()
	var j joiner
	continues := false // the next update continues the previous one
	for {
		k, body, err := readFrame(r, maxFrame)
		if err != nil {
			return err
		}
		s.heard()
		switch k {
		case kindBeat:
			var b beat
			if err := decode(body, &b); err != nil {
				return err
			}
			if s.cfg.Level != nil && b.Level != nil {
				s.cfg.Level.Set(slog.Level(*b.Level))
			}
		case kindStop:
			s.cfg.Table.forget()
			return ErrStopped
		case kindAsk:
			var n uint64
			if err := decode(body, &n); err != nil {
				return err
			}
			if err := say(kindStats, stats{Ask: n, Stats: s.stats()}); err != nil {
				return err
			}
		case kindQuery:
			var q query
			if err := decode(body, &q); err != nil {
				return err
			}
			if err := s.answerQuery(on, q); err != nil {
				return err
			}
		case kindUpdate:
			var p part
			if err := decode(body, &p); err != nil {
				return err
			}
			first := !j.begun
			if first {
				continues = p.Continues
			}
			u, whole, err := j.add(p)
			if err != nil {
				return err
			}
			if first && !continues {
				s.cfg.Table.begin(p.Reset)
			}
			s.cfg.Table.add(body)
			if !whole {
				continue
			}
			a := applied{Seq: p.Seq}
			conflicts, err := s.apply(u, continues)
			if err != nil {
				s.log.Error("a change cannot be applied, answers continue as before", "err", err)
				a.Error = printable(err.Error())
			} else if !u.More {
				s.cfg.Table.commit()
				if u.Reset {
					s.reportStatus()
				}
			}
			a.Conflicts, a.More = sentences(conflicts)
			if err := say(kindApplied, a); err != nil {
				return err
			}
			if s.cfg.Table.large() {
				if err := say(kindWant, nil); err != nil {
					return err
				}
			}
		}
	}
}

func (s *server) stats() dnssrv.Stats {
	st := s.dns.Stats()
	lost := s.lost.Load()
	st.Misses -= min(st.Misses, lost)
	st.MissesLost += lost
	return st
}

func (s *server) addrs() (list []netip.AddrPort) {
	for _, c := range s.cfg.UDP {
		a := c.LocalAddr().(*net.UDPAddr).AddrPort()
		list = append(list, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
	}
	return list[:min(len(list), maxAddrs)]
}

// restore loads the table that the previous process left.
func (s *server) restore() error {
	var j joiner
	continues := false
	return s.cfg.Table.replay(func(body []byte) error {
		var p part
		if err := decode(body, &p); err != nil {
			return err
		}
		if !j.begun {
			continues = p.Continues
		}
		u, whole, err := j.add(p)
		if err != nil || !whole {
			return err
		}
		_, err = s.apply(u, continues)
		return err
	})
}

// watchdog tells the service manager that questions are answered, if they are. If the process does not answer, no
// message is sent, and the service manager restarts it. While questions wait for the first table, there is nothing to
// check.
func (s *server) watchdog(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Watchdog / 4)
	defer tick.Stop()
	for {
		probe, cancel := context.WithTimeout(ctx, s.cfg.Watchdog/2)
		if err := s.alive(probe); err == nil {
			s.cfg.Notify("WATCHDOG=1")
		} else if ctx.Err() == nil {
			s.log.Error("this process does not answer its own question", "err", err)
		}
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *server) alive(ctx context.Context) error {
	select {
	case <-s.ready:
	default:
		return nil
	}
	s.mu.Lock()
	domain := s.domain
	s.mu.Unlock()
	for _, addr := range s.addrs() {
		if err := Ask(ctx, addr, domain); err != nil && !errors.Is(err, ErrNotHere) {
			return fmt.Errorf("dns at %s: %w", addr, err)
		}
	}
	return nil
}
