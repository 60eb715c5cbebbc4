package replica

import (
	"context"
	"time"

	"casemate/cluster/blob"
)

const (
	provenTime  = 30 * 24 * time.Hour // how long a blob counts as read that this process has hashed
	provenSmall = 256 << 10           // bytes up to which a blob is hashed before it is handed out
)

// OpenVerified is Open for clients. The first time that a blob is read after a start, or in 30 days, its bytes are
// hashed beside that: rot breaks no seal.
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
	return s.Open(ctx, digest) // which finds it elsewhere, if need be
}

// proving is a blob on this disk that is read while it is hashed. As with incoming the last byte comes only when that
// has ended well, and whoever jumps about waits for it.
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
	judged := s.tasks.Background(func() {
		defer close(p.done)
		if err := s.dir.Verify(s.life, digest); err != nil {
			p.err = err
			if why, ok := notHere(err); ok {
				p.err = &lost{digest: digest, why: why, alone: len(s.state.Others()) == 0}
			}
		}
	})
	if !judged {
		return f // this node ends
	}
	return p
}

// wait returns when a read up to an offset may be answered.
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

// Seek implements io.Seeker. Who seeks to the end, for the size, and back to the beginning is going to read everything.
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
