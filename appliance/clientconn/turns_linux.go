package clientconn

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// prefetch waits until the next n bytes of a file are in memory, so that no connection waits for a disk while holding
// a turn.
func prefetch(f *os.File, n int64) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		at, err := unix.Seek(int(fd), 0, io.SeekCurrent)
		if err != nil {
			return
		}
		var last [1]byte
		end := at + n - 1
		if _, err := unix.Preadv2(int(fd), [][]byte{last[:]}, end, unix.RWF_NOWAIT); err != unix.EAGAIN {
			return // in memory, beyond the end, or unknown to the file system
		}
		unix.Fadvise(int(fd), at, n, unix.FADV_WILLNEED)
		unix.Pread(int(fd), last[:], end)
	})
}

// sendFile copies up to limit bytes of a file in the kernel. ok is false if the kernel does not support this file;
// then nothing was sent.
func (c *Conn) sendFile(f *os.File, limit int64) (n int64, ok bool, err error) {
	src, err := f.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	defer c.yield()
	cerr := src.Control(func(fd uintptr) {
		for limit > 0 && err == nil {
			piece := min(limit, sendPiece)
			c.yield()
			prefetch(f, piece)
			for piece > 0 {
				var m int
				eof := false
				m, err = c.send(func(to uintptr) (int, error) {
					m, err := unix.Sendfile(int(to), int(fd), nil, int(piece))
					eof = m == 0 && err == nil
					return max(m, 0), err
				})
				n, piece, limit = n+int64(m), piece-int64(m), limit-int64(m)
				if err != nil || eof {
					limit = 0
					break
				}
			}
		}
	})
	if err == nil {
		err = cerr
	}
	if n == 0 && (errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) ||
		errors.Is(err, syscall.EOPNOTSUPP)) {
		return 0, false, nil
	}
	return n, true, err
}
