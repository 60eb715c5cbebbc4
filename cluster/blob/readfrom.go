package blob

import (
	"errors"
	"hash"
	"io"
	"sync"
)

const (
	// cloneMin is the minimum size for cloning: below it, a copy costs less than the file system's metadata.
	cloneMin = 256 << 10
	// chunk is how much is read, written and hashed at a time. Each ReadFrom has two chunks in memory.
	chunk = 128 << 10
	// aside is the minimum size of a piece that is hashed by another goroutine.
	aside = 16 << 10
)

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// ReadFrom implements io.ReaderFrom: it appends the bytes of r until io.EOF, as Write does. While one piece is read and
// written, a second goroutine hashes the previous one; it has ended when ReadFrom returns.
//
// If nothing was written before and r is the rest of a file on the same file system (an *os.File, or an
// *io.SectionReader of one), the bytes are shared instead of copied, as far as the file system supports it. Then they
// are hashed from our own file at the end, so that later writes to the source do not matter.
func (w *Writer) ReadFrom(r io.Reader) (n int64, err error) {
	if src, off, size := rest(r); size >= cloneMin {
		if n, err = w.clone(src, off, size); err != nil {
			return n, err
		}
		if _, err := r.(io.Seeker).Seek(n, io.SeekCurrent); err != nil {
			return n, err
		}
	}
	more, err := w.copy(r)
	return n + more, err
}

// rest returns the unread part of a reader's file; size is 0 if the reader is not a regular file.
func rest(r io.Reader) (src Source, off, size int64) {
	const all = 1 << 62
	at := func(s io.Seeker) int64 {
		pos, err := s.Seek(0, io.SeekCurrent)
		if err != nil {
			return -1 // a pipe
		}
		return pos
	}
	var pos int64
	switch r := r.(type) {
	case *io.SectionReader:
		outer, begin, n := r.Outer()
		src, _ = outer.(Source)
		pos = at(r)
		off, size = begin+pos, n-pos
	case Source:
		src = r
		pos = at(r)
		off, size = pos, all
	}
	if src == nil || pos < 0 {
		return nil, 0, 0
	}
	i, err := src.Stat()
	if err != nil || !i.Mode().IsRegular() {
		return nil, 0, 0
	}
	return src, off, min(size, i.Size()-off)
}

// clone shares as much as possible of a file, if nothing was written yet, and returns how much that is.
func (w *Writer) clone(src Source, off, size int64) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil || w.size != 0 {
		return 0, nil
	}
	if err := w.d.Room(0); err != nil { // shared blocks take no space, but below the reserve no upload is begun
		return 0, err
	}
	n, err := w.d.fs.Clone(w.f, src, off, size)
	if errors.Is(err, errors.ErrUnsupported) {
		return 0, nil
	}
	if err == nil {
		w.size, w.flushed = n, n // not hashed yet: Place does it
		_, err = w.f.Seek(n, io.SeekStart)
		return n, err
	}
	// Most likely another file system. The copy reports any real error of the file.
	if err := w.f.Truncate(0); err != nil {
		return 0, errors.Join(err, w.cancel()) // the file may have wrong bytes after the end of the next write
	}
	return 0, nil
}

// job is a written piece that is to be hashed.
type job struct {
	sum  hash.Hash
	p    []byte
	done chan struct{}
}

// copy appends the bytes of r.
func (w *Writer) copy(r io.Reader) (n int64, err error) {
	var bufs [2]*[chunk]byte
	var busy [2]chan struct{} // nil, or closed when the piece in that buffer was hashed
	jobs := make(chan job, 1)
	var helper sync.WaitGroup
	started := false
	defer func() {
		close(jobs)
		helper.Wait()
		for _, b := range bufs {
			if b != nil {
				chunks.Put(b)
			}
		}
	}()
	for turn := 0; ; turn = 1 - turn {
		if bufs[turn] == nil {
			bufs[turn] = chunks.Get().(*[chunk]byte)
		}
		if busy[turn] != nil {
			<-busy[turn]
			busy[turn] = nil
		}
		got, rerr := fill(r, bufs[turn][:])
		if got > 0 {
			if got >= aside && !started {
				started = true
				helper.Go(func() {
					for j := range jobs {
						j.sum.Write(j.p)
						close(j.done)
					}
				})
			}
			var put int
			put, busy[turn], err = w.pass(bufs[turn][:got], jobs)
			n += int64(put)
			if err != nil {
				return n, err
			}
			if put < got {
				return n, io.ErrShortWrite
			}
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// fill reads until p is full or r fails. Readers of connections return little at a time, and a file written in large
// pieces is kept in large pages, which are read again with less work.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var got int
		got, err = r.Read(p[n:])
		n += got
	}
	return n, err
}

// pass writes a piece and hashes it: at once if it is small, otherwise through jobs; then done is closed when p can be
// reused.
func (w *Writer) pass(p []byte, jobs chan<- job) (n int, done chan struct{}, err error) {
	if len(p) < aside {
		n, err = w.Write(p)
		return n, nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	whole := w.summed == w.size
	n, err = w.append(p)
	if whole && n > 0 {
		// In order: earlier pieces are hashed first.
		done = make(chan struct{})
		w.lag = done
		w.summed += int64(n)
		jobs <- job{w.sum, p[:n], done}
	}
	return n, done, err
}

// rehash writes all bytes of the scratch file to h. w.mu is held.
func (w *Writer) rehash(h hash.Hash) error {
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	// The wrappers hide the copying methods, which would allocate their own buffers.
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(w.f, 0, w.size)}, buf[:])
	if err == nil && n < w.size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
