package handover

import (
	"io/fs"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

// parent keeps open the directory in which a file was last opened. The daemon mostly asks for the files of one
// directory after those of another, and an os.Root walks the whole path in each call. A directory that is renamed
// meanwhile is still the one that was opened, as with any os.Root; nothing may write there during an import.
type parent struct {
	mu   sync.Mutex
	path string
	dir  *os.Root // nil until a file was opened
}

// regular opens a regular file of root, or returns nil if the path ends at anything else, as at a link: then the whole
// path has to be walked.
func (p *parent) regular(root *os.Root, name string) *os.File {
	dir, err := p.of(root, path.Dir(name))
	if err != nil {
		return nil
	}
	base := path.Base(name)
	if st, err := dir.Lstat(base); err != nil || !st.Mode().IsRegular() { // dir may have been closed since
		return nil
	}
	f, err := dir.OpenFile(base, os.O_RDONLY|unix.O_NONBLOCK, 0) // the file may have been replaced since
	if err != nil {
		return nil
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil
	}
	return f
}

// of returns a directory of root. It is closed when another one is needed.
func (p *parent) of(root *os.Root, name string) (*os.Root, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir != nil && p.path == name {
		return p.dir, nil
	}
	if p.dir != nil {
		p.dir.Close()
	}
	p.path = name
	var err error
	p.dir, err = root.OpenRoot(name)
	return p.dir, err
}

func (p *parent) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir != nil {
		p.dir.Close()
	}
}

// listing is a directory that the daemon reads.
type listing struct {
	mu   sync.Mutex
	file *os.File
	dir  *os.Root // the same directory
}

func newListing(root *os.Root, name string, file *os.File) (*listing, error) {
	dir, err := root.OpenRoot(name)
	if err != nil {
		return nil, bare(err)
	}
	return &listing{file: file, dir: dir}, nil
}

func (d *listing) close() error {
	if d == nil {
		return fs.ErrClosed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dir.Close()
	return d.file.Close()
}
