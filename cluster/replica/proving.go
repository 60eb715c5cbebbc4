package replica

import (
	"context"
	"time"

	"casemate/cluster/blob"
)

const (
	provenTime  = 30 * 24 * time.Hour // how long a hash by this process counts
	provenSmall = 256 << 10           // bytes up to which a blob is hashed before it is served
)

// OpenVerified is Open for clients. At the first read after a start, or in 30 days, the blob is hashed while it is
// read, because rot does not break the seal.
func (s *Store) OpenVerified(ctx context.Context, digest string) (File, error) {
	f, err := s.Open(ctx, digest)
	if _, ours := f.(blob.File); err != nil || !ours || s.dir.Proven(digest, s.cfg.Options.Now().Add(-provenTime)) {
		return f, err
	}
	i, err := f.(blob.File).Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if i.Size() > provenSmall {
		return s.prove(ctx, digest, f, i.Size()), nil
	}
	f.Close()
	if err := s.dir.Verify(s.life, digest); err != nil {
		if _, ok := notHere(err); !ok {
			return nil, err
		}
	}
	return s.Open(ctx, digest) // from another node if it is damaged
}

// proving is a blob on this disk that is read while it is hashed. As with incoming, the last byte is delivered only
// after the hash was verified, and a reader that does not read sequentially waits for that.
type proving struct {
	File
	ctx   context.Context
	size  int64
	pos   int64
	seeks int
	done  chan struct{} // closed when err is set
	err   error
}

func (s *Store) prove(ctx context.Context, digest string, f File, size int64) File {
	p := &proving{File: f, ctx: ctx, size: size, done: make(chan struct{})}
	started := s.tasks.Background(func() {
		defer close(p.done)
		if err := s.dir.Verify(s.life, digest); err != nil {
			p.err = err
			if why, ok := notHere(err); ok {
				p.err = &lost{digest: digest, why: why, alone: len(s.state.Others()) == 0}
			}
		}
	})
	if !started {
		return f // this node stops
	}
	return p
}

// wait returns when bytes up to end may be delivered.
func (p *proving) wait(end int64, whole bool) error {
	if !whole && end < p.size {
		return nil
	}
	select {
	case <-p.done:
		return p.err
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// Read implements io.Reader.
func (p *proving) Read(buf []byte) (int, error) {
	if left := p.size - p.pos; left > 1 && int64(len(buf)) >= left {
		buf = buf[:left-1] // the last byte is for the next call
	}
	if err := p.wait(p.pos+int64(len(buf)), p.seeks > 2); err != nil {
		return 0, err
	}
	n, err := p.File.Read(buf)
	p.pos += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (p *proving) ReadAt(buf []byte, off int64) (int, error) {
	if err := p.wait(0, true); err != nil {
		return 0, err
	}
	return p.File.ReadAt(buf, off)
}

// Seek implements io.Seeker. A caller that seeks to the end, for the size, and back to the beginning is going to read
// everything.
func (p *proving) Seek(offset int64, whence int) (int64, error) {
	pos, err := p.File.Seek(offset, whence)
	if err != nil {
		return pos, err
	}
	p.seeks++
	if pos != 0 && pos != p.size {
		p.seeks = 3
	}
	p.pos = pos
	return pos, nil
}
