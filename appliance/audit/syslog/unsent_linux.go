package syslog

import (
	"net"

	"golang.org/x/sys/unix"
)

// acknowledged reports whether the other host has acknowledged everything (SIOCOUTQ, tcp(7)).
func acknowledged(c *net.TCPConn) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	left := 0
	if e := raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); e != nil {
		return false, e
	}
	return left == 0, err
}
