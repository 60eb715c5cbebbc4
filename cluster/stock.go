package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// stock knows which blobs of the state are not on this disk, and fetches them from other nodes, several at a time: see backlog. What somebody reads it fetches at once,
// beside all others.
type stock struct {
	c     *Cluster
	limit *rate.Limiter
	wake  chan struct{} // capacity 1

	begins  sync.Mutex        // held while a fetch begins or ends, files are opened under it; before mu
	fetches map[string]*fetch // by digest, under way
	wanted  atomic.Int32      // how many of them somebody reads

	mu      sync.Mutex     // held briefly: who applies the log waits for it
	counted bool           // the disk was compared with the state
	again   bool           // and must be once more
	coming  []state.Digest // become known with what is applied now
	fresh   []state.Digest // became known and were not looked for on the disk yet
	looking int            // those of fresh that are being looked for
	missing backlog
	wrong   map[string][]string // by digest: nodes that have sent other bytes, until another has sent the right ones
	asked   map[string]int      // by node: how many fetches ask it now
}

func newStock(c *Cluster) *stock {
	return &stock{
		c: c, limit: rate.NewLimiter(rate.Limit(c.cfg.CatchUp), fetchPiece), wake: make(chan struct{}, 1),
		missing: newBacklog(), fetches: map[string]*fetch{}, wrong: map[string][]string{}, asked: map[string]int{},
	}
}

func (s *stock) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// add hears of blobs that become known, before that can be seen; published after it. They must not wait.
//
// In between nobody may look for the files: a sweep that does not know yet that they are wanted again could take them away behind who has seen them.
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

// fill runs until the node stops.
func (s *stock) fill() {
	c := s.c
	nodes := c.health.watch(c.life, ".")
	for c.life.Err() == nil {
		s.count()
		s.begin()
		s.mu.Lock()
		wait := s.missing.waits(time.Now())
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
}

// begin begins as many fetches as may be under way, and forgets what nobody needs any more or what has come. While somebody waits for a fetch the others have one turn only.
func (s *stock) begin() {
	c := s.c
	for c.life.Err() == nil {
		turns := fillTurns
		if s.wanted.Load() > 0 {
			turns = 1
		}
		s.mu.Lock()
		l := s.missing.take(time.Now(), turns)
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

// nodes are those that are up, in the order in which to ask them for a blob: first those that have everything, of them those that the fewest fetches ask now. So one that
// is slow, or hangs, soon has no more than its share.
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

const fetchPiece = 256 << 10

// fetch is one blob on its way to this disk. Many may read it meanwhile.
type fetch struct {
	s      *stock
	digest string
	d      state.Digest
	size   int64
	turn   *lack // of the backlog; nil if a reader has begun it
	w      *blob.Writer
	file   blob.File     // a second handle on the scratch file, good also after it became the blob
	done   chan struct{} // closed when all bytes are here and right, or err says why not
	wanted chan struct{} // closed when somebody reads it

	mu      sync.Mutex
	have    int64
	moved   chan struct{} // closed when have grows; nil until someone waits
	readers int
	asked   time.Time // when the first reader came
	ended   bool
	err     error // set before done is closed
}

// start returns the fetch of a blob, which it begins if there is none. With a turn nobody waits for it; if it is under way already, its end sees to what was taken.
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

// room says whether there is room for n bytes beside what is still to come of the fetches under way: else several would fill the disk together, and none would be whole.
// s.begins is held.
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

// join counts a reader in. f.s.begins is held, so that the fetch cannot end in between.
func (f *fetch) join() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers++
	select {
	case <-f.wanted:
	default:
		f.asked = time.Now()
		f.s.wanted.Add(1)
		close(f.wanted)
	}
}

func (f *fetch) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	f.release()
}

// release closes the second handle once nobody can need it. f.mu is held.
func (f *fetch) release() {
	if f.ended && f.readers == 0 && f.file != nil {
		f.file.Close()
		f.file = nil
	}
}

func (f *fetch) run() {
	err := f.load()
	f.s.end(f, err)
	// If it was collected meanwhile, its sweep has waited for this. Not here and now: the same bytes may have been pushed and confirmed since.
	f.s.c.sweeps.poke()
	f.mu.Lock()
	f.err, f.ended = err, true
	f.release()
	f.mu.Unlock()
	close(f.done)
	f.s.poke()
}

// load brings the bytes from whoever has them. Whoever sends wrong ones is not asked again. If nobody waits it asks everybody once, and again only while bytes come.
func (f *fetch) load() error {
	c := f.s.c
	defer func() {
		if f.w.Size() == 0 {
			f.w.Cancel() // what cannot be fetched should not leave a file each
		}
		f.w.Close()
	}()
	f.s.mu.Lock()
	bad := f.s.wrong[f.digest]
	f.s.mu.Unlock()
	moved := time.Now()
	var last error = errDown
	for {
		tried, some := false, false
		for _, node := range f.s.nodes() {
			if slices.Contains(bad, node) {
				continue
			}
			tried = true
			before := f.w.Size()
			err := f.from(node)
			if f.w.Size() > before {
				moved, some = time.Now(), true
			}
			if err == nil && f.w.Size() == f.size {
				if _, _, err = f.w.Place(f.digest); err == nil {
					f.w.Done()
					return nil
				}
			}
			if errors.Is(err, syscall.EBADMSG) {
				// The bytes are not the ones that the name says (promise 5). Whoever reads them is told so, and the next fetch begins anew with another node.
				c.log.Error("a node sent wrong bytes: casemate scrub there mends them", "peer", node, "blob", f.digest)
				f.s.mu.Lock()
				f.s.wrong[f.digest] = append(f.s.wrong[f.digest], node)
				f.s.mu.Unlock()
				return errors.Join(err, f.w.Cancel())
			}
			if errors.Is(err, syscall.ENOSPC) {
				return err
			}
			last = err
		}
		if c.life.Err() != nil {
			return c.stopped()
		}
		if !tried && len(bad) > 0 {
			// All have been tried: perhaps one has been mended.
			f.s.mu.Lock()
			delete(f.s.wrong, f.digest)
			f.s.mu.Unlock()
			return fmt.Errorf("blob %s: no node that can be reached has the right bytes: %w", f.digest, syscall.EIO)
		}
		f.mu.Lock()
		if f.asked.After(moved) {
			moved = f.asked
		}
		f.mu.Unlock()
		if !some && f.s.abandon(f) || time.Since(moved) > c.cfg.LeaderWait {
			return fmt.Errorf("blob %s: not on this node yet, and no node that has it can be reached (%v): %w", f.digest, last, syscall.EAGAIN)
		}
		if _, known := c.machine.view.Load().Blob(f.d); !known {
			return unknownBlob(f.digest)
		}
		select {
		case <-c.life.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// from appends what a node has beyond what is here.
func (f *fetch) from(node string) error {
	c := f.s.c
	have := f.w.Size()
	if have > f.size {
		return fmt.Errorf("%d bytes of %d: %w", have, f.size, syscall.EBADMSG)
	}
	if have == f.size && have > 0 {
		return nil
	}
	ctx, cancel, ok := c.peers.alive(c.life, node)
	if !ok {
		return errDown
	}
	defer cancel()
	defer f.s.asks(node)()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+"/blob/"+f.digest, nil)
	if err != nil {
		return err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	res, err := c.peers.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("node %s has it not: %w", node, fs.ErrNotExist)
	case have > 0 && res.StatusCode != http.StatusPartialContent, have == 0 && res.StatusCode != http.StatusOK:
		return fmt.Errorf("node %s answered %s", node, res.Status)
	}
	buf := make([]byte, min(fetchPiece, f.size-have+1))
	body := io.LimitReader(res.Body, f.size-have+1) // one byte too many is seen
	for {
		n, rerr := body.Read(buf)
		if n > 0 {
			f.pace(ctx, n)
			if _, err := f.w.Write(buf[:n]); err != nil {
				return err
			}
			f.grown(f.w.Size())
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			return rerr
		}
	}
}

// pace holds back n bytes that nobody waits for, so that they do not take the disk and the wire from those who do.
func (f *fetch) pace(ctx context.Context, n int) {
	r := f.s.limit.ReserveN(time.Now(), n)
	wait := time.NewTimer(r.Delay())
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-f.wanted:
		r.Cancel()
	case <-ctx.Done():
	}
}

func (f *fetch) grown(have int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have = have
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
}

// incoming is a reader of a blob that is on its way. Bytes come as they arrive, but the last one only when all were hashed; whoever does not read from the
// beginning on gets nothing before that, since what it reads last is not known. So no answer ends as if it were whole with bytes that turn out wrong.
type incoming struct {
	ctx   context.Context
	f     *fetch
	pos   int64
	seeks int
	once  sync.Once
}

func (r *incoming) Read(p []byte) (int, error) {
	if r.pos >= r.f.size {
		if err := r.f.wait(r.ctx, r.f.size, true); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	n, err := r.read(p, r.pos, r.seeks > 2)
	r.pos += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (r *incoming) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	n := 0
	for n < len(p) && off+int64(n) < r.f.size {
		m, err := r.read(p[n:], off+int64(n), true)
		if n += m; err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *incoming) read(p []byte, off int64, whole bool) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if int64(len(p)) > r.f.size-off {
		p = p[:r.f.size-off]
	}
	need := off + 1
	if need == r.f.size {
		whole = true
	}
	if err := r.f.wait(r.ctx, need, whole); err != nil {
		return 0, err
	}
	r.f.mu.Lock()
	limit, ended := r.f.have, r.f.ended
	r.f.mu.Unlock()
	if !ended {
		limit = min(limit, r.f.size-1)
	}
	if ended || limit > r.f.size {
		limit = r.f.size
	}
	if int64(len(p)) > limit-off {
		p = p[:limit-off]
	}
	return r.f.file.ReadAt(p, off)
}

// wait returns when the first n bytes are here, or with whole when all are and were hashed.
func (f *fetch) wait(ctx context.Context, n int64, whole bool) error {
	for {
		f.mu.Lock()
		if f.ended {
			defer f.mu.Unlock()
			return f.err
		}
		if !whole && f.have >= n {
			f.mu.Unlock()
			return nil
		}
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Seek implements io.Seeker. Who seeks to the end, for the size, and back to the beginning is going to read everything; the next seek says that it is not.
func (r *incoming) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.f.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	r.seeks++
	if offset != 0 && offset != r.f.size {
		r.seeks = 3
	}
	r.pos = offset
	return offset, nil
}

func (r *incoming) Close() error {
	r.once.Do(r.f.leave)
	return nil
}
