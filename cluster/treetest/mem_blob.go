package treetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"casemate/cluster/tree"
)

type memBlob struct {
	data   []byte
	born   uint64
	pinned bool
	lost   bool // see Damage
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

	committed bool
	summed    bool
	readers   []*memScratch
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
	if w.done || w.summed {
		w.m.tb.Error("treetest: write after Close, Cancel, Commit or Sum")
		return 0, fs.ErrClosed
	}
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.data = append(w.data, p...)
	if w.id != "" {
		w.m.scratch[w.id] = w.data
	}
	for _, s := range w.readers {
		s.data = w.data
	}
	return len(p), nil
}

// memScratch reads what a writer had when it was opened, and what it has written since.
type memScratch struct {
	w      *memWriter
	data   []byte // what was there before a Commit
	closed bool
}

func (w *memWriter) OpenScratch() (tree.Scratch, error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if w.done || w.committed {
		return nil, fs.ErrClosed
	}
	w.m.open++
	s := &memScratch{w: w, data: w.data}
	w.readers = append(w.readers, s)
	return s, nil
}

func (s *memScratch) ReadAt(p []byte, at int64) (int, error) {
	s.w.m.mu.Lock()
	defer s.w.m.mu.Unlock()
	return bytes.NewReader(s.data).ReadAt(p, at)
}

func (s *memScratch) Close() error {
	s.w.m.mu.Lock()
	defer s.w.m.mu.Unlock()
	if s.closed {
		s.w.m.tb.Error("treetest: a scratch reader was closed twice")
		return fs.ErrClosed
	}
	s.closed = true
	s.w.m.open--
	return nil
}

// Sum implements tree.Summer.
func (w *memWriter) Sum() (string, int64, error) {
	if w.done || w.committed {
		return "", 0, fs.ErrClosed
	}
	w.summed = true
	return DigestOf(w.data, ""), w.Size(), nil
}

// DigestOf returns the digest of data in the algorithm of like ("" for sha256).
func DigestOf(data []byte, like string) string { return tree.Sum(data, like) }

func (w *memWriter) Commit(ctx context.Context, digest string) (string, error) {
	if w.done {
		w.m.tb.Error("treetest: Commit after Close or Cancel")
		return "", fs.ErrClosed
	}
	if w.committed {
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
	if err != nil {
		return got, err // it happened, which the writer does not know: Commit may be called again
	}
	delete(w.m.scratch, w.id)
	w.id, w.data, w.committed = "", nil, true
	return got, nil
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
