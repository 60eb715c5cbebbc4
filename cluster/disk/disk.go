// Package disk writes a node's small files so that a power cut leaves the old content or the new one, whole. Everything
// goes through blob.FS, so that tests can cut the power.
package disk

import (
	"errors"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"casemate/cluster/blob"
)

// WriteFile replaces a file atomically: after a crash the file has either its old or its new content, whole. When
// WriteFile has returned, the new content is durable.
func WriteFile(fsys blob.FS, name string, data []byte, perm fs.FileMode) error {
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

// ReadFile reads a file of at most 64 MiB.
func ReadFile(fsys blob.FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<20))
}

// MkdirAll makes a directory and those above it, durably.
func MkdirAll(fsys blob.FS, dir string) error {
	i, err := fsys.Stat(dir)
	if err == nil && !i.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: fs.ErrExist}
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := MkdirAll(fsys, filepath.Dir(dir)); err != nil {
		return err
	}
	if err := fsys.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsys.SyncDir(filepath.Dir(dir))
}

// RemoveAll removes a file, or a directory with its content. It is no error if there is none.
func RemoveAll(fsys blob.FS, name string) error {
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
			if err := RemoveAll(fsys, filepath.Join(name, e.Name())); err != nil {
				return err
			}
		}
	}
	return fsys.Remove(name)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewChecksum computes a CRC-32C.
func NewChecksum() hash.Hash32 { return crc32.New(castagnoli) }

// Checksum is the CRC-32C of the concatenated parts.
func Checksum(parts ...[]byte) (sum uint32) {
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}
