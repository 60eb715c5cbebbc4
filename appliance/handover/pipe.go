package handover

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// pipe reads a pipe that was passed by the command. Its open file description is shared with the operator's shell, so
// the pipe is not made non-blocking, which would affect the shell; it is polled, so that a session that ends does not
// wait for the next byte. It has none of the methods that only regular files have.
type pipe struct {
	file    *os.File
	session *Session
	input   int
	relayed bool
}

const pollEvery = 100 // milliseconds: how long the end of a session may wait for a Read

func (p *pipe) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	raw, err := p.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Read(func(fd uintptr) bool {
		n, err = p.poll(int(fd), b)
		return true
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil:
		return 0, err
	case n > 0:
		return n, nil
	case p.relayed:
		if _, err := p.session.ask(ask{Op: opEnd, Input: p.input}); err != nil {
			return 0, fmt.Errorf("read %s: %w", p.file.Name(), err)
		}
	}
	return 0, io.EOF
}

// poll reads at least one byte, or 0 at the end.
func (p *pipe) poll(fd int, b []byte) (int, error) {
	for {
		if p.session.ctx.Err() != nil {
			return 0, p.session.cause()
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, pollEvery)
		if ready <= 0 {
			if err != nil && !errors.Is(err, unix.EINTR) {
				return 0, fmt.Errorf("read %s: %w", p.file.Name(), err)
			}
			continue
		}
		n, err := unix.Read(fd, b)
		switch {
		case err == nil:
			return n, nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("read %s: %w", p.file.Name(), err)
		}
	}
}

func (p *pipe) Close() error { return p.file.Close() }

// Stat reports only that it is a pipe: its size and time say nothing about the content.
func (p *pipe) Stat() (fs.FileInfo, error) {
	return info{entry{Base: []byte(p.file.Name()), Bits: fs.ModeNamedPipe | 0o400}}, nil
}
