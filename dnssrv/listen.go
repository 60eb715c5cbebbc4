package dnssrv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen binds n UDP sockets, as ListenUDP does, and TCP to one address and port; port 0 is one that is free for both.
func Listen(addr string, n int) ([]*net.UDPConn, net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, fmt.Errorf("dns socket: %w", err)
	}
	for try := 0; ; try++ {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			return nil, nil, fmt.Errorf("dns socket: %w", err)
		}
		conns, err := ListenUDP(ln.Addr().String(), n)
		if err == nil {
			return conns, ln, nil
		}
		ln.Close()
		// What the kernel picked as free for TCP may be taken for UDP.
		if port != "0" || try == 20 {
			return nil, nil, err
		}
	}
}

// ListenUDP binds n UDP sockets to one explicit address, "10.0.0.11:53", among which the kernel spreads clients
// (SO_REUSEPORT). One ServeUDP each; n below 1 is 1. With port 0, all get the port that the first was given.
func ListenUDP(addr string, n int) ([]*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var operr error
		if err := c.Control(func(fd uintptr) {
			operr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); err != nil {
			return err
		}
		return operr
	}}
	if n <= 1 {
		// Alone, a taken port must be an error and not a share of somebody else's clients.
		lc.Control = nil
	}
	var conns []*net.UDPConn
	for range max(n, 1) {
		pc, err := lc.ListenPacket(context.Background(), "udp", addr)
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
			return nil, fmt.Errorf("dns socket: %w", err)
		}
		conns = append(conns, pc.(*net.UDPConn))
		addr = pc.LocalAddr().String()
	}
	return conns, nil
}

// bufferSize is what we ask the kernel to hold in each direction: a burst of questions (a hundred nodes starting an
// install), and the answers to clients whose link-layer address it is still asking for.
var bufferSize = 4 << 20 // tests set another

// raiseBuffers enlarges a socket's buffers as far as we may: beyond net.core.rmem_max and wmem_max only with
// CAP_NET_ADMIN. One that is large was made so by somebody who may (ReceiveBuffer= and SendBuffer= of a socket unit),
// and asking again without the right would cut it down to the system's limit.
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

// sendBuffer is how many bytes the kernel keeps of what was sent on conn and has not left.
func sendBuffer(conn syscall.Conn) (size int, err error) {
	err = control(conn, func(fd int) (err error) {
		size, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		return err
	})
	return size, err
}
