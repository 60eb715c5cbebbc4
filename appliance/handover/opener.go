package handover

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// answer executes a request of the daemon. The caller closes the file.
func (o *opener) answer(a *ask) (*reply, *os.File) {
	r, f, err := o.try(a)
	if err != nil {
		return &reply{Err: wire(err)}, nil
	}
	return r, f
}

func (o *opener) try(a *ask) (*reply, *os.File, error) {
	switch a.Op {
	case opReadDir:
		return o.readDir(a.Dir)
	case opCloseDir:
		return &reply{}, nil, o.forget(a.Dir).close()
	}
	if a.Input < 0 || a.Input >= len(o.inputs) {
		return nil, nil, fs.ErrInvalid
	}
	in := o.inputs[a.Input]
	switch {
	case a.Op == opEnd && in.relay != nil:
		<-in.relay.done
		return &reply{}, nil, in.relay.err
	case in.root == nil || !fs.ValidPath(a.Path):
		return nil, nil, fs.ErrInvalid
	case a.Op == opStat:
		st, err := in.root.Stat(a.Path)
		if err != nil {
			return nil, nil, bare(err)
		}
		e := entryOf(st)
		return &reply{Entry: &e}, nil, nil
	case a.Op == opLstat:
		st, err := in.root.Lstat(a.Path)
		if err != nil {
			return nil, nil, bare(err)
		}
		e := entryOf(st)
		return &reply{Entry: &e}, nil, nil
	case a.Op == opReadLink:
		to, err := in.root.Readlink(a.Path)
		if err != nil {
			return nil, nil, bare(err)
		}
		return &reply{Entry: &entry{Base: []byte(to)}}, nil, nil
	case a.Op == opOpen:
		if f := in.parent.regular(in.root, a.Path); f != nil {
			return &reply{}, f, nil // the daemon checks it once more
		}
		return o.open(in.root, a.Path)
	}
	return nil, nil, fs.ErrInvalid
}

// open opens a regular file or a directory. Opening must not block, as for a pipe, nor have side effects, as for a
// device.
func (o *opener) open(root *os.Root, name string) (*reply, *os.File, error) {
	st, err := root.Stat(name)
	if err != nil {
		return nil, nil, bare(err)
	}
	if !st.Mode().IsRegular() && !st.IsDir() {
		return nil, nil, errors.New("is neither a regular file nor a directory")
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // the file may have been replaced since
	if err != nil {
		return nil, nil, bare(err)
	}
	if st, err = f.Stat(); err != nil {
		f.Close()
		return nil, nil, bare(err)
	}
	if !st.IsDir() {
		return &reply{}, f, nil
	}
	d, err := newListing(root, name, f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	e := entryOf(st)
	e.Base = []byte(path.Base(name))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lastID++
	o.dirs[o.lastID] = d
	return &reply{Dir: o.lastID, Entry: &e}, nil, nil
}

func (o *opener) readDir(id uint64) (*reply, *os.File, error) {
	o.mu.Lock()
	d := o.dirs[id]
	o.mu.Unlock()
	if d == nil {
		return nil, nil, fs.ErrClosed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &reply{}
	for len(r.Entries) == 0 { // all entries of a page may have been deleted since
		names, err := d.file.Readdirnames(pageSize)
		if errors.Is(err, io.EOF) {
			return r, nil, nil
		}
		if err != nil {
			return nil, nil, bare(err)
		}
		for _, n := range names {
			st, err := d.dir.Lstat(n)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			r.Entries = append(r.Entries, entryOf(st))
		}
	}
	return r, nil, nil
}

func (o *opener) forget(id uint64) *listing {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.dirs[id]
	delete(o.dirs, id)
	return d
}

// bare strips operation and path from an error; the daemon's side adds them again.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
