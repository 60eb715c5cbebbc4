package dnssrv

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Config of a Server. The zero value works.
type Config struct {
	// Log gets one line per change of state; nil discards.
	Log *slog.Logger
	// Miss is told of each name that a client asked for and did not get: denied by us or by a resolver, or not got from
	// any. Names that cannot be missing are left out: special ones (localhost), those of a search list, and questions
	// about services and zones of names that are here. name is in lower case without the trailing dot and may be
	// anything that fits a packet (odd bytes as \DDD, at most 1000 bytes); qtype is such as "AAAA". It is called from
	// one goroutine per Serve call, off the packet path, through a queue of 1024: while it is busy, more misses than
	// that are lost, and counted; so are those of addresses that are probably forged. It must not block for ever: Serve
	// waits for it.
	Miss func(client netip.Addr, name, qtype string)
}

// Server answers questions from the newest table.
type Server struct {
	log     *slog.Logger
	missFn  func(client netip.Addr, name, qtype string)
	table   atomic.Pointer[Table]
	misses  chan missed
	forward *forwarder
	stats   counters
	conns   *conns
	limit   *limiter
	pressed atomic.Pointer[guard] // of the socket on which answers waited lately; nil if none did

	applying sync.Mutex // guards what follows
	applied  content
	coming   *content // what an Update with More began; nil between changes
}

type missed struct {
	client netip.Addr
	name   string
	qtype  uint16
}

// New returns a server without a table. Until Apply it answers SERVFAIL.
func New(cfg Config) *Server {
	s := &Server{log: cfg.Log, missFn: cfg.Miss, misses: make(chan missed, 1024), limit: newLimiter(), conns: newConns()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.forward = newForwarder(s.log, time.Now)
	return s
}

// miss queues a miss without waiting, unless t says that the question tells of nothing that is missing.
func (s *Server) miss(t *Table, client netip.Addr, name string, qtype uint16) {
	if s.missFn == nil {
		return
	}
	var buf [256]byte
	if t.wanted(packName(buf[:], name), qtype) {
		s.queueMiss(client, name, qtype)
	}
}

// queueMiss queues a miss without waiting.
func (s *Server) queueMiss(client netip.Addr, name string, qtype uint16) {
	s.stats.misses.Add(1)
	if g := s.pressed.Load(); g != nil && g.doubts(client) {
		s.stats.missesLost.Add(1) // what nobody asked for would hide what somebody did
		return
	}
	select {
	case s.misses <- missed{client, name, qtype}:
	default:
		s.stats.missesLost.Add(1)
	}
}

// missPacked queues the question of an answer as a miss. Unpacking the name is the one thing for which a fast answer
// allocates.
func (s *Server) missPacked(t *Table, answer []byte, client netip.Addr) {
	if s.missFn == nil {
		return
	}
	var buf [256]byte
	key := questionName(&buf, answer)
	if key == nil {
		return // it was read before
	}
	qtype := binary.BigEndian.Uint16(answer[headerLen+len(key):])
	if !t.wanted(key, qtype) {
		return
	}
	if len(s.misses) == cap(s.misses) {
		s.stats.misses.Add(1)
		s.stats.missesLost.Add(1)
		return
	}
	if name, _, err := dns.UnpackDomainName(key, 0); err == nil {
		s.queueMiss(client, name, qtype)
	}
}

// missPause is how long the reporter leaves misses in the queue after it has emptied it. Waking it up for each would
// cost more than answering; so a flood of misses costs what the queue holds ten times a second.
const missPause = 100 * time.Millisecond

// reportMisses hands misses on until ctx is done, and then those that were queued before.
func (s *Server) reportMisses(ctx context.Context) {
	report := func(m missed) { s.missFn(m.client, trimDot(m.name), dns.Type(m.qtype).String()) }
	pause := time.NewTimer(0)
	defer pause.Stop()
	for ctx.Err() == nil {
		select {
		case m := <-s.misses:
			report(m)
		case <-ctx.Done():
		}
		for range len(s.misses) {
			select {
			case m := <-s.misses:
				report(m)
			default: // another Serve's reporter has it
			}
		}
		pause.Reset(missPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	for {
		select {
		case m := <-s.misses:
			report(m)
		default:
			return
		}
	}
}
