package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"
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
	result := c.machine.waiters.expect(cmd.Seq)
	defer c.machine.waiters.forget(cmd.Seq)
	deadline := time.NewTimer(c.cfg.LeaderWait)
	defer deadline.Stop()
	end := time.Now().Add(c.cfg.LeaderWait)
	unknown := false
	for first := true; ; first = false {
		leader, err := c.ready(ctx, deadline.C)
		if err == nil && !first {
			err = timeUp(ctx, end)
		}
		if err != nil {
			if unknown {
				err = fmt.Errorf("%w: %w", errUnknown, err)
			}
			return state.Result{}, err
		}
		index, err := c.submit(ctx, leader, data)
		if err == nil {
			unknown = true
			var r state.Result
			if r, err = c.outcome(ctx, deadline.C, result, cmd.Seq, index); err == nil {
				if r.Fatal != nil {
					return r, c.stopped()
				}
				return r, r.Err
			}
		}
		switch {
		case errors.Is(err, errUnknown), errors.Is(err, errRefused):
			return state.Result{}, err
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, errSent):
			unknown = true // ready says why
		default:
			// Storing the entry failed. Raft gives up leadership; whether the disk has it is not known.
			unknown = true
			c.log.Warn("propose", "err", err)
		}
		// Raft answers before it tells of the fall: let leadership settle, or time run out.
		c.settle(ctx, deadline, leader)
	}
}

// timeUp ends the tries of what fails at once although there is a leader: then nobody else looks at the time.
func timeUp(ctx context.Context, end time.Time) error {
	if !time.Now().Before(end) {
		return errNoMajority
	}
	return ctx.Err()
}

// settle waits a moment for another leader than the one that did not answer.
func (c *Cluster) settle(ctx context.Context, deadline *time.Timer, failed string) {
	leader, change := c.lead.get()
	if leader != failed || failed == c.cfg.Node && c.raft.State() == raft.Leader {
		return
	}
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

// outcome waits until the command is applied here, which stands in the log at index or before it.
func (c *Cluster) outcome(ctx context.Context, deadline <-chan time.Time, result <-chan state.Result, seq, index uint64) (state.Result, error) {
	for {
		reached, moved := c.machine.waiters.after(index)
		if reached {
			break
		}
		select {
		case <-moved:
		case <-c.done:
			if dead := c.machine.dead.Load(); dead != nil {
				return state.Result{Fatal: *dead}, nil
			}
			return state.Result{}, raft.ErrRaftShutdown
		case <-c.ended:
			return state.Result{}, raft.ErrRaftShutdown
		case <-deadline:
			return state.Result{}, fmt.Errorf("%w: it is committed, and this node is behind: %w", errUnknown, syscall.EAGAIN)
		case <-ctx.Done():
			return state.Result{}, fmt.Errorf("%w: %w", errUnknown, ctx.Err())
		}
	}
	select {
	case r := <-result:
		return r, nil
	default:
		// A leader's snapshot has brought it. What the command did is known, not each thing that it changed.
		at, refused, ok := c.machine.view.Load().Outcome(c.cfg.Node, c.seqs.boot, seq)
		if !ok {
			return state.Result{}, raft.ErrLeadershipLost // refused without a trace: the same again says why
		}
		return state.Result{Index: at, Err: refused, Repeat: true}, nil
	}
}

// submit hands an encoded command to the leader and returns an index at which it stands in the log, or behind which it does.
func (c *Cluster) submit(ctx context.Context, leader string, data []byte) (uint64, error) {
	if leader == c.cfg.Node {
		return c.apply(ctx, data)
	}
	ctx, cancel, ok := c.peers.alive(ctx, leader)
	if !ok {
		return 0, raft.ErrNotLeader
	}
	defer cancel()
	a, err := c.peers.ask(ctx, "POST", leader, "/propose", bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	switch a.Kind {
	case "":
		return a.Index, nil
	case kindNotLeader:
		return 0, raft.ErrNotLeader
	case kindInvalid:
		return 0, fmt.Errorf("node %s: %s: %w", leader, a.Error, errRefused)
	default:
		return 0, fmt.Errorf("node %s: %s: %w", leader, a.Error, raft.ErrLeadershipLost)
	}
}

// apply puts an encoded command into the log, on the leader.
func (c *Cluster) apply(ctx context.Context, data []byte) (index uint64, err error) {
	var f raft.ApplyFuture
	err = c.command(ctx, func() raft.Future { f = c.raft.Apply(data, c.cfg.LeaderWait); return f })
	switch {
	case err == nil:
		return f.Index(), nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return 0, fmt.Errorf("%w: %w", errUnknown, err)
	default:
		return 0, err
	}
}

// command is answer for what clients ask. Close waits until raft has answered, also after the client has gone, since raft forgets whom it has to answer when it is shut down.
func (c *Cluster) command(ctx context.Context, ask func() raft.Future) error {
	c.ownMu.RLock()
	if c.stopping.Load() {
		c.ownMu.RUnlock()
		return raft.ErrRaftShutdown
	}
	c.flight.Add(1)
	c.ownMu.RUnlock()
	answer := answerOf(ask())
	err := c.await(ctx, answer)
	if err == nil || ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		c.flight.Done()
		return err
	}
	go func() {
		c.await(context.Background(), answer)
		c.flight.Done()
	}()
	return err
}

// answer waits for raft.
func (c *Cluster) answer(ctx context.Context, f raft.Future) error { return c.await(ctx, answerOf(f)) }

// answerOf gives raft's answer when it comes. Its goroutine lives on only where none comes (see await), in a process that is about to end.
func answerOf(f raft.Future) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- f.Error() }()
	return answer
}

// await waits for an answer. When raft's goroutine has ended (see logStore.abandon), or was told to while the question waited, none comes.
func (c *Cluster) await(ctx context.Context, answer <-chan error) error {
	select {
	case err := <-answer:
		return err
	case <-c.ended:
		return raft.ErrRaftShutdown
	case <-ctx.Done():
		return ctx.Err()
	}
}

// servePropose is the leader's end of submit.
func (p *peers) servePropose(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCommandSize))
	if err != nil {
		reply(w, answer{Kind: kindInvalid, Error: err.Error()})
		return
	}
	// What this program does not understand would stop every node that does not either.
	if _, err := state.Decode(data, p.c.machine.view.Load().Format()); err != nil {
		reply(w, answer{Kind: kindInvalid, Error: err.Error()})
		return
	}
	index, err := p.c.apply(r.Context(), data)
	switch {
	case err == nil:
		reply(w, answer{Index: index})
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		reply(w, p.c.notLeader(err))
	default:
		reply(w, answer{Kind: kindLost, Error: err.Error()})
	}
}

func (c *Cluster) notLeader(err error) answer {
	leader, _ := c.lead.get()
	return answer{Kind: kindNotLeader, Error: err.Error(), Leader: leader}
}

var (
	errUnknown = errors.New("it is not known whether the write happened")
	errRefused = errors.New("the leader does not take this command")
)
