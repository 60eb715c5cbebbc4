package dnssrv

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a UDP socket that is not registered with Go's poller. The poller wakes up a thread for every packet that
// arrives after a pause, whether or not a goroutine waits for it, and another thread to run the goroutine: at 2 000
// questions a second that was more than half of their cost. Readers of a socket wait in the kernel.
type socket struct {
	*net.UDPConn // closed: for its addresses, and because x/net needs one
	fd           rawFD
	fds          [2]unix.PollFd // the socket, and the pipe that wake closes
	end          *os.File       // its other side is in fds
	ended        *os.File
	wakeOnce     sync.Once
}

// takeSocket takes the socket out of conn, which it closes.
func takeSocket(conn *net.UDPConn) (*socket, error) {
	s := &socket{UDPConn: conn}
	err := control(conn, func(fd int) (err error) {
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		s.fd = rawFD(fd)
		return err
	})
	if err != nil {
		return nil, err
	}
	conn.Close()
	if s.ended, s.end, err = os.Pipe(); err != nil {
		unix.Close(int(s.fd))
		return nil, err
	}
	s.fds = [2]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.ended.Fd()), Events: unix.POLLIN}}
	return s, nil
}

// SyscallConn implements syscall.Conn.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return s.fd, nil }

// wait returns when there is a packet or an error to be read, or after wake; it may return spuriously. One goroutine
// may call it.
func (s *socket) wait() error {
	if _, err := unix.Poll(s.fds[:], -1); err != nil && !isAny(err, unix.EINTR, unix.EAGAIN) {
		return os.NewSyscallError("poll", err)
	}
	return nil
}

// rest sleeps for d in the kernel. That costs one system call; a timer of Go's runtime wakes up other threads.
func rest(d time.Duration) {
	t := unix.NsecToTimeval(int64(d))
	_, _ = unix.Select(0, nil, nil, nil, &t) // a signal ends it early
}

// wake ends wait, now and in future calls.
func (s *socket) wake() { s.wakeOnce.Do(func() { s.end.Close() }) }

// close must be the last call.
func (s *socket) close() {
	s.wake()
	s.ended.Close()
	unix.Close(int(s.fd))
}

// rawFD is a descriptor as a syscall.RawConn whose calls never block: they pass MSG_DONTWAIT.
type rawFD int

func (fd rawFD) Control(f func(uintptr)) error    { f(uintptr(fd)); return nil }
func (fd rawFD) Read(f func(uintptr) bool) error  { f(uintptr(fd)); return nil }
func (fd rawFD) Write(f func(uintptr) bool) error { f(uintptr(fd)); return nil }
