package cluster

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"casemate/cluster/blob"
)

// FS is the file system under a node; see blob.FS. Everything durable goes through it.
type FS = blob.FS

// writeFile replaces a file at one moment: after a crash there is the old one or the new one, whole, and when it has
// returned, the new one.
func writeFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	temp := name + ".new"
	f, err := fsys.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temp, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// readFile reads a file of at most 64 MiB.
func readFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<20))
}

// mkdirs makes a directory and those above it, durably.
func mkdirs(fsys FS, dir string) error {
	i, err := fsys.Stat(dir)
	if err == nil && !i.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: fs.ErrExist}
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := mkdirs(fsys, filepath.Dir(dir)); err != nil {
		return err
	}
	if err := fsys.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsys.SyncDir(filepath.Dir(dir))
}

// removeAll removes a file or a directory with what is in it. It is no error if there is nothing.
func removeAll(fsys FS, name string) error {
	i, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if i.IsDir() {
		list, err := fsys.ReadDir(name)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := removeAll(fsys, filepath.Join(name, e.Name())); err != nil {
				return err
			}
		}
	}
	return fsys.Remove(name)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// checksumOf is checksum of parts, one behind the other.
func checksumOf(parts ...[]byte) (sum uint32) {
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}

// mark is a durable lower bound of a number that grows: the log index up to which everything is committed (promise 7).
// Raft does not write down what is committed; a node that starts alone would show the tree of its last snapshot until
// there is a leader.
//
// Two slots of 20 bytes (number, its checksum, padding to different sectors) are written in turn, so that a torn write
// leaves the other one.
type mark struct {
	f     blob.File
	turn  int
	last  uint64
	watch *watchdog // of its disk; nil: nobody looks
}

const slotSize = 4096

func openMark(fsys FS, name string) (*mark, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		f.Close()
		return nil, err
	}
	m := &mark{f: f}
	for slot := range 2 {
		var b [12]byte
		if n, _ := f.ReadAt(b[:], int64(slot)*slotSize); n < len(b) {
			continue // never written
		}
		v := binary.BigEndian.Uint64(b[:])
		if binary.BigEndian.Uint32(b[8:]) == checksum(b[:8]) && v > m.last {
			m.last, m.turn = v, 1-slot
		}
	}
	return m, nil
}

// set makes v durable. Used by one goroutine.
func (m *mark) set(v uint64) error {
	if v <= m.last {
		return nil
	}
	if m.watch != nil {
		defer m.watch.begin()()
	}
	b := binary.BigEndian.AppendUint64(nil, v)
	b = binary.BigEndian.AppendUint32(b, checksum(b))
	if _, err := m.f.WriteAt(b, int64(m.turn)*slotSize); err != nil {
		return err
	}
	if err := syncData(m.f); err != nil {
		return err
	}
	m.last, m.turn = v, 1-m.turn
	return nil
}
