package setup

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reserve is how much of the data directory's disk is kept free. A directory that is not there yet counts as its file
// system will: by what is above it.
func reserve(dir string) int64 {
	var st unix.Statfs_t
	for unix.Statfs(dir, &st) != nil {
		up := filepath.Dir(dir)
		if up == dir {
			return 0
		}
		dir = up
	}
	return min(int64(reserveMost), int64(st.Blocks)*int64(st.Bsize)/reservePart)
}
