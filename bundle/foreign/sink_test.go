package foreign_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// memorySink is a strict Sink: wrong arguments, and a put of a blob that it has reported, fail the test.
type memorySink struct {
	t testing.TB

	mu    sync.Mutex
	blobs map[string][]byte
	said  map[string]bool // digests that Has said are here
	puts  int
	whole int // puts of an *os.File or an *io.SectionReader
	limit int64
}

func newMemorySink(t testing.TB) *memorySink {
	return &memorySink{t: t, blobs: map[string][]byte{}, said: map[string]bool{}}
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// hold puts something there before the reading.
func (s *memorySink) hold(b []byte) string {
	s.blobs[digestOf(b)] = b
	return digestOf(b)
}

func (s *memorySink) Has(digest string) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[digest]
	if ok {
		s.said[digest] = true
	}
	return int64(len(b)), ok
}

func (s *memorySink) Put(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	if err := ctx.Err(); err != nil {
		return "", 0, err
	}
	s.mu.Lock()
	held := digest != "" && s.said[digest]
	s.mu.Unlock()
	if held {
		s.t.Errorf("Put(%s): it was said to be here", digest)
	}
	b, err := io.ReadAll(io.LimitReader(r, 32<<20))
	if err != nil {
		return "", 0, err
	}
	if len(b) == 32<<20 {
		return "", 0, syscall.ENOSPC
	}
	if size >= 0 && int64(len(b)) != size {
		return "", 0, fmt.Errorf("%d bytes of %d: %w", len(b), size, io.ErrUnexpectedEOF)
	}
	got := digestOf(b)
	if strings.HasPrefix(digest, "sha512:") {
		sum := sha512.Sum512(b)
		got = "sha512:" + hex.EncodeToString(sum[:])
	}
	if digest != "" && got != digest {
		return "", 0, fmt.Errorf("%s: %w", digest, syscall.EBADMSG)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.limit > 0 && int64(s.puts) > s.limit {
		return "", 0, syscall.ENOSPC
	}
	if _, ok := r.(*io.SectionReader); ok {
		s.whole++
	} else if _, ok := r.(fs.File); ok {
		s.whole++
	}
	s.blobs[got] = b
	return got, int64(len(b)), nil
}

func (s *memorySink) Open(_ context.Context, digest string) (io.ReadSeekCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", digest, fs.ErrNotExist)
	}
	return struct {
		io.ReadSeeker
		io.Closer
	}{bytes.NewReader(b), io.NopCloser(nil)}, nil
}

func TestMemorySinkIsStrict(t *testing.T) {
	s := newMemorySink(t)
	if _, _, err := s.Put(t.Context(), digestOf([]byte("a")), -1, strings.NewReader("b")); !errors.Is(
		err,
		syscall.EBADMSG,
	) {
		t.Errorf("wrong bytes: %v", err)
	}
	if _, _, err := s.Put(t.Context(), "", 2, strings.NewReader("b")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("wrong size: %v", err)
	}
}
