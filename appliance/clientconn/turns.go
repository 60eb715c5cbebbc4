package clientconn

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"

	"casemate/cluster/share"
)

// Large responses are copied in turns (share.Turns): as many copies run at a time as there are cores, one piece each,
// and the others wait in a queue that alternates between clients. Without this, a hundred downloads are a hundred
// runnable goroutines, each for up to ten milliseconds, and a small request waits for all of them.
const (
	LargeWrite = 8 << 10   // bytes from which a write needs a turn
	turnPiece  = 256 << 10 // bytes copied in a turn over TLS, a fraction of a millisecond
)

// NewTurns leaves one of the scheduler's processors to small requests.
func NewTurns() *share.Turns { return share.NewTurns(runtime.GOMAXPROCS(0) - 1) }

// take waits for a turn; the writer of c calls it.
func (c *Conn) take() {
	if !c.turn {
		c.turns.Take(c.client)
		c.turn = true
	}
}

// yield returns the turn, if c has it.
func (c *Conn) yield() {
	if c.turn {
		c.turn = false
		c.turns.Free()
	}
}

// send calls try for one system call that sends up to want bytes. If the client accepts none now, send returns the
// turn, and then 0 once the client may accept some.
func (c *Conn) send(try func(fd uintptr) (int, error)) (n int, err error) {
	if c.raw == nil {
		if c.raw, err = c.TCPConn.SyscallConn(); err != nil {
			return 0, err
		}
	}
	c.take()
	start := c.extendDeadline()
	tried := false
	werr := c.raw.Write(func(fd uintptr) bool {
		if tried {
			return true // with a turn, next time
		}
		tried = true
		for {
			if n, err = try(fd); err != syscall.EINTR {
				break
			}
		}
		if err == syscall.EAGAIN {
			n, err = 0, nil
			c.yield()
			return false
		}
		return true
	})
	c.wrote(start, int64(n))
	if err != nil {
		err = os.NewSyscallError("write", err)
	}
	return n, errors.Join(werr, err)
}

// writeInTurns is Write for large data.
func (c *Conn) writeInTurns(p []byte) (n int, err error) {
	if c.turn {
		defer c.take() // a caller further up holds the turn, and continues with it
	} else {
		defer c.yield()
	}
	for n < len(p) {
		piece := p[n:min(len(p), n+stallChunk)]
		m, err := c.send(func(fd uintptr) (int, error) {
			m, err := syscall.Write(int(fd), piece)
			return max(m, 0), err
		})
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// CopyInTurns copies a file to dst, which encrypts and writes to c.
func (c *Conn) CopyInTurns(dst io.Writer, r io.Reader, file *os.File, limit int64) (n int64, err error) {
	defer c.yield()
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for limit > 0 {
		c.yield()
		prefetch(file, min(limit, turnPiece))
		c.take()
		for piece := min(limit, turnPiece); piece > 0; {
			m, rerr := r.Read(buf[:min(piece, int64(len(buf)))])
			if m > 0 {
				w, err := dst.Write(buf[:m])
				n, piece, limit = n+int64(w), piece-int64(w), limit-int64(w)
				if err != nil {
					return n, err
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
	return n, nil
}

// FileOf returns the file that r reads, and how much of it; nil if r does not read a file.
func FileOf(r io.Reader) (*os.File, int64) {
	limit := int64(1<<63 - 1)
	if l, ok := r.(*io.LimitedReader); ok {
		r, limit = l.R, l.N
	}
	f, _ := r.(*os.File)
	return f, limit
}
