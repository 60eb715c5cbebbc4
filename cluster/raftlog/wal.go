// Package raftlog is raft's log and raft's snapshots on this node's disk. What raft assumes of its disk without
// checking is guaranteed here, or the node stops.
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

// Config describes the log's files.
type Config struct {
	FS  blob.FS
	Dir string
	// SegmentSize is the initial size of each file of the log, in bytes.
	SegmentSize int
	Log         *slog.Logger
	// Fatal receives an error after which the node must not continue: a sync has failed. Nil: the error is only
	// returned.
	Fatal func(error)
}

// Log is raft's log on the disk.
type Log = wal.WAL

// Open opens the log. With create, it makes an empty log where there is none; otherwise a missing log is an error.
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

// reopenTail repairs a log that raft-wal 0.4.2 cannot use. If the process ends after the newest segment is full (it is
// sealed with its last batch) and before the list of segments says so, raft-wal takes the segment for its tail again
// and refuses every append to it, for ever; and it accepts a seal whose batch was torn. reopenTail copies the entries
// of such a segment to a new one in its place.
//
// If we were to crash before CommitState, nothing would have changed except for an unlisted file, which raft-wal
// deletes.
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
		return nil // not yet created: raft-wal handles this case
	}
	if err != nil {
		return err
	}
	defer old.Close()
	if sealed, _, err := old.Sealed(); err != nil || !sealed {
		return err
	}
	last.ID, last.BaseIndex, last.CreateTime = state.NextSegmentID, last.MinIndex, time.Now()
	last.SizeLimit *= 2 // so that it has room for more
	state.NextSegmentID++
	// left by an earlier attempt
	if err := filer.Delete(last.BaseIndex, last.ID); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

// segments makes raft-wal use our file system.
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
	// Its name may have been created just before a crash: the first sync syncs the directory too.
	return &segment{File: f, s: s, dir: dir, recovered: true}, nil
}

// rewrite writes a file's bytes again and syncs them. After a failed sync, which may be why the previous process ended,
// the kernel has bytes in memory that are not on the disk and that it will not write any more: raft would rely on them,
// and a power cut would remove committed entries. If we were to crash meanwhile nothing would have changed, since the
// bytes are the same.
func rewrite(f blob.File) error {
	buf := make([]byte, len(zeros))
	for off := int64(0); ; {
		n, err := f.ReadAt(buf, off)
		if chunk := buf[:n]; !bytes.Equal(chunk, zeros[:n]) { // zeros are preallocated space
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

// zeros is the content of the unwritten part of a segment, which is nearly all of it, so it is compared at the speed of
// memory.
var zeros [64 << 10]byte

type segment struct {
	blob.File
	s   segments
	dir string
	// Used only by raft-wal's one writer.
	named     bool // its name is durable
	recovered bool // opened after a restart, and not written to since
}

// WriteAt first clears, once, what a crash has left after the end of the log. Raft-wal overwrites it frame by frame. If
// the power failed during a shorter batch, old frames after a torn new one would make raft-wal treat the torn one as
// committed.
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

// Sync also makes the file's name durable, the first time. After an error the node must not continue: the kernel has
// dropped the bytes that it could not write, and would report success for a later sync of them.
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

// meta implements raft-wal's meta store: the list of segments, and raft's term and vote. It is written a few times per
// election and segment, so one small file, replaced as a whole, is enough. bbolt, raft-wal's default, would be a second
// database with a second format, and offers no way to test power cuts.
type meta struct {
	fs   blob.FS
	path string
	// create: a missing file is an empty log. Otherwise it is damage, because raft-wal would delete every segment that
	// the file does not list.
	create bool

	// Held while the disk is written to, which may hang. It is a channel of capacity 1 instead of a mutex, because time
	// in a bubble of testing/synctest does not advance while a goroutine waits for a mutex.
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

// SetStable implements types.MetaStore. Raft stores its term and its vote here.
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
