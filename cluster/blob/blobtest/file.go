package blobtest

import (
	"io"
	"io/fs"
	"slices"
	"syscall"

	"casemate/cluster/blob"
)

// file is an open file: its node stays although the name goes.
type file struct {
	fs    *FS
	node  *node
	name  string
	write bool

	// guarded by fs.mu
	pos    int64
	closed bool
}

func (f *file) ready() error {
	if f.fs.off {
		return ErrOff
	}
	if f.closed {
		return fs.ErrClosed
	}
	return nil
}

func (f *file) Read(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, err := f.readAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.readAt(p, off)
}

func (f *file) readAt(p []byte, off int64) (int, error) {
	if err := f.ready(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, &fs.PathError{Op: "readat", Path: f.name, Err: fs.ErrInvalid}
	}
	if off >= f.node.data.size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := f.node.data.readAt(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, err := f.writeAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.writeAt(p, off)
}

func (f *file) writeAt(p []byte, off int64) (int, error) {
	if err := f.ready(); err != nil {
		return 0, err
	}
	if !f.write {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: syscall.EBADF}
	}
	if int64(len(p)) > f.fs.free {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	n := 0
	err := f.fs.change("write", f.name, func() {
		if len(p) > 0 {
			f.fs.edit(f.node, dataOp{off, slices.Clone(p)})
			f.fs.free -= int64(len(p))
			n = len(p)
		}
	})
	return n, err
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.ready(); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.node.data.size
	}
	if offset < 0 {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: fs.ErrInvalid}
	}
	f.pos = offset
	return offset, nil
}

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}

func (f *file) Stat() (fs.FileInfo, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return info{f.name, f.node.data.size, false, f.node.mod}, f.ready()
}

// Sync makes the bytes durable. One that fails without having happened has lost them: they are read as if nothing were
// wrong, and no later Sync saves them.
func (f *file) Sync() error {
	f.fs.hangs()
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.ready(); err != nil {
		return err
	}
	if f.node.lost {
		f.node.lost, f.node.pending = false, nil
		return &fs.PathError{Op: "sync", Path: f.name, Err: syscall.EIO}
	}
	err := f.fs.change("sync", f.name, func() {
		for _, op := range f.node.pending {
			op.apply(&f.node.disk)
		}
	})
	if !f.fs.off {
		f.node.pending = nil
	}
	return err
}

func (f *file) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.ready(); err != nil {
		return err
	}
	return f.fs.change("truncate", f.name, func() { f.fs.edit(f.node, dataOp{off: size}) })
}

var _ blob.File = (*file)(nil)
