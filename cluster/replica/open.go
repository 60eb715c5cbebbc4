package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"syscall"

	"casemate/cluster/blob"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// File is an open blob.
type File interface {
	io.ReadSeekCloser
	io.ReaderAt
}

// openLocal opens a blob that is intact on this disk; otherwise the error is fs.ErrNotExist or blob.ErrDamaged.
func (s *Store) openLocal(digest string) (blob.File, error) {
	f, err := s.dir.Open(digest)
	if err != nil {
		return nil, err
	}
	d, err := state.ParseDigest(digest)
	if err != nil {
		return f, nil
	}
	b, known := s.state.View().Blob(d)
	if i, err := f.Stat(); !known || err != nil || i.Size() == b.Size {
		return f, nil
	}
	// The file's time says that it is unchanged, its size says that it is not: the time was set back.
	f.Close()
	if err := s.dir.Verify(s.life, digest); err != nil {
		return nil, err
	}
	return s.dir.Open(digest)
}

// Open opens a blob on this disk, or from another node while it is being fetched.
func (s *Store) Open(ctx context.Context, digest string) (File, error) {
	f, err := s.openLocal(digest)
	if err == nil {
		return f, nil
	}
	why, ok := notHere(err)
	d, perr := state.ParseDigest(digest)
	if !ok || perr != nil {
		return nil, err
	}
	known, ok := s.state.View().Blob(d)
	if !ok {
		return nil, Unknown(digest) // collected and swept since the caller looked
	}
	if s.fetcher == nil || len(s.state.Others()) == 0 {
		return nil, &lost{digest: digest, why: why, alone: true}
	}
	s.fetcher.markMissing(d, known)
	return s.openIncoming(ctx, d, known.Size, why)
}

// openIncoming opens a blob that is being fetched from another node, after its first bytes have arrived, or all of a
// small blob. So a blob that no node has is an error before the first byte.
func (s *Store) openIncoming(ctx context.Context, d state.Digest, size int64, why string) (File, error) {
	for try := 0; ; try++ {
		f, err := s.fetcher.start(d, nil)
		if errors.Is(err, syscall.ENOSPC) {
			return s.relay(ctx, d.String(), size), nil
		}
		if err != nil {
			return nil, err
		}
		r := &incoming{ctx: ctx, f: f}
		if err = f.wait(ctx, min(1, size), size <= fetchPiece); err == nil {
			return r, nil
		}
		r.Close()
		switch {
		case errors.Is(err, syscall.EBADMSG) && try < len(s.state.Others()): // try the next node
		case errors.Is(err, syscall.EBADMSG), errors.Is(err, syscall.EIO):
			return nil, &lost{digest: d.String(), why: why}
		default:
			return nil, err
		}
	}
}

// Read reads a whole blob and hashes it each time. This finds rot on this disk that leaves the file's time unchanged.
func (s *Store) Read(digest string, size int64) ([]byte, error) {
	for try := 0; ; try++ {
		f, err := s.Open(context.Background(), digest)
		if err != nil {
			return nil, err
		}
		data := make([]byte, size)
		_, err = io.ReadFull(f, data)
		f.Close()
		sum, have := blob.NewSum(digest)
		sum.Write(data)
		if err == nil && have() == digest {
			return data, nil
		}
		if _, remote := f.(*incoming); remote || try > 0 {
			return nil, errors.Join(err, &lost{digest: digest, why: "it changes while it is read"})
		}
		if err := s.dir.Verify(s.life, digest); err != nil {
			if _, ok := notHere(err); !ok {
				return nil, err
			}
		}
	}
}

// Has reports whether the bytes of a blob that the tree knows are available: nil, or the reason.
func (s *Store) Has(ctx context.Context, digest string) error {
	f, err := s.openLocal(digest)
	if err == nil {
		return f.Close()
	}
	why, ok := notHere(err)
	d, perr := state.ParseDigest(digest)
	if !ok || perr != nil {
		return err
	}
	known, ok := s.state.View().Blob(d)
	if !ok {
		return Unknown(digest)
	}
	others := s.state.Others()
	if s.fetcher == nil || len(others) == 0 {
		return &lost{digest: digest, why: why, alone: true}
	}
	s.fetcher.markMissing(d, known)
	no := 0
	var last error = peer.ErrDown
	for _, node := range s.peers.UpNodes() {
		has, err := s.nodeHas(ctx, node, digest)
		switch {
		case has:
			return nil
		case err != nil:
			last = err
		case slices.Contains(others, node):
			no++
		}
	}
	if no >= len(others) {
		return &lost{digest: digest, why: why}
	}
	return fmt.Errorf("blob %s: %s, and no node that has it can be reached (%w): %w", digest, why, last, syscall.EAGAIN)
}

// nodeHas asks a node whether it has a blob intact.
func (s *Store) nodeHas(ctx context.Context, node, digest string) (bool, error) {
	ctx, cancel, ok := s.peers.Alive(ctx, node)
	if !ok {
		return false, peer.ErrDown
	}
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+node+"/blob/"+digest, nil)
	if err != nil {
		return false, err
	}
	res, err := s.peers.Do(req)
	if err != nil {
		return false, err
	}
	peer.Finish(res)
	switch res.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("node %s answered %s", node, res.Status)
}
