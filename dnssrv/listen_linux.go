package dnssrv

import "golang.org/x/sys/unix"

// forceReceive sets the receive buffer beyond net.core.rmem_max; it needs CAP_NET_ADMIN.
func forceReceive(fd, size int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
}

// forceSend sets the send buffer beyond net.core.wmem_max; it needs CAP_NET_ADMIN.
func forceSend(fd, size int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size)
}

// unsent returns how many bytes of the send buffer hold answers that have not left this host.
func unsent(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }
