package cluster

import (
	"context"
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

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/lograte"
	"casemate/cluster/member"
	"casemate/cluster/peer"
	"casemate/cluster/raftlog"
	"casemate/cluster/replica"
	"casemate/cluster/wake"
)

// Cluster is one open node. It is safe for concurrent use.
type Cluster struct {
	cfg     Config
	log     *slog.Logger
	lines   *lograte.Limit // limits lines that outsiders cause
	id      identity
	opened  time.Time
	members *member.Members
	blobs   *blob.Dir // of replica

	// In the order in which Close ends them, last first.
	lock        io.Closer
	wal         *raftlog.Log
	commitIndex *disk.Watermark
	marked      waiters // waiters for commitIndex
	machine     *machine
	replica     *replica.Store
	peers       *peer.Port // nil without a peer port
	transport   io.Closer
	raft        *raft.Raft
	snaps       *raftlog.Snapshots
	look        wake.Flag     // raised when the leader may have changed
	watch       disk.Watchdog // of the log's disk
	floor       floor
	followers   followers
	snapping    atomic.Bool // a snapshot is being made because an entry of the log is damaged
	neighbours  neighbours
	seqs        *sequences
	lead        leadership
	learners    map[raft.ServerID]uint64 // the leader's index at its last check of each; owned by manage
	reading     confirms                 // misses that are being confirmed
	own         sync.WaitGroup           // the node's goroutines
	ownMu       sync.RWMutex             // see background
	life        context.Context
	die         context.CancelFunc // cancels life: ends all that waits for other nodes

	stopping atomic.Bool
	// upToDate is set when this node has once had everything that was committed; see recordsEvents.
	upToDate atomic.Bool
	flight   sync.WaitGroup // commands without raft's response; none begins after stopping is set with ownMu held
	ended    chan struct{}  // raft has ended
	stop     chan struct{}
	once     sync.Once // Close
	closed   error

	failMu sync.Mutex
	failed error
	done   chan struct{}
}

// Open opens the data directory that Bootstrap made and starts the node. It returns before there is a leader, unless
// this is the only voter: reads work at once and show everything that was known to be committed; writes wait for a
// leader. Errors are one sentence: what is wrong with which directory, and what to do.
//
// Opening after a crash is the same as opening after Close (promise 7): newest snapshot, then the log up to the commit
// index file, then raft.
func Open(cfg Config) (_ *Cluster, err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return nil, err
	}
	defer func() { err = describe("open", cfg.Dir, err) }()
	lock, id, key, err := openDir(cfg)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		look: wake.NewFlag(),
		cfg:  cfg, id: id, lock: lock, opened: cfg.Now(),
		stop: make(chan struct{}), done: make(chan struct{}), ended: make(chan struct{}),
	}
	handler, limit := lograte.Handler(cfg.Log.Handler())
	c.log, c.lines = slog.New(handler), limit
	c.life, c.die = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			c.release()
		}
	}()
	mc := cfg.members(id.Cluster)
	mc.Log = c.log
	if c.members, err = member.New(mc, host{c}, key); err != nil {
		return nil, err
	}
	c.machine = newMachine(c.fail)
	c.machine.life = c.life
	c.machine.tallies.of(cfg.Tallies)
	if err := c.openReplica(); err != nil {
		return nil, err
	}
	if c.wal, err = openWAL(cfg, false, c.fail); errors.Is(err, syscall.EIO) {
		return nil, fmt.Errorf("the disk failed: %w", err) // possibly only now
	} else if err != nil {
		return nil, fmt.Errorf("the raft log is damaged: %s: %w", wayOut, err)
	}
	if c.commitIndex, err = disk.OpenWatermark(cfg.FS, filepath.Join(cfg.Dir, raftDir, "commit"),
		&c.watch); err != nil {
		return nil, err
	}
	c.snaps = newSnapshots(cfg)
	if err := c.snaps.Clean(); err != nil {
		return nil, err
	}
	var voters []raft.ServerID
	if err := leanly(func() (int64, error) {
		voters, err = c.recover()
		return c.snaps.Size() + c.machine.log.Load(), err
	}); err != nil {
		return nil, err
	}
	// The boot number is durable before it is used, so no two processes of this node ever propose under the same one
	// (promise 11).
	boot, err := newBoot(cfg, c.machine.view.Load().Boot(cfg.Node))
	if err != nil {
		return nil, err
	}
	c.seqs = newSequences(boot)
	c.machine.waiters.of(cfg.Node)
	c.machine.applied = c.followers.committed
	c.machine.added, c.machine.collected = c.replica.Added, c.replica.Collected
	c.machine.published, c.machine.replaced = c.replica.Published, c.replica.Replaced

	rc := raftConfig(cfg)
	sole := len(voters) == 1 && voters[0] == rc.LocalID
	changes := make(chan bool, 16)
	rc.NotifyCh = changes
	running := new(atomic.Pointer[raft.Raft])
	var transport raft.Transport
	if len(cfg.Peer) == 0 {
		if sole {
			alone(rc)
		}
		_, mem := raft.NewInmemTransport(raft.ServerAddress(cfg.Node))
		c.transport, transport = mem, mem
	} else {
		if err := c.members.OpenNode(); err != nil {
			return nil, err
		}
		c.openPeers()
		if err := c.replica.Connect(c.peers, filepath.Join(cfg.Dir, raftDir, "whole")); err != nil {
			return nil, err
		}
		net := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			// One request of many entries at a time. Raft's pipeline gains little over that, and leaves a goroutine
			// behind, for which Shutdown waits, when raftlog.Store ends the goroutine that feeds it.
			Stream: stream{c.peers.Streams(), c}, MaxPool: 4, MaxRPCsInFlight: 1, Timeout: raftTimeout,
			Logger:                  rc.Logger,
			MsgpackUseNewTimeFormat: true,
		})
		c.transport, transport = net, newCareful(c, net, running)
	}
	log := raftlog.Store{
		WAL: c.wal, Fail: c.fail, Applied: func() uint64 { return c.machine.view.Load().Index() },
		Snapshots: c.snaps, Watch: &c.watch, Raft: running, Damaged: c.logDamaged,
	}
	c.marked.reached(min(c.commitIndex.Last(), c.machine.view.Load().Index()))
	if c.raft, err = raftlog.NewRaft(rc, c.machine, log, c.snaps, transport); err != nil {
		return nil, errors.Join(c.Err(), err)
	}
	seen := make(chan raft.Observation, 64)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	c.raft.RegisterObserver(observer)
	c.own.Go(c.endRaft)
	c.own.Go(func() { c.followLeadership(changes, seen) })
	c.own.Go(c.keepCommitIndex)
	c.own.Go(c.keepCompact)
	c.own.Go(c.watchDisk)
	c.replica.Run()
	if c.peers != nil {
		c.peers.Serve()
		c.own.Go(c.manage)
	}
	if sole && c.peers != nil {
		c.standAlone(transport)
	}
	c.log.Info("cluster open", "node", cfg.Node, "cluster", id.Cluster, "index", c.machine.view.Load().Index(),
		"boot", boot)
	if sole {
		// The node elects itself within a moment, so callers need not see it without a leader. If the disk does not
		// store its vote, reads work anyway.
		wait := time.NewTimer(c.cfg.LeaderWait)
		defer wait.Stop()
		if _, err := c.ready(context.Background(), wait.C); err != nil {
			c.log.Warn("the only voter is not the leader yet", "err", err)
		}
	}
	return c, nil
}

// Close ends the node: leadership moves to another voter if there is one, raft stops, all goroutines end, the directory
// is unlocked. A write that was not done returns syscall.EAGAIN. Open files can still be read.
func (c *Cluster) Close() error {
	c.once.Do(func() {
		c.ownMu.Lock()
		c.stopping.Store(true)
		c.ownMu.Unlock()
		c.flight.Wait()
		if voters, _ := c.voters(); c.raft.State() == raft.Leader && len(voters) > 1 {
			ctx, cancel := context.WithTimeout(context.Background(), raftTimeout)
			defer cancel()
			if err := c.answer(ctx, c.raft.LeadershipTransfer()); err != nil {
				c.log.Warn("leadership was not transferred", "err", err)
			}
		}
		c.compactAtStop()
		c.closed = c.release()
		c.log.Info("cluster closed", "node", c.cfg.Node)
	})
	return c.closed
}

// release ends what Open has started so far, in reverse order.
func (c *Cluster) release() error {
	c.stopping.Store(true)
	var errs []error
	// Raft ends first: the parts below must exist as long as it can apply or append.
	c.ownMu.Lock()
	c.die()
	c.ownMu.Unlock()
	if c.blobs != nil {
		c.replica.Close()
	}
	close(c.stop)
	c.own.Wait()
	if c.transport != nil {
		errs = append(errs, c.transport.Close())
	}
	if c.peers != nil {
		errs = append(errs, c.peers.Close())
	} else {
		for _, l := range c.cfg.Peer {
			errs = append(errs, l.Close())
		}
	}
	if c.commitIndex != nil {
		if c.raft != nil && c.Err() == nil {
			// Optional: without it the file has an older commit index, as after a crash.
			errs = append(errs, c.commitIndex.Set(c.machine.view.Load().Index()))
		}
		errs = append(errs, c.commitIndex.Close())
	}
	if c.blobs != nil {
		errs = append(errs, c.replica.Release())
	}
	if c.wal != nil {
		errs = append(errs, c.wal.Close())
	}
	errs = append(errs, c.lock.Close())
	c.lines.Close()
	c.fail(nil)
	return errors.Join(errs...)
}

// background runs f in a goroutine that Close waits for. Once Close has begun to wait, it does not run f and returns
// false; reads continue after Close and may call it.
func (c *Cluster) background(f func()) bool {
	c.ownMu.RLock()
	defer c.ownMu.RUnlock()
	if c.life.Err() != nil {
		return false
	}
	c.own.Go(f)
	return true
}

// fail stops the node: it accepts no more writes, and Err gives the reason to those who wait for Done. Only the first
// call counts.
func (c *Cluster) fail(err error) {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	select {
	case <-c.done:
		return
	default:
	}
	if err != nil {
		c.log.Error("cluster stopped: this node cannot continue", "err", err)
	}
	c.failed = err
	close(c.done)
}

// Done is closed when the node cannot continue (Err gives the reason: an entry of the log that this program does not
// understand, a disk that cannot sync) or was closed (Err is nil). The owner must then Close it and end the process.
func (c *Cluster) Done() <-chan struct{} { return c.done }

// Err is the reason why the node cannot continue; nil while it can, and after Close.
func (c *Cluster) Err() error {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	return c.failed
}

// ID is the cluster's identity: random, made by Bootstrap and the same on all nodes.
func (c *Cluster) ID() string { return c.id.Cluster }

// endRaft stops raft when the node closes or cannot continue: then the node must neither lead nor vote, and callers
// that wait for raft must not wait for ever.
func (c *Cluster) endRaft() {
	select {
	case <-c.stop:
	case <-c.done:
	}
	c.raft.Shutdown().Error() // always nil; waits for the end
	close(c.ended)
}

// leadership holds the current leader and wakes goroutines that wait for a change.
type leadership struct {
	mu     sync.Mutex
	leader string // "" if none is known; this node only once it can take commands
	change wake.Broadcast
}

func (l *leadership) set(leader string) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leader == leader {
		return false
	}
	l.leader = leader
	l.change.Wake()
	return true
}

func (l *leadership) get() (leader string, change <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader, l.change.Next()
}

// followLeadership empties the channel that raft blocks on, and tracks the leader.
func (c *Cluster) followLeadership(changes <-chan bool, seen <-chan raft.Observation) {
	own := false
	for {
		select {
		case own = <-changes:
		case <-seen: // the observation may be outdated
		case <-c.look:
		case <-c.stop:
			return
		}
		leader := c.cfg.Node
		if c.watch.Hung() {
			continue // see watchDisk
		}
		if !own {
			_, id := c.raft.LeaderWithID()
			if leader = string(id); leader == c.cfg.Node {
				leader = ""
			}
		}
		switch changed := c.lead.set(leader); {
		case changed && leader == "":
			c.log.Warn("no leader: reads continue, writes wait for one", "node", c.cfg.Node, "term",
				c.raft.CurrentTerm())
		case changed:
			c.log.Info("leadership", "node", c.cfg.Node, "leader", leader, "term", c.raft.CurrentTerm())
		}
	}
}

// standAlone makes the only voter the leader at once: it sends itself the message that a leader sends to its successor,
// instead of waiting for an election timeout.
func (c *Cluster) standAlone(t raft.Transport) {
	id := raft.ServerID(c.cfg.Node)
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: t.EncodePeer(id, raft.ServerAddress(id)),
	}}
	if err := t.TimeoutNow(id, raft.ServerAddress(id), req, &raft.TimeoutNowResponse{}); err != nil {
		c.log.Warn("the only voter waits for the election timeout", "err", err)
	}
}

// stopped is the error for writes: another node, or this one after a restart, may accept them.
func (c *Cluster) stopped() error {
	return fmt.Errorf("this node has stopped (%v): %w", c.Err(), syscall.EAGAIN)
}

// ready waits until there is a leader that this node can send a command to, itself or another, and returns its name.
func (c *Cluster) ready(ctx context.Context, deadline <-chan time.Time) (string, error) {
	for {
		leader, change := c.lead.get()
		switch {
		case c.Err() != nil:
			return "", c.stopped()
		case c.stopping.Load():
			return "", fmt.Errorf("this node is stopping: %w", syscall.EAGAIN)
		case leader == c.cfg.Node:
			return leader, nil
		}
		var up <-chan time.Time
		if leader != "" {
			if c.Up(leader) {
				return leader, nil
			}
			up = time.After(10 * time.Millisecond)
		}
		select {
		case <-change:
		case <-up:
		case <-ctx.Done():
			return "", ctx.Err()
		case <-deadline:
			return "", peer.ErrNoMajority
		case <-c.done:
		case <-c.stop:
		}
	}
}

// commitIndexEvery is the minimum time between two writes of the commit index file, so that one sync covers all commits
// in between.
const commitIndexEvery = 50 * time.Millisecond

// keepCommitIndex stores a lower bound of what is committed, soon after it was applied. With other voters it does so at
// once, and only then does this node report to them that it shows the entry. So a write that was acknowledged while all
// were connected is visible again on any of them, even if it starts alone after a power cut.
func (c *Cluster) keepCommitIndex() {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-c.machine.moved:
		}
		index := c.machine.view.Load().Index()
		if err := c.commitIndex.Set(index); err != nil {
			// The old number is still a valid lower bound.
			c.log.Warn("could not write the commit index", "err", err)
			c.machine.moved.Raise() // retry
		} else {
			c.marked.reached(index)
			if len(c.others()) > 0 {
				continue
			}
		}
		tick.Reset(commitIndexEvery)
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
	}
}

// shown is the newest log entry whose effect is readable here, also after a power cut.
func (c *Cluster) shown() uint64 {
	c.marked.mu.Lock()
	defer c.marked.mu.Unlock()
	return c.marked.index
}
