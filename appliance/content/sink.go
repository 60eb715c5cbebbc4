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

	"casemate/bundle"
	"casemate/cluster"
	"casemate/cluster/tree"
)

// sink stores the blobs of one import. It links them below dir, in batches: until its batch is written, a blob is
// retained by its pin of an hour.
type sink struct {
	e *Engine

	mu     sync.Mutex
	dir    string                // "imports/pending/KEY"; "" before the reading begins: then nothing is linked
	record func([]string) []byte // returns the record to write together with the links, given the digests in large
	told   []string              // the digests in large that were last written
	kept   map[string]int64      // the blobs that published names referred to when the import began
	have   map[string]kept       // the blobs that this import has stored or found, in this or an earlier reading
	queue  []string              // blobs in have that are not linked below dir yet
	oldest time.Time             // when the first blob that only a pin retains was queued; zero if there is none
	busy   map[string]chan bool  // digests that a Put is writing
	wrote  map[string]bool       // digests of blobs that this reading has stored
	large  map[string]bool       // digests whose scratch file a Put has begun and not finished

	repaired atomic.Int64 // blobs that the tree knew, but whose bytes were damaged or lost

	flushing sync.Mutex

	small group
}

// kept is one blob of the import.
type kept struct {
	size  int64
	fresh bool // it came with this import
}

// newSink returns a sink; the caller must finish or drop its small blobs.
func newSink(e *Engine) *sink {
	s := &sink{e: e, kept: map[string]int64{}, have: map[string]kept{}, busy: map[string]chan bool{},
		wrote: map[string]bool{}, large: map[string]bool{}}
	s.small = group{s: s, life: e.base, by: map[string]*small{}}
	for d, n := range e.cfg.Tree.Kept() {
		s.kept[d] = n
	}
	return s
}

// open lets the sink link below dir, and loads what an earlier reading linked there. known are blobs that the import
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
			s.enqueue(d, n)
		}
	}
	if s.idle() {
		return nil
	}
	return s.flush(ctx)
}

func fileOf(digest string) string { return strings.Replace(digest, ":", "-", 1) }
func digestOf(file string) string { return strings.Replace(file, "-", ":", 1) }

// enqueue adds a blob that the tree knows. It reports whether only a pin retains it, so that it must be linked soon.
func (s *sink) enqueue(digest string, size int64) (urgent bool) {
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

// held returns the size of a blob if the tree knows it and has its bytes. After damage, or a restore without blobs,
// the tree may know blobs whose bytes it does not have: an import restores them.
func (e *Engine) held(ctx context.Context, digest string) (int64, bool) {
	n, err := e.cfg.Tree.HasBlob(ctx, digest)
	return n, err == nil
}

// Has implements bundle.Sink.
func (s *sink) Has(digest string) (int64, bool) {
	if n, ok := s.small.has(digest); ok {
		return n, true
	}
	if n, ok := s.made(digest); ok { // its bytes were hashed and synced a moment ago
		return n, true
	}
	n, ok := s.e.held(s.e.base, digest)
	if !ok {
		return 0, false
	}
	var err error
	if s.enqueue(digest, n) && s.isOpen() {
		// Only a pin of unknown age retains it: if it cannot be linked now, the caller should send it again.
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
		b.repairs = before >= 0
		return b.digest, b.size, s.small.add(ctx, b)
	}
	s.took(got, n, before >= 0)
	return got, n, s.flushFull(ctx)
}

// took records a blob that was written.
func (s *sink) took(digest string, size int64, repairs bool) {
	s.mu.Lock()
	s.wrote[digest] = true
	s.mu.Unlock()
	s.e.read.Add(size)
	if repairs {
		s.repaired.Add(1)
	}
	s.enqueue(digest, size)
}

// made returns the size of a blob that this reading has committed and the tree still knows.
func (s *sink) made(digest string) (int64, bool) {
	s.mu.Lock()
	_, have := s.have[digest] // not if it was collected since
	made := have && s.wrote[digest]
	s.mu.Unlock()
	if !made {
		return 0, false
	}
	n, err := s.e.cfg.Tree.StatBlob(digest)
	return n, err == nil
}

// flushFull flushes if the queue is long enough.
func (s *sink) flushFull(ctx context.Context) error {
	s.mu.Lock()
	full := len(s.queue) >= s.e.cfg.flushAt && s.dir != "" && !s.oldest.IsZero()
	s.mu.Unlock()
	if !full {
		return nil
	}
	return s.flush(ctx)
}

// ours marks an error of the tree, as opposed to one of the content: the same import may succeed later.
type ours struct{ error }

func (o ours) Unwrap() error { return o.error }

// source is the reader of a blob's bytes. It records whether reading failed.
type source struct {
	r   io.Reader
	err error
}

// reader returns the source, or the file itself if its blocks can be shared with the tree.
func (s *source) reader() io.Reader {
	switch s.r.(type) {
	case *os.File, *io.SectionReader:
		return s.r
	case io.Seeker:
		return struct {
			io.Reader
			io.Seeker
		}{s, s.r.(io.Seeker)}
	case bundle.Skipper:
		return skippingSource{s}
	}
	return s
}

// skippingSource is a source of which bytes can be skipped.
type skippingSource struct{ *source }

// Skip implements bundle.Skipper.
func (s skippingSource) Skip(n int64) error {
	err := bundle.Skip(s.r, n)
	if err != nil {
		s.err = err
	}
	return err
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// failed reports whether err is a fault of the content: unreadable, or not matching its digest.
func (s *source) failed(err error) bool {
	return s.err != nil || errors.Is(err, syscall.EBADMSG) || errors.Is(err, io.ErrUnexpectedEOF)
}

// turn waits until no other Put writes the blob: two writers would corrupt one scratch file.
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

// write stores r as a blob.
func (s *sink) write(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	if digest != "" && size >= s.e.cfg.largeAt {
		return s.writeLarge(ctx, digest, size, r)
	}
	if s.e.cfg.Room != nil && size >= s.e.cfg.largeAt {
		if room := s.e.cfg.Room(); size > room { // check before the disk fills up with a part of it
			return "", 0, fmt.Errorf("a blob has %s, but only %s are free besides the disk's reserve: %w",
				BytesText(size),
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

// commit writes r to w, exactly size bytes if size is not -1, and commits it as the blob digest.
func commit(ctx context.Context, w cluster.BlobWriter, digest string, size int64, r io.Reader) (string, int64, error) {
	n, err := fillExactly(ctx, w, size, r)
	if err != nil {
		return "", 0, err
	}
	got, err := w.Commit(ctx, digest)
	return got, n, err
}

// fillExactly appends exactly size bytes of r to w, or all of r if size is -1, and returns their number.
func fillExactly(ctx context.Context, w cluster.BlobWriter, size int64, r io.Reader) (int64, error) {
	switch r.(type) {
	case *os.File, *io.SectionReader: // unwrapped, so that the writer can share their blocks
	default:
		r = bounded(ctx, r, size)
	}
	n, err := fill(ctx, w, r)
	if err == nil && size >= 0 && n != size {
		err = wrongSize(n, size)
	}
	return n, err
}

// fill appends r to w until ctx ends, which closes w. io.Copy would call the reader's WriteTo where it exists, which
// hides a file from the writer.
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

// bounded returns r limited to one byte more than size, and ending with ctx.
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

// verify reads a blob that need not be written, and verifies its digest.
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

// flush links the queued blobs below the pending directory. A blob that was collected in the meantime is removed from
// the import: it is read again, or the end of the import finds it missing.
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
			continue // a collection ran in the meantime
		}
		if err != nil {
			s.mu.Lock()
			s.queue = append(s.queue, queue...)
			if s.oldest.IsZero() || oldest.Before(s.oldest) {
				s.oldest = oldest
			}
			s.mu.Unlock()
			return fmt.Errorf("retain what was read: %w", err)
		}
		s.mu.Lock()
		s.told = unfinished
		s.mu.Unlock()
		return nil
	}
}

// run flushes periodically until ctx is done or end is closed. A flush that is under way when end is closed is not
// cancelled, as it might be applied later.
func (s *sink) run(ctx context.Context, end <-chan struct{}) {
	tick := time.NewTicker(s.e.cfg.flushEvery)
	defer tick.Stop()
	began := s.e.cfg.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end:
			return
		case <-tick.C:
		}
		s.small.begin() // slow input: do not risk reading it again after a crash
		s.mu.Lock()
		// Blobs that other names retain can wait: importing content that is already stored writes nothing, unless it
		// takes so long that those names may be deleted.
		due := s.dir != "" && len(s.queue) > 0 && (!s.oldest.IsZero() || s.e.cfg.Now().Sub(began) > heldWait)
		begun := s.dir != "" && len(s.large) > 0
		told := s.told
		s.mu.Unlock()
		// The record lists a large blob as soon as it is begun, so that removing the import removes its scratch file.
		due = due || begun && !slices.Equal(s.unfinished(), told)
		if due {
			if err := s.flush(ctx); err != nil && ctx.Err() == nil {
				s.e.cfg.Log.Warn("the progress of an import cannot be saved yet, retrying", "err", err)
			}
		}
	}
}

// heldWait is how long an import relies on blobs that other names retain, before it links them itself.
const heldWait = 10 * time.Minute

// keeps returns how many bytes came with this import and are retained, in this and earlier readings.
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

// idle reports whether no blob in the queue is retained by a pin alone.
func (s *sink) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oldest.IsZero()
}

// fresh reports whether the blob came with this import, in this or an earlier reading.
func (s *sink) fresh(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have[digest].fresh
}
