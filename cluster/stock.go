package cluster

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/state"
)

// stock knows which blobs of the state are not on this disk, and fetches them from other nodes, several at a time: see
// backlog. What somebody reads it fetches at once, beside all others.
type stock struct {
	c     *Cluster
	whole *disk.Watermark // the newest entry at which all blobs were here; owned by fill
	had   uint64          // what it was before the start, 0 after the first look; owned by fill
	limit *rate.Limiter
	wake  chan struct{} // capacity 1

	begins  sync.Mutex        // held while a fetch begins or ends, files are opened under it; before mu
	fetches map[string]*fetch // by digest, under way
	wanted  atomic.Int32      // how many of them somebody reads

	mu      sync.Mutex     // held briefly: who applies the log waits for it
	counted bool           // the disk was compared with the state
	again   bool           // and must be once more
	gone    int            // blobs that were on this disk before the start and were not at it
	wholeAt time.Time      // when whole was last written
	coming  []state.Digest // become known with what is applied now
	fresh   []state.Digest // became known and were not looked for on the disk yet
	looking int            // those of fresh that are being looked for
	missing backlog
	getting map[state.Digest]*getting // being sent by who takes the upload
	wrong   map[string][]string       // by digest: nodes that have sent other bytes, until another has sent the right ones
	asked   map[string]int            // by node: how many fetches ask it now
}

func newStock(c *Cluster) (*stock, error) {
	whole, err := disk.OpenWatermark(c.cfg.FS, filepath.Join(c.cfg.Dir, raftDir, "whole"), nil)
	if err != nil {
		return nil, err
	}
	return &stock{
		c: c, whole: whole, had: whole.Last(), limit: rate.NewLimiter(rate.Limit(c.cfg.CatchUp), fetchPiece), wake: make(chan struct{}, 1),
		missing: newBacklog(), getting: map[state.Digest]*getting{}, fetches: map[string]*fetch{}, wrong: map[string][]string{}, asked: map[string]int{},
	}, nil
}

func (s *stock) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// add hears of blobs that become known, before that can be seen; published after it. They must not wait.
//
// In between nobody may look for the files: a sweep that does not know yet that they are wanted again could take them
// away behind who has seen them.
func (s *stock) add(digests []state.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.coming = append(s.coming, digests...)
}

// forget hears of blobs that are no longer known, before that can be seen. It must not wait.
func (s *stock) forget(digests []state.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range digests {
		if s.missing.forget(d) && len(s.wrong) > 0 {
			delete(s.wrong, d.String())
		}
	}
}

func (s *stock) published() {
	s.mu.Lock()
	s.fresh = append(s.fresh, s.coming...)
	s.coming = nil
	s.mu.Unlock()
	s.poke()
}

// fetching reports whether a blob is on its way.
func (s *stock) fetching(digest string) bool {
	s.begins.Lock()
	defer s.begins.Unlock()
	return s.fetches[digest] != nil
}

// recount hears that the whole state is another one.
func (s *stock) recount() {
	s.mu.Lock()
	s.counted, s.again = false, true
	s.mu.Unlock()
	s.poke()
}

// lacks is how many blobs are not on this disk; -1 while they are counted.
func (s *stock) lacks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.counted {
		return -1
	}
	return len(s.missing.all) + len(s.fresh) + s.looking + len(s.coming)
}

// lose notes that a blob is not here although the state knows it.
func (s *stock) lose(d state.Digest, b state.Blob) {
	s.mu.Lock()
	s.missing.add(d, b.Size, b.Born)
	s.mu.Unlock()
	s.poke()
}

// came hears that a blob was placed by somebody else than a fetch.
func (s *stock) came(d state.Digest) {
	s.mu.Lock()
	s.missing.forget(d)
	s.mu.Unlock()
}

// getting is a blob that another node sends.
type getting struct {
	n    int   // how many do
	lack *lack // that had its turn meanwhile, nil if it has not
}

// receives says that a blob is being sent to this node, until the function that it returns is called. Nobody fetches it
// meanwhile who does not read it: it would come twice.
func (s *stock) receives(digest string) (done func()) {
	d, err := state.ParseDigest(digest)
	if s == nil || err != nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.getting[d]
	if g == nil {
		g = new(getting)
		s.getting[d] = g
	}
	g.n++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if g.n--; g.n > 0 {
			return
		}
		delete(s.getting, d)
		if g.lack != nil { // whether it is here now is looked at when it is taken again
			s.missing.back(g.lack)
			s.poke()
		}
	}
}

// wereHere is how many blobs were on this disk before the start and were not at it.
func (s *stock) wereHere() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// hopeless lists, in order, the missing blobs whose fetch has failed; with all, every missing blob, because there is no
// node to fetch it from.
func (s *stock) hopeless(all bool) (list []state.Digest) {
	s.mu.Lock()
	for d, l := range s.missing.all {
		if all || l.failures > 0 {
			list = append(list, d)
		}
	}
	s.mu.Unlock()
	slices.Sort(list)
	return list
}

// fill runs until the node stops.
func (s *stock) fill() {
	c := s.c
	nodes := c.health.watch(c.life, ".")
	for c.life.Err() == nil {
		s.count()
		s.begin()
		s.mu.Lock()
		wait := s.missing.waits(time.Now())
		if s.counted && len(s.missing.all) == 0 && s.whole.Last() < c.machine.view.Load().Index() {
			wait = wholeEvery // to write down that it is so
		}
		s.mu.Unlock()
		var later <-chan time.Time
		if wait > 0 {
			later = time.After(wait)
		}
		select {
		case <-c.life.Done():
		case <-s.wake:
		case <-later:
		case <-nodes: // whoever is up now may have what failed
			s.mu.Lock()
			s.missing.hope()
			s.mu.Unlock()
		}
	}
}

// count compares the state with the disk, once, and then what became known since.
func (s *stock) count() {
	c := s.c
	s.mu.Lock()
	whole := !s.counted
	s.again = false
	fresh := s.fresh
	s.fresh, s.looking = nil, len(fresh)
	s.mu.Unlock()
	gone := 0
	note := func(d state.Digest, b state.Blob) {
		release := c.blobs.Hold(d.String()) // after a sweep that has begun when the blob was not known
		_, err := c.blobs.Stat(d.String())
		release()
		if err == nil {
			return
		}
		s.mu.Lock()
		s.missing.add(d, b.Size, b.Born)
		s.mu.Unlock()
		if b.Born <= s.had {
			gone++
		}
	}
	if whole {
		for d, b := range c.machine.view.Load().Blobs("") {
			if c.life.Err() != nil {
				return
			}
			note(d, b)
		}
	}
	for _, d := range fresh {
		if b, known := c.machine.view.Load().Blob(d); known {
			note(d, b)
		}
	}
	s.mu.Lock()
	s.counted, s.looking = !s.again, 0
	s.mu.Unlock()
	if whole && gone > 0 {
		s.mu.Lock()
		s.gone += gone
		s.mu.Unlock()
		c.log.Error("blobs that were on this disk before the start are gone: they were put back to an older state, or removed", "blobs", gone)
	}
	s.had = 0 // only the first look tells
	s.noteWhole()
}

// noteWhole makes durable that this disk holds every blob that the state knows, now and then: so the next start can
// tell blobs that are still to come from blobs that were taken away.
func (s *stock) noteWhole() {
	index := s.c.machine.view.Load().Index()
	s.mu.Lock()
	due := s.counted && len(s.missing.all)+len(s.fresh)+len(s.coming) == 0 && time.Since(s.wholeAt) >= wholeEvery
	if due {
		s.wholeAt = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return
	}
	if err := s.whole.Set(index); err != nil {
		s.c.log.Warn("it is not written that all blobs are here", "err", err)
	}
}

// begin begins as many fetches as may be under way, and forgets what nobody needs any more or what has come. While
// somebody waits for a fetch the others have one turn only.
func (s *stock) begin() {
	c := s.c
	for c.life.Err() == nil {
		turns := fillTurns
		if s.wanted.Load() > 0 {
			turns = 1
		}
		s.mu.Lock()
		l := s.missing.take(time.Now(), turns)
		if l != nil {
			if g := s.getting[l.d]; g != nil {
				g.lack = l
				s.mu.Unlock()
				continue
			}
		}
		s.mu.Unlock()
		if l == nil {
			return
		}
		_, here := c.blobs.Stat(l.d.String())
		s.mu.Lock()
		_, known := c.machine.view.Load().Blob(l.d) // under s.mu: when it is known again, whoever says so comes after this or was before
		if here == nil || !known {
			s.missing.drop(l)
			s.mu.Unlock()
			continue
		}
		s.mu.Unlock()
		if c.blobs.Room(0) != nil || len(c.peers.upNodes()) == 0 {
			// No blob could come now. fill looks again when a node is up, and every second.
			s.mu.Lock()
			s.missing.back(l)
			s.mu.Unlock()
			return
		}
		if _, err := s.start(l.d, l); err != nil {
			s.mu.Lock()
			s.missing.failed(l, time.Now())
			s.mu.Unlock()
		}
	}
}

// nodes are those that are up, in the order in which to ask them for a blob: first those that have everything, of them
// those that the fewest fetches ask now. So one that is slow, or hangs, soon has no more than its share.
func (s *stock) nodes() []string {
	names := s.c.peers.upNodes()
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	rank := make(map[string]int, len(names))
	for _, n := range names {
		if b, _, _ := s.c.peers.last(n); b.Lacks != 0 {
			rank[n] = 1 << 30
		}
	}
	s.mu.Lock()
	for _, n := range names {
		rank[n] += s.asked[n]
	}
	s.mu.Unlock()
	slices.SortStableFunc(names, func(a, b string) int { return rank[a] - rank[b] })
	return names
}

// asks counts a fetch that asks a node, until the function is called that it returns.
func (s *stock) asks(node string) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[node]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.asked[node]--; s.asked[node] == 0 {
			delete(s.asked, node)
		}
	}
}

const (
	fetchPiece = 256 << 10
	wholeEvery = 10 * time.Second
)

// start returns the fetch of a blob, which it begins if there is none. With a turn nobody waits for it; if it is under
// way already, its end sees to what was taken.
func (s *stock) start(d state.Digest, turn *lack) (*fetch, error) {
	s.begins.Lock()
	defer s.begins.Unlock()
	text := d.String()
	if f := s.fetches[text]; f != nil {
		if turn == nil {
			f.join()
		}
		return f, nil
	}
	b, ok := s.c.machine.view.Load().Blob(d)
	if !ok {
		return nil, unknownBlob(text)
	}
	algorithm, digits, err := blob.ParseDigest(text)
	if err != nil {
		return nil, err
	}
	sum, err := hex.DecodeString(digits)
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("fetch-%s-%x", algorithm, sum[:min(len(sum), 32)])
	w, err := s.c.blobs.Resume(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if turn != nil {
			err = s.room(b.Size)
		}
		if turn == nil || err == nil {
			w, err = s.c.blobs.Create(id)
		}
	case err == nil && turn != nil:
		if err = s.room(b.Size - w.Size()); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	if err != nil {
		return nil, err
	}
	file, err := w.OpenScratch()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	f := &fetch{s: s, digest: text, d: d, size: b.Size, turn: turn, w: w, file: file, have: w.Size(), done: make(chan struct{}), wanted: make(chan struct{})}
	if turn != nil {
		s.mu.Lock()
		s.missing.began(turn)
		s.mu.Unlock()
	}
	if !s.c.background(f.run) {
		return nil, errors.Join(s.c.stopped(), file.Close(), w.Close()) // the turn matters no more
	}
	s.fetches[text] = f // before run can end, since s.begins is held
	if turn == nil {
		f.join()
	}
	return f, nil
}

// room says whether there is room for n bytes beside what is still to come of the fetches under way: else several would
// fill the disk together, and none would be whole. s.begins is held.
func (s *stock) room(n int64) error {
	for _, f := range s.fetches {
		f.mu.Lock()
		n += max(0, f.size-f.have)
		f.mu.Unlock()
	}
	return s.c.blobs.Room(n)
}

// abandon takes a fetch away that nobody waits for. Whoever wants the blob now begins another.
func (s *stock) abandon(f *fetch) bool {
	s.begins.Lock()
	defer s.begins.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers > 0 {
		return false
	}
	delete(s.fetches, f.digest)
	return true
}

// end sees to what is lacking after a fetch.
func (s *stock) end(f *fetch, err error) {
	s.begins.Lock()
	defer s.begins.Unlock()
	if s.fetches[f.digest] == f {
		delete(s.fetches, f.digest)
	}
	select {
	case <-f.wanted:
		s.wanted.Add(-1)
	default:
	}
	here := false
	if err == nil {
		s.mu.Lock()
		s.missing.look(f.d)
		s.mu.Unlock()
		_, gone := s.c.blobs.Stat(f.digest) // a sweep may have come between
		here = gone == nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.turn != nil {
		s.missing.ended(f.turn)
	}
	if err == nil {
		if f.turn != nil {
			s.missing.came(f.turn)
		}
		delete(s.wrong, f.digest)
	}
	l := s.missing.all[f.d]
	_, known := s.c.machine.view.Load().Blob(f.d)
	switch {
	case l == nil:
	case here || !known:
		s.missing.drop(l)
	case l.at >= 0 || s.fetches[f.digest] != nil: // another fetch has begun, which ends like this one
	case errors.Is(err, syscall.EBADMSG):
		s.missing.back(l) // the next one asks another node
	default:
		s.missing.failed(l, time.Now())
	}
}
