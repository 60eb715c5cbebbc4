package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/disk"
	"casemate/cluster/raftlog"
)

// floor records entries that this node's log once had and has lost, because its disk was put back or a damaged entry
// was cut off. Other nodes have relied on them: entries up to the floor may be committed through this node's
// acknowledgement. Until it has them again it must not vote for a node that does not have them, nor become leader
// itself.
//
// It has them again when its log reaches the floor, or holds an entry of a newer term: the leader of that term was
// elected without its help, so that leader has everything that was committed, and the log before its entry equals the
// leader's.
type floor struct {
	mu sync.Mutex
	floorMark
}

// floorMark is the durable part of floor, in the file raft/floor.
type floorMark struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"` // the newest that this node knew
}

const floorFile = "floor"

// readFloor returns the mark of a log that was cut off; the zero mark if there is none.
func readFloor(cfg Config) (m floorMark, err error) {
	data, err := disk.ReadFile(cfg.FS, filepath.Join(cfg.Dir, raftDir, floorFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, err
}

func writeFloor(cfg Config, m floorMark) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, raftDir, floorFile), data, 0o640)
}

// raise sets the floor unless it is higher already.
func (f *floor) raise(m floorMark) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Index > f.Index {
		f.floorMark = m
	}
}

// below reports whether this node's log, which ends as given, does not reach the floor, and the floor's index.
func (f *floor) below(index uint64, term func() uint64) (floor uint64, below bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Index == 0 {
		return 0, false
	}
	if index >= f.Index || term() > f.Term {
		f.floorMark = floorMark{}
		return 0, false
	}
	return f.Index, true
}

// belowFloor is floor.below with this node's current log.
func (c *Cluster) belowFloor() (floor uint64, below bool) {
	last, err := c.wal.LastIndex()
	if err != nil {
		return 0, false
	}
	return c.floor.below(max(last, c.snaps.Newest()), func() uint64 {
		var l raft.Log
		if last == 0 || raftlog.ReadEntry(c.wal, last, &l) != nil {
			return 0
		}
		return l.Term
	})
}

// careful is raft's transport without the messages that this node must not send or answer.
type careful struct {
	*raft.NetworkTransport
	c         *Cluster
	rpcs      chan raft.RPC
	raft      *atomic.Pointer[raft.Raft] // nil until it runs
	followers *followers
}

var (
	_ raft.Transport   = &careful{}
	_ raft.WithPreVote = &careful{}
	_ raft.WithClose   = &careful{}
)

func newCareful(c *Cluster, t *raft.NetworkTransport, r *atomic.Pointer[raft.Raft]) *careful {
	k := &careful{t, c, make(chan raft.RPC), r, &c.followers}
	c.own.Go(k.sift)
	return k
}

// Consumer implements raft.Transport.
func (k *careful) Consumer() <-chan raft.RPC { return k.rpcs }

// sift passes requests on to raft, except for requests for votes that the floor forbids.
func (k *careful) sift() {
	for {
		var rpc raft.RPC
		select {
		case rpc = <-k.NetworkTransport.Consumer():
		case <-k.c.stop:
			return
		}
		var refused error
		switch req := rpc.Command.(type) {
		case *raft.RequestVoteRequest:
			if refused = k.c.mayElect(req.LastLogIndex); refused != nil {
				rpc.Respond(&raft.RequestVoteResponse{}, refused)
			}
		case *raft.RequestPreVoteRequest:
			if refused = k.c.mayElect(req.LastLogIndex); refused != nil {
				rpc.Respond(&raft.RequestPreVoteResponse{}, refused)
			}
		}
		if refused != nil {
			continue
		}
		select {
		case k.rpcs <- rpc:
		case <-k.c.stop:
			return
		}
	}
}

// mayElect returns an error if this node must not help to elect a node whose log ends at an index.
func (c *Cluster) mayElect(last uint64) error {
	if floor, below := c.belowFloor(); below && last < floor {
		return fmt.Errorf("node %s had entry %d of the log and has lost it: it votes only for nodes that have it",
			c.cfg.Node, floor)
	}
	return nil
}

// RequestVote implements raft.Transport.
func (k *careful) RequestVote(
	id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse,
) error {
	if err := k.mayStand(args.LastLogIndex); err != nil {
		return err
	}
	return k.NetworkTransport.RequestVote(id, target, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (k *careful) RequestPreVote(
	id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse,
) error {
	if err := k.mayStand(args.LastLogIndex); err != nil {
		return err
	}
	return k.NetworkTransport.RequestPreVote(id, target, args, resp)
}

// mayStand returns an error if this node must not become leader.
func (k *careful) mayStand(last uint64) error {
	if k.c.watch.Hung() {
		return errHangs
	}
	return k.c.mayElect(last)
}

// AppendEntries implements raft.Transport. A leader whose disk hangs sends nothing, so that another one is elected:
// raft's own goroutine, which could transfer the leadership, waits for the disk.
//
// A failed message is retried for a second: raft itself retries only at the next CommitTimeout, and after the other
// node's restart broken connections should not leave it without its log for so long.
func (k *careful) AppendEntries(
	id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse,
) error {
	to, first := k.followers.get(id)
	if first {
		k.c.background(func() { k.sendCommits(to) })
	}
	heartbeat := isHeartbeat(args)
	if heartbeat {
		k.followers.pace(to, k.c.stop, k.c.done)
	}
	began := time.Now()
	for wait := appendRetry; ; wait = min(2*wait, maxAppendRetry) {
		if k.c.watch.Hung() {
			return errHangs
		}
		if r := k.raft.Load(); r != nil && r.State() != raft.Leader {
			return raft.ErrNotLeader
		}
		*resp = raft.AppendEntriesResponse{}
		err := k.NetworkTransport.AppendEntries(id, target, args, resp)
		switch {
		case heartbeat:
			return err
		case err == nil:
			k.followers.acknowledged(to, target, args, resp)
			return nil
		case time.Since(began) > commitTimeout:
			return err
		}
		select {
		case <-time.After(wait):
		case <-k.c.stop:
			return err
		case <-k.c.done:
			return err
		}
	}
}

// Delays before unsent entries are sent again: the first and the longest.
const (
	appendRetry    = 5 * time.Millisecond
	maxAppendRetry = 200 * time.Millisecond
)

var errHangs = errors.New("this node's disk does not answer")
