package dnssrv

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// bufferSize is the size that we request from the kernel for each direction. It holds a burst of questions (a hundred
// nodes starting an install), and the answers to clients whose link-layer address is still being resolved.
var bufferSize = 4 << 20 // tests set another value

// raiseBuffers enlarges a socket's buffers as far as permitted: beyond net.core.rmem_max and wmem_max only with
// CAP_NET_ADMIN. A buffer that is large already was set by a privileged process (ReceiveBuffer= and SendBuffer= of a
// socket unit); setting it again without the capability would reduce it to the system's limit.
func raiseBuffers(conn *net.UDPConn) error {
	return control(conn, func(fd int) error {
		return errors.Join(
			raiseBuffer(fd, unix.SO_RCVBUF, forceReceive), raiseBuffer(fd, unix.SO_SNDBUF, forceSend))
	})
}

func raiseBuffer(fd, option int, force func(fd, size int) error) error {
	now, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	if err != nil || now >= 1<<20 {
		return err
	}
	if force(fd, bufferSize) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, bufferSize)
}

// control calls f with conn's descriptor.
func control(conn syscall.Conn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var operr error
	if err := raw.Control(func(fd uintptr) { operr = f(int(fd)) }); err != nil {
		return err
	}
	return operr
}

// sendBuffer returns the size of conn's send buffer in bytes.
func sendBuffer(conn syscall.Conn) (size int, err error) {
	err = control(conn, func(fd int) (err error) {
		size, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		return err
	})
	return size, err
}
