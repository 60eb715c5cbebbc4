package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// spread makes a blob that is on this disk durable on a majority of the voters, and returns the least index at which
// one of them saw it (promises 1 and 6). Learners do not count. tails are copies that began while the upload came in,
// by node.
func (c *Cluster) spread(ctx context.Context, digest string, size int64, tails map[string]*tail) (uint64, error) {
	confirmed, err := c.confirm(digest)
	if err != nil {
		return 0, err
	}
	voters, need := c.electorate()
	if voters[c.cfg.Node] {
		need--
	} else {
		confirmed = ^uint64(0)
	}
	delete(voters, c.cfg.Node)
	if need == 0 {
		return confirmed, nil
	}
	if len(voters) < need {
		return 0, errNoMajority
	}
	// A node that has not heard of the newest collect yet, although it can be asked, confirms what does not count
	// (promise 6): it is asked again until it has.
	buried := uint64(0)
	if d, err := state.ParseDigest(digest); err == nil {
		buried = c.machine.view.Load().Tombstone(d)
	}
	recipients := map[string]*recipient{}
	for node := range voters {
		recipients[node] = new(recipient)
	}
	// What is under way when a majority has it goes on, since the others need the bytes too; but it is not begun anew.
	copies, stop := context.WithCancel(c.life)
	enough := make(chan struct{})
	type outcome struct {
		index uint64
		err   error
	}
	results := make(chan outcome, len(voters))
	var under sync.WaitGroup
	for node, r := range recipients {
		under.Add(1)
		if !c.background(func() {
			defer under.Done()
			var o outcome
			counts := func(index uint64, err error) bool {
				if err == nil && index < buried {
					err = errBehind
				}
				o.index, o.err = index, err
				r.tried(err)
				return err == nil
			}
			if t := tails[node]; t != nil {
				counts(t.finish(copies))
			} else {
				o.err = errDown
			}
			for wait := 20 * time.Millisecond; o.err != nil && copies.Err() == nil; wait = min(2*wait, 500*time.Millisecond) {
				if counts(c.copyTo(copies, node, digest, size, &r.sent)) || errors.Is(o.err, syscall.ENOSPC) {
					break
				}
				select {
				case <-copies.Done():
				case <-enough:
				case <-time.After(wait):
					continue
				}
				break
			}
			results <- o
		}) {
			stop()
			return 0, c.stopped()
		}
	}
	// Those that are down, or that fail, are tried for as long as a write waits for a majority; one that takes bytes is
	// not given up.
	patience := time.NewTicker(c.cfg.LeaderWait)
	defer patience.Stop()
	var last error
	for have, left := 0, len(voters); have < need; {
		if left < need-have {
			stop()
			return 0, fmt.Errorf("too few nodes can take it (%w): %w", last, errNoMajority)
		}
		select {
		case o := <-results:
			left--
			if o.err != nil {
				last = o.err
				continue
			}
			have++
			confirmed = min(confirmed, o.index)
		case <-patience.C:
			promising := 0
			for node, r := range recipients {
				ok, err := r.promising(c.Up(node))
				if ok {
					promising++
				} else if err != nil {
					last = err
				}
			}
			if promising < need {
				stop()
				if last != nil {
					return 0, fmt.Errorf("too few nodes can take it (%w): %w", last, errNoMajority)
				}
				return 0, errNoMajority
			}
		case <-ctx.Done():
			stop()
			return 0, ctx.Err()
		case <-c.life.Done():
			stop()
			return 0, c.stopped()
		}
	}
	close(enough)
	if !c.background(func() { under.Wait(); stop() }) {
		stop()
	}
	return confirmed, nil
}

// recipient is how the attempts to copy a blob to one node have gone.
type recipient struct {
	sent atomic.Int64 // bytes, in all attempts but the first

	mu     sync.Mutex
	tries  int
	failed int
	err    error // of the newest attempt

	failedBefore int   // owned by the caller of promising
	sentBefore   int64 // likewise
}

// maxAttempts is how often a copy to a node that answers may fail while a client waits for it.
const maxAttempts = 20

func (r *recipient) tried(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
	if r.err = err; err != nil {
		r.failed++
	}
}

// promising reports whether the copy has succeeded or may still do so, given whether the node is up. It judges by what
// has happened since it was last asked: no attempt failed, or bytes were sent. It also returns why the newest attempt
// failed.
func (r *recipient) promising(up bool) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tries > r.failed {
		return true, nil
	}
	sent := r.sent.Load()
	moved := r.failed == r.failedBefore || sent > r.sentBefore
	r.failedBefore, r.sentBefore = r.failed, sent
	full := errors.Is(r.err, syscall.ENOSPC) // it is not tried again
	return up && moved && !full && r.failed <= maxAttempts && !errors.Is(r.err, errBehind), r.err
}

// errBehind says that a node has not applied the newest collect of a digest.
var errBehind = fmt.Errorf("it has not heard of the collection of these bytes: %w", syscall.EAGAIN)

// copyTo sees to it that a node has a blob, and returns the index at which it saw it. It adds to sent what it sends.
func (c *Cluster) copyTo(ctx context.Context, node, digest string, size int64, sent *atomic.Int64) (uint64, error) {
	ctx, cancel, ok := c.peers.alive(ctx, node)
	if !ok {
		return 0, errDown
	}
	defer cancel()
	a, err := c.peers.ask(ctx, http.MethodPost, node, "/confirm/"+digest, http.NoBody)
	if err != nil {
		return 0, err
	}
	if a.Kind == "" {
		return a.Index, nil
	}
	f, err := c.blobs.Open(digest)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+node+"/blob/"+digest, io.NopCloser(counted{f, sent}))
	if err != nil {
		return 0, err
	}
	req.ContentLength = size
	if size == 0 {
		req.Body = http.NoBody
	}
	return c.confirmedBy(req)
}

// counted counts the bytes that are read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (r counted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n.Add(int64(n))
	return n, err
}

func (c *Cluster) confirmedBy(req *http.Request) (uint64, error) {
	a, err := c.peers.send(req)
	switch {
	case err != nil:
		return 0, err
	case a.Kind == "":
		return a.Index, nil
	case a.Kind == kindNoSpace:
		return 0, fmt.Errorf("node %s: %s: %w", req.URL.Host, a.Error, syscall.ENOSPC)
	case a.Kind == kindBadBytes:
		return 0, fmt.Errorf("node %s: %s: %w", req.URL.Host, a.Error, syscall.EBADMSG)
	default:
		return 0, fmt.Errorf("node %s: %s", req.URL.Host, a.Error)
	}
}

// confirm sees a blob on this disk and returns an index that this node had applied before it looked: no collect up to
// there takes these bytes away any more.
func (c *Cluster) confirm(digest string) (uint64, error) {
	d, err := state.ParseDigest(digest)
	if err != nil {
		return 0, err
	}
	// While it is held, and a sweep that has begun has ended, since both are under the digest's lock.
	release := c.blobs.Hold(digest)
	defer release()
	view := c.machine.view.Load()
	index := view.Index()
	if shown := c.shown(); len(c.others()) > 0 && shown < index {
		// Not above the mark: after a power cut raft hands out again what comes behind it, and a collect among that
		// would be carried out on what was confirmed here.
		if tomb := view.Tombstone(d); tomb > shown { // the AddBlob would be refused
			ctx, cancel := context.WithTimeout(c.life, c.cfg.LeaderWait)
			c.marked.wait(ctx, tomb)
			cancel()
			shown = c.shown()
		}
		index = min(index, shown)
	}
	c.sweeps.spare(d, index)
	if _, err := c.blobs.Durable(digest); err != nil {
		return 0, fmt.Errorf("confirm %s: %w", digest, err)
	}
	if c.stock != nil {
		c.stock.came(d)
	}
	return index, nil
}

func (p *peers) serveConfirm(w http.ResponseWriter, r *http.Request) {
	index, err := p.c.confirm(r.PathValue("digest"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, blob.ErrDamaged) { // then they are sent, and repair it
		reply(w, answer{Kind: kindNotExist, Error: err.Error()})
		return
	}
	if err != nil {
		reply(w, answer{Kind: kindFailed, Error: err.Error()})
		return
	}
	reply(w, answer{Index: index})
}

// digestTrailer is the trailer that names a blob whose digest was not known when its bytes began to come.
const digestTrailer = "Digest"

func (p *peers) serveCopy(w http.ResponseWriter, r *http.Request) {
	index, err := p.c.takeCopy(r)
	switch {
	case err == nil:
		reply(w, answer{Index: index})
	case errors.Is(err, syscall.ENOSPC):
		reply(w, answer{Kind: kindNoSpace, Error: err.Error()})
	case errors.Is(err, syscall.EBADMSG):
		reply(w, answer{Kind: kindBadBytes, Error: err.Error()})
	default:
		reply(w, answer{Kind: kindFailed, Error: err.Error()})
	}
}

// takeCopy keeps the bytes of another node's upload. If nothing comes to name them they are an orphan and go with the
// next GC.
func (c *Cluster) takeCopy(r *http.Request) (uint64, error) {
	digest := r.PathValue("digest")
	if digest != "" {
		if _, _, err := blob.ParseDigest(digest); err != nil {
			return 0, err
		}
		if index, err := c.confirm(digest); err == nil {
			return index, nil // small ones are sent without being asked for
		}
		// Meanwhile it is not fetched, although others may have made it known already.
		defer c.stock.receives(digest)()
	}
	w, err := c.blobs.Create("")
	if err != nil {
		return 0, err
	}
	defer w.Close()
	if _, err := io.Copy(w, filling{r.Body}); err != nil {
		return 0, err
	}
	if digest == "" {
		digest = r.Trailer.Get(digestTrailer)
		if _, _, err := blob.ParseDigest(digest); err != nil {
			return 0, err
		}
		defer c.stock.receives(digest)()
	}
	if _, _, err := w.Place(digest); err != nil { // hashed here, whoever sends them (promise 5)
		return 0, err
	}
	index, err := c.confirm(digest)
	if err == nil {
		w.Done()
	}
	return index, err
}

func (p *peers) serveBlob(w http.ResponseWriter, r *http.Request) {
	f, err := p.c.openHere(r.PathValue("digest"))
	if _, ok := notHere(err); ok || errors.Is(err, os.ErrInvalid) {
		reply(w, answer{Kind: kindNotExist, Error: err.Error()})
		return
	}
	if err != nil {
		reply(w, answer{Kind: kindFailed, Error: err.Error()})
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
}

// tailFrom is how large an upload must be for copies to begin before it is complete.
const tailFrom = 1 << 20

// unasked is how large a blob may be that is sent without asking whether the other node has it: as much as it passes
// over without closing the connection, if it does.
const unasked = 64 << 10

// tail copies a scratch file to one node while it grows. It is the body of the request that does so.
type tail struct {
	ctx     context.Context
	cancel  context.CancelFunc
	file    blob.File
	trailer http.Header // of the request: written before Read returns io.EOF
	off     int64       // owned by Read
	moved   chan struct{}
	done    chan struct{} // closed when index or err is set
	index   uint64
	err     error

	mu     sync.Mutex
	size   int64
	digest string // set when the file is complete
}

// follow begins copies of an upload to the voters that are up. With a digest, the upload is complete, and those that
// have these bytes already are not sent them.
func (c *Cluster) follow(w *blob.Writer, digest string) map[string]*tail {
	voters, _ := c.electorate()
	tails := map[string]*tail{}
	for node := range voters {
		if node == c.cfg.Node {
			continue
		}
		ctx, cancel, ok := c.peers.alive(c.life, node)
		if !ok {
			continue
		}
		file, err := w.OpenScratch()
		if err != nil {
			cancel()
			continue
		}
		size := w.Size()
		t := &tail{
			ctx: ctx, cancel: cancel, file: file, trailer: http.Header{digestTrailer: nil},
			moved: make(chan struct{}, 1), done: make(chan struct{}), size: size, digest: digest,
		}
		url := "http://" + node + "/blob"
		if digest != "" {
			url += "/" + digest
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, t)
		if err != nil {
			cancel()
			file.Close()
			continue
		}
		switch {
		case digest == "":
			req.ContentLength, req.Trailer = -1, t.trailer
		case size == 0:
			req.Body = http.NoBody
		default:
			req.ContentLength = size
		}
		if !c.background(func() {
			defer close(t.done)
			defer cancel()
			if digest != "" && size == 0 {
				defer file.Close() // the request has no body that does so
			}
			if digest != "" && size > unasked {
				a, err := c.peers.ask(ctx, http.MethodPost, node, "/confirm/"+digest, http.NoBody)
				if err != nil || a.Kind == "" {
					t.index, t.err = a.Index, err
					file.Close()
					return
				}
			}
			t.index, t.err = c.confirmedBy(req)
		}) {
			cancel()
			file.Close()
			continue
		}
		tails[node] = t
	}
	return tails
}

// grown says how many bytes there are now, and, with a digest, that there will be no more.
func (t *tail) grown(size int64, digest string) {
	t.mu.Lock()
	t.size, t.digest = size, digest
	t.mu.Unlock()
	select {
	case t.moved <- struct{}{}:
	default:
	}
}

// finish waits for the answer.
func (t *tail) finish(ctx context.Context) (uint64, error) {
	stop := context.AfterFunc(ctx, t.cancel)
	defer stop()
	<-t.done
	return t.index, t.err
}

// stop gives the copy up, unless it was finished, and waits for its end.
func (t *tail) stop() {
	t.cancel()
	<-t.done
}

// Close implements io.Closer: the request needs its body no more.
func (t *tail) Close() error { return t.file.Close() }

// Read implements io.Reader: it waits for the upload to go on.
func (t *tail) Read(p []byte) (int, error) {
	for {
		t.mu.Lock()
		size, digest := t.size, t.digest
		t.mu.Unlock()
		if t.off < size {
			n, err := t.file.ReadAt(p[:min(int64(len(p)), size-t.off)], t.off)
			t.off += int64(n)
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if digest != "" {
			t.trailer.Set(digestTrailer, digest)
			return 0, io.EOF
		}
		select {
		case <-t.moved:
		case <-t.ctx.Done():
			return 0, t.ctx.Err()
		}
	}
}
