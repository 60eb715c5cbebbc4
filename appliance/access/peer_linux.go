package access

import (
	"fmt"
	"net"
	osuser "os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Peer returns the name of whoever has opened the other end of a Unix socket (SO_PEERCRED, unix(7)): the login name, or
// "uid/N" for a user whom this host does not know.
func Peer(c net.Conn) (string, error) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return "", fmt.Errorf("%T is not a socket", c)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return "", err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return "", fmt.Errorf("the user of the admin socket: %w", err)
	}
	uid := strconv.FormatUint(uint64(cred.Uid), 10)
	if u, err := osuser.LookupId(uid); err == nil {
		return u.Username, nil
	}
	return "uid/" + uid, nil
}
