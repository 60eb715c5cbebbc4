package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/state"
)

// sequences names this process's commands and knows which of them are answered (promise 11).
type sequences struct {
	boot uint64

	mu   sync.Mutex
	next uint64
	open map[uint64]bool // given out and not answered
	low  uint64          // all up to it are answered
}

func newSequences(boot uint64) *sequences {
	return &sequences{boot: boot, next: 1, open: map[uint64]bool{}}
}

func (s *sequences) take() (seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq = s.next
	s.next++
	s.open[seq] = true
	return seq
}

func (s *sequences) finish(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, seq)
	for s.low+1 < s.next && !s.open[s.low+1] {
		s.low++
	}
}

// finished is the greatest sequence up to which every command is answered.
func (s *sequences) finished() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.low
}

// propose puts edits into the log as one command and waits until this node has applied it. The result's own Err is returned as err.
//
// A command whose answer was lost (the leader fell while it was under way) is proposed again under the same name until there is an answer, so
// it has happened once. When the time is up without one, the error says so and is syscall.EAGAIN: it may or may not happen.
func (c *Cluster) propose(ctx context.Context, ops ...state.Op) (state.Result, error) {
	if err := ctx.Err(); err != nil {
		return state.Result{}, err
	}
	cmd := state.Command{Node: c.cfg.Node, Boot: c.seqs.boot, Ops: ops}
	cmd.Seq = c.seqs.take()
	defer c.seqs.finish(cmd.Seq)
	// All tries carry the same bytes.
	cmd.Finished, cmd.Time = c.seqs.finished(), c.cfg.Now().UnixNano()
	data, err := cmd.Encode()
	if err != nil {
		return state.Result{}, err
	}
	deadline := time.NewTimer(c.cfg.LeaderWait)
	defer deadline.Stop()
	unknown := false
	for {
		if err := c.ready(ctx, deadline.C); err != nil {
			if unknown {
				err = fmt.Errorf("%w: %w", errUnknown, err)
			}
			return state.Result{}, err
		}
		r, err := c.submit(ctx, data)
		switch {
		case err == nil && r.Fatal != nil:
			return r, c.stopped()
		case err == nil:
			return r, r.Err
		case errors.Is(err, errUnknown):
			return r, err
		case errors.Is(err, raft.ErrLeadershipLost):
			unknown = true
		case errors.Is(err, raft.ErrRaftShutdown):
			unknown = true // ready says why
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		default:
			// Storing the entry failed. Raft gives up leadership; whether the disk has it is not known.
			unknown = true
			c.log.Warn("propose", "err", err)
		}
		// Raft answers before it tells of the fall: let leadership settle, or time run out.
		if _, change := c.lead.get(); c.raft.State() != raft.Leader {
			select {
			case <-change:
			case <-deadline.C:
				deadline.Reset(0)
			case <-ctx.Done():
			case <-c.stop:
			case <-c.done:
			case <-time.After(10 * time.Millisecond): // it may have fallen and risen again before we looked
			}
		}
	}
}

// submit hands an encoded command to the leader and returns what applying it on this node gave. This is the border behind which a command of
// a follower will travel to the leader.
func (c *Cluster) submit(ctx context.Context, data []byte) (state.Result, error) {
	c.flight.RLock() // Close waits for it, since raft forgets whom it has to answer when it is shut down
	defer c.flight.RUnlock()
	if c.stopping.Load() {
		return state.Result{}, raft.ErrRaftShutdown
	}
	f := c.raft.Apply(data, c.cfg.LeaderWait)
	answer := make(chan error, 1)
	// This goroutine lives on only if raft's own has ended under it (see logStore.abandon), in a process that is about to end.
	go func() { answer <- f.Error() }()
	select {
	case err := <-answer:
		if err != nil {
			return state.Result{}, err
		}
		return f.Response().(state.Result), nil
	case <-c.ended:
		return state.Result{}, raft.ErrRaftShutdown
	case <-ctx.Done():
		return state.Result{}, fmt.Errorf("%w: %w", errUnknown, ctx.Err())
	}
}

var errUnknown = errors.New("it is not known whether the write happened")
