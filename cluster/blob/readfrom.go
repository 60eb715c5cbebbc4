package blob

import (
	"errors"
	"hash"
	"io"
	"sync"
)

const (
	// cloneMin is the least size that is cloned: below, a copy costs less than what the file system has to note down.
	cloneMin = 256 << 10
	// chunk is how much is read, written and hashed at a time. Two are in memory for each ReadFrom.
	chunk = 128 << 10
	// aside is the least that is worth being hashed by another goroutine.
	aside = 16 << 10
)

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// ReadFrom implements io.ReaderFrom: it appends what r yields until io.EOF, as Write does. While one piece is read and
// written, the one before it is hashed by a second goroutine, which has ended when ReadFrom returns.
//
// If nothing was written before and r is the rest of a file on the same file system (an *os.File, or an *io.SectionReader
// of one), the bytes are not copied but shared as far as the file system can do that. Then they are hashed from our own
// file at the end, so that it does not matter who writes to theirs.
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

// rest tells which part of which file a reader has still before it; size is 0 if it is no regular file's.
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

// clone shares what can be shared with a file, if nothing was written yet, and returns how much that is.
func (w *Writer) clone(src Source, off, size int64) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil || w.size != 0 {
		return 0, nil
	}
	if err := w.d.Room(0); err != nil { // shared blocks take no room, but what goes below the reserve is not begun
		return 0, err
	}
	n, err := w.d.fs.Clone(w.f, src, off, size)
	if errors.Is(err, errors.ErrUnsupported) {
		return 0, nil
	}
	if err == nil {
		w.size, w.flushed = n, n // and not summed: Place hashes it
		_, err = w.f.Seek(n, io.SeekStart)
		return n, err
	}
	// Another file system, most likely. What is really wrong with a file, the copy will be told.
	if err := w.f.Truncate(0); err != nil {
		return 0, errors.Join(err, w.cancel()) // bytes that nobody asked for may stand behind what would be written now
	}
	return 0, nil
}

// job is a piece that was written and is to be hashed.
type job struct {
	sum  hash.Hash
	p    []byte
	done chan struct{}
}

// copy appends what r yields.
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
		got, rerr := r.Read(bufs[turn][:])
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

// pass writes a piece and has it hashed: at once if it is small, otherwise by whoever takes jobs, and then done is
// closed when p is free again.
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
		// In order: what was handed over before is hashed before.
		done = make(chan struct{})
		w.lag = done
		w.summed += int64(n)
		jobs <- job{w.sum, p[:n], done}
	}
	return n, done, err
}

// rehash feeds h with all bytes of the scratch file. w.mu is held.
func (w *Writer) rehash(h hash.Hash) error {
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	// Neither side may do the copying itself, with buffers of its own.
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{io.NewSectionReader(w.f, 0, w.size)}, buf[:])
	if err == nil && n < w.size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
