package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"syscall"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// lost is the error for a blob that the tree knows and whose bytes cannot be had: damage, which must not look like a
// miss. It is syscall.EIO.
type lost struct {
	digest string
	why    string // "not on this node's disk", "damaged on this node's disk (…)"
	alone  bool   // there is no other node to ask
}

// Error implements error.
func (e *lost) Error() string {
	elsewhere := ", nor whole on another node"
	if e.alone {
		elsewhere = ""
	}
	return fmt.Sprintf("blob %s: known, but %s%s: import or push it again", e.digest, e.why, elsewhere)
}

// Is makes it syscall.EIO.
func (e *lost) Is(target error) bool { return target == syscall.EIO }

// notHere says why the bytes are not on this disk, given the error of blob.Dir; ok is false for an error that says
// nothing of the blob.
func notHere(err error) (why string, ok bool) {
	var d *blob.Damage
	switch {
	case errors.As(err, &d):
		return "damaged on this node's disk (" + d.Why + ")", true
	case errors.Is(err, fs.ErrNotExist):
		return "not on this node's disk", true
	}
	return "", false
}

// openHere opens a blob that is whole on this disk, else fs.ErrNotExist or blob.ErrDamaged.
func (c *Cluster) openHere(digest string) (blob.File, error) {
	f, err := c.blobs.Open(digest)
	if err != nil {
		return nil, err
	}
	d, err := state.ParseDigest(digest)
	if err != nil {
		return f, nil
	}
	b, known := c.machine.view.Load().Blob(d)
	if i, err := f.Stat(); !known || err != nil || i.Size() == b.Size {
		return f, nil
	}
	// Its time says that nobody has changed it: somebody has set that back.
	f.Close()
	if err := c.blobs.Verify(c.life, digest); err != nil {
		return nil, err
	}
	return c.blobs.Open(digest)
}

const (
	provenTime  = 30 * 24 * time.Hour // how long a blob counts as read that this process has hashed
	provenSmall = 256 << 10           // bytes up to which a blob is hashed before it is handed out
)

// openProven is openBlob for clients. The first time that a blob is read after a start, or in 30 days, its bytes are
// hashed beside that: rot breaks no seal.
func (c *Cluster) openProven(ctx context.Context, digest string) (content, error) {
	f, err := c.openBlob(ctx, digest)
	if _, ours := f.(blob.File); err != nil || !ours || c.blobs.Proven(digest, c.cfg.Now().Add(-provenTime)) {
		return f, err
	}
	i, err := f.(blob.File).Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if i.Size() > provenSmall {
		return c.prove(ctx, digest, f, i.Size()), nil
	}
	f.Close()
	if err := c.blobs.Verify(c.life, digest); err != nil {
		if _, ok := notHere(err); !ok {
			return nil, err
		}
	}
	return c.openBlob(ctx, digest) // which finds it elsewhere, if need be
}

// proving is a blob on this disk that is read while it is hashed. As with incoming the last byte comes only when that
// has ended well, and whoever jumps about waits for it.
type proving struct {
	content
	ctx   context.Context
	size  int64
	pos   int64
	seeks int
	done  chan struct{} // closed when err is set
	err   error
}

func (c *Cluster) prove(ctx context.Context, digest string, f content, size int64) content {
	p := &proving{content: f, ctx: ctx, size: size, done: make(chan struct{})}
	judged := c.background(func() {
		defer close(p.done)
		if err := c.blobs.Verify(c.life, digest); err != nil {
			p.err = err
			if why, ok := notHere(err); ok {
				p.err = &lost{digest: digest, why: why, alone: len(c.others()) == 0}
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
	n, err := p.content.Read(buf)
	p.pos += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (p *proving) ReadAt(buf []byte, off int64) (int, error) {
	if err := p.wait(0, true); err != nil {
		return 0, err
	}
	return p.content.ReadAt(buf, off)
}

// Seek implements io.Seeker. Who seeks to the end, for the size, and back to the beginning is going to read everything.
func (p *proving) Seek(offset int64, whence int) (int64, error) {
	pos, err := p.content.Seek(offset, whence)
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

// openBlob opens a blob here, else from another node as it comes.
func (c *Cluster) openBlob(ctx context.Context, digest string) (content, error) {
	f, err := c.openHere(digest)
	if err == nil {
		return f, nil
	}
	why, ok := notHere(err)
	d, perr := state.ParseDigest(digest)
	if !ok || perr != nil {
		return nil, err
	}
	known, ok := c.machine.view.Load().Blob(d)
	if !ok {
		return nil, unknownBlob(digest) // collected and swept since the caller looked
	}
	if c.stock == nil || len(c.others()) == 0 {
		return nil, &lost{digest: digest, why: why, alone: true}
	}
	c.stock.lose(d, known)
	return c.openComing(ctx, d, known.Size, why)
}

// openComing opens a blob that is on its way from another node, after its first bytes have come, or all of a small one:
// what nobody has is found out before anything is answered.
func (c *Cluster) openComing(ctx context.Context, d state.Digest, size int64, why string) (content, error) {
	for try := 0; ; try++ {
		f, err := c.stock.start(d, nil)
		if errors.Is(err, syscall.ENOSPC) {
			return c.relay(ctx, d.String(), size), nil
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
		case errors.Is(err, syscall.EBADMSG) && try < len(c.others()): // of the next node
		case errors.Is(err, syscall.EBADMSG), errors.Is(err, syscall.EIO):
			return nil, &lost{digest: d.String(), why: why}
		default:
			return nil, err
		}
	}
}

// readBlob reads a whole blob. Its bytes are hashed each time: rot on this disk, which nothing else shows, is found
// here.
func (c *Cluster) readBlob(digest string, size int64) ([]byte, error) {
	for try := 0; ; try++ {
		f, err := c.openBlob(context.Background(), digest)
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
		if err := c.blobs.Verify(c.life, digest); err != nil {
			if _, ok := notHere(err); !ok {
				return nil, err
			}
		}
	}
}

// hasBlob reports that the bytes of a blob that the tree knows can be had: nil, or why not.
func (c *Cluster) hasBlob(ctx context.Context, digest string) error {
	f, err := c.openHere(digest)
	if err == nil {
		return f.Close()
	}
	why, ok := notHere(err)
	d, perr := state.ParseDigest(digest)
	if !ok || perr != nil {
		return err
	}
	known, ok := c.machine.view.Load().Blob(d)
	if !ok {
		return unknownBlob(digest)
	}
	others := c.others()
	if c.stock == nil || len(others) == 0 {
		return &lost{digest: digest, why: why, alone: true}
	}
	c.stock.lose(d, known)
	no := 0
	var last error = errDown
	for _, node := range c.peers.upNodes() {
		has, err := c.peers.has(ctx, node, digest)
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

// has asks a node whether it has a blob whole.
func (p *peers) has(ctx context.Context, node, digest string) (bool, error) {
	ctx, cancel, ok := p.alive(ctx, node)
	if !ok {
		return false, errDown
	}
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+node+"/blob/"+digest, nil)
	if err != nil {
		return false, err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return false, err
	}
	res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("node %s answered %s", node, res.Status)
}

// doubt tells a node that it has sent wrong bytes. It looks, and if that is so, no longer gives them to anybody and
// fetches the right ones.
func (p *peers) doubt(node, digest string) {
	p.c.background(func() {
		ctx, cancel, ok := p.alive(p.c.life, node)
		if !ok {
			return
		}
		defer cancel()
		_, err := p.ask(ctx, http.MethodPost, node, "/doubt/"+digest, http.NoBody)
		if err != nil && p.c.life.Err() == nil {
			p.c.log.Warn("a node that sent wrong bytes could not be told", "peer", node, "blob", digest, "err", err)
		}
	})
}

func (p *peers) serveDoubt(w http.ResponseWriter, r *http.Request) {
	digest := r.PathValue("digest")
	d, err := state.ParseDigest(digest)
	if err != nil {
		reply(w, answer{Kind: kindInvalid, Error: err.Error()})
		return
	}
	if _, known := p.c.machine.view.Load().Blob(d); known {
		p.c.blobs.Verify(r.Context(), digest) // what it finds is told by damaged
	}
	reply(w, answer{})
}

// damaged hears of each blob that is found to be damaged on this disk. It is fetched from another node, or waits until
// somebody brings its bytes.
func (c *Cluster) damaged(b *blob.Damage) {
	c.log.Error("a blob is damaged on this disk", "blob", b.Digest, "why", b.Why)
	c.scrubs.faults.Add(1)
	d, err := state.ParseDigest(b.Digest)
	if err != nil || c.stock == nil || c.machine == nil {
		return
	}
	if known, ok := c.machine.view.Load().Blob(d); ok {
		c.stock.lose(d, known)
	}
}

// repaired hears of each damaged blob whose right bytes have come.
func (c *Cluster) repaired(digest string) {
	c.log.Info("a damaged blob is whole again", "blob", digest)
	c.scrubs.repaired.Add(1)
}

// Damaged is how many blobs are damaged on this disk, as far as is known.
func (c *Cluster) Damaged() int { return len(c.blobs.Damaged()) }

// Lost is a blob that this node does not have whole.
type Lost struct {
	Digest string `json:"digest"`
	Why    string `json:"why"`
}

// Lost lists blobs that are damaged on this disk, or that it lacks and could not fetch, at most so many, and says how
// many there are: what clients of this node may not get until somebody brings the bytes. What is on its way is not
// among them.
func (c *Cluster) Lost(most int) (list []Lost, all int) {
	view := c.machine.view.Load()
	add := func(digest, why string) {
		if all++; len(list) < most {
			list = append(list, Lost{digest, why})
		}
	}
	seen := map[string]bool{}
	for _, b := range c.blobs.Damaged() {
		d, err := state.ParseDigest(b.Digest)
		if _, known := view.Blob(d); err == nil && known {
			seen[b.Digest] = true
			add(b.Digest, "damaged on this node's disk ("+b.Why+")")
		}
	}
	if c.stock == nil {
		return list, all
	}
	for _, d := range c.stock.hopeless(len(c.others()) == 0) {
		if text := d.String(); !seen[text] {
			add(text, "not on this node's disk")
		}
	}
	return list, all
}
