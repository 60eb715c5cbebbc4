package clientconn

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"casemate/cluster/share"
)

// Large responses are copied in turns (share.Turns): as many copies run at a time as there are cores, one piece each,
// and the others wait in a queue that alternates between clients. Without this, a hundred downloads are a hundred
// runnable goroutines, each for up to ten milliseconds, and a small request waits for all of them.
const (
	LargeWrite = 8 << 10 // bytes from which a write needs a turn

	sendPiece = 4 << 20   // bytes in a turn with sendfile, half a millisecond
	turnPiece = 256 << 10 // bytes in a turn over TLS, a fraction of a millisecond

	// turnChunk is read, encrypted and written at a time: four records, which stay in the core's cache.
	turnChunk = 64 << 10
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

// open sets raw.
func (c *Conn) open() (err error) {
	if c.raw == nil {
		c.raw, err = c.TCPConn.SyscallConn()
	}
	return err
}

// writable waits until the client has room for more. It is called without a turn.
func (c *Conn) writable() error {
	if err := c.open(); err != nil {
		return err
	}
	start := c.extendDeadline()
	err := c.raw.Write(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
	c.wrote(start, 0)
	return err
}

// send calls try for one system call that sends up to want bytes. If the client accepts none now, send returns the
// turn, and then 0 once the client may accept some.
func (c *Conn) send(try func(fd uintptr) (int, error)) (n int, err error) {
	if err := c.open(); err != nil {
		return 0, err
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
	if !c.turn {
		defer c.yield() // else a caller further up continues with the turn, if it was not lost
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

// Each has room for the records of a chunk.
var copyBuffers = sync.Pool{New: func() any { return new([turnChunk + turnChunk/8]byte) }}

// CopyInTurns copies a file to dst, which encrypts and writes to c. What was not sent when there is an error cannot be
// sent later: the connection is closed then.
func (c *Conn) CopyInTurns(dst io.Writer, r io.Reader, file *os.File, limit int64) (n int64, err error) {
	defer c.yield()
	c.gather(nil)
	for err == nil && limit > 0 {
		c.yield()
		prefetch(file, min(limit, turnPiece))
		for piece := min(limit, turnPiece); err == nil && piece > 0; {
			if !c.turn {
				// Who waits for its client does so before it has read and encrypted anything, as far as possible: there
				// may be thousands.
				if err = c.writable(); err != nil {
					break
				}
				c.take()
			}
			var m int64
			m, err = c.copyChunk(dst, r, min(piece, turnChunk))
			n, piece, limit = n+m, piece-m, limit-m
		}
	}
	if err == io.EOF {
		err = nil
	}
	if err != nil {
		c.Close()
	}
	return n, errors.Join(err, c.release())
}

// copyChunk copies up to most bytes, with one write to the socket for all the records that they become.
func (c *Conn) copyChunk(dst io.Writer, r io.Reader, most int64) (n int64, err error) {
	buf := copyBuffers.Get().(*[turnChunk + turnChunk/8]byte)
	m, rerr := r.Read(buf[:most])
	if m == 0 {
		copyBuffers.Put(buf)
		return 0, rerr
	}
	records := copyBuffers.Get().(*[turnChunk + turnChunk/8]byte)
	defer copyBuffers.Put(records)
	c.gather(records[:0])
	w, err := dst.Write(buf[:m])
	copyBuffers.Put(buf) // not held while the client is waited for
	if err == nil {
		err = c.flush()
	}
	if err == nil {
		err = rerr
	}
	return int64(w), err
}

// gather has what is written to c kept in buf, until flush. crypto/tls writes each record by itself, of 16 KiB at most.
func (c *Conn) gather(buf []byte) {
	c.gathering.Lock()
	defer c.gathering.Unlock()
	if buf == nil {
		buf = []byte{}
	}
	c.gathered = append(buf, c.gathered...)
}

// gathers keeps p, if it is to be kept. It never waits, while flush does: whoever reads from a TLS connection may write
// to it as well, and so does who closes it.
func (c *Conn) gathers(p []byte) bool {
	c.gathering.Lock()
	defer c.gathering.Unlock()
	if c.gathered == nil {
		return false
	}
	c.gathered = append(c.gathered, p...)
	return true
}

// flush writes what was gathered, in its order.
func (c *Conn) flush() error {
	c.gathering.Lock()
	buf := c.gathered
	c.gathered = []byte{}
	c.gathering.Unlock()
	if len(buf) == 0 {
		return nil
	}
	_, err := c.writeInTurns(buf)
	return err
}

// release flushes, and has the next writes go to the socket.
func (c *Conn) release() error {
	for {
		err := c.flush()
		c.gathering.Lock()
		done := err != nil || len(c.gathered) == 0
		if done {
			c.gathered = nil
		}
		c.gathering.Unlock()
		if done && err != nil {
			c.Close()
		}
		if done {
			return err
		}
	}
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
