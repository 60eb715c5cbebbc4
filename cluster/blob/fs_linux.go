package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Syncer is syncfs(2). Before Linux 5.8 syncfs does not report failed writes, and on file systems that are not in the
// list its guarantees are unknown (with FUSE it does not reach the disk): both are errors.ErrUnsupported.
func (OS) Syncer(dir string) (Syncer, error) {
	var u unix.Utsname
	var st unix.Statfs_t
	if err := unix.Uname(&u); err != nil || !tellsSyncErrors(unix.ByteSliceToString(u.Release[:])) {
		return nil, errors.ErrUnsupported
	}
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch int64(st.Type) { // the types differ between architectures
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
	default:
		return nil, errors.ErrUnsupported
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return syncer{f}, nil
}

// tellsSyncErrors reports whether syncfs(2) of a kernel release reports failed writes: since 5.8.
func tellsSyncErrors(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 5 || major == 5 && minor >= 8
}

type syncer struct{ *os.File }

// Sync overrides the file's Sync.
func (s syncer) Sync() error {
	for {
		err := unix.Syncfs(int(s.Fd()))
		if err == nil || !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("syncfs", err)
		}
	}
}

// Allocate is fallocate(2), or ftruncate(2) if the file system does not support it.
func (OS) Allocate(f File, size int64) error {
	o, ok := f.(*os.File)
	if !ok {
		return f.Truncate(size)
	}
	err := unix.Fallocate(int(o.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(size)
	}
	if err != nil {
		return &fs.PathError{Op: "fallocate", Path: o.Name(), Err: err}
	}
	return nil
}

// Clone is ioctl_ficlonerange(2), which xfs and btrfs support, for files of one file system. Both ends of the range
// must be block boundaries, except that its end may be that of src.
func (OS) Clone(dst File, src Source, off, size int64) (n int64, err error) {
	to, ok := dst.(*os.File)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	i, err := src.Stat()
	if err != nil || off < 0 || size <= 0 || off+size > i.Size() {
		return 0, errors.ErrUnsupported
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(to.Fd()), &st); err != nil || st.Bsize <= 0 || off%int64(st.Bsize) != 0 {
		return 0, errors.ErrUnsupported
	}
	if n = size; off+n < i.Size() {
		n -= n % int64(st.Bsize)
	}
	if n == 0 { // 0 would mean the whole file
		return 0, errors.ErrUnsupported
	}
	raw, err := src.SyscallConn()
	if err != nil {
		return 0, errors.ErrUnsupported
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{Src_fd: int64(fd), Src_offset: uint64(off),
			Src_length: uint64(n)})
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, &fs.PathError{Op: "clone", Path: to.Name(), Err: err}
	}
	return n, nil
}

// Drop is posix_fadvise(2).
func (OS) Drop(f File) {
	o, ok := f.(*os.File)
	if !ok {
		return
	}
	raw, err := o.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) })
}

// Flush is sync_file_range(2).
func (OS) Flush(f File, off, n int64) {
	o, ok := f.(*os.File)
	if !ok {
		return
	}
	raw, err := o.SyscallConn()
	if err != nil {
		return
	}
	// fsync reports bytes that cannot be written.
	raw.Control(func(fd uintptr) { unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE) })
}
