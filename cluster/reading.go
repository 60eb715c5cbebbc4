package cluster

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/peer"
)

// A miss is confirmed with the leader (promise 4): this node may be behind, and "there is no such image" must not be
// said of one that was pushed a moment ago at another node. Hits are not: they may be old, and the digest says what
// they are.
const (
	confirmTime  = 300 * time.Millisecond // then the miss is answered as it is
	confirmPause = time.Second            // after one that could not be confirmed: whoever scans a node that is cut off is answered at once
)

// confirms are the misses that wait for the leader. All that come while a round is under way share the next one: the
// answer to a question that was asked before they looked would not be theirs. Its zero value is ready.
type confirms struct {
	mu    sync.Mutex
	cur   *round // under way
	next  *round // waits for cur's end
	until time.Time

	term atomic.Uint64 // in which this node, as the leader, has committed an entry
}

type round struct {
	done chan struct{}
	ok   bool
}

// caughtUp returns after this node has applied all that was committed when it was called, true, or could not find out
// in time, false.
func (c *Cluster) caughtUp() bool {
	if c.peers == nil {
		return true
	}
	// Before its log has come a node that joins knows of no member, not of itself either.
	if servers := c.servers(); len(servers) == 1 && string(servers[0].ID) == c.cfg.Node {
		return true
	}
	r := &c.reading
	r.mu.Lock()
	if c.cfg.Now().Before(r.until) {
		r.mu.Unlock()
		return false
	}
	mine := r.next
	if mine == nil {
		mine = &round{done: make(chan struct{})}
		if r.cur == nil {
			if !c.background(func() { c.confirmRounds(mine) }) {
				r.mu.Unlock()
				return false
			}
			r.cur = mine
		} else {
			r.next = mine
		}
	}
	r.mu.Unlock()
	wait := time.NewTimer(confirmTime)
	defer wait.Stop()
	select {
	case <-mine.done:
		return mine.ok
	case <-wait.C:
		return false
	}
}

// CaughtUp waits until this node has applied all that was committed when it was called, and reports whether it has
// before ctx ended. A node that has just been started should not answer before: it would say of what was pushed while
// it was down that it is not there.
func (c *Cluster) CaughtUp(ctx context.Context) bool {
	for {
		c.reading.mu.Lock()
		c.reading.until = time.Time{}
		c.reading.mu.Unlock()
		if c.caughtUp() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-c.stop:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// confirmRounds runs rounds until nobody waits for another one.
func (c *Cluster) confirmRounds(cur *round) {
	r := &c.reading
	for cur != nil {
		ctx, cancel := context.WithTimeout(c.life, confirmTime)
		index, err := c.readIndex(ctx)
		if err == nil {
			err = c.machine.waiters.wait(ctx, index)
		}
		cancel()
		cur.ok = err == nil
		r.mu.Lock()
		if err != nil {
			r.until = c.cfg.Now().Add(confirmPause)
		}
		close(cur.done)
		r.cur, r.next = r.next, nil
		cur = r.cur
		r.mu.Unlock()
	}
}

// readIndex returns an index that is not below that of any command answered before it was called.
func (c *Cluster) readIndex(ctx context.Context) (uint64, error) {
	leader, err := c.ready(ctx, nil) // just started, or in the middle of an election: it may be a moment
	switch {
	case err != nil:
		return 0, err
	case leader == c.cfg.Node:
		return c.leaderIndex(ctx)
	}
	ctx, cancel, ok := c.peers.Alive(ctx, leader)
	if !ok {
		return 0, peer.ErrDown
	}
	defer cancel()
	a, err := c.peers.Ask(ctx, http.MethodGet, leader, "/index", http.NoBody)
	if err != nil {
		return 0, err
	}
	if a.Kind != "" {
		return 0, peer.ErrNoMajority
	}
	return a.Index, nil
}

// leaderIndex is readIndex on the leader: every command is answered after it was applied here, in this term. For those
// before there is a barrier, once a term (raft dissertation, 6.4).
func (c *Cluster) leaderIndex(ctx context.Context) (uint64, error) {
	term := c.raft.CurrentTerm()
	if c.reading.term.Load() != term {
		if err := c.command(ctx, func() raft.Future { return c.raft.Barrier(confirmTime) }); err != nil {
			return 0, err
		}
		c.reading.term.Store(term) // of before the barrier: if it has changed since, there is another one
	}
	index := c.machine.view.Load().Index()
	defer c.followers.verifying()()
	if err := c.command(ctx, func() raft.Future { return c.raft.VerifyLeader() }); err != nil {
		return 0, err
	}
	if c.raft.CurrentTerm() != term {
		return 0, raft.ErrLeadershipLost // and won again: what another leader has committed in between may be missing from the index
	}
	return index, nil
}

func (c *Cluster) serveIndex(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), confirmTime)
	defer cancel()
	index, err := c.leaderIndex(ctx)
	if err != nil {
		peer.Reply(w, c.notLeader(err))
		return
	}
	peer.Reply(w, peer.Answer{Index: index})
}
