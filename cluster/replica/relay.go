package replica

import (
	"context"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"syscall"

	"casemate/cluster/blob"
	"casemate/cluster/peer"
)

// relay reads a blob from another node without storing it, for a node whose disk is full. The last piece is delivered
// only after all bytes were hashed. So it can only be read from the beginning; a read that starts elsewhere could not
// be verified and fails.
type relay struct {
	ctx    context.Context
	s      *Store
	digest string
	size   int64
	pos    int64
	body   io.ReadCloser // nil before the first Read, and after a Seek
	cancel context.CancelFunc
	sum    hash.Hash
	have   func() string
}

func (s *Store) relay(ctx context.Context, digest string, size int64) *relay {
	return &relay{ctx: ctx, s: s, digest: digest, size: size}
}

// open asks the nodes that are up, one after the other.
func (r *relay) open() error {
	if r.pos != 0 {
		return fmt.Errorf("blob %s: not on this node, and its disk is full: only a read of the whole blob is "+
			"possible: %w", r.digest, syscall.ENOSPC)
	}
	var last error = peer.ErrDown
	for _, node := range r.s.peers.UpNodes() {
		ctx, cancel, ok := r.s.peers.Alive(r.ctx, node)
		if !ok {
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+"/blob/"+r.digest, nil)
		if err != nil {
			cancel()
			return err
		}
		res, err := r.s.peers.Do(req)
		if err != nil {
			cancel()
			last = err
			continue
		}
		if res.StatusCode != http.StatusOK || res.ContentLength != r.size {
			peer.Finish(res)
			cancel()
			last = fmt.Errorf("node %s answered %s with %d bytes", node, res.Status, res.ContentLength)
			continue
		}
		r.body, r.cancel = res.Body, cancel
		r.sum, r.have = blob.NewSum(r.digest)
		return nil
	}
	return fmt.Errorf("blob %s: not on this node, its disk is full, and no node that has it can be reached (%v): %w",
		r.digest, last, syscall.EAGAIN)
}

func (r *relay) Read(p []byte) (int, error) {
	if r.pos >= r.size && r.size > 0 {
		return 0, io.EOF
	}
	if r.body == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	n, err := r.body.Read(p)
	r.sum.Write(p[:n])
	if r.pos += int64(n); r.pos < r.size {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	if got := r.have(); got != r.digest {
		return 0, fmt.Errorf("blob %s: another node sent wrong bytes, with the digest %s: %w", r.digest, got,
			syscall.EBADMSG)
	}
	return n, io.EOF
}

// ReadAt implements io.ReaderAt; it always fails.
func (r *relay) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("blob %s: not on this node, and its disk is full: %w", r.digest, syscall.ENOSPC)
}

// Seek implements io.Seeker.
func (r *relay) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	if offset != r.pos {
		r.Close()
		r.pos = offset
	}
	return offset, nil
}

func (r *relay) Close() error {
	if r.body != nil {
		r.body.Close()
		r.cancel()
		r.body = nil
	}
	return nil
}
