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

// Small blobs are committed in groups, because the syncs and the log entry of each would take longer than its bytes do.
const (
	smallMax   = 1 << 20  // bytes below which a blob is small
	groupBlobs = 512      // Config.groupAt
	groupBytes = 32 << 20 // bytes after which a group takes no more
)

func (s *sink) isSmall(digest string, size int64) bool {
	return size >= 0 && size < min(smallMax, s.e.cfg.largeAt) && (digest == "" || strings.HasPrefix(digest, "sha256:"))
}

// linger is ctx, and lasts a while longer, for what is under way when that ends.
func linger(ctx context.Context, while time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(while, cancel) })
	return longer, cancel
}

// small is a blob that was read whole and is not known to the tree yet.
type small struct {
	w      cluster.BlobWriter
	digest string
	size   int64
	mends  bool // the tree knew it, and did not have it whole
}

// group is the small blobs of a sink: those that are being committed, and those that come meanwhile. What an import is
// told of the latter by Put is that they were read and are right; that they are durable it learns from finish. Until
// then nothing names them, and a crash costs that they are read again.
type group struct {
	s    *sink
	life context.Context // of commits

	mu    sync.Mutex
	next  []*small          // that wait, at most Config.groupAt and one for each Put
	bytes int64             // of next
	by    map[string]*small // next and those that are being committed
	under chan struct{}     // closed when those are; nil if there are none
	err   error             // of the first that could not be committed; no more are taken
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
		return nil, fmt.Errorf("the tree's writer %T cannot say its digest before it is committed", w)
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

// add takes a blob, which is the group's from then on. It waits while as many wait as may.
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
	if g.by[b.digest] != nil || g.s.made(b.digest) { // the same bytes came before, under another name
		return b.w.Close()
	}
	g.next, g.by[b.digest] = append(g.next, b), b
	g.bytes += b.size
	if g.full() && g.under == nil {
		g.start(g.life)
	}
	return nil
}

// full reports whether no more should wait. g.mu is held.
func (g *group) full() bool { return len(g.next) >= g.s.e.cfg.groupAt || g.bytes >= groupBytes }

// begin commits what waits, unless something is being committed.
func (g *group) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil && g.under == nil && len(g.next) > 0 {
		g.start(g.life)
	}
}

// start commits what waits. g.mu is held, and nothing else is being committed.
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

// commit makes blobs of a list. What could not be committed is closed.
func (g *group) commit(ctx context.Context, list []*small) error {
	writers, digests := make([]cluster.BlobWriter, len(list)), make([]string, len(list))
	for i, b := range list {
		writers[i], digests[i] = b.w, b.digest
	}
	done, err := g.s.e.cfg.Tree.CommitBlobs(ctx, writers, digests)
	for i, b := range list {
		if done[i] != "" {
			g.s.took(b.digest, b.size, b.mends)
		}
		err = errors.Join(err, b.w.Close())
	}
	return errors.Join(err, g.s.flushFull(ctx))
}

// finish commits all that was added and returns when it is durable and known, or the first error.
func (g *group) finish(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		switch {
		case g.under != nil:
			under := g.under
			g.mu.Unlock()
			<-under // it ends with the context that it was started with
			g.mu.Lock()
		case g.err != nil || len(g.next) == 0:
			return g.err
		default:
			g.start(ctx)
		}
	}
}

// drop waits for what is being committed, and gives up what waits. Nothing may be added any more.
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
