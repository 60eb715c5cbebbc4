// Package dnstest binds DNS sockets for tests of dnssrv and of the rooms that serve it.
package dnstest

import (
	"context"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen binds n UDP sockets (see ListenUDP) and one TCP socket to the same address and port. Port 0 selects a port
// that is free for both.
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
		// The port that the kernel picked for TCP may be taken for UDP.
		if port != "0" || try == 20 {
			return nil, nil, err
		}
	}
}

// ListenUDP binds n UDP sockets to one explicit address ("127.0.0.1:0"); the kernel distributes clients among them
// (SO_REUSEPORT). n below 1 means 1. With port 0, all sockets share the port that the first one received.
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
		// A single socket must fail on a port in use rather than share another socket's clients.
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
