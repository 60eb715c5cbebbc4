package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"casemate/cluster"
	"casemate/cluster/tree"
)

// sink takes the blobs of one import. What it took, or had, it keeps below dir, in batches: until a batch is written a
// blob is kept by its pin of an hour.
type sink struct {
	e *Engine

	mu     sync.Mutex
	dir    string                // "imports/pending/KEY"; "" before the reading begins: then nothing is linked
	record func([]string) []byte // what is written beside the links, given what large has
	told   []string              // of large, what was written last
	kept   map[string]int64      // what published names kept when the import began
	have   map[string]kept       // what this import has taken or found, this time or before
	queue  []string              // of have, not yet linked below dir
	oldest time.Time             // since when something that only a pin keeps is in queue; zero if nothing is
	busy   map[string]chan bool  // digests that a Put is writing
	wrote  map[string]bool       // digests of blobs that this reading has made
	large  map[string]bool       // digests whose scratch file a Put has begun and not finished

	mended atomic.Int64 // blobs that the tree knew, and did not have whole

	flushing sync.Mutex

	small group
}

// kept is one blob of the import.
type kept struct {
	size  int64
	fresh bool // it came with this import
}

// newSink returns a sink, whose small blobs are to be finished or dropped in the end.
func newSink(e *Engine) *sink {
	s := &sink{e: e, kept: map[string]int64{}, have: map[string]kept{}, busy: map[string]chan bool{},
		wrote: map[string]bool{}, large: map[string]bool{}}
	s.small = group{s: s, life: e.base, by: map[string]*small{}}
	for d, n := range e.cfg.Tree.Kept() {
		s.kept[d] = n
	}
	return s
}

// open lets the sink link below dir, and takes up what an earlier reading left there. known are blobs that the import
// is known to need.
func (s *sink) open(ctx context.Context, dir string, record func(unfinished []string) []byte, known []string) error {
	s.mu.Lock()
	s.dir, s.record = dir, record
	for class, fresh := range map[string]bool{"new": true, "held": false} {
		entries, err := s.e.cfg.Tree.ReadDir(dir + "/" + class)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.mu.Unlock()
			return err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				continue
			}
			d := digestOf(e.Name())
			s.have[d] = kept{info.Size(), fresh}
			s.queue = slices.DeleteFunc(s.queue, func(q string) bool { return q == d })
		}
	}
	s.mu.Unlock()
	for _, d := range known {
		if n, ok := s.e.held(ctx, d); ok {
			s.note(d, n)
		}
	}
	if s.idle() {
		return nil
	}
	return s.flush(ctx)
}

func fileOf(digest string) string { return strings.Replace(digest, ":", "-", 1) }
func digestOf(file string) string { return strings.Replace(file, "-", ":", 1) }

// note adds a blob that the tree knows. It reports whether only a pin keeps it, so that it must be linked soon.
func (s *sink) note(digest string, size int64) (urgent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.have[digest]; ok {
		return false
	}
	_, held := s.kept[digest]
	s.have[digest] = kept{size, !held}
	s.queue = append(s.queue, digest)
	if !held && s.oldest.IsZero() {
		s.oldest = s.e.cfg.Now()
	}
	return !held
}

// held says whether the tree knows a blob and has its bytes. When they were damaged, or after a restore without blobs,
// it may know some that it does not have:
// an import brings them again.
func (e *Engine) held(ctx context.Context, digest string) (int64, bool) {
	n, err := e.cfg.Tree.HasBlob(ctx, digest)
	return n, err == nil
}

// Has implements bundle.Sink.
func (s *sink) Has(digest string) (int64, bool) {
	if n, ok := s.small.has(digest); ok {
		return n, true
	}
	n, ok := s.e.held(s.e.base, digest)
	if !ok {
		return 0, false
	}
	var err error
	if s.note(digest, n) && s.isOpen() {
		// Nothing but a pin of unknown age keeps it: if it cannot be linked now, it is better sent again.
		if err := s.flush(s.e.base); err != nil {
			return 0, false
		}
		_, err = s.e.cfg.Tree.StatBlob(digest)
	}
	return n, err == nil
}

func (s *sink) isOpen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir != ""
}

// Open implements bundle.Sink.
func (s *sink) Open(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	if _, ok := s.small.has(digest); ok {
		if err := s.small.finish(ctx); err != nil {
			return nil, err
		}
	}
	return s.e.cfg.Tree.OpenBlob(ctx, digest)
}

// Put implements bundle.Sink.
func (s *sink) Put(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	if digest != "" {
		done, err := s.turn(ctx, digest)
		if err != nil {
			return "", 0, err
		}
		defer done()
		if _, ok := s.Has(digest); ok {
			return verify(ctx, digest, size, r)
		}
	}
	before := int64(-1)
	if digest != "" {
		if n, err := s.e.cfg.Tree.StatBlob(digest); err == nil {
			before = n
		}
	}
	src := &source{r: r}
	b, got, n, err := (*small)(nil), "", int64(0), error(nil)
	if s.isSmall(digest, size) {
		b, err = s.writeSmall(ctx, digest, size, src.reader())
	} else {
		got, n, err = s.write(ctx, digest, size, src.reader())
	}
	if err != nil {
		if !src.failed(err) {
			err = ours{err}
		}
		return "", 0, err
	}
	if b != nil {
		b.mends = before >= 0
		return b.digest, b.size, s.small.add(ctx, b)
	}
	s.took(got, n, before >= 0)
	return got, n, s.flushFull(ctx)
}

// took notes a blob that was written.
func (s *sink) took(digest string, size int64, mends bool) {
	s.mu.Lock()
	s.wrote[digest] = true
	s.mu.Unlock()
	s.e.read.Add(size)
	if mends {
		s.mended.Add(1)
	}
	s.note(digest, size)
}

// made reports whether this reading has committed a blob, and the tree still knows it.
func (s *sink) made(digest string) bool {
	s.mu.Lock()
	made := s.wrote[digest]
	s.mu.Unlock()
	if !made {
		return false
	}
	_, err := s.e.cfg.Tree.StatBlob(digest)
	return err == nil
}

// flushFull flushes if there is enough for it.
func (s *sink) flushFull(ctx context.Context) error {
	s.mu.Lock()
	full := len(s.queue) >= s.e.cfg.flushAt && s.dir != "" && !s.oldest.IsZero()
	s.mu.Unlock()
	if !full {
		return nil
	}
	return s.flush(ctx)
}

// ours is an error of the tree, and not of the content that an import reads: the same import may succeed later.
type ours struct{ error }

func (o ours) Unwrap() error { return o.error }

// source is what a blob is read from. It remembers whether it failed.
type source struct {
	r   io.Reader
	err error
}

// reader is the source, or the file itself where that can be shared with the tree.
func (s *source) reader() io.Reader {
	switch s.r.(type) {
	case *os.File, *io.SectionReader:
		return s.r
	case io.Seeker:
		return struct {
			io.Reader
			io.Seeker
		}{s, s.r.(io.Seeker)}
	}
	return s
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// failed reports whether err is because of the content: it cannot be read, or is not what it should be.
func (s *source) failed(err error) bool {
	return s.err != nil || errors.Is(err, syscall.EBADMSG) || errors.Is(err, io.ErrUnexpectedEOF)
}

// turn waits until nobody else writes the blob: two writers of one scratch file would spoil it.
func (s *sink) turn(ctx context.Context, digest string) (done func(), err error) {
	for {
		s.mu.Lock()
		wait, taken := s.busy[digest]
		if !taken {
			own := make(chan bool)
			s.busy[digest] = own
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.busy, digest)
				s.mu.Unlock()
				close(own)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// write makes a blob of r.
func (s *sink) write(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	if digest != "" && size >= s.e.cfg.largeAt {
		return s.writeLarge(ctx, digest, size, r)
	}
	if s.e.cfg.Room != nil && size >= s.e.cfg.largeAt {
		if room := s.e.cfg.Room(); size > room { // before the disk is full of a part of it
			return "", 0, fmt.Errorf("a blob has %s and %s are free besides the disk's reserve: %w", BytesText(size),
				BytesText(max(room, 0)), syscall.ENOSPC)
		}
	}
	w, err := s.e.cfg.Tree.CreateBlob("")
	if err != nil {
		return "", 0, err
	}
	defer w.Close()
	return commit(ctx, w, digest, size, r)
}

// commit writes r to w, exactly size bytes if that is not -1, and makes it the blob digest.
func commit(ctx context.Context, w cluster.BlobWriter, digest string, size int64, r io.Reader) (string, int64, error) {
	n, err := fillExactly(ctx, w, size, r)
	if err != nil {
		return "", 0, err
	}
	got, err := w.Commit(ctx, digest)
	return got, n, err
}

// fillExactly appends exactly size bytes of r to w, all there are if it is -1, and returns their number.
func fillExactly(ctx context.Context, w cluster.BlobWriter, size int64, r io.Reader) (int64, error) {
	switch r.(type) {
	case *os.File, *io.SectionReader: // as they are, so that the writer can share their blocks
	default:
		r = bounded(ctx, r, size)
	}
	n, err := fill(ctx, w, r)
	if err == nil && size >= 0 && n != size {
		err = wrongSize(n, size)
	}
	return n, err
}

// fill appends r to w until ctx ends, which closes w. io.Copy would let the reader do the work where it can, behind
// which the writer cannot see a file.
func fill(ctx context.Context, w cluster.BlobWriter, r io.Reader) (n int64, err error) {
	stop := context.AfterFunc(ctx, func() { w.Close() })
	if to, ok := w.(io.ReaderFrom); ok {
		n, err = to.ReadFrom(r)
	} else {
		n, err = io.Copy(w, struct{ io.Reader }{r})
	}
	if !stop() {
		return n, context.Cause(ctx)
	}
	return n, err
}

func wrongSize(got, want int64) error {
	return fmt.Errorf("%d bytes instead of %d: %w", got, want, io.ErrUnexpectedEOF)
}

// bounded is r, which ends with ctx and a byte behind size.
func bounded(ctx context.Context, r io.Reader, size int64) io.Reader {
	r = cancelable{ctx, r}
	if size >= 0 {
		r = io.LimitReader(r, size+1)
	}
	return r
}

// cancelable reads until ctx ends.
type cancelable struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelable) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// verify reads what need not be written.
func verify(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	h := tree.NewHash(digest)
	n, err := io.Copy(h, bounded(ctx, r, size))
	if err != nil {
		return "", 0, err
	}
	if size >= 0 && n != size {
		return "", 0, wrongSize(n, size)
	}
	if got := tree.SumOf(digest, h); got != digest {
		return "", 0, fmt.Errorf("the bytes have the digest %s, not %s: %w", got, digest, syscall.EBADMSG)
	}
	return digest, n, nil
}

// flush links what is in the queue below the pending directory. What was collected in between leaves the import: the
// reader has it again, or the end of the import finds that it is missing.
func (s *sink) flush(ctx context.Context) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	queue, oldest := s.queue, s.oldest
	s.queue, s.oldest = nil, time.Time{}
	dir, record := s.dir, s.record
	s.mu.Unlock()
	unfinished := s.unfinished()
	for try := 0; ; try++ {
		queue = slices.DeleteFunc(queue, func(d string) bool {
			_, err := s.e.cfg.Tree.StatBlob(d)
			if err != nil {
				s.mu.Lock()
				delete(s.have, d)
				s.mu.Unlock()
			}
			return err != nil
		})
		err := s.e.cfg.Tree.Update(ctx, func(b cluster.Batch) error {
			b.Put(dir+"/record", record(unfinished))
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, d := range queue {
				class := "/held/"
				if s.have[d].fresh {
					class = "/new/"
				}
				b.Link(dir+class+fileOf(d), d)
			}
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) && try < 5 {
			continue // a collection came in between
		}
		if err != nil {
			s.mu.Lock()
			s.queue = append(s.queue, queue...)
			if s.oldest.IsZero() || oldest.Before(s.oldest) {
				s.oldest = oldest
			}
			s.mu.Unlock()
			return fmt.Errorf("keep what was read: %w", err)
		}
		s.mu.Lock()
		s.told = unfinished
		s.mu.Unlock()
		return nil
	}
}

// run flushes now and then until ctx is done.
func (s *sink) run(ctx context.Context) {
	tick := time.NewTicker(s.e.cfg.flushEvery)
	defer tick.Stop()
	began := s.e.cfg.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.small.begin() // what comes slowly is not to be read again for that
		s.mu.Lock()
		// What other names keep waits: an import of what is here writes nothing, unless it takes so long that those
		// names may go.
		due := s.dir != "" && len(s.queue) > 0 && (!s.oldest.IsZero() || s.e.cfg.Now().Sub(began) > heldWait)
		begun := s.dir != "" && len(s.large) > 0
		told := s.told
		s.mu.Unlock()
		// A large blob that was begun is told, so that whoever removes the import removes its scratch file.
		due = due || begun && !slices.Equal(s.unfinished(), told)
		if due {
			if err := s.flush(ctx); err != nil && ctx.Err() == nil {
				s.e.cfg.Log.Warn("what an import has read cannot be kept yet, it is tried again", "err", err)
			}
		}
	}
}

// heldWait is how long an import relies on what other names keep, before it keeps that as well.
const heldWait = 10 * time.Minute

// keeps is how many bytes came with this import and are kept, now and from an earlier reading of it.
func (s *sink) keeps() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.have {
		if k.fresh {
			n += k.size
		}
	}
	return n
}

// idle reports whether nothing in the queue is kept by a pin alone.
func (s *sink) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oldest.IsZero()
}

// fresh reports whether the blob came with this import, now or in an earlier reading of it.
func (s *sink) fresh(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have[digest].fresh
}
