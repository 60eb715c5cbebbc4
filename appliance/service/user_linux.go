package service

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// As runs do as the daemon's user, on every thread of the process, and switches back to root. Files that do writes
// belong to the user, and links in the user's directories reach only what the user may access.
func (h *Host) As(do func() error) (err error) {
	groups, err := syscall.Getgroups()
	if err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	uid, gid := syscall.Geteuid(), syscall.Getegid()
	defer func() {
		// The user is switched last, and restored first: only root may change the rest.
		back := errors.Join(syscall.Setresuid(-1, uid, -1), syscall.Setresgid(-1, gid, -1), syscall.Setgroups(groups))
		if back != nil {
			err = errors.Join(err, fmt.Errorf("back to root: %w", back))
		}
	}()
	if err := errors.Join(syscall.Setgroups([]int{h.gid}), syscall.Setresgid(-1, h.gid, -1),
		syscall.Setresuid(-1, h.uid, -1)); err != nil {
		return fmt.Errorf("become user %s: %w", User, err)
	}
	return do()
}

func owner(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
