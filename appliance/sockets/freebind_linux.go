package sockets

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// FreeBind lets a socket be bound to an address that this host does not have yet, like systemd's sockets with
// FreeBind=.
func FreeBind(network, _ string, c syscall.RawConn) (err error) {
	level, opt := unix.SOL_IP, unix.IP_FREEBIND
	if network == "tcp6" {
		level, opt = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, opt, 1) })
	if cerr != nil {
		return cerr
	}
	return err
}
