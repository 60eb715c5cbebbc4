package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"

	"casemate/bundle"
	"casemate/cluster"
)

// writeLarge writes to a scratch file that survives an interruption, or continues an existing one.
func (s *sink) writeLarge(ctx context.Context, digest string, size int64, r io.Reader) (string, int64, error) {
	s.setLarge(digest, true)
	id := scratchID(digest)
	w, err := s.e.cfg.Tree.ResumeBlob(id)
	if err == nil {
		again, rerr := s.resume(ctx, w, digest, size, r)
		if err := errors.Join(rerr, w.Close()); err != nil || !again {
			return digest, size, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", 0, err
	}
	if w, err = s.e.cfg.Tree.CreateBlob(id); err != nil {
		return "", 0, err
	}
	got, n, err := commit(ctx, w, digest, size, r)
	if errors.Is(err, syscall.EBADMSG) {
		err = errors.Join(err, w.Cancel())
	}
	if err == nil || errors.Is(err, syscall.EBADMSG) {
		s.setLarge(digest, false)
	}
	return got, n, errors.Join(err, w.Close())
}

// resume continues a blob of an interrupted import. again means that the scratch file was useless, and that r is back
// at its start.
func (s *sink) resume(ctx context.Context, w cluster.BlobWriter, digest string, size int64, r io.Reader) (again bool,
	err error) {
	skip := w.Size()
	if skip > size {
		return true, w.Cancel()
	}
	back, _ := r.(io.Seeker)
	var at int64
	if back != nil {
		if at, err = back.Seek(0, io.SeekCurrent); err == nil {
			_, err = back.Seek(skip, io.SeekCurrent)
		}
	} else if from, ok := r.(bundle.Skipper); ok {
		err = from.Skip(skip)
	} else {
		_, err = io.CopyN(io.Discard, cancelable{ctx, r}, skip)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		_, _, err = commit(ctx, w, digest, size-skip, r)
	}
	switch {
	case err == nil:
		s.setLarge(digest, false)
		return false, nil
	case !errors.Is(err, syscall.EBADMSG):
		return false, err
	}
	// The earlier bytes may be damaged (by a power cut), or the new ones. Reading again from the beginning decides.
	if err := w.Cancel(); err != nil {
		return false, err
	}
	if back == nil {
		return false, fmt.Errorf("the partial blob of an interrupted import is damaged, and this input cannot be "+
			"read twice; import it again: %w", errStale)
	}
	_, err = back.Seek(at, io.SeekStart)
	return true, err
}

// errStale does not wrap EBADMSG: the content itself may be intact.
var errStale = errors.New("a scratch file was damaged")

func (s *sink) setLarge(digest string, unfinished bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unfinished {
		s.large[digest] = true
	} else {
		delete(s.large, digest)
	}
}

// scratchID returns the id of a large blob's scratch file. A sha512 is truncated, because an id has at most 128
// characters.
func scratchID(digest string) string {
	id := "import-" + fileOf(digest)
	return id[:min(len(id), 128)]
}

// unfinished returns the digests of large blobs that have a scratch file.
func (s *sink) unfinished() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for d := range s.large {
		list = append(list, d)
	}
	slices.Sort(list)
	return list
}
