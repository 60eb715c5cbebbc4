package treetest

import (
	"bytes"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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

func (i memInfo) Size() int64 { return i.size }

func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

func (i memInfo) ModTime() time.Time { return i.mod }

func (i memInfo) IsDir() bool { return i.dir }

func (i memInfo) Sys() any { return nil }

func (i memInfo) Digest() string { return i.digest }

func (i memInfo) Version() uint64 { return i.version }

func (i memInfo) Type() fs.FileMode { return i.Mode().Type() }

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

func (o *memOpen) Size() int64 { return o.memInfo.Size() }

func (o *memOpen) Close() error { return nil }

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

var _ Tree = (*Mem)(nil)
