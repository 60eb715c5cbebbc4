package blob

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned by FS.Lock if another process (or another user of the same FS) holds the lock.
var ErrLocked = errors.New("held by another process")

// FS is the set of calls for all durable data of a node: blobs, the raft log, snapshots, watermarks. Tests replace it:
// package blobtest has one that loses unsynced changes at a power cut.
//
// Errors are those of package os. A change is durable only after File.Sync (bytes, size) and SyncDir of the directory
// (existence of names); Rename is atomic: after a crash there is either the old name or the new one. All methods are
// safe for concurrent use.
type FS interface {
	// OpenFile opens a file with os.O_ flags. On disk it returns an *os.File, so that bytes can go to a socket by
	// sendfile.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Mkdir makes one directory.
	Mkdir(name string, perm fs.FileMode) error
	// Rename moves a file and replaces an existing one.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Stat describes a file or directory.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	// Syncer opens the file system of dir to sync all of it at once; errors.ErrUnsupported if such a sync is not
	// reliable.
	Syncer(dir string) (Syncer, error)
	// Allocate reserves size bytes for a new file, so that later writes within it need no new space; the bytes read as
	// zeros.
	Allocate(f File, size int64) error
	// Clone makes the first n bytes of dst, an empty file, those of src from off on, without copying them: both files
	// share the disk's blocks until one is written. n is at most size and may be less, since only whole blocks can be
	// shared. errors.ErrUnsupported means that cloning is impossible and dst is unchanged; after any other error dst
	// may have any bytes.
	Clone(dst File, src Source, off, size int64) (n int64, err error)
	// Chtimes sets the modification time of a file. It is durable after a Sync of the file.
	Chtimes(name string, mod time.Time) error
	// Drop lets the system drop its cache of a file, so that the next read reads the disk. It is a hint without
	// guarantees.
	Drop(f File)
	// Flush begins to write n bytes from off on to the disk without waiting, so that the next Sync has less to do. It
	// is a hint without guarantees.
	Flush(f File, off, n int64)
	// Free returns the number of bytes that this process may still write to the file system of dir, and its size.
	Free(dir string) (free, total int64, err error)
	// Lock takes an exclusive lock that ends with Close or with the process; ErrLocked if it is taken.
	Lock(name string) (io.Closer, error)
}

// File is an open file of an FS.
type File interface {
	io.Reader
	io.Writer
	io.Seeker
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// Syncer syncs a whole file system.
type Syncer interface {
	// Sync makes everything durable that was changed before the call: the bytes of files and the names in directories.
	// It also waits for other processes' writes. An error means that some write since the Syncer was opened, or since
	// its last error, was lost; each file's own Sync tells which.
	Sync() error
	io.Closer
}

// Source is a file whose bytes can be cloned: an *os.File, or a type that embeds one.
type Source interface {
	io.Reader
	io.Seeker
	io.ReaderAt
	syscall.Conn
	Stat() (fs.FileInfo, error)
}

// OS is the operating system's file system.
type OS struct{}

// OpenFile is open(2); the File is an *os.File. os.OpenFile would make five more system calls to find out that the
// runtime's poller does not take a file of a disk.
func (OS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	for {
		fd, err := unix.Open(name, flag|unix.O_CLOEXEC, uint32(perm.Perm()))
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// Mkdir is os.Mkdir.
func (OS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

// Rename is rename(2). os.Rename would look at the new name first.
func (OS) Rename(from, to string) error {
	for {
		err := unix.Rename(from, to)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
	}
}

// Remove is os.Remove.
func (OS) Remove(name string) error { return os.Remove(name) }

// ReadDir is os.ReadDir.
func (OS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

// Stat is os.Stat.
func (OS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// Chtimes is os.Chtimes.
func (OS) Chtimes(name string, mod time.Time) error { return os.Chtimes(name, mod, mod) }

// SyncDir is fsync(2) of the directory.
func (OS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Free is statfs(2): the space for unprivileged processes (f_bavail), without root's reserve.
func (OS) Free(dir string) (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), nil // the types differ between systems
}

// Lock is flock(2) on a file that is created if it is absent and never removed.
func (OS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return f, nil
}
