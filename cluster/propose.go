package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/disk"
	"casemate/cluster/peer"
	"casemate/cluster/state"
)

// name identifies a command of this node (promise 11).
type name struct{ boot, seq uint64 }

// sequences names this process's commands and knows which of them have an outcome (promise 11).
type sequences struct {
	mu   sync.Mutex
	boot uint64
	next uint64
	open map[uint64]bool // taken, without an outcome
	low  uint64          // all up to it have an outcome
}

func newSequences(boot uint64) *sequences {
	return &sequences{boot: boot, next: 1, open: map[uint64]bool{}}
}

// take returns a new name. finished is the greatest sequence up to which every command has an outcome.
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

// bootAfter is the boot number after the last known one. It includes the clock, because a disk may be put back to an
// older state, and the number with it. If a number were used twice, two commands could have the same name, and the
// state would answer the second with the outcome of the first.
func bootAfter(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(max(now.UnixNano(), 0)))
}

// newBoot makes a new boot number durable and returns it. It is above those that this disk and the state know.
func newBoot(cfg Config, known uint64) (uint64, error) {
	m, err := disk.OpenWatermark(cfg.FS, filepath.Join(cfg.Dir, raftDir, "boot"), nil)
	if err != nil {
		return 0, err
	}
	boot := bootAfter(max(m.Last(), known), cfg.Now())
	return boot, errors.Join(m.Set(boot), m.Close())
}

// errNotOurs reports that the name of a command was used before, by an earlier process of this node.
var errNotOurs = errors.New("the name of the command was used before")

// rename gives the commands of this process another boot number, because one got the outcome of an older command: this
// machine's memory or its disk, and its clock, were put back. No command of this process was carried out under the
// name.
func (c *Cluster) rename(used name) error {
	s := c.seqs
	s.mu.Lock()
	defer s.mu.Unlock()
	if used.boot != s.boot {
		return nil // another goroutine was first
	}
	boot, err := newBoot(c.cfg, max(s.boot, c.machine.view.Load().Boot(c.cfg.Node)))
	if err != nil {
		return fmt.Errorf("%w: %w", err, syscall.EAGAIN)
	}
	c.log.Warn("the names of this node's commands were used before: its disk or its memory was put back to an older "+
		"state",
		"boot", boot, "was", s.boot)
	s.boot, s.next, s.low = boot, 1, 0
	clear(s.open)
	return nil
}

// propose puts edits into the log as one command and waits until this node has applied it. It returns the result's own
// Err as err.
//
// A command whose answer was lost (the leader failed meanwhile) is proposed again under the same name until its outcome
// is known, so it is applied once. If the time ends without an outcome, the error says so and is syscall.EAGAIN: the
// command may or may not be applied.
func (c *Cluster) propose(ctx context.Context, ops ...state.Op) (r state.Result, err error) {
	return c.proposeAll(ctx, false, ops)
}

// proposeAll is propose; with patient, only the context bounds it (Tree.Patient). What the edits change is recorded
// with them.
func (c *Cluster) proposeAll(ctx context.Context, patient bool, ops []state.Op) (r state.Result, err error) {
	return c.proposeRecorded(ctx, patient, ops, c.events(ctx, ops))
}

// proposeRecorded is proposeAll for edits that these events tell.
func (c *Cluster) proposeRecorded(
	ctx context.Context, patient bool, ops, events []state.Op,
) (r state.Result, err error) {
	ops = slices.Concat(ops, events)
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

// proposeAs is propose under one name. errNotOurs reports that the name was used before; together with errUnknown, the
// command may have been carried out.
func (c *Cluster) proposeAs(
	ctx context.Context, n name, finished uint64, patient bool, ops []state.Op,
) (state.Result, error) {
	if err := ctx.Err(); err != nil {
		return state.Result{}, err
	}
	// All attempts send the same bytes.
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
			err = fmt.Errorf("%w: %w", err, ctx.Err()) // both times ended; the context takes precedence
		}
		if !patient || !late || ctx.Err() != nil || c.Err() != nil || c.stopping.Load() {
			return r, err
		}
		if leader, _ := c.lead.get(); !sent && leader == "" && !hung && !c.watch.Hung() {
			return r, err // there is no leader, and it is unknown when there will be one
		}
		c.log.Warn("a write takes long, still waiting", "err", err)
	}
}

// readyFor is ready for at most LeaderWait or, with patient, until this node's disk responds.
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

// proposeOnce is proposeAs for at most LeaderWait. sent reports, before and after the call, whether the command may
// have been carried out already.
func (c *Cluster) proposeOnce(
	ctx context.Context, n name, data []byte, result <-chan state.Result, sent *bool,
) (_ state.Result, err error) {
	unknown := *sent
	defer func() { *sent = unknown || errors.Is(err, errUnknown) }()
	// The bound also applies when raft does not answer: it waits for its disk without a limit.
	bounded, cancel := context.WithTimeout(ctx, c.cfg.LeaderWait)
	defer cancel()
	var r state.Result
	tried := false // err is of an attempt and includes errUnknown if the command may have been carried out
	err = c.atLeader(ctx, c.cfg.LeaderWait, func(leader string, deadline <-chan time.Time) (again bool, err error) {
		tried = true
		leads, done := c.whileLeads(bounded, leader)
		index, err := c.submit(leads, leader, data)
		changed := leads.Err() != nil && bounded.Err() == nil
		done()
		if err != nil && changed {
			unknown, tried = true, false
			return true, nil // retry with the next leader
		}
		if err != nil && bounded.Err() != nil && ctx.Err() == nil {
			return false, fmt.Errorf("%w: the leader has not answered within %s: %w", errUnknown, c.cfg.LeaderWait,
				syscall.EAGAIN)
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
				case !before && r.Index != index: // it was sent once and is at index: this outcome is another command's
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
			unknown = true // ready returns the reason
		default:
			// Storing the entry failed. Raft gives up leadership; whether the disk has the entry is unknown.
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

// notTaken reports whether an error of raft means that nothing was done.
func notTaken(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) ||
		errors.Is(err, raft.ErrEnqueueTimeout)
}

// atLeader makes the leader, whichever node it is, do something: it calls try with the leader's name, and again,
// possibly with another leader, as long as try requests it and the time has not ended. deadline fires at that time.
func (c *Cluster) atLeader(
	ctx context.Context, patience time.Duration, try func(leader string, deadline <-chan time.Time) (again bool,
		err error),
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
		// Raft responds before it reports the loss of leadership: wait for the next leader, or for the deadline.
		c.settle(ctx, deadline, leader)
	}
}

// whileLeads returns a context that is done when another node leads, or with ctx. The returned function must be called
// at the end.
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

// timeUp ends retries that fail at once although there is a leader, which check no deadline.
func timeUp(ctx context.Context, end time.Time) error {
	if !time.Now().Before(end) {
		return peer.ErrNoMajority
	}
	return ctx.Err()
}

// settle waits briefly for another leader than the one that failed.
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
	case <-time.After(10 * time.Millisecond): // it may have lost and regained leadership meanwhile
	}
}

// outcome waits until the command, which is in the log at or before index, is applied here.
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
			return state.Result{}, fmt.Errorf("%w: the write is committed, but this node has not applied it yet: %w",
				errUnknown, syscall.EAGAIN)
		case <-ctx.Done():
			return state.Result{}, fmt.Errorf("%w: %w", errUnknown, ctx.Err())
		}
	}
	select {
	case r := <-result:
		return r, nil
	default:
		// A leader's snapshot has brought it. The command's outcome is known, but not each name that it changed.
		at, refused, ok := c.machine.view.Load().Outcome(c.cfg.Node, n.boot, n.seq)
		if !ok {
			return state.Result{}, raft.ErrLeadershipLost // refused without a record: a retry returns the reason
		}
		return state.Result{Index: at, Err: refused, Repeat: true}, nil
	}
}

// submit sends an encoded command to the leader and returns its index in the log, or a later one.
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

// command is answer for requests of clients. Close waits until raft has responded, even after the client has gone,
// because raft drops pending requests when it is shut down.
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

// answer waits for raft's response.
func (c *Cluster) answer(ctx context.Context, f raft.Future) error { return c.await(ctx, answerOf(f)) }

// answerSoon is answer within LeaderWait, because raft's own timeouts do not apply while it waits for its disk.
func (c *Cluster) answerSoon(ctx context.Context, f raft.Future) error {
	bounded, cancel := context.WithTimeout(ctx, c.cfg.LeaderWait)
	defer cancel()
	err := c.answer(bounded, f)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: there was no answer within %s: %w", errUnknown, c.cfg.LeaderWait, syscall.EAGAIN)
	}
	return err
}

// answerOf delivers raft's response. Its goroutine stays only if no response comes (see await), in a process that is
// about to end.
func answerOf(f raft.Future) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- f.Error() }()
	return answer
}

// await waits for a response. None comes after raft's goroutine has ended (see raftlog.Store.abandon), or was told to
// end while the request waited.
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

// maxCommandSize is the maximum size in bytes of a forwarded command; actual ones have at most about 300 KiB.
const maxCommandSize = 16 << 20

// servePropose is the leader's side of submit.
func (c *Cluster) servePropose(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCommandSize))
	if err != nil {
		peer.Reply(w, peer.Answer{Kind: peer.KindInvalid, Error: err.Error()})
		return
	}
	// A command that this program does not understand would stop every node with this version.
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
	errUnknown = fmt.Errorf("it is unknown whether the write happened%w", inProgress{})
	errRefused = errors.New("the leader does not accept this command")
)

// inProgress makes an error syscall.EINPROGRESS, which means by the tree's contract that a write may still happen,
// without adding that error's text.
type inProgress struct{}

// Error implements error.
func (inProgress) Error() string { return "" }

// Is makes the error syscall.EINPROGRESS.
func (inProgress) Is(target error) bool { return target == syscall.EINPROGRESS }
