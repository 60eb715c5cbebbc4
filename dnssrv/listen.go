package dnssrv

import (
	"context"
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

// ListenUDP binds n UDP sockets to one explicit address, "10.0.0.11:53", among which the kernel spreads clients (SO_REUSEPORT). One ServeUDP
// each; n below 1 is 1. With port 0, all get the port that the first was given.
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

// rcvbuf is what we ask the kernel to hold for us, so that a burst (a hundred nodes starting an install) is not lost.
const rcvbuf = 4 << 20

// raiseBuffer enlarges a socket's receive buffer as far as we may: beyond net.core.rmem_max only with CAP_NET_ADMIN. One that is large was made so by
// somebody who may (ReceiveBuffer= of a socket unit), and asking again without the right would cut it down to rmem_max.
func raiseBuffer(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var operr error
	err = raw.Control(func(fd uintptr) {
		now, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		if err != nil || now >= 1<<20 {
			operr = err
			return
		}
		if forceBuffer(int(fd)) != nil {
			operr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, rcvbuf)
		}
	})
	if err != nil {
		return err
	}
	return operr
}
