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

// ErrLocked is returned by FS.Lock when another process (or another user of the same FS) holds the lock.
var ErrLocked = errors.New("held by another process")

// FS is the few calls through which everything durable of a node goes: blobs, the raft log, snapshots, marks.
// It is a seam: package blobtest has one that forgets at a power cut what was not synced.
//
// Errors are those of package os. What a call changes is durable only after File.Sync (bytes, size) and SyncDir of the
// directory that holds the name (existence of names); Rename is atomic: after a crash there is either the old name or
// the new one. All methods are safe for concurrent use.
type FS interface {
	// OpenFile opens a file with os.O_ flags. On disk it returns an *os.File, so that bytes can go to a socket by
	// sendfile.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Mkdir makes one directory.
	Mkdir(name string, perm fs.FileMode) error
	// Rename moves a file, replacing what stood there.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Stat describes a file or directory.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	// Syncer opens the file system of dir to sync all of it at once; errors.ErrUnsupported where that is not to be relied
	// on.
	Syncer(dir string) (Syncer, error)
	// Allocate reserves size bytes for a new file so that later writes within it need no new space; the bytes read as
	// zeros.
	Allocate(f File, size int64) error
	// Clone makes the first n bytes of dst, an empty file, those of src from off on, without copying them: both files
	// share the disk's blocks until one is written. n is at most size and may be less, since only whole blocks can be
	// shared. errors.ErrUnsupported says that this cannot be done and dst is as it was; after any other error dst may
	// have any bytes.
	Clone(dst File, src Source, off, size int64) (n int64, err error)
	// Chtimes sets the modification time of a file. It is durable after a Sync of the file.
	Chtimes(name string, mod time.Time) error
	// Drop lets the system forget what it has in memory of a file, so that who reads it reads the disk. It is a hint
	// and promises nothing.
	Drop(f File)
	// Flush begins to write n bytes from off on to the disk and does not wait for them, so that the Sync to come has
	// less to do. It is a hint and promises nothing.
	Flush(f File, off, n int64)
	// Free returns the bytes that this process may still write to the file system of dir, and its whole size.
	Free(dir string) (free, total int64, err error)
	// Lock takes an exclusive lock that ends with Close or with the process; ErrLocked if someone else has it.
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
	// Sync makes durable what was changed before it was called: the bytes of files and the names in directories. It also
	// waits for what others have written. An error says that something is lost that was written since the Syncer was
	// opened or since its last error, and not what that is: each file's own Sync tells.
	Sync() error
	io.Closer
}

// Source is a file from which bytes can be cloned: an *os.File, or what embeds one.
type Source interface {
	io.Reader
	io.Seeker
	io.ReaderAt
	syscall.Conn
	Stat() (fs.FileInfo, error)
}

// OS is the operating system's file system.
type OS struct{}

// OpenFile is os.OpenFile; the File is an *os.File.
func (OS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err // not f: a nil *os.File in a File is not nil
	}
	return f, nil
}

// Mkdir is os.Mkdir.
func (OS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

// Rename is os.Rename.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

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

// Free is statfs(2): what an unprivileged process may use (f_bavail), not what root keeps.
func (OS) Free(dir string) (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), nil // the types differ between systems
}

// Lock is flock(2) on a file that is made if it is absent and stays there.
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
