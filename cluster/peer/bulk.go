package peer

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// bulk is the connection below TLS. TLS records have at most 16 KiB; crypto/tls writes each of them with its own system
// call, and reads about one at a time. With large blobs most of the time went into system calls and waking the other
// side. bulk sends the records of one write together, and after a read that filled its buffer, the next read takes all
// that is available.
type bulk struct {
	net.Conn
	member atomic.Bool // the other side is a member and may cost memory

	// Owned by the reader; TLS allows only one at a time.
	more bool            // the last read filled its buffer
	ours *[bulkSize]byte // nil: no bytes are buffered
	rest []byte          // the unread part of ours

	mu     sync.Mutex
	corked bool
	held   *[]byte // written while corked; nil if empty
}

const bulkSize = 128 << 10

var (
	bulks = sync.Pool{New: func() any { return new([bulkSize]byte) }}
	// corks have room for bulkSize bytes as TLS records.
	corks = sync.Pool{New: func() any { b := make([]byte, 0, bulkSize+bulkSize/64); return &b }}
)

func (b *bulk) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if !b.more || len(p) >= bulkSize {
			n, err := b.Conn.Read(p)
			b.more = n == len(p) && n > 512 && b.member.Load() // a small read is a record's header
			return n, err
		}
		b.ours = bulks.Get().(*[bulkSize]byte)
		n, err := b.Conn.Read(b.ours[:])
		b.more = n > len(p)
		if err != nil || n == 0 {
			b.free()
			return 0, err
		}
		b.rest = b.ours[:n]
	}
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) == 0 {
		b.free()
	}
	return n, nil
}

func (b *bulk) free() {
	bulks.Put(b.ours)
	b.ours, b.rest = nil, nil
}

// Write implements net.Conn.
func (b *bulk) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.corked {
		if b.held == nil {
			b.held = corks.Get().(*[]byte)
		}
		*b.held = append(*b.held, p...)
		return len(p), nil
	}
	return b.Conn.Write(p)
}

// cork buffers writes until uncork sends them.
func (b *bulk) cork() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.corked = true
}

func (b *bulk) uncork() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.corked = false
	if b.held == nil {
		return nil
	}
	_, err := b.Conn.Write(*b.held)
	*b.held = (*b.held)[:0]
	corks.Put(b.held)
	b.held = nil
	return err
}

// ReadFrom implements io.ReaderFrom, which net/http uses for bodies of a known length.
func (s *stalling) ReadFrom(r io.Reader) (n int64, err error) {
	buf := bulks.Get().(*[bulkSize]byte)
	defer bulks.Put(buf)
	for {
		got, rerr := r.Read(buf[:])
		if got > 0 {
			if _, err := s.Write(buf[:got]); err != nil {
				return n, err
			}
			n += int64(got)
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}
