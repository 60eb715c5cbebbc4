package handover

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// checkDescriptor refuses everything but a regular file or a pipe that is open for reading only. It refuses a device,
// a socket and a terminal, because reading them has side effects, a file that the daemon could write, and a
// directory, which has no bytes.
func checkDescriptor(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("descriptor: %w", err)
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFIFO {
		return protocolError("a descriptor is neither a regular file nor a pipe (mode %o)", st.Mode)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("descriptor: %w", err)
	}
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		return protocolError("a descriptor is open for writing")
	}
	return nil
}

// plain reports whether f can be passed as it is: the daemon would accept it, and would read a regular file from its
// start.
func plain(f *os.File) bool {
	if checkDescriptor(int(f.Fd())) != nil {
		return false
	}
	at, err := f.Seek(0, io.SeekCurrent)
	return at == 0 || err != nil // a pipe has no position
}
