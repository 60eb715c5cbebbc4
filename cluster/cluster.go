package cluster

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"casemate/cluster/blob"
)

// Cluster is one open node. It is safe for concurrent use.
type Cluster struct {
	cfg    Config
	log    *slog.Logger
	id     identity
	opened time.Time
	sealer cipher.AEAD
	blobs  *blob.Dir
	gc     sync.Mutex // one collection at a time

	// In the order in which Close ends them, last first.
	lock      io.Closer
	wal       *wal.WAL
	mark      *mark
	machine   *machine
	transport io.Closer
	raft      *raft.Raft
	seqs      *sequences
	lead      leadership
	own       sync.WaitGroup // our goroutines

	stopping atomic.Bool
	flight   sync.RWMutex  // read-locked by every command that raft has to answer
	ended    chan struct{} // raft has ended
	stop     chan struct{}
	once     sync.Once // Close
	closed   error

	failMu sync.Mutex
	failed error
	done   chan struct{}
}

// Open opens the data directory that Bootstrap made and starts the node. It returns before there is a leader, unless this is the only voter: reads work
// at once and show everything that was known to be committed; writes wait for a leader. Errors are one sentence: what is wrong with which directory, and what to do.
//
// Opening after a crash is the same as opening after Close (promise 7): newest snapshot, then the log up to the mark, then raft.
func Open(cfg Config) (_ *Cluster, err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return nil, err
	}
	defer func() { err = tell("open", cfg.Dir, err) }()
	lock, id, key, err := openDir(cfg)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, log: cfg.Log, id: id, lock: lock, opened: cfg.Now(),
		stop: make(chan struct{}), done: make(chan struct{}), ended: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			c.release()
		}
	}()
	if c.sealer, err = newSealer(key); err != nil {
		return nil, err
	}
	if c.blobs, err = blob.Open(filepath.Join(cfg.Dir, blobDir), blob.Options{FS: cfg.FS, Reserve: cfg.Reserve}); err != nil {
		return nil, err
	}
	if c.wal, err = openWAL(cfg, false, c.fail); err != nil {
		return nil, fmt.Errorf("its raft log is damaged, restore a backup into a new directory: %w", err)
	}
	if c.mark, err = openMark(cfg.FS, filepath.Join(cfg.Dir, raftDir, "commit")); err != nil {
		return nil, err
	}
	// The number of starts is durable before it is used: no two processes of this node ever propose under the same one (promise 11).
	boots, err := openMark(cfg.FS, filepath.Join(cfg.Dir, raftDir, "boot"))
	if err != nil {
		return nil, err
	}
	boot := boots.last + 1
	if err := errors.Join(boots.set(boot), boots.f.Close()); err != nil {
		return nil, err
	}
	snaps := &snapshots{cfg.FS, filepath.Join(cfg.Dir, snapshotDir)}
	if err := snaps.clean(); err != nil {
		return nil, err
	}
	c.machine = newMachine(c.fail)
	voters, err := c.recover(snaps)
	if err != nil {
		return nil, err
	}
	c.seqs = newSequences(max(boot, c.machine.view.Load().Boot(cfg.Node)+1))

	rc := raftConfig(cfg)
	sole := len(voters) == 1 && voters[0] == rc.LocalID
	if sole {
		alone(rc)
	}
	changes := make(chan bool, 16)
	rc.NotifyCh = changes
	_, transport := raft.NewInmemTransport(raft.ServerAddress(cfg.Node))
	c.transport = transport
	if c.raft, err = newRaft(rc, c.machine, logStore{c.wal, c.fail}, snaps, transport); err != nil {
		return nil, errors.Join(c.Err(), err)
	}
	c.own.Go(c.endRaft)
	c.own.Go(func() { c.followLeadership(changes) })
	c.own.Go(c.keepMark)
	c.log.Info("cluster open", "node", cfg.Node, "cluster", id.Cluster, "index", c.machine.view.Load().Index(), "boot", boot)
	if sole {
		// It elects itself within a moment, so nobody need see it without a leader. A disk that does not take its vote does not keep reads from working.
		wait := time.NewTimer(c.cfg.LeaderWait)
		defer wait.Stop()
		if err := c.ready(context.Background(), wait.C); err != nil {
			c.log.Warn("the only voter is not the leader yet", "err", err)
		}
	}
	return c, nil
}

// Close ends the node: leadership goes to another voter if there is one, raft stops, all goroutines end, the directory is unlocked.
// Writes under way are syscall.EAGAIN or have happened. Reads of what is open go on.
func (c *Cluster) Close() error {
	c.once.Do(func() {
		c.stopping.Store(true)
		c.flight.Lock() // until all commands under way are answered, and there are no more
		//lint:ignore SA2001 nothing is to be done in between
		c.flight.Unlock()
		if c.raft.State() == raft.Leader && c.voters() > 1 {
			if err := c.raft.LeadershipTransfer().Error(); err != nil {
				c.log.Warn("leadership not handed over", "err", err)
			}
		}
		c.closed = c.release()
		c.log.Info("cluster closed", "node", c.cfg.Node)
	})
	return c.closed
}

// release ends what Open has started so far, in reverse order.
func (c *Cluster) release() error {
	c.stopping.Store(true)
	var errs []error
	// Raft first, and waited for: nothing below may go away while it can still apply or append.
	close(c.stop)
	c.own.Wait()
	if c.transport != nil {
		errs = append(errs, c.transport.Close())
	}
	if c.mark != nil {
		if c.raft != nil && c.Err() == nil {
			// Convenience only, as after a crash there is an older mark.
			errs = append(errs, c.mark.set(c.machine.view.Load().Index()))
		}
		errs = append(errs, c.mark.f.Close())
	}
	if c.wal != nil {
		errs = append(errs, c.wal.Close())
	}
	errs = append(errs, c.lock.Close())
	c.fail(nil)
	return errors.Join(errs...)
}

// fail stops the node loudly: it answers no more writes and whoever watches Done is told why. The first call counts.
func (c *Cluster) fail(err error) {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	select {
	case <-c.done:
		return
	default:
	}
	if err != nil {
		c.log.Error("cluster stopped: this node cannot go on", "err", err)
	}
	c.failed = err
	close(c.done)
}

// Done is closed when the node cannot go on (Err says why: an entry of the log that this program does not understand, a disk that cannot
// sync) or was closed (Err is nil). The owner must then Close it and end the process.
func (c *Cluster) Done() <-chan struct{} { return c.done }

// Err is why the node cannot go on; nil while it can, and after Close.
func (c *Cluster) Err() error {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	return c.failed
}

// ID is the cluster's identity, random, made by Bootstrap and the same on all nodes.
func (c *Cluster) ID() string { return c.id.Cluster }

// endRaft ends raft with the node, and also when the node cannot go on: it must neither lead nor vote then, and who waits for an answer must not wait for ever.
func (c *Cluster) endRaft() {
	select {
	case <-c.stop:
	case <-c.done:
	}
	c.raft.Shutdown().Error() // nil: it only waits
	close(c.ended)
}

// leadership tells who waits for it when this node becomes or ceases to be the leader.
type leadership struct {
	mu     sync.Mutex
	is     bool
	change chan struct{} // closed at the next change; nil until someone waits
}

func (l *leadership) set(is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.is = is
	if l.change != nil {
		close(l.change)
		l.change = nil
	}
}

func (l *leadership) get() (is bool, change <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.change == nil {
		l.change = make(chan struct{})
	}
	return l.is, l.change
}

// followLeadership empties the channel that raft blocks on.
func (c *Cluster) followLeadership(changes <-chan bool) {
	for {
		select {
		case is := <-changes:
			c.lead.set(is)
			c.log.Info("leadership", "node", c.cfg.Node, "leader", is, "term", c.raft.CurrentTerm())
		case <-c.stop:
			return
		}
	}
}

// stopped is for writes: another node, or this one after a restart, may take them.
func (c *Cluster) stopped() error {
	return fmt.Errorf("this node has stopped (%v): %w", c.Err(), syscall.EAGAIN)
}

var errNoMajority = fmt.Errorf("no majority of the voters can be reached now, try again later: %w", syscall.EAGAIN)

// ready waits until this node can propose. A later node that is not the leader will hand its commands to the leader instead; nothing above will notice.
func (c *Cluster) ready(ctx context.Context, deadline <-chan time.Time) error {
	for {
		is, change := c.lead.get()
		switch {
		case c.Err() != nil:
			return c.stopped()
		case c.stopping.Load():
			return fmt.Errorf("this node is stopping: %w", syscall.EAGAIN)
		case is:
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return errNoMajority
		case <-c.done:
		case <-c.stop:
		}
	}
}

func (c *Cluster) voters() int {
	f := c.raft.GetConfiguration()
	if f.Error() != nil {
		return 0
	}
	n := 0
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// markEvery is the least time between two writes of the mark: one sync for all commits between.
const markEvery = 50 * time.Millisecond

// keepMark makes a lower bound of what is committed durable, soon after it was applied.
func (c *Cluster) keepMark() {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-c.machine.moved:
		}
		if err := c.mark.set(c.machine.view.Load().Index()); err != nil {
			// The old mark still is a lower bound.
			c.log.Warn("commit mark not written", "err", err)
		}
		tick.Reset(markEvery)
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
	}
}
