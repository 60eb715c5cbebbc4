package setup

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reserve returns how much of the data directory's disk is reserved as free space. For a directory that does not
// exist yet it uses the file system of its parent.
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
