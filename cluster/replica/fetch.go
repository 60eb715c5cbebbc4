package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/peer"
	"casemate/cluster/state"
	"casemate/cluster/wake"
)

// fetch is a blob that is being fetched to this disk. Several readers may read it meanwhile.
type fetch struct {
	q      *fetcher
	digest string
	d      state.Digest
	size   int64
	turn   *missingBlob // of the backlog; nil if a reader began the fetch
	w      *blob.Writer
	file   blob.File     // a second handle on the scratch file; stays valid when the file becomes the blob
	done   chan struct{} // closed when all bytes are here and verified, or err is set
	wanted chan struct{} // closed when the first reader comes

	mu      sync.Mutex
	have    int64
	moved   wake.Broadcast // have has grown
	readers int
	asked   time.Time // when the first reader came
	ended   bool
	err     error // set before done is closed
}

// join adds a reader. f.q.begins is held, so the fetch cannot end meanwhile.
func (f *fetch) join() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers++
	select {
	case <-f.wanted:
	default:
		f.asked = time.Now()
		f.q.wanted.Add(1)
		close(f.wanted)
	}
}

func (f *fetch) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	f.release()
}

// release closes the second handle when it is no longer needed. f.mu is held.
func (f *fetch) release() {
	if f.ended && f.readers == 0 && f.file != nil {
		f.file.Close()
		f.file = nil
	}
}

func (f *fetch) run() {
	err := f.load()
	f.q.end(f, err)
	// If the blob was collected meanwhile, its sweep has waited for this fetch. It must not run in this goroutine: the
	// same bytes may have been pushed and confirmed since.
	f.q.store.sweeps.wake.Raise()
	f.mu.Lock()
	f.err, f.ended = err, true
	f.release()
	f.mu.Unlock()
	close(f.done)
	f.q.wake.Raise()
}

// load fetches the bytes from the nodes that have them. A node that sends wrong bytes is not asked again. If no reader
// waits, each node is asked once, and again only while bytes arrive.
func (f *fetch) load() error {
	store := f.q.store
	defer func() {
		if f.w.Size() == 0 {
			f.w.Cancel() // a blob that cannot be fetched should not leave an empty file
		}
		f.w.Close()
	}()
	f.q.mu.Lock()
	bad := f.q.wrong[f.digest]
	f.q.mu.Unlock()
	moved := time.Now()
	var last error = peer.ErrDown
	for {
		tried, some, absent := false, false, 0
		for _, node := range f.q.nodes() {
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
				// The bytes do not have the digest (promise 5). The sender is told, and the next fetch starts over with
				// another node.
				store.log.Error("a node sent wrong bytes", "peer", node, "blob", f.digest)
				store.doubt(node, f.digest)
				f.q.mu.Lock()
				f.q.wrong[f.digest] = append(f.q.wrong[f.digest], node)
				f.q.mu.Unlock()
				return errors.Join(err, f.w.Cancel())
			}
			if errors.Is(err, syscall.ENOSPC) {
				return err
			}
			if errors.Is(err, fs.ErrNotExist) {
				absent++
			}
			last = err
		}
		if store.life.Err() != nil {
			return store.tasks.Stopped()
		}
		if !tried && len(bad) > 0 {
			// All nodes have been tried: one may have been repaired since.
			f.q.mu.Lock()
			delete(f.q.wrong, f.digest)
			f.q.mu.Unlock()
			return fmt.Errorf("blob %s: no reachable node has the right bytes: %w", f.digest, syscall.EIO)
		}
		if absent > 0 && absent+len(bad) >= len(store.state.Others()) {
			// All nodes have answered: waiting would not change it.
			return fmt.Errorf("blob %s: no node has it intact: %w", f.digest, syscall.EIO)
		}
		f.mu.Lock()
		if f.asked.After(moved) {
			moved = f.asked
		}
		f.mu.Unlock()
		if !some && f.q.abandon(f) || time.Since(moved) > store.cfg.Patience {
			return fmt.Errorf("blob %s: not on this node yet, and no node that has it can be reached (%v): %w",
				f.digest, last, syscall.EAGAIN)
		}
		if _, known := store.state.View().Blob(f.d); !known {
			return Unknown(f.digest)
		}
		select {
		case <-store.life.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// from appends the bytes of a node that are missing here.
func (f *fetch) from(node string) error {
	store := f.q.store
	have := f.w.Size()
	if have > f.size {
		return fmt.Errorf("%d bytes of %d: %w", have, f.size, syscall.EBADMSG)
	}
	if have == f.size && have > 0 {
		return nil
	}
	ctx, cancel, ok := store.peers.Alive(store.life, node)
	if !ok {
		return peer.ErrDown
	}
	defer cancel()
	defer f.q.asks(node)()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+"/blob/"+f.digest, nil)
	if err != nil {
		return err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	res, err := store.peers.Do(req)
	if err != nil {
		return err
	}
	defer peer.Finish(res)
	switch {
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("node %s does not have it: %w", node, fs.ErrNotExist)
	case have > 0 && res.StatusCode != http.StatusPartialContent, have == 0 && res.StatusCode != http.StatusOK:
		return fmt.Errorf("node %s answered %s", node, res.Status)
	}
	buf := make([]byte, min(fetchPiece, f.size-have+1))
	body := io.LimitReader(res.Body, f.size-have+1) // one byte more, to detect a longer blob
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

// pace limits the rate of bytes that no reader waits for, so that they do not slow down those that a reader waits for.
func (f *fetch) pace(ctx context.Context, n int) {
	r := f.q.limit.ReserveN(time.Now(), n)
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
	f.moved.Wake()
}

// incoming is a reader of a blob that is being fetched. Bytes are delivered as they arrive, but the last one only after
// all were hashed. A reader that does not start at the beginning gets nothing before that, because which byte it reads
// last is unknown. So no response with wrong bytes looks complete.
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

// wait returns when the first n bytes are here; with whole, when all bytes are here and were hashed.
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
		moved := f.moved.Next()
		f.mu.Unlock()
		select {
		case <-moved:
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Seek implements io.Seeker. A caller that seeks to the end, for the size, and back to the beginning is going to read
// everything; a further seek shows that it is not.
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
