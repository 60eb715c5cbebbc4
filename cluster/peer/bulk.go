package peer

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// bulk is the connection below TLS. Records have 16 KiB at most, and crypto/tls hands each of them to the kernel by
// itself, and asks for about one at a time: with large blobs most of the time went into system calls and waking the
// other side. Here what one write makes is sent at once, and where a read has found more than it could take, the next
// one takes as much as there is.
type bulk struct {
	net.Conn
	member atomic.Bool // the other side is one: it may cost memory

	// Owned by whoever reads, and TLS lets only one do so.
	more bool            // the last read was filled
	ours *[bulkSize]byte // nil: nothing is left of what was read
	rest []byte          // of ours

	mu     sync.Mutex
	corked bool
	held   *[]byte // what was written since; nil if that is nothing
}

const bulkSize = 128 << 10

var (
	bulks = sync.Pool{New: func() any { return new([bulkSize]byte) }}
	// corks have room for as much in records.
	corks = sync.Pool{New: func() any { b := make([]byte, 0, bulkSize+bulkSize/64); return &b }}
)

func (b *bulk) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if !b.more || len(p) >= bulkSize {
			n, err := b.Conn.Read(p)
			b.more = n == len(p) && n > 512 && b.member.Load() // not for each header of a record
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

// cork keeps what is written until uncork sends it.
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
