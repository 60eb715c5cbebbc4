package replica

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/state"
	"casemate/cluster/wake"
)

// fetcher knows which blobs of the state are not on this disk, and fetches them from other nodes, several at a time:
// see backlog. What somebody reads it fetches at once, beside all others.
type fetcher struct {
	store    *Store
	complete *disk.Watermark // the newest entry at which all blobs were here; owned by run
	had      uint64          // what it was before the start, 0 after the first look; owned by run
	limit    *rate.Limiter
	wake     wake.Flag

	begins  sync.Mutex        // held while a fetch begins or ends and while its files are opened; locked before mu
	fetches map[string]*fetch // by digest, under way
	wanted  atomic.Int32      // how many of them somebody reads

	mu         sync.Mutex     // held briefly: who applies the log waits for it
	counted    bool           // the disk was compared with the state
	again      bool           // and must be once more
	gone       int            // blobs that were on this disk before the start and were not at it
	completeAt time.Time      // when complete was last written
	coming     []state.Digest // become known with what is applied now
	fresh      []state.Digest // became known and were not looked for on the disk yet
	looking    int            // those of fresh that are being looked for
	missing    backlog
	receiving  map[state.Digest]*receiving // being sent by who takes the upload
	wrong      map[string][]string         // by digest: nodes that have sent other bytes, until another has sent the right ones
	asked      map[string]int              // by node: how many fetches ask it now
}

func newFetcher(store *Store, complete *disk.Watermark) *fetcher {
	return &fetcher{
		store: store, complete: complete, had: complete.Last(),
		limit: rate.NewLimiter(rate.Limit(store.cfg.CatchUp), fetchPiece), wake: wake.NewFlag(),
		missing: newBacklog(), receiving: map[state.Digest]*receiving{}, fetches: map[string]*fetch{},
		wrong: map[string][]string{}, asked: map[string]int{},
	}
}

// added takes blobs that become known, before that can be seen; published comes after it. They must not wait.
//
// In between nobody may look for the files: a sweep that does not know yet that they are wanted again could take them
// away behind who has seen them.
func (s *fetcher) added(digests []state.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.coming = append(s.coming, digests...)
}

// forget takes blobs that are no longer known, before that can be seen. It must not wait.
func (s *fetcher) forget(digests []state.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range digests {
		if s.missing.forget(d) && len(s.wrong) > 0 {
			delete(s.wrong, d.String())
		}
	}
}

func (s *fetcher) published() {
	s.mu.Lock()
	s.fresh = append(s.fresh, s.coming...)
	s.coming = nil
	s.mu.Unlock()
	s.wake.Raise()
}

// Fetching reports whether a blob is on its way.
func (s *Store) Fetching(digest string) bool {
	f := s.fetcher
	if f == nil {
		return false
	}
	f.begins.Lock()
	defer f.begins.Unlock()
	return f.fetches[digest] != nil
}

// recount hears that the whole state is another one.
func (s *fetcher) recount() {
	s.mu.Lock()
	s.counted, s.again = false, true
	s.mu.Unlock()
	s.wake.Raise()
}

// count is how many blobs are not on this disk; -1 while they are counted.
func (s *fetcher) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.counted {
		return -1
	}
	return len(s.missing.all) + len(s.fresh) + s.looking + len(s.coming)
}

// markMissing notes that a blob is not here although the state knows it.
func (s *fetcher) markMissing(d state.Digest, b state.Blob) {
	s.mu.Lock()
	s.missing.add(d, b.Size, b.Born)
	s.mu.Unlock()
	s.wake.Raise()
}

// arrived hears that a blob was placed by somebody else than a fetch.
func (s *fetcher) arrived(d state.Digest) {
	s.mu.Lock()
	s.missing.forget(d)
	s.mu.Unlock()
}

// receiving is a blob that other nodes send.
type receiving struct {
	n    int          // how many do
	turn *missingBlob // the blob in the backlog, if it was taken out of it meanwhile
}

// Receive says that a blob is being sent to this node, until the function that it returns is called. Nobody fetches it
// meanwhile who does not read it: it would come twice.
func (s *Store) Receive(digest string) (done func()) {
	d, err := state.ParseDigest(digest)
	if s.fetcher == nil || err != nil {
		return func() {}
	}
	return s.fetcher.receive(d)
}

func (s *fetcher) receive(d state.Digest) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.receiving[d]
	if g == nil {
		g = new(receiving)
		s.receiving[d] = g
	}
	g.n++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if g.n--; g.n > 0 {
			return
		}
		delete(s.receiving, d)
		if g.turn != nil { // whether it is here now is looked at when it is taken again
			s.missing.back(g.turn)
			s.wake.Raise()
		}
	}
}

// disappeared is how many blobs were on this disk before the start and were not at it.
func (s *fetcher) disappeared() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// unavailable lists, in order, the missing blobs whose fetch has failed; with all, every missing blob, because there is
// no node to fetch it from.
func (s *fetcher) unavailable(all bool) (list []state.Digest) {
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

// run fetches until the node stops.
func (s *fetcher) run() {
	store := s.store
	nodes := store.peers.Changes(store.life)
	for store.life.Err() == nil {
		s.compare()
		s.begin()
		s.mu.Lock()
		wait := s.missing.waits(time.Now())
		if s.counted && len(s.missing.all) == 0 && s.complete.Last() < store.state.View().Index() {
			wait = completeEvery // to write down that it is so
		}
		s.mu.Unlock()
		var later <-chan time.Time
		if wait > 0 {
			later = time.After(wait)
		}
		select {
		case <-store.life.Done():
		case <-s.wake:
		case <-later:
		case <-nodes: // whoever is up now may have what failed
			s.mu.Lock()
			s.missing.resetBackoff()
			s.mu.Unlock()
		}
	}
}

// compare compares the state with the disk, once, and then what became known since.
func (s *fetcher) compare() {
	store := s.store
	s.mu.Lock()
	whole := !s.counted
	s.again = false
	fresh := s.fresh
	s.fresh, s.looking = nil, len(fresh)
	s.mu.Unlock()
	gone := 0
	note := func(d state.Digest, b state.Blob) {
		release := store.dir.Hold(d.String()) // after a sweep that has begun when the blob was not known
		_, err := store.dir.Stat(d.String())
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
		for d, b := range store.state.View().Blobs("") {
			if store.life.Err() != nil {
				return
			}
			note(d, b)
		}
	}
	for _, d := range fresh {
		if b, known := store.state.View().Blob(d); known {
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
		store.log.Error("blobs that were on this disk before the start are gone: they were put back to an older state, or removed",
			"blobs", gone)
	}
	s.had = 0 // only the first look tells
	s.recordComplete()
}

// recordComplete makes durable that this disk holds every blob that the state knows, now and then: so the next start
// can tell blobs that are still to come from blobs that were taken away.
func (s *fetcher) recordComplete() {
	index := s.store.state.View().Index()
	s.mu.Lock()
	due := s.counted && len(s.missing.all)+len(s.fresh)+len(s.coming) == 0 && time.Since(s.completeAt) >= completeEvery
	if due {
		s.completeAt = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return
	}
	if err := s.complete.Set(index); err != nil {
		s.store.log.Warn("it is not written that all blobs are here", "err", err)
	}
}

// begin begins as many fetches as may be under way, and forgets what nobody needs any more or what has come. While
// somebody waits for a fetch the others have one turn only.
func (s *fetcher) begin() {
	store := s.store
	for store.life.Err() == nil {
		turns := FetchTurns
		if s.wanted.Load() > 0 {
			turns = 1
		}
		s.mu.Lock()
		l := s.missing.take(time.Now(), turns)
		if l != nil {
			if g := s.receiving[l.d]; g != nil {
				g.turn = l
				s.mu.Unlock()
				continue
			}
		}
		s.mu.Unlock()
		if l == nil {
			return
		}
		_, here := store.dir.Stat(l.d.String())
		s.mu.Lock()
		// Under s.mu: when it is known again, whoever says so comes after this or was before.
		_, known := store.state.View().Blob(l.d)
		if here == nil || !known {
			s.missing.drop(l)
			s.mu.Unlock()
			continue
		}
		s.mu.Unlock()
		if store.dir.Room(0) != nil || len(store.peers.UpNodes()) == 0 {
			// No blob could come now. run looks again when a node is up, and every second.
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
func (s *fetcher) nodes() []string {
	names := s.store.peers.UpNodes()
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	rank := make(map[string]int, len(names))
	for _, n := range names {
		if s.store.peers.Missing(n) != 0 {
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
func (s *fetcher) asks(node string) (done func()) {
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
	fetchPiece    = 256 << 10
	completeEvery = 10 * time.Second
)

// start returns the fetch of a blob, which it begins if there is none. With a turn nobody waits for it; if it is under
// way already, its end sees to what was taken.
func (s *fetcher) start(d state.Digest, turn *missingBlob) (*fetch, error) {
	s.begins.Lock()
	defer s.begins.Unlock()
	text := d.String()
	if f := s.fetches[text]; f != nil {
		if turn == nil {
			f.join()
		}
		return f, nil
	}
	b, ok := s.store.state.View().Blob(d)
	if !ok {
		return nil, Unknown(text)
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
	w, err := s.store.dir.Resume(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if turn != nil {
			err = s.room(b.Size)
		}
		if turn == nil || err == nil {
			w, err = s.store.dir.Create(id)
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
	f := &fetch{
		s: s, digest: text, d: d, size: b.Size, turn: turn, w: w, file: file, have: w.Size(),
		done: make(chan struct{}), wanted: make(chan struct{}),
	}
	if turn != nil {
		s.mu.Lock()
		s.missing.began(turn)
		s.mu.Unlock()
	}
	if !s.store.tasks.Background(f.run) {
		return nil, errors.Join(s.store.tasks.Stopped(), file.Close(), w.Close()) // the turn matters no more
	}
	s.fetches[text] = f // before run can end, since s.begins is held
	if turn == nil {
		f.join()
	}
	return f, nil
}

// room says whether there is room for n bytes beside what is still to come of the fetches under way: else several would
// fill the disk together, and none would be whole. s.begins is held.
func (s *fetcher) room(n int64) error {
	for _, f := range s.fetches {
		f.mu.Lock()
		n += max(0, f.size-f.have)
		f.mu.Unlock()
	}
	return s.store.dir.Room(n)
}

// abandon takes a fetch away that nobody waits for. Whoever wants the blob now begins another.
func (s *fetcher) abandon(f *fetch) bool {
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

// end puts a blob back into the backlog, or drops it, after a fetch.
func (s *fetcher) end(f *fetch, err error) {
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
		_, gone := s.store.dir.Stat(f.digest) // a sweep may have come between
		here = gone == nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.turn != nil {
		s.missing.ended(f.turn)
	}
	if err == nil {
		if f.turn != nil {
			s.missing.succeeded(f.turn)
		}
		delete(s.wrong, f.digest)
	}
	l := s.missing.all[f.d]
	_, known := s.store.state.View().Blob(f.d)
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
