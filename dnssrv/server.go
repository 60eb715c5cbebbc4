package dnssrv

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"casemate/cluster/share"

	"github.com/miekg/dns"
)

// Config of a Server. The zero value works.
type Config struct {
	// Log gets one line per change of state; nil discards.
	Log *slog.Logger
	// Miss is called for each name that a client asked for and did not get: denied by us or by a resolver, or
	// unanswered. Names that cannot be missing are omitted: special ones (localhost), those of a search list, and
	// questions about services and zones of existing names. name is in lower case without the trailing dot and may be
	// anything that fits a packet (odd bytes as \DDD, at most 1000 bytes); qtype is such as "AAAA". It is called from
	// one goroutine per Serve call, off the packet path, through a queue of 1024. While it is busy, more misses than
	// that are lost and counted, except for the first 16 of a client, for which another queue has 256 places. Misses of
	// addresses that are probably forged are lost, too. It must not block for ever: Serve waits for it.
	Miss func(client netip.Addr, name, qtype string)
	// Noise is called, like Miss, for the names that Miss omits. They take at most half of the queue. nil: they are
	// dropped.
	Noise func(client netip.Addr, name, qtype string)
	// Seen is called every two seconds with the questions of permitted clients since then, counted by client, name and
	// what became of them. Questions that find no room are not counted: there are 8192 places, of which one client has
	// at most an eighth. It must not block. nil: nothing is counted.
	Seen func([]Sighting)
}

// Server answers questions from the newest table.
type Server struct {
	log     *slog.Logger
	missFn  func(client netip.Addr, name, qtype string)
	noiseFn func(client netip.Addr, name, qtype string)
	table   atomic.Pointer[Table]
	misses  chan missed
	forward *forwarder
	alone   site // while the table names no site

	fewMisses  chan missed        // of clients with few misses, while misses is full
	missCounts [512]atomic.Uint32 // by clients
	missSalt   uint64             // randomizes which clients share a count: no client can choose to share another's

	seen    *sightings // nil: nothing is counted
	stats   counters
	tcp     tcp
	limit   *limiter
	pressed atomic.Pointer[guard] // of the socket on which answers waited recently; nil: none did

	applying sync.Mutex // guards the fields below
	applied  content
	coming   *content // what an Update with More began; nil between changes
}

type missed struct {
	client netip.Addr
	name   string
	qtype  uint16
	noise  bool
}

// New returns a server without a table. It answers SERVFAIL until the first Apply.
func New(cfg Config) *Server {
	s := &Server{
		log: cfg.Log, missFn: cfg.Miss, noiseFn: cfg.Noise, misses: make(chan missed, 1024),
		fewMisses: make(chan missed, 256), missSalt: rand.Uint64() | 1,
		limit: newLimiter(), tcp: newTCP(), alone: randomSite(),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Seen != nil {
		s.seen = newSightings(cfg.Seen)
	}
	s.forward = newForwarder(s.log, time.Now)
	return s
}

// reports returns whether misses are reported.
func (s *Server) reports() bool { return s.missFn != nil || s.noiseFn != nil }

// classify returns whether a question without an answer is reported, and whether it is noise: it indicates nothing
// missing.
func (s *Server) classify(t *Table, name []byte, qtype uint16) (noise, ok bool) {
	if t.wanted(name, qtype) {
		return false, s.missFn != nil
	}
	return true, s.noiseFn != nil && len(s.misses) < cap(s.misses)/2
}

// miss queues a miss without blocking.
func (s *Server) miss(t *Table, client netip.Addr, name string, qtype uint16) {
	if !s.reports() {
		return
	}
	var buf [256]byte
	if noise, ok := s.classify(t, packName(buf[:], name), qtype); ok {
		s.queueMiss(missed{client, name, qtype, noise})
	}
}

// fewMisses is how many misses of a client fit the second queue while another client fills the first.
const fewMisses = 16

// missCount returns the count of the misses of a client since the queue was emptied. Clients that hash alike share it.
func (s *Server) missCount(client netip.Addr) *atomic.Uint32 {
	raw := share.Net(client).Addr().As16()
	bits := binary.BigEndian.Uint64(raw[:8]) ^ binary.BigEndian.Uint64(raw[8:])
	return &s.missCounts[bits*s.missSalt>>55]
}

// queueMiss queues a miss without blocking.
func (s *Server) queueMiss(m missed) {
	queued := false
	if !s.doubtful(m.client) { // misses of forged clients would hide real ones
		few := s.missCount(m.client).Add(1) <= fewMisses && !m.noise
		select {
		case s.misses <- m:
			queued = true
		default:
			if few {
				select {
				case s.fewMisses <- m:
					queued = true
				default:
				}
			}
		}
	}
	if m.noise {
		return
	}
	s.stats.misses.Add(1)
	if !queued {
		s.stats.missesLost.Add(1)
	}
}

// missPacked queues the question of an answer as a miss. Unpacking the name is the only allocation of a fast answer.
func (s *Server) missPacked(t *Table, answer []byte, client netip.Addr) {
	if !s.reports() {
		return
	}
	var buf [256]byte
	key := questionName(&buf, answer)
	if key == nil {
		return // it was read before
	}
	qtype := binary.BigEndian.Uint16(answer[headerLen+len(key):])
	noise, ok := s.classify(t, key, qtype)
	if !ok {
		return
	}
	if len(s.misses) == cap(s.misses) && s.missCount(client).Load() >= fewMisses {
		s.stats.misses.Add(1)
		s.stats.missesLost.Add(1)
		return
	}
	if name, _, err := dns.UnpackDomainName(key, 0); err == nil {
		s.queueMiss(missed{client, name, qtype, noise})
	}
}

// missPause is how long the reporter leaves misses in the queue after it has emptied it. Waking it up for each would
// cost more than answering; so a flood of misses costs ten full queues a second.
const missPause = 100 * time.Millisecond

// reportMisses passes misses on until ctx is done, and then those that were queued before.
func (s *Server) reportMisses(ctx context.Context) {
	report := func(m missed) {
		tell := s.missFn
		if m.noise {
			tell = s.noiseFn
		}
		tell(m.client, trimDot(m.name), dns.Type(m.qtype).String())
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	drain := func(queue chan missed, n int) {
		for range n {
			select {
			case m := <-queue:
				report(m)
			default: // the reporter of another Serve call took it
				return
			}
		}
	}
	for ctx.Err() == nil {
		select {
		case m := <-s.misses:
			report(m)
		case <-ctx.Done():
		}
		drain(s.misses, len(s.misses))
		drain(s.fewMisses, len(s.fewMisses))
		for i := range s.missCounts {
			s.missCounts[i].Store(0)
		}
		pause.Reset(missPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	drain(s.misses, math.MaxInt)
	drain(s.fewMisses, math.MaxInt)
}
