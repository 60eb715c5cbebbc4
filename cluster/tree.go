package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"casemate/cluster/replica"
	"casemate/cluster/state"
)

// Tree is the replicated file tree, or a directory of it. Package treetest (contract.go) has its contract, with all
// errors; promises 3 and 4 are about it. It is safe for concurrent use; reading takes no lock.
type Tree struct {
	c      *Cluster
	prefix string // "" or the directory that is this tree's root
	claim  string

	patient bool // see Patient
}

// Tree returns the whole tree.
func (c *Cluster) Tree() *Tree { return &Tree{c: c} }

// Sub returns the tree below dir, which need not exist: dir is "." in it, and no name leads out of it. Blobs have no
// names and are shared. It panics if dir is not valid by fs.ValidPath: dir is a constant of the program, not input.
func (t *Tree) Sub(dir string) *Tree {
	if !fs.ValidPath(dir) {
		panic(fmt.Sprintf("cluster: Sub(%q): not a valid path", dir))
	}
	sub := *t
	if dir != "." {
		sub.prefix = strings.TrimPrefix(t.prefix+"/"+dir, "/")
	}
	return &sub
}

// As returns the same tree, whose writes carry the claim: an import's name (valid by state.ValidID), or "" for none. A
// name keeps the entry of each claim; the newest is visible. An invalid claim is fs.ErrInvalid at the Update.
func (t *Tree) As(claim string) *Tree {
	as := *t
	as.claim = claim
	return &as
}

// Patient returns the same tree with writes that are bounded by their context instead of Config.LeaderWait. A write
// that was sent to a leader is repeated under the same name until its outcome is known, and a write waits while this
// node's disk does not respond. So on a slow disk writes end late rather than with an unknown outcome. Without a leader
// at the beginning they end as all writes do. It is for callers that can wait, such as imports.
func (t *Tree) Patient() *Tree {
	p := *t
	p.patient = true
	return &p
}

func (t *Tree) state() *state.State { return t.c.machine.view.Load() }

// full is the name in the whole tree. It is valid if and only if name is, unless name is "." for a file.
func (t *Tree) full(name string) string {
	switch {
	case t.prefix == "":
		return name
	case name == ".":
		return t.prefix
	default:
		return t.prefix + "/" + name
	}
}

// info describes a file or directory.
type info struct {
	name    string
	dir     bool
	size    int64
	mod     time.Time
	digest  string
	version uint64
	claim   string
}

func fileInfo(name string, e state.Entry) info {
	return info{name: path.Base(name), size: e.Size, mod: e.ModTime, digest: e.Digest.String(), version: e.Version,
		claim: e.Claim}
}

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.size }
func (i info) ModTime() time.Time         { return i.mod }
func (i info) IsDir() bool                { return i.dir }
func (i info) Sys() any                   { return nil }
func (i info) Digest() string             { return i.digest }
func (i info) Version() uint64            { return i.version }
func (i info) Claim() string              { return i.claim } // the import's name; "" for none
func (i info) Type() fs.FileMode          { return i.Mode().Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }
func (i info) String() string             { return fs.FormatFileInfo(i) }

func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// find is look in the newest state. A miss is confirmed with the leader, if there is one (promise 4).
func (t *Tree) find(op, name string) (*state.State, info, state.Entry, error) {
	s, i, e, _, err := t.findSure(op, name)
	return s, i, e, err
}

// findSure is find; sure reports whether a miss was confirmed.
func (t *Tree) findSure(op, name string) (s *state.State, i info, e state.Entry, sure bool, err error) {
	s = t.state()
	i, e, err = t.look(s, op, name)
	if errors.Is(err, fs.ErrNotExist) && t.c.caughtUp() {
		sure = true
		if newer := t.state(); newer != s {
			s = newer
			i, e, err = t.look(s, op, name)
		}
	}
	return s, i, e, sure, err
}

// look looks a file or directory up in one state.
func (t *Tree) look(s *state.State, op, name string) (info, state.Entry, error) {
	if !fs.ValidPath(name) {
		return info{}, state.Entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name != "." {
		if e, ok := s.Get(t.full(name)); ok {
			return fileInfo(name, e), e, nil
		}
	}
	if name == "." || s.IsDir(t.full(name)) {
		return info{name: path.Base(name), dir: true}, state.Entry{}, nil
	}
	return info{}, state.Entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// Stat implements fs.StatFS.
func (t *Tree) Stat(name string) (fs.FileInfo, error) {
	_, i, _, err := t.find("stat", name)
	if err != nil {
		return nil, err
	}
	return i, nil
}

// ReadFile implements fs.ReadFileFS.
func (t *Tree) ReadFile(name string) ([]byte, error) {
	_, i, e, err := t.find("open", name)
	switch {
	case err != nil:
		return nil, err
	case i.dir:
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	case e.Digest == "":
		return []byte(e.Data), nil
	}
	data, err := t.c.replica.Read(i.digest, i.size)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// ReadDir implements fs.ReadDirFS.
func (t *Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	s, i, _, err := t.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if !i.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	return t.list(s, name), nil
}

func (t *Tree) list(s *state.State, dir string) []fs.DirEntry {
	list := []fs.DirEntry{}
	for e := range s.ReadDir(t.full(dir), "") {
		if e.Dir {
			list = append(list, info{name: e.Name, dir: true})
		} else {
			list = append(list, fileInfo(e.Name, e.Entry))
		}
	}
	return list
}

// Open implements fs.FS. Files can also Seek and ReadAt.
func (t *Tree) Open(name string) (fs.File, error) {
	s, i, e, err := t.find("open", name)
	switch {
	case err != nil:
		return nil, err
	case i.dir:
		return &openDirectory{info: i, list: t.list(s, name)}, nil
	case e.Digest == "":
		return &openFile{info: i, File: record{strings.NewReader(e.Data)}}, nil
	}
	f, err := t.c.replica.OpenVerified(context.Background(), i.digest)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &openFile{info: i, File: f}, nil
}

type record struct{ *strings.Reader }

func (record) Close() error { return nil }

type openFile struct {
	info
	replica.File
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }

type openDirectory struct {
	info
	list []fs.DirEntry
}

func (d *openDirectory) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDirectory) Close() error               { return nil }
func (d *openDirectory) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: syscall.EISDIR}
}

func (d *openDirectory) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.list) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.list) {
		n = len(d.list)
	}
	list := d.list[:n:n]
	d.list = d.list[n:]
	return list, nil
}

// Walk yields the files below dir in the order of the contract, from one state. An invalid dir has none.
func (t *Tree) Walk(dir, after string) iter.Seq2[string, fs.FileInfo] {
	s := t.state() // now, not when the caller begins to range
	return func(yield func(string, fs.FileInfo) bool) {
		if !fs.ValidPath(dir) {
			return
		}
		if after != "" {
			after = t.full(after)
		}
		skip := len(t.prefix)
		if skip > 0 {
			skip++
		}
		for name, e := range s.Walk(t.full(dir), after) {
			if !yield(name[skip:], fileInfo(name, e)) {
				return
			}
		}
	}
}

// Watch implements the contract. It also reports weak links that are removed with their blob, after GC has swept them.
func (t *Tree) Watch(ctx context.Context, dir string) <-chan struct{} {
	return t.c.machine.hub.Watch(ctx, t.full(dir))
}

// Follow implements the contract.
func (t *Tree) Follow(ctx context.Context, dir string) (changed <-chan struct{},
	take func() (names []string, all bool)) {
	changed, changes := t.c.machine.hub.Follow(ctx, t.full(dir))
	skip := len(t.prefix)
	if skip > 0 {
		skip++
	}
	return changed, func() ([]string, bool) {
		changed, all := changes()
		names := make([]string, 0, len(changed))
		for name := range changed {
			names = append(names, name[skip:])
		}
		slices.Sort(names)
		return names, all
	}
}

// StatBlob returns the size of a blob that the tree knows; otherwise the error is fs.ErrNotExist.
func (t *Tree) StatBlob(digest string) (int64, error) {
	d, err := state.ParseDigest(digest)
	if err != nil {
		return 0, replica.Unknown(digest)
	}
	b, ok := t.state().Blob(d)
	if !ok && t.c.caughtUp() {
		b, ok = t.state().Blob(d)
	}
	if !ok {
		return 0, replica.Unknown(digest)
	}
	return b.Size, nil
}

// HasBlob implements the contract: the blob may be on this disk or on another node's.
func (t *Tree) HasBlob(ctx context.Context, digest string) (int64, error) {
	size, err := t.StatBlob(digest)
	if err != nil {
		return 0, err
	}
	return size, t.c.replica.Has(ctx, digest)
}

// DoubtBlob hashes the bytes of a blob on this disk, because a reader got wrong ones. If they are wrong, the blob is
// treated as damaged from then on.
func (t *Tree) DoubtBlob(ctx context.Context, digest string) {
	if err := t.c.blobs.Verify(ctx, digest); err != nil {
		t.c.log.Warn("wrong bytes of a blob were read", "blob", digest, "err", err)
	}
}

// OpenBlob opens a blob. If this node has it, the result is an *os.File; otherwise it is a stream from another node,
// whose reads end with ctx.
func (t *Tree) OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error) {
	if _, err := t.StatBlob(digest); err != nil {
		return nil, err
	}
	return t.c.replica.OpenVerified(ctx, digest)
}
