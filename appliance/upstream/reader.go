package upstream

import (
	"context"
	"fmt"
	"io"
	"syscall"

	"casemate/cluster/tree"
)

// reader reads what one fetch brings, at any offset, as soon as it is there. The last byte is passed on when all bytes
// were found right.
type reader struct {
	f       *flight
	ctx     context.Context
	scratch tree.Scratch
	round   int
	size    int64 // -1 if it is not known
	at      int64
}

func (r *reader) Size() int64  { return r.size }
func (r *reader) Close() error { return r.scratch.Close() }

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		if r.size < 0 {
			return 0, fmt.Errorf("seek in content of unknown size: %w", syscall.EINVAL)
		}
		offset += r.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d: %w", offset, syscall.EINVAL)
	}
	r.at = offset
	return offset, nil
}

func (r *reader) Read(p []byte) (int, error) {
	if r.size >= 0 && r.at >= r.size {
		return 0, io.EOF
	}
	for {
		f := r.f
		f.mu.Lock()
		there, right, err, round, changed := f.n, f.right, f.err, f.round, f.changed
		f.mu.Unlock()
		if !right {
			there--
		}
		switch {
		case right && round == r.round && r.at >= there:
			return 0, io.EOF
		case right && round == r.round, round == r.round && err == nil && r.at < there:
			n, err := r.scratch.ReadAt(p[:min(int64(len(p)), there-r.at)], r.at)
			r.at += int64(n)
			if err == io.EOF && n > 0 {
				err = nil
			}
			return n, err
		case round != r.round:
			return 0, errRestarted
		case err != nil:
			return 0, err
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		}
	}
}
