package treetest

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

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
