package cluster

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/peer"
)

// A miss is confirmed with the leader (promise 4): this node may be behind, and must not report "there is no such
// image" for one that was just pushed at another node. Hits need no confirmation: they may be old, but the digest
// identifies the content.
const (
	confirmTime = 300 * time.Millisecond // afterwards the miss is answered unconfirmed
	// after a failed confirmation: scans of a node that is cut off get fast answers
	confirmPause = time.Second
)

// confirms are the misses that wait for the leader. Those that come during a round share the next one, because the
// response to a request that was sent before does not cover them. Its zero value is ready.
type confirms struct {
	mu    sync.Mutex
	cur   *round // running
	next  *round // waits for cur's end
	until time.Time

	term atomic.Uint64 // the term in which this node, as the leader, has committed an entry

	asking map[string]int // questions for its term that a voter has not answered; owned by mu
}

// maxAsking bounds asking: a voter that hangs is not asked in each round until it counts as down.
const maxAsking = 8

type round struct {
	done chan struct{}
	ok   bool
}

// caughtUp returns true after this node has applied everything that was committed at the call, or false if it could not
// determine that in time.
func (c *Cluster) caughtUp() bool {
	if c.peers == nil {
		return true
	}
	// Before a joining node has its log, its configuration has no member, not even itself.
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

// CaughtUp waits until this node has applied everything that was committed at the call, and reports whether it has
// before ctx ended. A node that has just started should not answer clients before: it would report content that was
// pushed while it was down as missing.
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

// confirmRounds runs rounds until no miss waits for another one.
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

// readIndex returns an index at or above that of every command that was acknowledged before the call.
func (c *Cluster) readIndex(ctx context.Context) (uint64, error) {
	leader, err := c.ready(ctx, nil) // after a start or during an election this may take a moment
	switch {
	case err != nil:
		return 0, err
	case leader == c.cfg.Node:
		return c.leaderIndex(ctx, "", 0)
	}
	term := c.raft.CurrentTerm() // before the request: see isMajority
	ctx, cancel, ok := c.peers.Alive(ctx, leader)
	if !ok {
		return 0, peer.ErrDown
	}
	defer cancel()
	a, err := c.peers.Ask(ctx, http.MethodGet, leader, "/index?term="+strconv.FormatUint(term, 10), http.NoBody)
	if err != nil {
		return 0, err
	}
	if a.Kind != "" {
		return 0, peer.ErrNoMajority
	}
	return a.Index, nil
}

// leaderIndex is readIndex on the leader: every command is acknowledged after it was applied here, in this term. For
// commands of earlier terms there is a barrier, once per term (raft dissertation, 6.4). asker is the node that asks,
// and asked the term in which it was before; "" and 0 for this node.
func (c *Cluster) leaderIndex(ctx context.Context, asker string, asked uint64) (uint64, error) {
	term := c.raft.CurrentTerm()
	if c.reading.term.Load() != term {
		if err := c.command(ctx, func() raft.Future { return c.raft.Barrier(confirmTime) }); err != nil {
			return 0, err
		}
		c.reading.term.Store(term) // read before the barrier: if it has changed since, the next call makes another one
	}
	index := c.machine.view.Load().Index()
	if asked == term && c.isMajority(asker) && c.raft.State() == raft.Leader && c.raft.CurrentTerm() == term {
		return index, nil
	}
	if err := c.confirmTerm(ctx, term); err != nil {
		return 0, err
	}
	if c.raft.State() != raft.Leader || c.raft.CurrentTerm() != term {
		// lost and won again: entries that another leader committed in between may be missing
		return 0, raft.ErrLeadershipLost
	}
	return index, nil
}

// errOlder is that of a voter whose version does not tell its term.
var errOlder = errors.New("a node of an earlier version does not say in which term it is")

// confirmTerm returns nil if a majority of the voters, this node among them, was in this term after the call: none of
// them had voted in a later one, so no later leader had been elected before the call. raft's VerifyLeader is also
// satisfied by the response to a request that was sent before the call, however long that response was on its way or
// this process did not run. It is only asked if a voter has an earlier version.
func (c *Cluster) confirmTerm(ctx context.Context, term uint64) error {
	voters, majority := c.voters()
	need := majority
	if voters[c.cfg.Node] {
		need--
		delete(voters, c.cfg.Node)
	}
	answers := make(chan error, len(voters))
	for v := range voters {
		if !c.background(func() { answers <- c.askTerm(v, term) }) {
			return peer.ErrNoMajority
		}
	}
	older := false
	for range len(voters) {
		if need <= 0 {
			return nil
		}
		select {
		case err := <-answers:
			if err == nil {
				need--
			}
			older = older || errors.Is(err, errOlder)
		case <-ctx.Done():
			return peer.ErrNoMajority
		}
	}
	switch {
	case need <= 0:
		return nil
	case older:
		defer c.followers.verifying()()
		return c.command(ctx, func() raft.Future { return c.raft.VerifyLeader() })
	}
	return peer.ErrNoMajority
}

// askTerm returns nil if a voter says now that it is in this term. It ends the question in its own time: a request that
// is cancelled takes its connection with it.
func (c *Cluster) askTerm(voter string, term uint64) error {
	r := &c.reading
	r.mu.Lock()
	busy := r.asking[voter] >= maxAsking
	if !busy {
		if r.asking == nil {
			r.asking = map[string]int{}
		}
		r.asking[voter]++
	}
	r.mu.Unlock()
	if busy {
		return peer.ErrDown
	}
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.asking[voter]--; r.asking[voter] == 0 {
			delete(r.asking, voter)
		}
	}()
	ctx, cancel := context.WithTimeout(c.life, confirmTime)
	defer cancel()
	ctx, end, ok := c.peers.Alive(ctx, voter)
	if !ok {
		return peer.ErrDown
	}
	defer end()
	switch a, err := c.peers.Ask(ctx, http.MethodGet, voter, "/index?ask=term", http.NoBody); {
	case err != nil:
		return err
	case a.Term == 0:
		return errOlder
	case a.Term != term:
		return raft.ErrLeadershipLost
	}
	return nil
}

// isMajority reports whether this node and another one are a majority of the voters. If both were in a term when the
// other one asked, neither had voted in a later one, so at that moment no later leader had been elected: the question
// itself is the confirmation for which raft would ask a majority.
func (c *Cluster) isMajority(other string) bool {
	voters, majority := c.voters()
	return majority <= 2 && other != c.cfg.Node && voters[other] && voters[c.cfg.Node]
}

func (c *Cluster) serveIndex(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("ask") == "term" {
		peer.Reply(w, peer.Answer{Term: c.raft.CurrentTerm()})
		return
	}
	// Earlier versions do not send their term, and no node is in the term 0.
	asked, _ := strconv.ParseUint(r.URL.Query().Get("term"), 10, 64)
	ctx, cancel := context.WithTimeout(r.Context(), confirmTime)
	defer cancel()
	index, err := c.leaderIndex(ctx, peer.From(r), asked)
	if err != nil {
		peer.Reply(w, c.notLeader(err))
		return
	}
	peer.Reply(w, peer.Answer{Index: index})
}
