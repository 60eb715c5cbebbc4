package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"casemate/cluster/blob"
)

// SyncData makes a file's bytes and its size durable. Unlike File.Sync it does not write the file's times, which would
// cost the file system a commit of its journal for each log entry.
func SyncData(f blob.File) error {
	o, ok := f.(*os.File)
	if !ok {
		return f.Sync()
	}
	raw, err := o.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for failed = unix.EINTR; errors.Is(failed, unix.EINTR); {
			failed = unix.Fdatasync(int(fd))
		}
	})
	if err == nil && failed != nil {
		err = &fs.PathError{Op: "fdatasync", Path: o.Name(), Err: failed}
	}
	return err
}
