package dnssrv

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"casemate/cluster/share"

	"github.com/miekg/dns"
)

// Verdict is what became of a question.
type Verdict uint8

const (
	Answered  Verdict = iota // from the table, also that the name has no such record
	Forwarded                // sent to resolvers
	Refused                  // the name does not exist here, or has no answer
)

// A Sighting counts a client's questions for one name.
type Sighting struct {
	Client  netip.Addr // of an IPv6 client the first address of its /64
	Name    string     // in the form of Config.Miss
	Verdict Verdict
	Count   uint64
}

const (
	sightedSlots  = 8192             // different sightings between two reports
	sightedProbes = 4                // slots that a sighting may take
	sightedShare  = sightedSlots / 8 // slots that a client may take
	// sightedPause is how long sightings are counted before they are reported.
	sightedPause = 2 * time.Second
)

// sightings counts questions by client, name and verdict. It must cost the packet path nothing that can be measured: a
// question that was counted before adds one to a number. Memory is bounded; what does not fit is not counted.
type sightings struct {
	report func([]Sighting)
	seed   maphash.Seed
	now    atomic.Pointer[sighted]
	lost   atomic.Uint64 // questions

	mu   sync.Mutex
	idle *sighted
}

// sighted are the sightings between two reports, in a hash table that is only added to.
type sighted struct {
	slots [sightedSlots]struct{ hash, count atomic.Uint64 } // hash 0: free

	clients [1024]atomic.Uint32 // slots that clients have taken; clients that hash alike share a count

	mu    sync.Mutex
	fresh []sightedSlot
}

type sightedSlot struct {
	Sighting
	at uint64
}

func newSightings(report func([]Sighting)) *sightings {
	s := &sightings{report: report, seed: maphash.MakeSeed(), idle: &sighted{}}
	s.now.Store(&sighted{})
	return s
}

// see counts one question for the name key, in wire form; a client's different spellings of a name are counted apart.
// doubtful reports whether the client is probably forged: its sightings would take the places of real ones. It does not
// block, and allocates for the first question only.
func (s *sightings) see(client netip.Addr, key []byte, v Verdict, doubtful func(netip.Addr) bool) {
	h := (maphash.Bytes(s.seed, key)^clientBits(client)*mixer^uint64(v))*mixer | 1
	h ^= h >> 32 << 1 // the upper bits choose the slot, too
	t := s.now.Load()
	for i := range uint64(sightedProbes) {
		at := (h>>1 + i) % sightedSlots
		slot := &t.slots[at]
		has := slot.hash.Load()
		if has == 0 && s.take(t, at, h, client, key, v, doubtful) {
			return
		}
		if slot.hash.Load() == h {
			slot.count.Add(1)
			return
		}
	}
	s.lost.Add(1)
}

// mixer is an odd number with bits everywhere (2^64 divided by the golden ratio).
const mixer = 0x9e3779b97f4a7c15

// clientBits returns a number for the client of an address: as share.Net, in less time.
func clientBits(a netip.Addr) uint64 {
	raw := a.As16()
	if a.Is4() || a.Is4In6() {
		return uint64(binary.BigEndian.Uint32(raw[12:]))
	}
	return binary.BigEndian.Uint64(raw[:8])
}

// take takes a free slot for a sighting. It reports true if the question is done with: counted, or left out.
func (s *sightings) take(t *sighted, at, h uint64, client netip.Addr, key []byte, v Verdict,
	doubtful func(netip.Addr) bool) bool {
	client = share.Net(client).Addr()
	raw := client.As16()
	taken := &t.clients[maphash.Bytes(s.seed, raw[:])%uint64(len(t.clients))]
	if taken.Load() >= sightedShare || doubtful(client) {
		s.lost.Add(1)
		return true
	}
	lower := bytes.Clone(key)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' { // no length of a label is a letter
			lower[i] = c | 0x20
		}
	}
	name, _, err := dns.UnpackDomainName(lower, 0)
	if err != nil {
		return true // it was read before
	}
	if !t.slots[at].hash.CompareAndSwap(0, h) {
		return false
	}
	taken.Add(1)
	t.slots[at].count.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fresh = append(t.fresh, sightedSlot{Sighting{Client: client, Name: trimDot(name), Verdict: v}, at})
	return true
}

// flush reports what was counted since the last flush. A question that is counted at this moment may be lost.
func (s *sightings) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.now.Load(); !t.any() {
		return
	}
	s.idle.clear()
	t := s.now.Swap(s.idle)
	s.idle = t
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Sighting, 0, len(t.fresh))
	for _, f := range t.fresh {
		f.Count = t.slots[f.at].count.Load()
		list = append(list, f.Sighting)
	}
	s.report(list)
}

func (t *sighted) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.fresh) > 0
}

// clear empties a table that no question uses any more.
func (t *sighted) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.fresh {
		t.slots[f.at].hash.Store(0)
		t.slots[f.at].count.Store(0)
	}
	t.fresh = t.fresh[:0]
	for i := range t.clients {
		t.clients[i].Store(0)
	}
}

// run flushes periodically until ctx is done, and once more then.
func (s *sightings) run(ctx context.Context) {
	tick := time.NewTicker(sightedPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.flush()
			return
		case <-tick.C:
			s.flush()
		}
	}
}

// seePacked counts a question whose answer is packed in answer.
func (s *Server) seePacked(client netip.Addr, answer []byte, rcode int) {
	if s.seen == nil {
		return
	}
	if end := questionEnd(answer); end > 0 {
		s.seen.see(client, answer[headerLen:end-4], verdictOf(rcode), s.doubtful)
	}
}

// see counts a question.
func (s *Server) see(client netip.Addr, name string, v Verdict) {
	if s.seen == nil {
		return
	}
	var buf [256]byte
	s.seen.see(client, packName(buf[:], dns.CanonicalName(name)), v, s.doubtful)
}

func verdictOf(rcode int) Verdict {
	if rcode == dns.RcodeSuccess {
		return Answered
	}
	return Refused
}

// doubtful reports whether a client is probably forged.
func (s *Server) doubtful(client netip.Addr) bool {
	g := s.pressed.Load()
	return g != nil && g.doubts(client)
}
