package dnssrv

import "golang.org/x/sys/unix"

// forceBuffer sets the receive buffer beyond net.core.rmem_max; it needs CAP_NET_ADMIN.
func forceBuffer(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvbuf)
}
