// Package blobtest has a file system in memory that loses power: what was not synced is lost, kept or torn, as chance
// has it.
//
// It is stricter than most disks: written sectors reach the disk in any order and alone, names in a directory that was
// not synced are lost or kept independently of each other (two changes of one name stay in order, a rename is atomic),
// and a sync that has failed has lost the bytes for good although they can still be read (as Linux does). A killed
// process leaves the page cache behind and proves nothing about fsync; this does.
package blobtest

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"casemate/cluster/blob"
)

// ErrOff is what every call returns once the power is off.
var ErrOff = errors.New("the power is off")

const sector = 512

// FS is the file system. Its zero value is not usable: see New.
type FS struct {
	mu    sync.Mutex
	rng   *rand.Rand
	root  *node
	ops   []nameOp // changes of names that are not durable, in order
	locks map[string]bool
	free  int64
	off   bool
	left  int // changes until the power goes off; -1 never
	count int
	fault func(op, name string) (err error, after bool)
	block int64         // see SetClone
	hung  chan struct{} // see Hang

	noSyncer bool // see SetSyncer
}

type node struct {
	dir     bool
	mod     time.Time
	entries map[string]*node // directory: as seen now
	stable  map[string]*node // directory: as on disk
	data    content          // file: as seen now
	disk    content          // file: as on disk
	pending []dataOp         // file: changes that are not durable, in order
	lost    bool             // file: a sync of everything has lost bytes of it, which its own next sync says
}

type dataOp struct {
	off  int64
	data []byte // nil: set the size to off
}

// nameOp puts node at name in dir (or removes what is there, if node is nil), and for a rename removes from at the same
// moment.
type nameOp struct {
	dir      *node
	name     string
	node     *node
	from     *node
	fromName string
}

func newDir() *node {
	return &node{dir: true, entries: map[string]*node{}, stable: map[string]*node{}}
}

// New returns an empty file system whose chances follow the seed. Paths are absolute; the root exists.
func New(seed uint64) *FS {
	return &FS{rng: rand.New(rand.NewPCG(seed, 1)), root: newDir(), locks: map[string]bool{}, free: 1 << 40, left: -1}
}

// CutAfter turns the power off before the n-th change from now: a write, sync, new name, removed name.
func (f *FS) CutAfter(n int) { f.mu.Lock(); f.left = n; f.mu.Unlock() }

// Off reports whether the power is off.
func (f *FS) Off() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.off }

// Changes returns the number of changes made so far: what CutAfter counts.
func (f *FS) Changes() int { f.mu.Lock(); defer f.mu.Unlock(); return f.count }

// SetFree sets how many bytes can still be written.
func (f *FS) SetFree(n int64) { f.mu.Lock(); f.free = n; f.mu.Unlock() }

// Fault sets a function that is asked before each change: op is one of "write", "sync", "syncdir", "create", "mkdir",
// "rename", "remove", "truncate", "clone", "chtimes", "syncfs". An error is returned to the caller; with after the
// change has happened all the same.
func (f *FS) Fault(fault func(op, name string) (err error, after bool)) {
	f.mu.Lock()
	f.fault = fault
	f.mu.Unlock()
}

// Replace puts the files below a directory back to what they are in an image; those that are not in it go. Nobody may
// have them open.
func (f *FS) Replace(dir string, image *FS) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	image.mu.Lock()
	defer image.mu.Unlock()
	from, err := image.find(dir)
	if err != nil {
		return err
	}
	d, base, err := f.parent(dir)
	if err != nil {
		return err
	}
	d.entries[base], d.stable[base] = from, from // the image is not used any more
	return nil
}

// Hang lets syncs wait until the function that it returns is called (once), as storage does that is quiesced. What is
// read, and written without a sync, is in memory and does not wait.
func (f *FS) Hang() (end func()) {
	hung := make(chan struct{})
	f.mu.Lock()
	f.hung = hung
	f.mu.Unlock()
	return func() {
		f.mu.Lock()
		f.hung = nil
		f.mu.Unlock()
		close(hung)
	}
}

// hangs waits while the disk does.
func (f *FS) hangs() {
	f.mu.Lock()
	hung := f.hung
	f.mu.Unlock()
	if hung != nil {
		<-hung
	}
}

// Flip inverts one bit of a file, on disk and in memory, as rot does.
func (f *FS) Flip(name string, off int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return err
	}
	n.data.own(off / pageSize).data[off%pageSize] ^= 1
	n.disk = n.data.clone()
	return nil
}

// Files returns the names of all files.
func (f *FS) Files() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	var walk func(string, *node)
	walk = func(name string, n *node) {
		if !n.dir {
			names = append(names, name)
		}
		for _, e := range slices.Sorted(maps.Keys(n.entries)) {
			walk(name+"/"+e, n.entries[e])
		}
	}
	walk("", f.root)
	return names
}

// Reboot turns the power off, if it is not, and returns what is found after it is back. The old file system stays off.
func (f *FS) Reboot() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
	// How much the disk's cache got out: nothing, all, all up to a moment, or any of it.
	mode := f.rng.IntN(4)
	until := f.rng.IntN(len(f.ops) + 1)
	type place struct {
		dir  *node
		name string
	}
	dropped := map[place]bool{}
	for i, op := range f.ops {
		keep := mode == 1 || mode == 2 && i < until || mode == 3 && f.rng.IntN(2) == 0
		to, from := place{op.dir, op.name}, place{op.from, op.fromName}
		if !keep || dropped[to] || dropped[from] {
			dropped[to] = true
			if op.from != nil {
				dropped[from] = true
			}
			continue
		}
		op.apply()
	}
	next := New(f.rng.Uint64())
	next.free, next.block, next.noSyncer = f.free, f.block, f.noSyncer
	seen := map[*node]*node{}
	var survive func(n *node) *node
	survive = func(n *node) *node {
		if seen[n] != nil {
			return seen[n]
		}
		if n.dir {
			d := newDir()
			seen[n] = d
			for _, name := range slices.Sorted(maps.Keys(n.stable)) {
				d.stable[name] = survive(n.stable[name])
			}
			d.entries = maps.Clone(d.stable)
			return d
		}
		file := &node{disk: n.disk.clone(), mod: n.mod}
		seen[n] = file
		until := f.rng.IntN(len(n.pending) + 1)
		for i, op := range n.pending {
			switch {
			case mode == 0, mode == 2 && i > until:
			case mode == 1, mode == 2 && i < until:
				op.apply(&file.disk)
			case op.data == nil:
				if f.rng.IntN(2) == 0 {
					op.apply(&file.disk)
				}
			default: // torn
				for at := 0; at < len(op.data); {
					end := min(len(op.data), at+sector-int((op.off+int64(at))%sector))
					if f.rng.IntN(2) == 0 {
						(dataOp{op.off + int64(at), op.data[at:end]}).apply(&file.disk)
					}
					at = end
				}
			}
		}
		file.data = file.disk.clone()
		return file
	}
	next.root = survive(f.root)
	return next
}

// Image returns a copy of what is on the disk now: what a snapshot of a virtual machine has of it. The power stays on.
func (f *FS) Image() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := New(f.rng.Uint64())
	next.free, next.block, next.noSyncer = f.free, f.block, f.noSyncer
	seen := map[*node]*node{}
	var stable func(n *node) *node
	stable = func(n *node) *node {
		if seen[n] != nil {
			return seen[n]
		}
		if !n.dir {
			seen[n] = &node{disk: n.disk.clone(), data: n.disk.clone(), mod: n.mod}
			return seen[n]
		}
		d := newDir()
		seen[n] = d
		for _, name := range slices.Sorted(maps.Keys(n.stable)) {
			d.stable[name] = stable(n.stable[name])
		}
		d.entries = maps.Clone(d.stable)
		return d
	}
	next.root = stable(f.root)
	return next
}

func (op nameOp) apply() {
	if op.from != nil {
		delete(op.from.stable, op.fromName)
	}
	if op.node == nil {
		delete(op.dir.stable, op.name)
	} else {
		op.dir.stable[op.name] = op.node
	}
}

func (op dataOp) apply(to *content) {
	if op.data == nil {
		to.resize(op.off)
		return
	}
	to.writeAt(op.data, op.off)
}

// change is called with f.mu held before each change; do makes it. It returns the injected fault.
func (f *FS) change(op, name string, do func()) error {
	if f.off {
		return ErrOff
	}
	if f.left == 0 {
		f.off = true
		return ErrOff
	}
	if f.left > 0 {
		f.left--
	}
	f.count++
	if f.fault != nil {
		if err, after := f.fault(op, name); err != nil {
			if after {
				do()
			}
			return &fs.PathError{Op: op, Path: name, Err: err}
		}
	}
	do()
	return nil
}

func split(name string) []string {
	return strings.FieldsFunc(filepath.Clean(name), func(r rune) bool { return r == '/' })
}

func (f *FS) find(name string) (*node, error) {
	if f.off {
		return nil, ErrOff
	}
	n := f.root
	for _, e := range split(name) {
		if n = n.entries[e]; n == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
	}
	return n, nil
}

func (f *FS) parent(name string) (*node, string, error) {
	d, err := f.find(filepath.Dir(name))
	if err == nil && !d.dir {
		err = &fs.PathError{Op: "open", Path: name, Err: syscall.ENOTDIR}
	}
	return d, filepath.Base(name), err
}

// OpenFile implements blob.FS.
func (f *FS) OpenFile(name string, flag int, _ fs.FileMode) (blob.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, base, err := f.parent(name)
	if err != nil {
		return nil, err
	}
	n := d.entries[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case n == nil:
		n = &node{mod: time.Now()}
		if err := f.change("create", name, func() { f.put(nameOp{dir: d, name: base, node: n}) }); err != nil {
			return nil, err
		}
	case n.dir:
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case flag&os.O_TRUNC != 0:
		if err := f.change("truncate", name, func() { f.edit(n, dataOp{}) }); err != nil {
			return nil, err
		}
	}
	return &file{fs: f, node: n, name: name, write: flag&(os.O_WRONLY|os.O_RDWR) != 0}, nil
}

func (f *FS) put(op nameOp) {
	if op.from != nil {
		delete(op.from.entries, op.fromName)
	}
	if op.node == nil {
		delete(op.dir.entries, op.name)
	} else {
		op.dir.entries[op.name] = op.node
	}
	f.ops = append(f.ops, op)
}

func (f *FS) edit(n *node, op dataOp) {
	op.apply(&n.data)
	n.pending = append(n.pending, op)
	n.mod = time.Now()
}

// Mkdir implements blob.FS.
func (f *FS) Mkdir(name string, _ fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, base, err := f.parent(name)
	if err != nil {
		return err
	}
	if d.entries[base] != nil || len(split(name)) == 0 {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	return f.change("mkdir", name, func() { f.put(nameOp{dir: d, name: base, node: newDir()}) })
}

// Rename implements blob.FS.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fd, fb, err := f.parent(from)
	if err != nil {
		return err
	}
	td, tb, err := f.parent(to)
	if err != nil {
		return err
	}
	n := fd.entries[fb]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	return f.change("rename", to, func() { f.put(nameOp{dir: td, name: tb, node: n, from: fd, fromName: fb}) })
}

// Remove implements blob.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, base, err := f.parent(name)
	if err != nil {
		return err
	}
	switch n := d.entries[base]; {
	case n == nil:
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	case n.dir && len(n.entries) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	return f.change("remove", name, func() { f.put(nameOp{dir: d, name: base}) })
}

// ReadDir implements blob.FS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	var list []fs.DirEntry
	for name, e := range n.entries {
		list = append(list, fs.FileInfoToDirEntry(info{name, e.data.size, e.dir, e.mod}))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, nil
}

// Stat implements blob.FS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return nil, err
	}
	return info{filepath.Base(name), n.data.size, n.dir, n.mod}, nil
}

// SyncDir implements blob.FS.
func (f *FS) SyncDir(name string) error {
	f.hangs()
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return err
	}
	return f.change("syncdir", name, func() {
		// Backwards, to take along the earlier changes of a name that a wanted rename takes away elsewhere.
		type place struct {
			dir  *node
			name string
		}
		also := map[place]bool{}
		want := make([]bool, len(f.ops))
		for i := len(f.ops) - 1; i >= 0; i-- {
			op := f.ops[i]
			if want[i] = op.dir == n || op.from == n || also[place{op.dir, op.name}] ||
				also[place{op.from, op.fromName}]; want[i] {
				also[place{op.dir, op.name}] = true
				if op.from != nil {
					also[place{op.from, op.fromName}] = true
				}
			}
		}
		var rest []nameOp
		for i, op := range f.ops {
			if want[i] {
				op.apply()
			} else {
				rest = append(rest, op)
			}
		}
		f.ops = rest
	})
}

type syncer struct {
	fs  *FS
	dir string
}

// Syncer implements blob.FS.
func (f *FS) Syncer(dir string) (blob.Syncer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(dir); err != nil {
		return nil, err
	}
	if f.noSyncer {
		return nil, errors.ErrUnsupported
	}
	return syncer{f, dir}, nil
}

// SetSyncer says whether the whole file system can be synced at once, as at first it can.
func (f *FS) SetSyncer(can bool) { f.mu.Lock(); f.noSyncer = !can; f.mu.Unlock() }

// Sync makes all bytes and names durable. One that fails without having happened leaves to chance what of them is, and
// says nothing of files: a file whose bytes it has lost says so at its own next Sync.
func (s syncer) Sync() error {
	f := s.fs
	f.hangs()
	f.mu.Lock()
	defer f.mu.Unlock()
	all := func(part bool) {
		seen := map[*node]bool{}
		var each func(*node)
		each = func(n *node) {
			if seen[n] {
				return
			}
			seen[n] = true
			for _, name := range slices.Sorted(maps.Keys(n.entries)) {
				each(n.entries[name])
			}
			if n.dir || len(n.pending) == 0 || part && f.rng.IntN(2) == 0 {
				return
			}
			if n.lost = part && f.rng.IntN(2) == 0; !n.lost {
				for _, op := range n.pending {
					op.apply(&n.disk)
				}
			}
			n.pending = nil
		}
		each(f.root)
	}
	err := f.change("syncfs", s.dir, func() {
		all(false)
		for _, op := range f.ops {
			op.apply()
		}
		f.ops = nil
	})
	if err != nil && !f.off && f.fault != nil {
		all(true)
	}
	return err
}

// Close implements io.Closer.
func (s syncer) Close() error { return nil }

// Allocate implements blob.FS.
func (f *FS) Allocate(file blob.File, size int64) error { return file.Truncate(size) }

// SetClone says in blocks of how many bytes files share what they hold; 0, as at first, is a file system that cannot.
func (f *FS) SetClone(block int64) { f.mu.Lock(); f.block = block; f.mu.Unlock() }

// Clone implements blob.FS. Until it is synced, it may be lost, whole or sector by sector, as a write may. It takes no
// free space.
func (f *FS) Clone(dst blob.File, src blob.Source, off, size int64) (int64, error) {
	to, ok := dst.(*file)
	i, err := src.Stat()
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ok || f.block == 0 || off%f.block != 0 {
		return 0, errors.ErrUnsupported
	}
	if off+size < i.Size() {
		size -= size % f.block
	}
	data := make([]byte, size)
	if n, err := src.ReadAt(data, off); size == 0 || int64(n) < size {
		return 0, errors.Join(errors.ErrUnsupported, err)
	}
	if err := to.ready(); err != nil {
		return 0, err
	}
	if err := f.change("clone", to.name, func() { f.edit(to.node, dataOp{0, data}) }); err != nil {
		return 0, err
	}
	return size, nil
}

// Chtimes implements blob.FS. The time is durable at once.
func (f *FS) Chtimes(name string, mod time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return err
	}
	return f.change("chtimes", name, func() { n.mod = mod })
}

// Drop implements blob.FS. A hint is not to be relied on: it does nothing.
func (f *FS) Drop(blob.File) {}

// Flush implements blob.FS. A hint is not to be relied on: it does nothing.
func (f *FS) Flush(blob.File, int64, int64) {}

// Free implements blob.FS.
func (f *FS) Free(string) (free, total int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return 0, 0, ErrOff
	}
	return f.free, 1 << 40, nil
}

type lock struct {
	fs   *FS
	name string
}

// Lock implements blob.FS. A lock ends with the power.
func (f *FS) Lock(name string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, _, err := f.parent(name); err != nil {
		return nil, err
	}
	if f.locks[name] {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: blob.ErrLocked}
	}
	f.locks[name] = true
	return lock{f, name}, nil
}

func (l lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	delete(l.fs.locks, l.name)
	return nil
}

type info struct {
	name string
	size int64
	dir  bool
	mod  time.Time
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return i.mod }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o750
	}
	return 0o640
}

var _ blob.FS = (*FS)(nil)
