// Package raftlog is the log of raft on this node's disk, and raft's snapshots: what raft believes of its disk without
// a look is made true here, or stops the node.
package raftlog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	wal "github.com/hashicorp/raft-wal"
	walsegment "github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
)

// Config says where the log is.
type Config struct {
	FS  blob.FS
	Dir string
	// SegmentSize is how large each file of the log is made when it is begun, in bytes.
	SegmentSize int
	Log         *slog.Logger
	// Fatal takes an error after which the node must not go on: a sync has failed. Nil: nobody does.
	Fatal func(error)
}

// Log is raft's log on the disk.
type Log = wal.WAL

// Open opens the log; with create, it makes an empty one where there is none, which else is damage.
func Open(cfg Config, create bool) (*Log, error) {
	fatal := cfg.Fatal
	if fatal == nil {
		fatal = func(error) {}
	}
	filer := walsegment.NewFiler(cfg.Dir, segments{fs: cfg.FS, fatal: fatal})
	m := &meta{fs: cfg.FS, path: filepath.Join(cfg.Dir, "meta"), create: create, lock: make(chan struct{}, 1)}
	if err := reopenTail(m, filer); err != nil {
		return nil, err
	}
	return wal.Open(cfg.Dir, wal.WithSegmentFiler(filer), wal.WithMetaStore(m), wal.WithSegmentSize(cfg.SegmentSize),
		wal.WithLogger(NewLogger(cfg.Log, "raft-wal")))
}

// reopenTail repairs what raft-wal 0.4.2 does not. When the process ends between the moment at which the newest segment
// is full (it is sealed with its last batch) and the one at which the list of segments says so, raft-wal takes the
// segment for its tail again and refuses every append to it, for ever; and it believes a seal whose batch was torn.
// Here such a segment's entries are copied to a new one in its place.
//
// If we were to crash before CommitState, nothing has changed but for a file that no list names, and raft-wal deletes
// those.
func reopenTail(m *meta, filer types.SegmentFiler) error {
	state, err := m.Load("")
	if err != nil || len(state.Segments) == 0 {
		return err
	}
	last := &state.Segments[len(state.Segments)-1]
	if !last.SealTime.IsZero() {
		return nil
	}
	old, err := filer.RecoverTail(*last)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not yet made: raft-wal knows this case
	}
	if err != nil {
		return err
	}
	defer old.Close()
	if sealed, _, err := old.Sealed(); err != nil || !sealed {
		return err
	}
	last.ID, last.BaseIndex, last.CreateTime = state.NextSegmentID, last.MinIndex, time.Now()
	last.SizeLimit *= 2 // so that it is not full at once
	state.NextSegmentID++
	if err := filer.Delete(last.BaseIndex, last.ID); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an earlier try
		return err
	}
	tail, err := filer.Create(*last)
	if err != nil {
		return err
	}
	defer tail.Close()
	const batch = 1 << 20 // bytes a sync
	var entries []types.LogEntry
	size := 0
	for i := last.MinIndex; i <= old.LastIndex(); i++ {
		e, err := old.GetLog(i)
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		entries = append(entries, types.LogEntry{Index: i, Data: bytes.Clone(e.Bs)})
		size += len(e.Bs)
		e.Close()
		if size < batch && i < old.LastIndex() {
			continue
		}
		if err := tail.Append(entries); err != nil {
			return err
		}
		entries, size = nil, 0
	}
	return m.CommitState(state)
}

// segments gives raft-wal our file system.
type segments struct {
	fs    blob.FS
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
	if err := rewrite(f); err != nil {
		f.Close()
		return nil, err
	}
	// Its name may have been made just before a crash: the first sync syncs the directory too.
	return &segment{File: f, s: s, dir: dir, recovered: true}, nil
}

// rewrite writes a file's bytes once more, and syncs them. After a sync that failed, which is why the process before
// may have ended, the kernel has bytes in memory that are not on the disk and that it will not write any more: raft
// would count on them, and a power cut would take them away from what is committed. If we were to crash meanwhile
// nothing would have changed, since they are the same bytes.
func rewrite(f blob.File) error {
	buf := make([]byte, len(zeros))
	for off := int64(0); ; {
		n, err := f.ReadAt(buf, off)
		if chunk := buf[:n]; !bytes.Equal(chunk, zeros[:n]) { // the rest is the room for what is to come
			if _, err := f.WriteAt(chunk, off); err != nil {
				return err
			}
		}
		if off += int64(n); err == io.EOF {
			return f.Sync()
		}
		if err != nil {
			return err
		}
	}
}

// zeros is what a segment holds where nothing was written yet: nearly all of it, so it is compared as fast as memory
// is.
var zeros [64 << 10]byte

type segment struct {
	blob.File
	s   segments
	dir string
	// Used by raft-wal's one writer only.
	named     bool // its name is durable
	recovered bool // opened after a stop, and not written to since
}

// WriteAt first clears, once, what a crash has left behind the end of the log. Raft-wal overwrites it frame by frame;
// were the power to go in the middle of a shorter batch, old frames behind a new and torn one would make it believe
// that the torn one had been committed.
func (g *segment) WriteAt(p []byte, off int64) (int, error) {
	if g.recovered {
		if err := g.clear(off); err != nil {
			return 0, err
		}
		g.recovered = false
	}
	return g.File.WriteAt(p, off)
}

func (g *segment) clear(from int64) error {
	buf := make([]byte, len(zeros))
	dirty := false
	for off := from; ; {
		n, err := g.File.ReadAt(buf, off)
		if chunk := buf[:n]; !bytes.Equal(chunk, zeros[:n]) {
			clear(chunk)
			if _, err := g.File.WriteAt(chunk, off); err != nil {
				return err
			}
			dirty = true
		}
		if off += int64(n); err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if dirty {
		return g.Sync()
	}
	return nil
}

// Sync also makes the file's name durable, the first time. After an error the node must not go on: the kernel has
// dropped what it could not write, and would call a later sync of the same bytes a success.
func (g *segment) Sync() error {
	err := disk.SyncData(g.File)
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

// meta is what raft-wal calls its meta store: the list of segments, and raft's term and vote. It is written a few times
// per election and segment, so one small file, replaced as a whole, does; bbolt, raft-wal's default, would be a second
// database with a second format, and one that has no seam to test power cuts through.
type meta struct {
	fs   blob.FS
	path string
	// create: a missing file is an empty log; otherwise it is damage: raft-wal would delete every segment that it does
	// not list.
	create bool

	// Held while the disk is written to, which may hang: a channel of capacity 1 and no mutex, because time in a bubble
	// of testing/synctest does not go on while somebody waits for a mutex.
	lock chan struct{}
	body metaBody
}

type metaBody struct {
	Segments types.PersistentState
	Stable   map[string][]byte
}

var _ types.MetaStore = (*meta)(nil)

// Load implements types.MetaStore.
func (m *meta) Load(string) (types.PersistentState, error) {
	m.lock <- struct{}{}
	defer func() { <-m.lock }()
	m.body = metaBody{Stable: map[string][]byte{}}
	data, err := disk.ReadFile(m.fs, m.path)
	if errors.Is(err, fs.ErrNotExist) && m.create {
		return m.body.Segments, nil
	}
	if err != nil {
		return m.body.Segments, err
	}
	if len(data) < 4 || binary.BigEndian.Uint32(data) != disk.Checksum(data[4:]) {
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
	return disk.WriteFile(m.fs, m.path, append(binary.BigEndian.AppendUint32(nil, disk.Checksum(data)), data...), 0o640)
}

// CommitState implements types.MetaStore.
func (m *meta) CommitState(s types.PersistentState) error {
	m.lock <- struct{}{}
	defer func() { <-m.lock }()
	m.body.Segments = s
	return m.write()
}

// GetStable implements types.MetaStore.
func (m *meta) GetStable(key []byte) ([]byte, error) {
	m.lock <- struct{}{}
	defer func() { <-m.lock }()
	return m.body.Stable[string(key)], nil
}

// SetStable implements types.MetaStore. Raft keeps its term and its vote here.
func (m *meta) SetStable(key, value []byte) error {
	m.lock <- struct{}{}
	defer func() { <-m.lock }()
	if value == nil {
		delete(m.body.Stable, string(key))
	} else {
		m.body.Stable[string(key)] = append([]byte{}, value...)
	}
	return m.write()
}

// Close implements types.MetaStore.
func (m *meta) Close() error { return nil }
