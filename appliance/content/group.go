package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"casemate/cluster"
	"casemate/cluster/tree"
)

// Small blobs are committed in groups, because syncing and a log entry for each of them would take longer than
// writing their bytes.
const (
	smallMax   = 1 << 20  // size in bytes below which a blob is small
	groupBlobs = 512      // Config.groupAt
	groupBytes = 32 << 20 // bytes after which a group is full
)

func (s *sink) isSmall(digest string, size int64) bool {
	return size >= 0 && size < min(smallMax, s.e.cfg.largeAt) && (digest == "" || strings.HasPrefix(digest, "sha256:"))
}

// linger returns a context that ends a while after ctx, for work in progress when ctx ends.
func linger(ctx context.Context, while time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(while, cancel) })
	return longer, cancel
}

// small is a blob that was read completely and is not known to the tree yet.
type small struct {
	w       cluster.BlobWriter
	digest  string
	size    int64
	repairs bool // the tree knew it, but its bytes were damaged or lost
}

// group collects the small blobs of a sink: those being committed, and those that arrive meanwhile. When Put returns,
// the latter have been read and verified; they are durable when finish returns. Until then no name refers to them,
// and after a crash they are read again.
type group struct {
	s    *sink
	life context.Context // of commits

	mu    sync.Mutex
	next  []*small          // waiting blobs, at most Config.groupAt plus one for each Put
	bytes int64             // of next
	by    map[string]*small // next and those being committed
	under chan struct{}     // closed when the running commit ends; nil if none is running
	err   error             // of the first failed commit; after it no blob is accepted
}

// writeSmall reads a small blob.
func (s *sink) writeSmall(ctx context.Context, digest string, size int64, r io.Reader) (*small, error) {
	w, err := s.e.cfg.Tree.CreateBlob("")
	if err != nil {
		return nil, err
	}
	b, err := readSmall(ctx, w, digest, size, r)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return b, nil
}

func readSmall(ctx context.Context, w cluster.BlobWriter, digest string, size int64, r io.Reader) (*small, error) {
	if _, err := fillExactly(ctx, w, size, r); err != nil {
		return nil, err
	}
	summer, ok := w.(tree.Summer)
	if !ok {
		return nil, fmt.Errorf("the tree's writer %T cannot return its digest before it is committed", w)
	}
	sum, _, err := summer.Sum()
	if err != nil {
		return nil, err
	}
	b := &small{w: w, size: size, digest: sum}
	if digest != "" && b.digest != digest {
		return nil, fmt.Errorf("the bytes have the digest %s, not %s: %w", b.digest, digest, syscall.EBADMSG)
	}
	return b, nil
}

func (g *group) has(digest string) (int64, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, ok := g.by[digest]
	if !ok {
		return 0, false
	}
	return b.size, true
}

// add adds a blob and takes ownership of it. It blocks while the group is full.
func (g *group) add(ctx context.Context, b *small) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.err == nil && g.full() {
		under := g.under
		if under == nil {
			g.start(g.life)
			break
		}
		g.mu.Unlock()
		select {
		case <-under:
		case <-ctx.Done():
		}
		g.mu.Lock()
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), b.w.Close())
		}
	}
	if g.err != nil {
		return errors.Join(g.err, b.w.Close())
	}
	if _, made := g.s.made(b.digest); made || g.by[b.digest] != nil {
		return b.w.Close() // the same bytes were read before, under another name
	}
	g.next, g.by[b.digest] = append(g.next, b), b
	g.bytes += b.size
	if g.full() && g.under == nil {
		g.start(g.life)
	}
	return nil
}

// full reports whether add must wait. The caller holds g.mu.
func (g *group) full() bool { return len(g.next) >= g.s.e.cfg.groupAt || g.bytes >= groupBytes }

// begin commits the waiting blobs, unless a commit is running.
func (g *group) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil && g.under == nil && len(g.next) > 0 {
		g.start(g.life)
	}
}

// start commits the waiting blobs. The caller holds g.mu, and no commit is running.
func (g *group) start(ctx context.Context) {
	list, under := g.next, make(chan struct{})
	g.next, g.bytes, g.under = nil, 0, under
	go func() {
		defer close(under)
		err := g.commit(ctx, list)
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, b := range list {
			delete(g.by, b.digest)
		}
		if g.under = nil; err != nil && g.err == nil {
			g.err = ours{err}
		}
	}()
}

// commit commits the blobs of a list. It cancels those that could not be committed.
func (g *group) commit(ctx context.Context, list []*small) error {
	writers, digests := make([]cluster.BlobWriter, len(list)), make([]string, len(list))
	for i, b := range list {
		writers[i], digests[i] = b.w, b.digest
	}
	done, err := g.s.e.cfg.Tree.CommitBlobs(ctx, writers, digests)
	for i, b := range list {
		if done[i] != "" {
			g.s.took(b.digest, b.size, b.repairs)
		}
		err = errors.Join(err, b.w.Close())
	}
	return errors.Join(err, g.s.flushFull(ctx))
}

// finish commits all added blobs and returns when they are durable and known to the tree, or the first error.
func (g *group) finish(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		switch {
		case g.under != nil:
			under := g.under
			g.mu.Unlock()
			<-under // the commit ends with the context that it was started with
			g.mu.Lock()
		case g.err != nil || len(g.next) == 0:
			return g.err
		default:
			g.start(ctx)
		}
	}
}

// drop waits for the running commit, and cancels the waiting blobs. No blob may be added after it.
func (g *group) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.under != nil {
		under := g.under
		g.mu.Unlock()
		<-under
		g.mu.Lock()
	}
	for _, b := range g.next {
		b.w.Close()
		delete(g.by, b.digest)
	}
	g.next, g.bytes = nil, 0
}
