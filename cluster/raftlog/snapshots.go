package raftlog

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
)

// Snapshots stores raft's snapshots in one file each: the streamed body, then raft's description of it, then the
// checksums and the length of that. Raft's FileSnapshotStore needs two files and a directory; this one writes through
// blob.FS and verifies the checksum while it is read, without a separate pass.
//
// A snapshot exists once it has its name: it is written as <name>.new, synced and renamed.
type Snapshots struct {
	fs     blob.FS
	dir    string
	mu     sync.Mutex    // held by has
	newest atomic.Uint64 // index of the newest snapshot
	older  atomic.Uint64 // index of the one before; 0 if there is none
	size   atomic.Int64  // bytes of the newest snapshot
}

// NewSnapshots is the snapshots in a directory.
func NewSnapshots(fsys blob.FS, dir string) *Snapshots { return &Snapshots{fs: fsys, dir: dir} }

// Newest is the index of the newest snapshot; 0 if there is none or List was not called yet.
func (s *Snapshots) Newest() uint64 { return s.newest.Load() }

// Older is the index of the snapshot before the newest one; 0 if there is none.
func (s *Snapshots) Older() uint64 { return s.older.Load() }

// Size is how many bytes the newest snapshot has.
func (s *Snapshots) Size() int64 { return s.size.Load() }

// Kept is how many snapshots are kept: the newest, and one to fall back to if the newest is damaged. The log behind the
// older one is kept too.
const Kept = 2

// Suffix ends the name of a snapshot's file.
const Suffix = ".snapshot"

type trailer struct {
	BodySum uint32
	Size    int64
	Meta    raft.SnapshotMeta
}

// Create implements raft.SnapshotStore.
func (s *Snapshots) Create(
	version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	id := fmt.Sprintf("%020d-%020d", index, term) // sorts by age
	name := filepath.Join(s.dir, id+Suffix)
	f, err := s.fs.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, err
	}
	meta := raft.SnapshotMeta{
		Version: version, ID: id, Index: index, Term: term, Configuration: conf, ConfigurationIndex: confIndex,
	}
	w := bufio.NewWriterSize(f, 256<<10)
	return &sink{s: s, name: name, f: f, w: w, sum: disk.NewChecksum(), trailer: trailer{Meta: meta}}, nil
}

type sink struct {
	s    *Snapshots
	name string
	f    blob.File
	w    *bufio.Writer
	sum  hash.Hash32
	trailer
}

func (k *sink) ID() string { return k.Meta.ID }

func (k *sink) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	k.sum.Write(p[:n])
	k.Size += int64(n)
	return n, err
}

// Close makes the snapshot durable, and only then removes older ones.
func (k *sink) Close() error {
	if k.f == nil {
		return nil
	}
	k.BodySum, k.Meta.Size = k.sum.Sum32(), k.Size
	tail, err := json.Marshal(k.trailer)
	if err != nil {
		return err
	}
	tail = binary.BigEndian.AppendUint32(tail, disk.Checksum(tail))
	tail = binary.BigEndian.AppendUint32(tail, uint32(len(tail)))
	if _, err = k.w.Write(tail); err == nil {
		err = k.w.Flush()
	}
	if err == nil {
		err = k.f.Sync()
	}
	if err != nil {
		return errors.Join(err, k.Cancel())
	}
	if err := k.f.Close(); err != nil {
		return err
	}
	k.f = nil
	if err := k.s.fs.Rename(k.name+".new", k.name); err != nil {
		return err
	}
	if err := k.s.fs.SyncDir(k.s.dir); err != nil {
		return err
	}
	k.s.has(k.Meta.Index, k.Size)
	return k.s.reap()
}

// has records a snapshot; calls may come in any order.
func (s *Snapshots) has(index uint64, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch newest := s.newest.Load(); {
	case index >= newest:
		s.size.Store(size)
		s.newest.Store(index)
		if index > newest {
			s.older.Store(newest)
		}
	case index > s.older.Load():
		s.older.Store(index)
	}
}

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	if k.f == nil {
		return nil
	}
	err := errors.Join(k.f.Close(), k.s.fs.Remove(k.name+".new"))
	k.f = nil
	return err
}

// Names lists the snapshots, newest first.
func (s *Snapshots) Names() ([]string, error) {
	list, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if strings.HasSuffix(e.Name(), Suffix) {
			names = append(names, e.Name())
		}
	}
	slices.Reverse(names)
	return names, nil
}

func (s *Snapshots) reap() error {
	names, err := s.Names()
	if err != nil {
		return err
	}
	for _, name := range names[min(Kept, len(names)):] {
		if err := s.fs.Remove(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// Clean removes the files that a crash left half-written. It must not run concurrently with Create.
func (s *Snapshots) Clean() error {
	list, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if strings.HasSuffix(e.Name(), ".new") {
			if err := s.fs.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// List implements raft.SnapshotStore: newest first, without those whose description is damaged.
func (s *Snapshots) List() ([]*raft.SnapshotMeta, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	var list []*raft.SnapshotMeta
	for _, name := range names {
		f, t, err := s.open(name)
		if err != nil {
			continue
		}
		f.Close()
		s.has(t.Meta.Index, t.Size)
		list = append(list, &t.Meta)
	}
	return list, nil
}

// ErrDamaged reports that bytes on the disk have changed since they were written.
var ErrDamaged = errors.New("damaged")

func (s *Snapshots) open(name string) (blob.File, *trailer, error) {
	f, err := s.fs.OpenFile(filepath.Join(s.dir, name), os.O_RDONLY, 0)
	if err != nil {
		return nil, nil, err
	}
	t, err := readTrailer(f)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("snapshot %s: %w", filepath.Join(s.dir, name), err)
	}
	return f, t, nil
}

func readTrailer(f blob.File) (*trailer, error) {
	i, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var end [4]byte
	if i.Size() < int64(len(end)) {
		return nil, ErrDamaged
	}
	if _, err := f.ReadAt(end[:], i.Size()-4); err != nil {
		return nil, ErrDamaged
	}
	n := int64(binary.BigEndian.Uint32(end[:]))
	if n < 4 || n > 1<<20 || n > i.Size()-4 {
		return nil, ErrDamaged
	}
	tail := make([]byte, n)
	if _, err := f.ReadAt(tail, i.Size()-4-n); err != nil {
		return nil, err
	}
	body := tail[:n-4]
	var t trailer
	if binary.BigEndian.Uint32(tail[n-4:]) != disk.Checksum(body) || json.Unmarshal(body, &t) != nil ||
		t.Size != i.Size()-4-n {
		return nil, ErrDamaged
	}
	return &t, nil
}

// Open implements raft.SnapshotStore. The reader reports damaged bytes at the end.
func (s *Snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if strings.Contains(id, "/") {
		return nil, nil, fs.ErrInvalid
	}
	f, t, err := s.open(id + Suffix)
	if err != nil {
		return nil, nil, err
	}
	r := bufio.NewReaderSize(io.LimitReader(f, t.Size), 256<<10)
	return &t.Meta, &snapshotReader{f: f, r: r, sum: disk.NewChecksum(), want: t.BodySum, left: t.Size}, nil
}

type snapshotReader struct {
	f    blob.File
	r    io.Reader
	sum  hash.Hash32
	want uint32
	left int64
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.sum.Write(p[:n])
	r.left -= int64(n)
	if err == io.EOF && (r.left != 0 || r.sum.Sum32() != r.want) {
		err = fmt.Errorf("snapshot body: %w", ErrDamaged)
	}
	return n, err
}

func (r *snapshotReader) Close() error { return r.f.Close() }
