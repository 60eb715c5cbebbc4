package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// stock knows which blobs of the state are not on this disk, and fetches them from other nodes: the newest first, and before all others those that somebody reads.
type stock struct {
	c     *Cluster
	limit *rate.Limiter
	wake  chan struct{} // capacity 1

	mu      sync.Mutex
	counted bool                    // the disk was compared with the state
	again   bool                    // and must be once more
	coming  []state.Digest          // become known with what is applied now
	fresh   []state.Digest          // became known and were not looked for on the disk yet
	missing map[state.Digest]uint64 // not on this disk → age, the greater the newer
	newest  uint64
	fetches map[string]*fetch   // by digest, under way
	wrong   map[string][]string // by digest: nodes that have sent other bytes, until another has sent the right ones
}

func newStock(c *Cluster) *stock {
	return &stock{
		c: c, limit: rate.NewLimiter(rate.Limit(c.cfg.CatchUp), fetchPiece), wake: make(chan struct{}, 1),
		missing: map[state.Digest]uint64{}, fetches: map[string]*fetch{}, wrong: map[string][]string{},
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

func (s *stock) published() {
	s.mu.Lock()
	s.fresh = append(s.fresh, s.coming...)
	s.coming = nil
	s.mu.Unlock()
	s.poke()
}

// fetching reports whether a blob is on its way.
func (s *stock) fetching(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	return len(s.missing) + len(s.fresh) + len(s.coming)
}

// lose notes that a blob is not here although the state knows it.
func (s *stock) lose(d state.Digest) {
	s.mu.Lock()
	if _, ok := s.missing[d]; !ok {
		s.newest++
		s.missing[d] = s.newest
	}
	s.mu.Unlock()
	s.poke()
}

// fill runs until the node stops.
func (s *stock) fill() {
	c := s.c
	retry := time.Duration(0)
	for {
		s.count()
		d, ok := s.next()
		if !ok {
			select {
			case <-c.life.Done():
				return
			case <-s.wake:
			}
			continue
		}
		err := s.fetchOne(d)
		if err == nil {
			retry = 0
			continue
		}
		if c.life.Err() != nil {
			return
		}
		// Nobody who has it can be reached now. It goes behind the others.
		s.mu.Lock()
		if _, still := s.missing[d]; still {
			s.missing[d] = 0
		}
		s.mu.Unlock()
		retry = min(max(2*retry, 50*time.Millisecond), time.Second)
		select {
		case <-c.life.Done():
			return
		case <-time.After(retry):
		case <-s.wake:
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
	s.fresh = nil
	s.mu.Unlock()
	note := func(d state.Digest) {
		release := c.blobs.Hold(d.String()) // after a sweep that has begun when the blob was not known
		_, err := c.blobs.Stat(d.String())
		release()
		if err == nil {
			return
		}
		s.mu.Lock()
		s.newest++
		s.missing[d] = s.newest
		s.mu.Unlock()
	}
	if whole {
		for d := range c.machine.view.Load().Blobs("") {
			if c.life.Err() != nil {
				return
			}
			note(d)
		}
	}
	for _, d := range fresh {
		note(d)
	}
	s.mu.Lock()
	s.counted = !s.again
	s.mu.Unlock()
}

// next returns the newest blob that is missing, and forgets those that nobody needs any more or that have come.
func (s *stock) next() (state.Digest, bool) {
	for {
		s.mu.Lock()
		var best state.Digest
		var age uint64
		found := false
		for d, a := range s.missing {
			if !found || a > age {
				best, age, found = d, a, true
			}
		}
		s.mu.Unlock()
		if !found {
			return "", false
		}
		_, known := s.c.machine.view.Load().Blob(best)
		_, err := s.c.blobs.Stat(best.String())
		if known && err != nil {
			return best, true
		}
		s.mu.Lock()
		delete(s.missing, best)
		s.mu.Unlock()
	}
}

func (s *stock) fetchOne(d state.Digest) error {
	f, err := s.start(d, true)
	if err != nil {
		return err
	}
	select {
	case <-f.done:
		return f.err
	case <-s.c.life.Done():
		return s.c.life.Err()
	}
}

const fetchPiece = 256 << 10

// fetch is one blob on its way to this disk. Many may read it meanwhile.
type fetch struct {
	s      *stock
	digest string
	d      state.Digest
	size   int64
	w      *blob.Writer
	file   blob.File     // a second handle on the scratch file, good also after it became the blob
	done   chan struct{} // closed when all bytes are here and right, or err says why not
	wanted chan struct{} // closed when somebody reads it

	mu      sync.Mutex
	have    int64
	moved   chan struct{} // closed when have grows; nil until someone waits
	readers int
	ended   bool
	err     error // set before done is closed
}

// start returns the fetch of a blob, which it begins if there is none. idle says that nobody waits for it.
func (s *stock) start(d state.Digest, idle bool) (*fetch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := d.String()
	if f := s.fetches[text]; f != nil {
		if idle {
			return f, nil
		}
		f.join()
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
	if errors.Is(err, fs.ErrNotExist) {
		w, err = s.c.blobs.Create(id)
	}
	if err != nil {
		return nil, err
	}
	file, err := w.OpenScratch()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	f := &fetch{s: s, digest: text, d: d, size: b.Size, w: w, file: file, have: w.Size(), done: make(chan struct{}), wanted: make(chan struct{})}
	if !idle {
		f.join()
	}
	if !s.c.background(f.run) {
		return nil, errors.Join(s.c.stopped(), file.Close(), w.Close())
	}
	s.fetches[text] = f // before run can end, since s.mu is held
	return f, nil
}

// join counts a reader in. f.s.mu is held, so that the fetch cannot end in between.
func (f *fetch) join() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers++
	select {
	case <-f.wanted:
	default:
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
	f.s.mu.Lock()
	delete(f.s.fetches, f.digest)
	if err == nil {
		delete(f.s.missing, f.d)
		delete(f.s.wrong, f.digest)
	}
	f.s.mu.Unlock()
	// If it was collected meanwhile, its sweep has waited for this. Not here and now: the same bytes may have been pushed and confirmed since.
	f.s.c.sweeps.poke()
	f.mu.Lock()
	f.err, f.ended = err, true
	f.release()
	f.mu.Unlock()
	close(f.done)
}

// load brings the bytes from whoever has them. Whoever sends wrong ones is not asked again.
func (f *fetch) load() error {
	c := f.s.c
	defer f.w.Close()
	f.s.mu.Lock()
	bad := f.s.wrong[f.digest]
	f.s.mu.Unlock()
	patience := time.Now().Add(c.cfg.LeaderWait)
	var last error = errDown
	for {
		tried := false
		for _, node := range c.peers.upNodes() {
			if slices.Contains(bad, node) {
				continue
			}
			tried = true
			before := f.w.Size()
			err := f.from(node)
			if f.w.Size() > before {
				patience = time.Now().Add(c.cfg.LeaderWait)
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
		if time.Now().After(patience) {
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
	buf := make([]byte, fetchPiece)
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
