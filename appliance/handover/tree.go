package handover

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// tree is a directory that the operator named, as a file system: the command lists it and opens its files.
type tree struct {
	session *Session
	input   int
	name    string // as typed
}

func (t *tree) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: shown(t.name, name), Err: err}
}

// Open opens a regular file as *os.File, or a directory as fs.ReadDirFile whose ReadDir(n) does not hold all of it in
// memory. Symbolic links are followed within the directory; files of other types are refused.
func (t *tree) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, t.fail("open", name, fs.ErrInvalid)
	}
	a, err := t.session.ask(ask{Op: opOpen, Input: t.input, Path: name})
	if err != nil {
		return nil, t.fail("open", name, err)
	}
	if a.fd >= 0 {
		f, err := t.session.adopt(a.fd, shown(t.name, name))
		if err != nil {
			return nil, t.fail("open", name, err)
		}
		return f, nil
	}
	if a.reply.Dir == 0 || a.reply.Entry == nil || !a.reply.Entry.Bits.IsDir() {
		return nil, t.fail("open", name, protocolError("the reply has neither a file nor a directory"))
	}
	return &dirFile{tree: t, name: name, id: a.reply.Dir, info: info{*a.reply.Entry}}, nil
}

// Stat follows symbolic links.
func (t *tree) Stat(name string) (fs.FileInfo, error) { return t.stat("stat", opStat, name) }

// Lstat does not follow symbolic links.
func (t *tree) Lstat(name string) (fs.FileInfo, error) { return t.stat("lstat", opLstat, name) }

func (t *tree) stat(op, asked, name string) (fs.FileInfo, error) {
	e, err := t.entry(op, asked, name)
	if err != nil {
		return nil, err
	}
	e.Base = []byte(path.Base(name))
	return info{e}, nil
}

// ReadLink returns the target of a symbolic link, wherever it leads.
func (t *tree) ReadLink(name string) (string, error) {
	e, err := t.entry("readlink", opReadLink, name)
	return string(e.Base), err
}

// entry sends a request whose reply is an entry.
func (t *tree) entry(op, asked, name string) (entry, error) {
	if !fs.ValidPath(name) {
		return entry{}, t.fail(op, name, fs.ErrInvalid)
	}
	a, err := t.session.ask(ask{Op: asked, Input: t.input, Path: name})
	if err == nil && (a.fd >= 0 || a.reply.Entry == nil) {
		err = protocolError("the reply has no entry")
	}
	if a.fd >= 0 {
		unix.Close(a.fd)
	}
	if err != nil {
		return entry{}, t.fail(op, name, err)
	}
	return *a.reply.Entry, nil
}

// ReadDir lists a whole directory in order; use Open for one that may be huge.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := t.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, t.fail("read", name, errors.New("not a directory"))
	}
	list, err := d.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// dirFile is an open directory, which is read from the command page by page.
type dirFile struct {
	tree *tree
	name string
	id   uint64
	info info

	mu     sync.Mutex
	page   []entry // entries that arrived and were not returned yet
	end    bool
	closed bool
}

func (d *dirFile) Stat() (fs.FileInfo, error) { return d.info, nil }

func (d *dirFile) Read([]byte) (int, error) {
	return 0, d.tree.fail("read", d.name, errors.New("is a directory"))
}

// ReadDir returns entries unsorted, in directory order.
func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []fs.DirEntry
	for n <= 0 || len(list) < n {
		if len(d.page) == 0 {
			if err := d.more(); err != nil {
				return list, err
			}
			if d.end {
				break
			}
		}
		e := d.page[0]
		d.page = d.page[1:]
		list = append(list, info{e})
	}
	if n > 0 && len(list) == 0 {
		return nil, io.EOF
	}
	return list, nil
}

// more fetches the next page.
func (d *dirFile) more() error {
	switch {
	case d.closed:
		return d.tree.fail("read", d.name, fs.ErrClosed)
	case d.end:
		return nil
	}
	a, err := d.tree.session.ask(ask{Op: opReadDir, Dir: d.id})
	if a.fd >= 0 {
		unix.Close(a.fd)
	}
	if err != nil {
		return d.tree.fail("read", d.name, err)
	}
	for _, e := range a.reply.Entries {
		// A name must be one path element; do not trust the command.
		if n := string(e.Base); n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00") {
			return d.tree.fail("read", d.name, protocolError("an invalid name %q", n))
		}
	}
	d.page, d.end = a.reply.Entries, len(a.reply.Entries) == 0
	return nil
}

func (d *dirFile) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.tree.fail("close", d.name, fs.ErrClosed)
	}
	d.closed, d.page = true, nil
	_, err := d.tree.session.ask(ask{Op: opCloseDir, Dir: d.id})
	if d.tree.session.ctx.Err() != nil {
		return nil // the command closes it with the connection
	}
	return err
}
