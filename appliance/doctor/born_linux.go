package doctor

import (
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// since returns when a file got its content: the later of its modification and its birth time, because a copy may
// preserve the modification time.
func since(name string, info fs.FileInfo) time.Time {
	at := info.ModTime()
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st)
	if err == nil && st.Mask&unix.STATX_BTIME != 0 {
		if born := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)); born.After(at) {
			return born
		}
	}
	return at
}
