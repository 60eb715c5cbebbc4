package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/disk"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// name is what makes a command one: promise 11.
type name struct{ boot, seq uint64 }

// sequences names this process's commands and knows which of them are answered (promise 11).
type sequences struct {
	mu   sync.Mutex
	boot uint64
	next uint64
	open map[uint64]bool // given out and not answered
	low  uint64          // all up to it are answered
}

func newSequences(boot uint64) *sequences {
	return &sequences{boot: boot, next: 1, open: map[uint64]bool{}}
}

// take gives out a name. finished is the greatest sequence up to which every command is answered.
func (s *sequences) take() (n name, finished uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = name{s.boot, s.next}
	s.next++
	s.open[n.seq] = true
	return n, s.low
}

func (s *sequences) finish(n name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.boot != s.boot {
		return
	}
	delete(s.open, n.seq)
	for s.low+1 < s.next && !s.open[s.low+1] {
		s.low++
	}
}

// bootAfter is the number of a start after the one that is known last. The clock is in it, since a disk may come back
// as it was before, and the number with it: used twice, it would name two commands alike, and the state would answer
// the second with the outcome of the first.
func bootAfter(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(max(now.UnixNano(), 0)))
}

// newBoot makes the number of a start durable and returns it. It is above what this disk and the state know.
func newBoot(cfg Config, known uint64) (uint64, error) {
	m, err := disk.OpenWatermark(cfg.FS, filepath.Join(cfg.Dir, raftDir, "boot"), nil)
	if err != nil {
		return 0, err
	}
	boot := bootAfter(max(m.Last(), known), cfg.Now())
	return boot, errors.Join(m.Set(boot), m.Close())
}

// errNotOurs says that the name of a command had been used before, by an earlier life of this node.
var errNotOurs = errors.New("the name of the command was used before")

// rename gives the commands of this process another boot number, because one was answered as if it were an older one:
// the memory of this machine or its disk, and its clock, are as they were before. Nothing was done under the name.
func (c *Cluster) rename(used name) error {
	s := c.seqs
	s.mu.Lock()
	defer s.mu.Unlock()
	if used.boot != s.boot {
		return nil // somebody else was first
	}
	boot, err := newBoot(c.cfg, max(s.boot, c.machine.view.Load().Boot(c.cfg.Node)))
	if err != nil {
		return fmt.Errorf("%w: %w", err, syscall.EAGAIN)
	}
	c.log.Warn("this node's commands were named before: its disk or its memory was put back to an older state",
		"boot", boot, "was", s.boot)
	s.boot, s.next, s.low = boot, 1, 0
	clear(s.open)
	return nil
}

// propose puts edits into the log as one command and waits until this node has applied it. The result's own Err is
// returned as err.
//
// A command whose answer was lost (the leader fell while it was under way) is proposed again under the same name until
// there is an answer, so it has happened once. When the time is up without one, the error says so and is
// syscall.EAGAIN: it may or may not happen.
func (c *Cluster) propose(ctx context.Context, ops ...state.Op) (r state.Result, err error) {
	return c.proposeAll(ctx, false, ops)
}

// proposeAll is propose, which with patient is bounded by its context (Tree.Patient).
func (c *Cluster) proposeAll(ctx context.Context, patient bool, ops []state.Op) (r state.Result, err error) {
	for range 3 {
		n, finished := c.seqs.take()
		r, err = c.proposeAs(ctx, n, finished, patient, ops)
		c.seqs.finish(n)
		if !errors.Is(err, errNotOurs) {
			return r, err
		}
		if err := c.rename(n); err != nil {
			return r, err
		}
		if errors.Is(err, errUnknown) {
			return r, err
		}
	}
	return r, fmt.Errorf("%w: %w", err, syscall.EAGAIN)
}

// proposeAs is propose under one name. errNotOurs says that it was not ours; with errUnknown the command may have been
// carried out all the same.
func (c *Cluster) proposeAs(
	ctx context.Context, n name, finished uint64, patient bool, ops []state.Op,
) (state.Result, error) {
	if err := ctx.Err(); err != nil {
		return state.Result{}, err
	}
	// All tries carry the same bytes.
	cmd := state.Command{
		Node: c.cfg.Node, Boot: n.boot, Seq: n.seq, Finished: finished, Time: c.cfg.Now().UnixNano(), Ops: ops,
	}
	data, err := cmd.Encode()
	if err != nil {
		return state.Result{}, err
	}
	result := c.machine.waiters.expect(n)
	defer c.machine.waiters.forget(n)
	sent := false
	for {
		hung := c.watch.Hung()
		r, err := c.proposeOnce(ctx, n, data, result, &sent)
		late := errors.Is(err, errUnknown) && !errors.Is(err, errNotOurs) || errors.Is(err, peer.ErrNoMajority)
		if patient && late && ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", err, ctx.Err()) // both times are up at once: the context is what ends it
		}
		if !patient || !late || ctx.Err() != nil || c.Err() != nil || c.stopping.Load() {
			return r, err
		}
		if leader, _ := c.lead.get(); !sent && leader == "" && !hung && !c.watch.Hung() {
			return r, err // nobody takes it, and nothing is known of when that will be otherwise
		}
		c.log.Warn("a write takes long, it is waited for", "err", err)
	}
}

// readyFor is ready for the time that a write may take, or with patient until the disk of this node answers.
func (c *Cluster) readyFor(ctx context.Context, patient bool) error {
	for {
		hung := c.watch.Hung()
		deadline := time.NewTimer(c.cfg.LeaderWait)
		_, err := c.ready(ctx, deadline.C)
		deadline.Stop()
		if err == nil || !patient || !errors.Is(err, peer.ErrNoMajority) || !hung && !c.watch.Hung() {
			return err
		}
	}
}

// proposeOnce is proposeAs for the time that a write may take. sent is whether the command may have been carried out
// already, before and afterwards.
func (c *Cluster) proposeOnce(
	ctx context.Context, n name, data []byte, result <-chan state.Result, sent *bool,
) (_ state.Result, err error) {
	unknown := *sent
	defer func() { *sent = unknown || errors.Is(err, errUnknown) }()
	// Also where nobody answers any more: raft waits for its disk for as long as that takes.
	bounded, cancel := context.WithTimeout(ctx, c.cfg.LeaderWait)
	defer cancel()
	var r state.Result
	tried := false // err is of a try, which says itself whether the command may have been carried out
	err = c.atLeader(ctx, c.cfg.LeaderWait, func(leader string, deadline <-chan time.Time) (again bool, err error) {
		tried = true
		leads, done := c.whileLeads(bounded, leader)
		index, err := c.submit(leads, leader, data)
		changed := leads.Err() != nil && bounded.Err() == nil
		done()
		if err != nil && changed {
			unknown, tried = true, false
			return true, nil // the same again, for the next leader
		}
		if err != nil && bounded.Err() != nil && ctx.Err() == nil {
			return false, fmt.Errorf("%w: the leader has not answered within %s: %w", errUnknown, c.cfg.LeaderWait, syscall.EAGAIN)
		}
		if err == nil {
			before := unknown
			unknown = true
			if r, err = c.outcome(ctx, deadline, result, n, index); err == nil {
				switch {
				case r.Fatal != nil:
					return false, c.stopped()
				case errors.Is(r.Err, state.ErrOldBoot), errors.Is(r.Err, state.ErrFinished):
					err = errNotOurs
				case !before && r.Index != index: // it was sent once, and stands there: this is the outcome of another
					r = state.Result{}
					return false, errNotOurs
				default:
					return false, r.Err
				}
				r = state.Result{}
				if before {
					err = fmt.Errorf("%w: %w: %w", errUnknown, err, syscall.EAGAIN)
				}
				return false, err
			}
		}
		switch {
		case errors.Is(err, errUnknown), errors.Is(err, errRefused):
			return false, err
		case notTaken(err):
		case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, peer.ErrSent):
			unknown = true // ready says why
		default:
			// Storing the entry failed. Raft gives up leadership; whether the disk has it is not known.
			unknown = true
			c.log.Warn("propose", "err", err)
		}
		tried = false
		return true, nil
	})
	if err != nil && !tried && unknown {
		err = fmt.Errorf("%w: %w", errUnknown, err)
	}
	return r, err
}

// notTaken reports an error of raft that says that nothing was done.
func notTaken(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) ||
		errors.Is(err, raft.ErrEnqueueTimeout)
}

// atLeader has the leader do something, whoever that is: it calls try with the leader's name, and again, perhaps with
// another one, as long as try asks for it and the time is not up. deadline is when that is.
func (c *Cluster) atLeader(
	ctx context.Context, patience time.Duration, try func(leader string, deadline <-chan time.Time) (again bool, err error),
) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	end := time.Now().Add(patience)
	for first := true; ; first = false {
		leader, err := c.ready(ctx, deadline.C)
		if err == nil && !first {
			err = timeUp(ctx, end)
		}
		if err != nil {
			return err
		}
		if again, err := try(leader, deadline.C); !again {
			return err
		}
		// Raft answers before it tells of the fall: let leadership settle, or time run out.
		c.settle(ctx, deadline, leader)
	}
}

// whileLeads returns a context that is done when somebody else leads, or with ctx. The function is to be called in the
// end.
func (c *Cluster) whileLeads(ctx context.Context, leader string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			now, change := c.lead.get()
			if now != leader && now != "" {
				cancel()
				return
			}
			select {
			case <-change:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { cancel(); <-ended }
}

// timeUp ends the tries of what fails at once although there is a leader: then nobody else looks at the time.
func timeUp(ctx context.Context, end time.Time) error {
	if !time.Now().Before(end) {
		return peer.ErrNoMajority
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
func (c *Cluster) outcome(
	ctx context.Context, deadline <-chan time.Time, result <-chan state.Result, n name, index uint64,
) (state.Result, error) {
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
		at, refused, ok := c.machine.view.Load().Outcome(c.cfg.Node, n.boot, n.seq)
		if !ok {
			return state.Result{}, raft.ErrLeadershipLost // refused without a trace: the same again says why
		}
		return state.Result{Index: at, Err: refused, Repeat: true}, nil
	}
}

// submit hands an encoded command to the leader and returns an index at which it stands in the log, or behind which it
// does.
func (c *Cluster) submit(ctx context.Context, leader string, data []byte) (uint64, error) {
	if leader == c.cfg.Node {
		return c.apply(ctx, data)
	}
	ctx, cancel, ok := c.peers.Alive(ctx, leader)
	if !ok {
		return 0, raft.ErrNotLeader
	}
	defer cancel()
	a, err := c.peers.Ask(ctx, "POST", leader, "/propose", bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	switch a.Kind {
	case "":
		return a.Index, nil
	case peer.KindNotLeader:
		return 0, raft.ErrNotLeader
	case peer.KindInvalid:
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

// command is answer for what clients ask. Close waits until raft has answered, also after the client has gone, since
// raft forgets whom it has to answer when it is shut down.
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

// answerSoon is answer, within the time that a write may take: raft's own times say nothing while it waits for its
// disk.
func (c *Cluster) answerSoon(ctx context.Context, f raft.Future) error {
	bounded, cancel := context.WithTimeout(ctx, c.cfg.LeaderWait)
	defer cancel()
	err := c.answer(bounded, f)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: there was no answer within %s: %w", errUnknown, c.cfg.LeaderWait, syscall.EAGAIN)
	}
	return err
}

// answerOf gives raft's answer when it comes. Its goroutine lives on only where none comes (see await), in a process
// that is about to end.
func answerOf(f raft.Future) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- f.Error() }()
	return answer
}

// await waits for an answer. When raft's goroutine has ended (see raftlog.Store.abandon), or was told to while the
// question waited, none comes.
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

// maxCommandSize is the most bytes of a forwarded command; ours are at most about 300 KiB.
const maxCommandSize = 16 << 20

// servePropose is the leader's end of submit.
func (c *Cluster) servePropose(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCommandSize))
	if err != nil {
		peer.Reply(w, peer.Answer{Kind: peer.KindInvalid, Error: err.Error()})
		return
	}
	// What this program does not understand would stop every node that does not either.
	if _, err := state.Decode(data, c.machine.view.Load().Format()); err != nil {
		peer.Reply(w, peer.Answer{Kind: peer.KindInvalid, Error: err.Error()})
		return
	}
	index, err := c.apply(r.Context(), data)
	switch {
	case err == nil:
		peer.Reply(w, peer.Answer{Index: index})
	case notTaken(err):
		peer.Reply(w, c.notLeader(err))
	default:
		peer.Reply(w, peer.Answer{Kind: peer.KindLost, Error: err.Error()})
	}
}

func (c *Cluster) notLeader(err error) peer.Answer {
	leader, _ := c.lead.get()
	return peer.Answer{Kind: peer.KindNotLeader, Error: err.Error(), Leader: leader}
}

var (
	errUnknown = fmt.Errorf("it is not known whether the write happened%w", inProgress{})
	errRefused = errors.New("the leader does not take this command")
)

// inProgress makes an error syscall.EINPROGRESS, by which the tree's contract says that a write may yet happen, without
// its words.
type inProgress struct{}

// Error implements error.
func (inProgress) Error() string { return "" }

// Is makes it syscall.EINPROGRESS.
func (inProgress) Is(target error) bool { return target == syscall.EINPROGRESS }
