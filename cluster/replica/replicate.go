package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// replicate makes a blob that is on this disk durable on a majority of the voters, and returns the lowest index at
// which one of them confirmed it (promises 1 and 6). Learners do not count. started are the copies that began during
// the upload, by node.
func (s *Store) replicate(
	ctx context.Context, digest string, size int64, started map[string]*streamingCopy,
) (uint64, error) {
	confirmed, err := s.Confirm(digest)
	if err != nil {
		return 0, err
	}
	voters, need := s.state.Voters()
	if voters[s.cfg.Node] {
		need--
	} else {
		confirmed = ^uint64(0)
	}
	delete(voters, s.cfg.Node)
	if need == 0 {
		return confirmed, nil
	}
	if len(voters) < need {
		return 0, peer.ErrNoMajority
	}
	// A confirmation by a node that has not applied the newest collect of the digest does not count (promise 6). Such a
	// node is asked again until it has.
	buried := uint64(0)
	if d, err := state.ParseDigest(digest); err == nil {
		buried = s.state.View().Tombstone(d)
	}
	recipients := map[string]*recipient{}
	for node := range voters {
		recipients[node] = new(recipient)
	}
	// When a majority has the blob, running copies continue, because the other nodes need the bytes too; new attempts
	// are not begun.
	copies, stop := context.WithCancel(s.life)
	enough := make(chan struct{})
	type outcome struct {
		index uint64
		err   error
	}
	results := make(chan outcome, len(voters))
	var under sync.WaitGroup
	for node, r := range recipients {
		under.Add(1)
		if !s.tasks.Background(func() {
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
			if t := started[node]; t != nil {
				counts(t.finish(copies))
			} else {
				o.err = peer.ErrDown
			}
			for wait := 20 * time.Millisecond; o.err != nil &&
				copies.Err() == nil; wait = min(2*wait, 500*time.Millisecond) {
				if counts(s.copyTo(copies, node, digest, size, &r.sent)) || errors.Is(o.err, syscall.ENOSPC) {
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
			return 0, s.tasks.Stopped()
		}
	}
	// Nodes that are down, or whose copies fail, are retried for as long as a write waits for a majority. A copy that
	// makes progress is not cancelled.
	patience := time.NewTicker(s.cfg.Patience)
	defer patience.Stop()
	var last error
	for have, left := 0, len(voters); have < need; {
		if left < need-have {
			stop()
			return 0, fmt.Errorf("too few nodes can store it (%w): %w", last, peer.ErrNoMajority)
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
				ok, err := r.promising(s.peers.Up(node))
				if ok {
					promising++
				} else if err != nil {
					last = err
				}
			}
			if promising < need {
				stop()
				if last != nil {
					return 0, fmt.Errorf("too few nodes can store it (%w): %w", last, peer.ErrNoMajority)
				}
				return 0, peer.ErrNoMajority
			}
		case <-ctx.Done():
			stop()
			return 0, ctx.Err()
		case <-s.life.Done():
			stop()
			return 0, s.tasks.Stopped()
		}
	}
	close(enough)
	if !s.tasks.Background(func() { under.Wait(); stop() }) {
		stop()
	}
	return confirmed, nil
}

// recipient records how the attempts to copy a blob to one node went.
type recipient struct {
	sent atomic.Int64 // bytes, in all attempts but the first

	mu     sync.Mutex
	tries  int
	failed int
	err    error // of the newest attempt

	failedBefore int   // owned by the caller of promising
	sentBefore   int64 // likewise
}

// maxAttempts is how often a copy to a node that is up may fail while a client waits for it.
const maxAttempts = 20

func (r *recipient) tried(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
	if r.err = err; err != nil {
		r.failed++
	}
}

// promising reports whether the copy has succeeded or may still succeed, given whether the node is up. It judges by the
// time since the last call: no attempt failed, or bytes were sent. It also returns the error of the newest attempt.
func (r *recipient) promising(up bool) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tries > r.failed {
		return true, nil
	}
	sent := r.sent.Load()
	moved := r.failed == r.failedBefore || sent > r.sentBefore
	r.failedBefore, r.sentBefore = r.failed, sent
	full := errors.Is(r.err, syscall.ENOSPC) // not retried
	return up && moved && !full && r.failed <= maxAttempts && !errors.Is(r.err, errBehind), r.err
}

// errBehind reports that a node has not applied the newest collect of a digest.
var errBehind = fmt.Errorf("it has not applied the collection of these bytes: %w", syscall.EAGAIN)

// copyTo copies a blob to a node unless the node has it, and returns the index at which the node confirmed it. It adds
// the bytes that it sends to sent.
func (s *Store) copyTo(ctx context.Context, node, digest string, size int64, sent *atomic.Int64) (uint64, error) {
	ctx, cancel, ok := s.peers.Alive(ctx, node)
	if !ok {
		return 0, peer.ErrDown
	}
	defer cancel()
	a, err := s.peers.Ask(ctx, http.MethodPost, node, "/confirm/"+digest, http.NoBody)
	if err != nil {
		return 0, err
	}
	if a.Kind == "" {
		return a.Index, nil
	}
	f, err := s.dir.Open(digest)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+node+"/blob/"+digest,
		io.NopCloser(counted{f, sent}))
	if err != nil {
		return 0, err
	}
	req.ContentLength = size
	if size == 0 {
		req.Body = http.NoBody
	}
	return s.confirmedBy(req)
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

func (s *Store) confirmedBy(req *http.Request) (uint64, error) {
	a, err := s.peers.Send(req)
	switch {
	case err != nil:
		return 0, err
	case a.Kind == "":
		return a.Index, nil
	case a.Kind == peer.KindNoSpace:
		return 0, fmt.Errorf("node %s: %s: %w", req.URL.Host, a.Error, syscall.ENOSPC)
	case a.Kind == peer.KindBadBytes:
		return 0, fmt.Errorf("node %s: %s: %w", req.URL.Host, a.Error, syscall.EBADMSG)
	default:
		return 0, fmt.Errorf("node %s: %s", req.URL.Host, a.Error)
	}
}

// Confirm checks that a blob is on this disk and returns an index that this node had applied before the check: no
// collect up to that index removes these bytes any more.
func (s *Store) Confirm(digest string) (uint64, error) {
	d, err := state.ParseDigest(digest)
	if err != nil {
		return 0, err
	}
	// The hold keeps new sweeps away, and waits for one that has begun, since both need the digest's lock.
	release := s.dir.Hold(digest)
	defer release()
	view := s.state.View()
	index := view.Index()
	if durable := s.state.Durable(); len(s.state.Others()) > 0 && durable < index {
		// Not above the durable index: after a power cut raft delivers later entries again, and a collect among them
		// would remove the confirmed bytes.
		if tomb := view.Tombstone(d); tomb > durable { // the AddBlob would be refused
			ctx, cancel := context.WithTimeout(s.life, s.cfg.Patience)
			s.state.WaitDurable(ctx, tomb)
			cancel()
			durable = s.state.Durable()
		}
		index = min(index, durable)
	}
	s.sweeps.cancel(d, index)
	if _, err := s.dir.Durable(digest); err != nil {
		return 0, fmt.Errorf("confirm %s: %w", digest, err)
	}
	if s.fetcher != nil {
		s.fetcher.arrived(d)
	}
	return index, nil
}
