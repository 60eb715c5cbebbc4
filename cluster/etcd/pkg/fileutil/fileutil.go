// Package fileutil holds the one function that raft-wal's default file system imports. The cluster gives raft-wal a
// file system of its own, so nothing calls it.
package fileutil

import "os"

// Preallocate makes the file size bytes long if extend is set, and else does nothing, which the original does too where
// a file system cannot reserve room.
func Preallocate(f *os.File, size int64, extend bool) error {
	if !extend {
		return nil
	}
	i, err := f.Stat()
	if err != nil || i.Size() >= size {
		return err
	}
	return f.Truncate(size)
}
