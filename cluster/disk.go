package cluster

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft-wal/types"

	"casemate/cluster/blob"
)

// FS is the file system under a node; see blob.FS. Everything durable goes through it.
type FS = blob.FS

// writeFile replaces a file at one moment: after a crash there is the old one or the new one, whole, and when it has returned, the new one.
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

// segments gives raft-wal our file system.
type segments struct {
	fs    FS
	fatal func(error)
}

var _ types.VFS = segments{}

func (s segments) ListDir(dir string) ([]string, error) {
	list, err := s.fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list))
	for _, e := range list {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (s segments) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := s.fs.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	if size > 0 {
		if err := s.fs.Allocate(f, int64(size)); err != nil {
			f.Close()
			s.fs.Remove(filepath.Join(dir, name))
			return nil, err
		}
	}
	return &segment{File: f, s: s, dir: dir}, nil
}

func (s segments) Delete(dir, name string) error {
	if err := s.fs.Remove(filepath.Join(dir, name)); err != nil {
		return err
	}
	return s.fs.SyncDir(dir)
}

func (s segments) OpenReader(dir, name string) (types.ReadableFile, error) {
	return s.fs.OpenFile(filepath.Join(dir, name), os.O_RDONLY, 0)
}

func (s segments) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := s.fs.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	// Its name may have been made just before a crash: the first sync syncs the directory too.
	return &segment{File: f, s: s, dir: dir}, nil
}

type segment struct {
	blob.File
	s     segments
	dir   string
	named bool // its name is durable; used by raft-wal's one writer only
}

// Sync also makes the file's name durable, the first time. After an error the node must not go on: the kernel has dropped what it could not write,
// and would call a later sync of the same bytes a success.
func (g *segment) Sync() error {
	err := g.File.Sync()
	if err == nil && !g.named {
		if err = g.s.fs.SyncDir(g.dir); err == nil {
			g.named = true
		}
	}
	if err != nil {
		g.s.fatal(fmt.Errorf("sync of the raft log: %w", err))
	}
	return err
}

// meta is what raft-wal calls its meta store: the list of segments, and raft's term and vote. It is written a few times per election
// and segment, so one small file, replaced as a whole, does; bbolt, raft-wal's default, would be a second database with a
// second format, and one that has no seam to test power cuts through.
type meta struct {
	fs     FS
	path   string
	create bool // a missing file is an empty log; otherwise it is damage: raft-wal would delete every segment that it does not list

	mu   sync.Mutex
	body metaBody
}

type metaBody struct {
	Segments types.PersistentState
	Stable   map[string][]byte
}

var _ types.MetaStore = (*meta)(nil)

// Load implements types.MetaStore.
func (m *meta) Load(string) (types.PersistentState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.body = metaBody{Stable: map[string][]byte{}}
	data, err := readFile(m.fs, m.path)
	if errors.Is(err, fs.ErrNotExist) && m.create {
		return m.body.Segments, nil
	}
	if err != nil {
		return m.body.Segments, err
	}
	if len(data) < 4 || binary.BigEndian.Uint32(data) != checksum(data[4:]) {
		return m.body.Segments, fmt.Errorf("%s: wrong checksum: %w", m.path, types.ErrCorrupt)
	}
	if err := json.Unmarshal(data[4:], &m.body); err != nil {
		return m.body.Segments, fmt.Errorf("%s: %v: %w", m.path, err, types.ErrCorrupt)
	}
	if m.body.Stable == nil {
		m.body.Stable = map[string][]byte{}
	}
	return m.body.Segments, nil
}

func (m *meta) write() error {
	data, err := json.Marshal(m.body)
	if err != nil {
		return err
	}
	return writeFile(m.fs, m.path, append(binary.BigEndian.AppendUint32(nil, checksum(data)), data...), 0o640)
}

// CommitState implements types.MetaStore.
func (m *meta) CommitState(s types.PersistentState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.body.Segments = s
	return m.write()
}

// GetStable implements types.MetaStore.
func (m *meta) GetStable(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.body.Stable[string(key)], nil
}

// SetStable implements types.MetaStore. Raft keeps its term and its vote here.
func (m *meta) SetStable(key, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value == nil {
		delete(m.body.Stable, string(key))
	} else {
		m.body.Stable[string(key)] = append([]byte{}, value...)
	}
	return m.write()
}

// Close implements types.MetaStore.
func (m *meta) Close() error { return nil }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// mark is a durable lower bound of a number that grows: the log index up to which everything is committed (promise 7). Raft does not write down what is
// committed; a node that starts alone would show the tree of its last snapshot until there is a leader.
//
// Two slots of 20 bytes (number, its checksum, padding to different sectors) are written in turn, so that a torn write leaves the other one.
type mark struct {
	f    blob.File
	turn int
	last uint64
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
	b := binary.BigEndian.AppendUint64(nil, v)
	b = binary.BigEndian.AppendUint32(b, checksum(b))
	if _, err := m.f.WriteAt(b, int64(m.turn)*slotSize); err != nil {
		return err
	}
	if err := m.f.Sync(); err != nil {
		return err
	}
	m.last, m.turn = v, 1-m.turn
	return nil
}
