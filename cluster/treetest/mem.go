package treetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/cluster/tree"
)

// Mem is a tree in memory. It is strict: misuse that a real tree would only sometimes punish fails the test at once.
type Mem struct {
	tb testing.TB

	mu      sync.Mutex
	version uint64
	files   map[string]memFile
	blobs   map[string]memBlob
	scratch map[string][]byte
	open    int
	watches map[*memWatch]bool

	// Fail, when set, is called before each commit of a batch (with what "update") or blob (with what "blob"); an error
	// is returned to the writer. If after is set and true, the commit happens all the same: it failed but happened.
	Fail func(what string) (err error, after bool)
}

type memFile struct {
	data    []byte
	digest  string
	weak    bool
	holds   []string
	version uint64
	born    uint64 // of the blob when it was linked
	mod     time.Time
}

type memBlob struct {
	data   []byte
	born   uint64
	pinned bool
	lost   bool // see Damage
}

type memWatch struct {
	dir   string
	ch    chan struct{}
	names map[string]bool // below dir, changed since they were taken
	all   bool
}

// maxFollowed is how many changed names a tree remembers for Follow, at most.
const maxFollowed = 4096

// note remembers what changed and tells of it.
func (w *memWatch) note(changed []string) {
	told := false
	for _, name := range changed {
		switch {
		case name == w.dir || name == "." || below(w.dir, name):
			w.all = true
		case below(name, w.dir):
			w.names[name] = true
		default:
			continue
		}
		told = true
	}
	if w.all = w.all || len(w.names) > maxFollowed; w.all {
		clear(w.names)
	}
	if told {
		select {
		case w.ch <- struct{}{}:
		default:
		}
	}
}

// New returns an empty tree. When the test ends, writers and blobs still open fail it.
func New(tb testing.TB) *Mem {
	m := &Mem{tb: tb, files: map[string]memFile{}, blobs: map[string]memBlob{}, scratch: map[string][]byte{},
		watches: map[*memWatch]bool{}}
	tb.Cleanup(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.open != 0 {
			tb.Errorf("treetest: %d blob readers or writers were never closed", m.open)
		}
	})
	return m
}

// Unpin lets every pin expire, as an hour's passing does.
func (m *Mem) Unpin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d, b := range m.blobs {
		b.pinned = false
		m.blobs[d] = b
	}
}

// Collect removes the blobs that nothing keeps and returns their digests.
func (m *Mem) Collect() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := map[string]bool{}
	for _, f := range m.files {
		if !f.weak {
			kept[f.digest] = true
		}
		for _, h := range f.holds {
			kept[h] = true
		}
	}
	var gone []string
	for d, b := range m.blobs {
		if !kept[d] && !b.pinned {
			delete(m.blobs, d)
			gone = append(gone, d)
		}
	}
	slices.Sort(gone)
	return gone
}

type memInfo struct {
	name    string
	size    int64
	dir     bool
	mod     time.Time
	digest  string
	version uint64
}

func (i memInfo) Name() string { return i.name }
func (i memInfo) Size() int64  { return i.size }
func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
func (i memInfo) ModTime() time.Time         { return i.mod }
func (i memInfo) IsDir() bool                { return i.dir }
func (i memInfo) Sys() any                   { return nil }
func (i memInfo) Digest() string             { return i.digest }
func (i memInfo) Version() uint64            { return i.version }
func (i memInfo) Type() fs.FileMode          { return i.Mode().Type() }
func (i memInfo) Info() (fs.FileInfo, error) { return i, nil }

// visible reports the file unless it is a weak link whose blob is gone. m.mu is held.
func (m *Mem) visible(name string) (memFile, bool) {
	f, ok := m.files[name]
	if ok && f.digest != "" {
		if b, known := m.blobs[f.digest]; !known || b.born != f.born {
			return f, false
		}
	}
	return f, ok
}

func (m *Mem) info(name string, f memFile) memInfo {
	i := memInfo{name: path.Base(name), mod: f.mod, digest: f.digest, version: f.version, size: int64(len(f.data))}
	if f.digest != "" {
		i.size = int64(len(m.blobs[f.digest].data))
	}
	return i
}

func below(name, dir string) bool { return dir == "." || strings.HasPrefix(name, dir+"/") }

func (m *Mem) stat(op, name string) (memInfo, error) {
	if !fs.ValidPath(name) {
		return memInfo{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if f, ok := m.visible(name); ok {
		return m.info(name, f), nil
	}
	if name == "." {
		return memInfo{name: ".", dir: true}, nil
	}
	for n := range m.files {
		if _, ok := m.visible(n); ok && below(n, name) {
			return memInfo{name: path.Base(name), dir: true}, nil
		}
	}
	return memInfo{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.stat("stat", name)
	if err != nil {
		return nil, err
	}
	return i, nil
}

func (m *Mem) ReadFile(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.stat("open", name)
	if err != nil {
		return nil, err
	}
	if i.dir {
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	}
	f := m.files[name]
	if f.digest != "" {
		data, err := m.bytes(f.digest)
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		return bytes.Clone(data), nil
	}
	return append([]byte{}, f.data...), nil
}

func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.readDir(name)
}

func (m *Mem) readDir(name string) ([]fs.DirEntry, error) {
	i, err := m.stat("readdir", name)
	if err != nil {
		return nil, err
	}
	if !i.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	seen := map[string]memInfo{}
	for n := range m.files {
		f, ok := m.visible(n)
		if !ok || !below(n, name) {
			continue
		}
		rel := n
		if name != "." {
			rel = n[len(name)+1:]
		}
		if first, _, deep := strings.Cut(rel, "/"); deep {
			seen[first] = memInfo{name: first, dir: true}
		} else {
			seen[first] = m.info(n, f)
		}
	}
	var list []fs.DirEntry
	for _, i := range seen {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

type memOpen struct {
	memInfo
	*bytes.Reader
	list []fs.DirEntry
}

func (o *memOpen) Stat() (fs.FileInfo, error) { return o.memInfo, nil }
func (o *memOpen) Size() int64                { return o.memInfo.Size() }
func (o *memOpen) Close() error               { return nil }
func (o *memOpen) Read(p []byte) (int, error) {
	if o.dir {
		return 0, &fs.PathError{Op: "read", Path: o.name, Err: syscall.EISDIR}
	}
	return o.Reader.Read(p)
}
func (o *memOpen) ReadDir(n int) ([]fs.DirEntry, error) {
	if !o.dir {
		return nil, &fs.PathError{Op: "readdir", Path: o.name, Err: syscall.ENOTDIR}
	}
	if n <= 0 {
		list := o.list
		o.list = nil
		return list, nil
	}
	if len(o.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(o.list))
	list := o.list[:n]
	o.list = o.list[n:]
	return list, nil
}

func (m *Mem) Open(name string) (fs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.stat("open", name)
	if err != nil {
		return nil, err
	}
	o := &memOpen{memInfo: i, Reader: bytes.NewReader(nil)}
	if i.dir {
		o.list, _ = m.readDir(name)
		return o, nil
	}
	f := m.files[name]
	data := f.data
	if f.digest != "" {
		if data, err = m.bytes(f.digest); err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
	o.Reader = bytes.NewReader(data)
	return o, nil
}

// Order is the order of Walk: component by component.
func Order(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

func (m *Mem) Walk(dir, after string) iter.Seq2[string, fs.FileInfo] {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !fs.ValidPath(dir) {
		m.tb.Errorf("treetest: Walk of the invalid name %q", dir)
	}
	var names []string
	infos := map[string]memInfo{}
	for n := range m.files {
		if f, ok := m.visible(n); ok && below(n, dir) && (after == "" || Order(n, after) > 0) {
			names = append(names, n)
			infos[n] = m.info(n, f)
		}
	}
	slices.SortFunc(names, Order)
	return func(yield func(string, fs.FileInfo) bool) {
		for _, n := range names {
			if !yield(n, infos[n]) {
				return
			}
		}
	}
}

type memBatch struct {
	edits   []func() error
	m       *Mem
	files   map[string]memFile
	changed []string
}

// validName reports whether name can be a file's: see Batch.
func validName(name string) bool {
	if !fs.ValidPath(name) || name == "." || len(name) > 4096 || strings.IndexByte(name, 0) >= 0 {
		return false
	}
	for _, e := range strings.Split(name, "/") {
		if len(e) > 1024 {
			return false
		}
	}
	return true
}

func (b *memBatch) place(name string, f memFile) error {
	if !validName(name) {
		return &fs.PathError{Op: "write", Path: name, Err: fs.ErrInvalid}
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := b.files[dir]; ok {
			return &fs.PathError{Op: "write", Path: name, Err: fs.ErrExist}
		}
	}
	for n := range b.files {
		if below(n, name) {
			return &fs.PathError{Op: "write", Path: name, Err: fs.ErrExist}
		}
	}
	f.version, f.mod = b.m.version, time.Now()
	b.files[name] = f
	b.changed = append(b.changed, name)
	return nil
}

func (b *memBatch) Put(name string, data []byte) {
	data = append([]byte{}, data...)
	b.edits = append(b.edits, func() error {
		if len(data) > 4096 {
			return fmt.Errorf("put %s: a record has at most 4096 bytes, got %d: %w", name, len(data), fs.ErrInvalid)
		}
		return b.place(name, memFile{data: data})
	})
}

func (b *memBatch) link(name, digest string, weak bool, holds []string) error {
	for _, d := range append([]string{digest}, holds...) {
		blob, ok := b.m.blobs[d]
		if !ok {
			return fmt.Errorf("link %s: blob %s: %w", name, d, fs.ErrNotExist)
		}
		if weak {
			blob.pinned = true
			b.m.blobs[d] = blob
		}
	}
	return b.place(name, memFile{digest: digest, weak: weak, holds: holds, born: b.m.blobs[digest].born})
}

func (b *memBatch) Link(name, digest string, holds ...string) {
	holds = slices.Clone(holds)
	b.edits = append(b.edits, func() error { return b.link(name, digest, false, holds) })
}

func (b *memBatch) LinkWeak(name, digest string) {
	b.edits = append(b.edits, func() error { return b.link(name, digest, true, nil) })
}

func (b *memBatch) Remove(name string) {
	b.edits = append(b.edits, func() error {
		if name != "." && !validName(name) {
			return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrInvalid}
		}
		before := len(b.files)
		for n := range b.files {
			if n == name || below(n, name) {
				delete(b.files, n)
			}
		}
		if len(b.files) < before {
			b.changed = append(b.changed, name)
		}
		return nil
	})
}

func (b *memBatch) Expect(name string, version uint64) {
	b.edits = append(b.edits, func() error {
		f, ok := b.m.visible(name)
		if !ok {
			f.version = 0
		}
		if f.version != version {
			return fmt.Errorf("%s is at version %d, not %d: %w", name, f.version, version, fs.ErrExist)
		}
		return nil
	})
}

func (m *Mem) Update(ctx context.Context, fn func(Batch) error) error {
	b := &memBatch{m: m}
	if err := fn(b); err != nil {
		return err
	}
	if len(b.edits) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	failed, happened := m.fail("update")
	if failed != nil && !happened {
		return failed
	}
	m.version++
	b.files = map[string]memFile{}
	for n := range m.files {
		if f, ok := m.visible(n); ok {
			b.files[n] = f
		}
	}
	for _, edit := range b.edits {
		if err := edit(); err != nil {
			return err
		}
	}
	m.files = b.files
	for w := range m.watches {
		w.note(b.changed)
	}
	return failed
}

func (m *Mem) fail(what string) (error, bool) {
	if m.Fail == nil {
		return nil, true
	}
	return m.Fail(what)
}

func (m *Mem) StatBlob(digest string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[digest]
	if !ok {
		return 0, fmt.Errorf("blob %s: %w", digest, fs.ErrNotExist)
	}
	return int64(len(b.data)), nil
}

// Damage makes the bytes of a blob damaged until it is stored again.
func (m *Mem) Damage(digest string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[digest]
	if !ok {
		m.tb.Errorf("treetest: Damage of %s, which is not there", digest)
		return
	}
	b.lost = true
	m.blobs[digest] = b
}

// bytes returns a blob that is whole. m.mu is held.
func (m *Mem) bytes(digest string) ([]byte, error) {
	b, ok := m.blobs[digest]
	switch {
	case !ok:
		return nil, fmt.Errorf("blob %s: %w", digest, fs.ErrNotExist)
	case b.lost:
		return nil, fmt.Errorf("blob %s is damaged: %w", digest, syscall.EIO)
	}
	return b.data, nil
}

func (m *Mem) HasBlob(_ context.Context, digest string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := m.bytes(digest)
	return int64(len(data)), err
}

type memReader struct {
	*bytes.Reader
	m      *Mem
	closed bool
}

func (r *memReader) Close() error {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if r.closed {
		r.m.tb.Error("treetest: a blob reader was closed twice")
		return fs.ErrClosed
	}
	r.closed = true
	r.m.open--
	return nil
}

func (m *Mem) OpenBlob(_ context.Context, digest string) (io.ReadSeekCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := m.bytes(digest)
	if err != nil {
		return nil, err
	}
	m.open++
	return &memReader{Reader: bytes.NewReader(data), m: m}, nil
}

type memWriter struct {
	m    *Mem
	id   string
	data []byte
	done bool
}

func (m *Mem) CreateBlob(id string) (BlobWriter, error) {
	if len(id) > 128 || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
		return nil, fmt.Errorf("scratch id %q: %w", id, fs.ErrInvalid)
	}
	return m.writer(id, nil), nil
}

func (m *Mem) writer(id string, data []byte) *memWriter {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	if id != "" {
		m.scratch[id] = data
	}
	return &memWriter{m: m, id: id, data: data}
}

func (m *Mem) ResumeBlob(id string) (BlobWriter, error) {
	m.mu.Lock()
	data, ok := m.scratch[id]
	m.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("scratch file %s: %w", id, fs.ErrNotExist)
	}
	return m.writer(id, data), nil
}

func (w *memWriter) Size() int64 { return int64(len(w.data)) }

func (w *memWriter) Write(p []byte) (int, error) {
	if w.done {
		w.m.tb.Error("treetest: write after Close, Cancel or Commit")
		return 0, fs.ErrClosed
	}
	w.data = append(w.data, p...)
	if w.id != "" {
		w.m.mu.Lock()
		w.m.scratch[w.id] = w.data
		w.m.mu.Unlock()
	}
	return len(p), nil
}

// DigestOf returns the digest of data in the algorithm of like ("" for sha256).
func DigestOf(data []byte, like string) string { return tree.Sum(data, like) }

func (w *memWriter) Commit(ctx context.Context, digest string) (string, error) {
	if w.done {
		w.m.tb.Error("treetest: Commit after Close, Cancel or Commit")
		return "", fs.ErrClosed
	}
	got := DigestOf(w.data, digest)
	if digest != "" && got != digest {
		return "", fmt.Errorf("the bytes have the digest %s, not %s: %w", got, digest, syscall.EBADMSG)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	err, happened := w.m.fail("blob")
	if err != nil && !happened {
		return "", err
	}
	b, ok := w.m.blobs[got]
	if !ok {
		w.m.version++
		b = memBlob{data: w.data, born: w.m.version}
	}
	b.pinned, b.lost = true, false
	w.m.blobs[got] = b
	delete(w.m.scratch, w.id)
	w.id, w.data = "", nil
	return got, err
}

func (w *memWriter) Close() error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if !w.done {
		w.done = true
		w.m.open--
	}
	return nil
}

func (w *memWriter) Cancel() error {
	w.m.mu.Lock()
	delete(w.m.scratch, w.id)
	w.m.mu.Unlock()
	return w.Close()
}

func (m *Mem) Watch(ctx context.Context, dir string) <-chan struct{} { return m.watch(ctx, dir).ch }

func (m *Mem) Follow(ctx context.Context, dir string) (<-chan struct{}, func() ([]string, bool)) {
	w := m.watch(ctx, dir)
	return w.ch, func() (names []string, all bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		names, all = slices.Sorted(maps.Keys(w.names)), w.all
		clear(w.names)
		w.all = false
		return names, all
	}
}

func (m *Mem) watch(ctx context.Context, dir string) *memWatch {
	w := &memWatch{dir: dir, ch: make(chan struct{}, 1), names: map[string]bool{}}
	m.mu.Lock()
	m.watches[w] = true
	m.mu.Unlock()
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watches, w)
		close(w.ch)
	})
	return w
}

var _ Tree = (*Mem)(nil)
