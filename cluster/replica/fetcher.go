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

// fetcher tracks which blobs of the state are not on this disk, and fetches them from other nodes, several at a time
// (see backlog). A blob that a reader waits for is fetched at once, in addition to the others.
type fetcher struct {
	store    *Store
	complete *disk.Watermark // the newest entry at which all blobs were here; owned by run
	had      uint64          // complete as of the start, 0 after the first comparison; owned by run
	limit    *rate.Limiter
	wake     wake.Flag

	// held while a fetch begins or ends and while its files are opened; lock order: begins, then mu
	begins  sync.Mutex
	fetches map[string]*fetch // by digest, under way
	wanted  atomic.Int32      // how many of them have readers

	mu         sync.Mutex     // held briefly, because applying the log waits for it
	counted    bool           // the disk was compared with the state
	again      bool           // and must be compared again
	gone       int            // blobs that disappeared from this disk before the start
	completeAt time.Time      // when complete was last written
	coming     []state.Digest // known by the entries that are being applied
	fresh      []state.Digest // became known and were not looked for on the disk yet
	looking    int            // number of those of fresh that are being checked
	missing    backlog
	receiving  map[state.Digest]*receiving // being sent by the node that takes the upload
	wrong      map[string][]string         // by digest: nodes that sent wrong bytes, until another sends the right ones
	asked      map[string]int              // by node: number of fetches that use it now
}

func newFetcher(store *Store, complete *disk.Watermark) *fetcher {
	return &fetcher{
		store: store, complete: complete, had: complete.Last(),
		limit: rate.NewLimiter(rate.Limit(store.cfg.CatchUp), fetchPiece), wake: wake.NewFlag(),
		missing: newBacklog(), receiving: map[state.Digest]*receiving{}, fetches: map[string]*fetch{},
		wrong: map[string][]string{}, asked: map[string]int{},
	}
}

// added records blobs that become known, before the new state is visible; published follows it. They must not block.
//
// Between the two, no goroutine may check the disk for the files: a sweep that does not know yet that they are wanted
// again could remove them after the check.
func (q *fetcher) added(digests []state.Digest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.coming = append(q.coming, digests...)
}

// forget records blobs that are no longer known, before the new state is visible. It must not block.
func (q *fetcher) forget(digests []state.Digest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range digests {
		if q.missing.forget(d) && len(q.wrong) > 0 {
			delete(q.wrong, d.String())
		}
	}
}

func (q *fetcher) published() {
	q.mu.Lock()
	q.fresh = append(q.fresh, q.coming...)
	q.coming = nil
	q.mu.Unlock()
	q.wake.Raise()
}

// Fetching reports whether a blob is being fetched.
func (s *Store) Fetching(digest string) bool {
	f := s.fetcher
	if f == nil {
		return false
	}
	f.begins.Lock()
	defer f.begins.Unlock()
	return f.fetches[digest] != nil
}

// recount makes run compare the whole state with the disk again.
func (q *fetcher) recount() {
	q.mu.Lock()
	q.counted, q.again = false, true
	q.mu.Unlock()
	q.wake.Raise()
}

// count is the number of blobs that are not on this disk; -1 while they are counted.
func (q *fetcher) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.counted {
		return -1
	}
	return len(q.missing.all) + len(q.fresh) + q.looking + len(q.coming)
}

// markMissing records that a blob is not here although the state knows it.
func (q *fetcher) markMissing(d state.Digest, b state.Blob) {
	q.mu.Lock()
	q.missing.add(d, b.Size, b.Born)
	q.mu.Unlock()
	q.wake.Raise()
}

// arrived records that a blob was placed other than by a fetch.
func (q *fetcher) arrived(d state.Digest) {
	q.mu.Lock()
	q.missing.forget(d)
	q.mu.Unlock()
}

// receiving is a blob that other nodes are sending.
type receiving struct {
	n    int          // how many senders there are
	turn *missingBlob // the blob, if it was taken from the backlog meanwhile
}

// Receive reports that a blob is being sent to this node, until the returned function is called. Meanwhile it is
// fetched only for a reader: it would arrive twice.
func (s *Store) Receive(digest string) (done func()) {
	d, err := state.ParseDigest(digest)
	if s.fetcher == nil || err != nil {
		return func() {}
	}
	return s.fetcher.receive(d)
}

func (q *fetcher) receive(d state.Digest) (done func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	g := q.receiving[d]
	if g == nil {
		g = new(receiving)
		q.receiving[d] = g
	}
	g.n++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if g.n--; g.n > 0 {
			return
		}
		delete(q.receiving, d)
		if g.turn != nil { // when it is taken again, the disk is checked for it
			q.missing.back(g.turn)
			q.wake.Raise()
		}
	}
}

// disappeared is the number of blobs that disappeared from this disk before the start.
func (q *fetcher) disappeared() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.gone
}

// unavailable lists, in order, the missing blobs whose fetch has failed; with all, every missing blob, because there is
// no node to fetch it from.
func (q *fetcher) unavailable(all bool) (list []state.Digest) {
	q.mu.Lock()
	for d, l := range q.missing.all {
		if all || l.failures > 0 {
			list = append(list, d)
		}
	}
	q.mu.Unlock()
	slices.Sort(list)
	return list
}

// run fetches until the node stops.
func (q *fetcher) run() {
	store := q.store
	nodes := store.peers.Changes(store.life)
	for store.life.Err() == nil {
		q.compare()
		q.begin()
		q.mu.Lock()
		wait := q.missing.waits(time.Now())
		if q.counted && len(q.missing.all) == 0 && q.complete.Last() < store.state.View().Index() {
			wait = completeEvery // to record it
		}
		q.mu.Unlock()
		var later <-chan time.Time
		if wait > 0 {
			later = time.After(wait)
		}
		select {
		case <-store.life.Done():
		case <-q.wake:
		case <-later:
		case <-nodes: // a node that is up now may have what failed
			q.mu.Lock()
			q.missing.resetBackoff()
			q.mu.Unlock()
		}
	}
}

// compare compares the state with the disk once, and later the blobs that became known since.
func (q *fetcher) compare() {
	store := q.store
	q.mu.Lock()
	whole := !q.counted
	q.again = false
	fresh := q.fresh
	q.fresh, q.looking = nil, len(fresh)
	q.mu.Unlock()
	gone := 0
	check := func(d state.Digest, b state.Blob) {
		release := store.dir.Hold(d.String()) // waits for a sweep that began before the blob was known
		_, err := store.dir.Stat(d.String())
		release()
		if err == nil {
			return
		}
		q.mu.Lock()
		q.missing.add(d, b.Size, b.Born)
		q.mu.Unlock()
		if b.Born <= q.had {
			gone++
		}
	}
	if whole {
		for d, b := range store.state.View().Blobs("") {
			if store.life.Err() != nil {
				return
			}
			check(d, b)
		}
	}
	for _, d := range fresh {
		if b, known := store.state.View().Blob(d); known {
			check(d, b)
		}
	}
	q.mu.Lock()
	q.counted, q.looking = !q.again, 0
	q.mu.Unlock()
	if whole && gone > 0 {
		q.mu.Lock()
		q.gone += gone
		q.mu.Unlock()
		store.log.Error("blobs disappeared from this disk before the start: it was put back to an older state, or "+
			"they were removed",
			"blobs", gone)
	}
	q.had = 0 // only the first comparison can tell
	q.recordComplete()
}

// recordComplete stores durably, at most every completeEvery, that this disk holds every blob that the state knows. So
// the next start can distinguish blobs that are still to be fetched from blobs that disappeared.
func (q *fetcher) recordComplete() {
	index := q.store.state.View().Index()
	q.mu.Lock()
	due := q.counted && len(q.missing.all)+len(q.fresh)+len(q.coming) == 0 && time.Since(q.completeAt) >= completeEvery
	if due {
		q.completeAt = time.Now()
	}
	q.mu.Unlock()
	if !due {
		return
	}
	if err := q.complete.Set(index); err != nil {
		q.store.log.Warn("could not record that all blobs are here", "err", err)
	}
}

// begin begins as many fetches as may run at a time, and removes blobs that are no longer needed or have arrived. While
// a reader waits for a fetch, the others have one turn only.
func (q *fetcher) begin() {
	store := q.store
	for store.life.Err() == nil {
		turns := FetchTurns
		if q.wanted.Load() > 0 {
			turns = 1
		}
		q.mu.Lock()
		l := q.missing.take(time.Now(), turns)
		if l != nil {
			if g := q.receiving[l.d]; g != nil {
				g.turn = l
				q.mu.Unlock()
				continue
			}
		}
		q.mu.Unlock()
		if l == nil {
			return
		}
		_, here := store.dir.Stat(l.d.String())
		q.mu.Lock()
		// With q.mu held: if the blob becomes known again, the report comes either before this or after it.
		_, known := store.state.View().Blob(l.d)
		if here == nil || !known {
			q.missing.drop(l)
			q.mu.Unlock()
			continue
		}
		q.mu.Unlock()
		if store.dir.Room(0) != nil || len(store.peers.UpNodes()) == 0 {
			// No blob can be fetched now. run tries again when a node comes up, and every second.
			q.mu.Lock()
			q.missing.back(l)
			q.mu.Unlock()
			return
		}
		if _, err := q.start(l.d, l); err != nil {
			q.mu.Lock()
			q.missing.failed(l, time.Now())
			q.mu.Unlock()
		}
	}
}

// nodes returns the nodes that are up, in the order in which to ask them for a blob: first those that have all blobs,
// and of these those that the fewest fetches use now. So a node that is slow or hangs soon has no more than its share.
func (q *fetcher) nodes() []string {
	names := q.store.peers.UpNodes()
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	rank := make(map[string]int, len(names))
	for _, n := range names {
		if q.store.peers.Missing(n) != 0 {
			rank[n] = 1 << 30
		}
	}
	q.mu.Lock()
	for _, n := range names {
		rank[n] += q.asked[n]
	}
	q.mu.Unlock()
	slices.SortStableFunc(names, func(a, b string) int { return rank[a] - rank[b] })
	return names
}

// asks counts a fetch that uses a node, until the returned function is called.
func (q *fetcher) asks(node string) (done func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked[node]++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.asked[node]--; q.asked[node] == 0 {
			delete(q.asked, node)
		}
	}
}

const (
	fetchPiece    = 256 << 10
	completeEvery = 10 * time.Second
)

// start returns the fetch of a blob and begins it if there is none. A fetch with a turn has no reader. If the blob is
// being fetched already, the end of that fetch handles the turn.
func (q *fetcher) start(d state.Digest, turn *missingBlob) (*fetch, error) {
	q.begins.Lock()
	defer q.begins.Unlock()
	text := d.String()
	if f := q.fetches[text]; f != nil {
		if turn == nil {
			f.join()
		}
		return f, nil
	}
	b, ok := q.store.state.View().Blob(d)
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
	w, err := q.store.dir.Resume(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if turn != nil {
			err = q.room(b.Size)
		}
		if turn == nil || err == nil {
			w, err = q.store.dir.Create(id)
		}
	case err == nil && turn != nil:
		if err = q.room(b.Size - w.Size()); err != nil {
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
		q: q, digest: text, d: d, size: b.Size, turn: turn, w: w, file: file, have: w.Size(),
		done: make(chan struct{}), wanted: make(chan struct{}),
	}
	if turn != nil {
		q.mu.Lock()
		q.missing.began(turn)
		q.mu.Unlock()
	}
	if !q.store.tasks.Background(f.run) {
		// the node stops, so the turn does not matter
		return nil, errors.Join(q.store.tasks.Stopped(), file.Close(), w.Close())
	}
	q.fetches[text] = f // before run can end, since q.begins is held
	if turn == nil {
		f.join()
	}
	return f, nil
}

// room reports whether there is space for n bytes in addition to what the running fetches still need. Otherwise several
// fetches would fill the disk together, and none would complete. q.begins is held.
func (q *fetcher) room(n int64) error {
	for _, f := range q.fetches {
		f.mu.Lock()
		n += max(0, f.size-f.have)
		f.mu.Unlock()
	}
	return q.store.dir.Room(n)
}

// abandon removes a fetch that has no reader. A reader that comes now begins another.
func (q *fetcher) abandon(f *fetch) bool {
	q.begins.Lock()
	defer q.begins.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers > 0 {
		return false
	}
	delete(q.fetches, f.digest)
	return true
}

// end returns a blob to the backlog, or drops it, after a fetch.
func (q *fetcher) end(f *fetch, err error) {
	q.begins.Lock()
	defer q.begins.Unlock()
	if q.fetches[f.digest] == f {
		delete(q.fetches, f.digest)
	}
	select {
	case <-f.wanted:
		q.wanted.Add(-1)
	default:
	}
	here := false
	if err == nil {
		q.mu.Lock()
		q.missing.look(f.d)
		q.mu.Unlock()
		_, gone := q.store.dir.Stat(f.digest) // a sweep may have removed it
		here = gone == nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if f.turn != nil {
		q.missing.ended(f.turn)
	}
	if err == nil {
		if f.turn != nil {
			q.missing.succeeded(f.turn)
		}
		delete(q.wrong, f.digest)
	}
	l := q.missing.all[f.d]
	_, known := q.store.state.View().Blob(f.d)
	switch {
	case l == nil:
	case here || !known:
		q.missing.drop(l)
	case l.at >= 0 || q.fetches[f.digest] != nil: // another fetch has begun, and its end handles the blob
	case errors.Is(err, syscall.EBADMSG):
		q.missing.back(l) // the next fetch asks another node
	default:
		q.missing.failed(l, time.Now())
	}
}
