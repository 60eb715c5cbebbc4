package dnssrv

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a UDP socket that Go's poller does not know. The poller wakes up a thread for every packet that comes after
// a pause, whether or not it is waited for there, and another one to run the goroutine: at 2 000 questions a second
// that was more than half of what they cost. Who waits here waits in the kernel.
type socket struct {
	*net.UDPConn // closed: for its addresses, and because x/net wants one
	fd           rawFD
	fds          [2]unix.PollFd // the socket, and what wake ends
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

// wait returns when there is a packet or an error to be read, or after wake; it may return for nothing. One goroutine
// may call it.
func (s *socket) wait() error {
	if _, err := unix.Poll(s.fds[:], -1); err != nil && !isAny(err, unix.EINTR, unix.EAGAIN) {
		return os.NewSyscallError("poll", err)
	}
	return nil
}

// rest waits for d in the kernel. That costs one system call; a timer of Go's runtime wakes up other threads.
func rest(d time.Duration) {
	t := unix.NsecToTimeval(int64(d))
	_, _ = unix.Select(0, nil, nil, nil, &t) // a signal ends it early
}

// wake ends wait, from now on.
func (s *socket) wake() { s.wakeOnce.Do(func() { s.end.Close() }) }

// close must come after everything else.
func (s *socket) close() {
	s.wake()
	s.ended.Close()
	unix.Close(int(s.fd))
}

// rawFD is a descriptor as a syscall.RawConn whose calls never wait: they say so with MSG_DONTWAIT.
type rawFD int

func (fd rawFD) Control(f func(uintptr)) error    { f(uintptr(fd)); return nil }
func (fd rawFD) Read(f func(uintptr) bool) error  { f(uintptr(fd)); return nil }
func (fd rawFD) Write(f func(uintptr) bool) error { f(uintptr(fd)); return nil }
