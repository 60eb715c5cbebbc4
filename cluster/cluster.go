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
	lines   *lograte.Limit // of what outsiders cause
	id      identity
	opened  time.Time
	members *member.Members
	blobs   *blob.Dir // of replica

	// In the order in which Close ends them, last first.
	lock        io.Closer
	wal         *raftlog.Log
	commitIndex *disk.Watermark
	marked      waiters // how far commitIndex is
	machine     *machine
	replica     *replica.Store
	peers       *peer.Port // nil without a peer port
	transport   io.Closer
	raft        *raft.Raft
	snaps       *raftlog.Snapshots
	look        wake.Flag     // raft has to be asked who leads
	watch       disk.Watchdog // of the log's disk
	floor       floor
	followers   followers
	snapping    atomic.Bool // a snapshot is being made because an entry of the log is damaged
	neighbours  neighbours
	seqs        *sequences
	lead        leadership
	learners    map[raft.ServerID]uint64 // where the leader was when it last looked at each; owned by manage
	reading     confirms                 // misses that are being confirmed
	own         sync.WaitGroup           // our goroutines
	ownMu       sync.RWMutex             // see background
	life        context.Context
	die         context.CancelFunc // ends what waits for other nodes

	stopping atomic.Bool
	flight   sync.WaitGroup // commands that raft has to answer; none begins once stopping is set, under ownMu
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
	defer func() { err = tell("open", cfg.Dir, err) }()
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
		return nil, fmt.Errorf("its disk failed: %w", err) // perhaps only now
	} else if err != nil {
		return nil, fmt.Errorf("its raft log is damaged: %s: %w", wayOut, err)
	}
	if c.commitIndex, err = disk.OpenWatermark(cfg.FS, filepath.Join(cfg.Dir, raftDir, "commit"), &c.watch); err != nil {
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
	// The number of this start is durable before it is used: no two processes of this node ever propose under the same
	// one (promise 11).
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
	if cfg.Peer == nil {
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
			// One request at a time, of many entries. Raft's pipeline wins little over that, and leaves a goroutine
			// behind, for which Shutdown waits, when raftlog.Store ends the one that feeds it.
			Stream: stream{c.peers.Streams(), c}, MaxPool: 4, MaxRPCsInFlight: 1, Timeout: raftTimeout, Logger: rc.Logger,
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
	c.log.Info("cluster open", "node", cfg.Node, "cluster", id.Cluster, "index", c.machine.view.Load().Index(), "boot", boot)
	if sole {
		// It elects itself within a moment, so nobody need see it without a leader. A disk that does not take its vote
		// does not keep reads from working.
		wait := time.NewTimer(c.cfg.LeaderWait)
		defer wait.Stop()
		if _, err := c.ready(context.Background(), wait.C); err != nil {
			c.log.Warn("the only voter is not the leader yet", "err", err)
		}
	}
	return c, nil
}

// Close ends the node: leadership goes to another voter if there is one, raft stops, all goroutines end, the directory
// is unlocked. Writes under way are syscall.EAGAIN or have happened. Reads of what is open go on.
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
				c.log.Warn("leadership not handed over", "err", err)
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
	// Raft first, and waited for: nothing below may go away while it can still apply or append.
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
	} else if c.cfg.Peer != nil {
		errs = append(errs, c.cfg.Peer.Close())
	}
	if c.commitIndex != nil {
		if c.raft != nil && c.Err() == nil {
			// Convenience only, as after a crash there is an older mark.
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

// background runs f in a goroutine that Close waits for. Once Close has begun to wait it does not, and returns false:
// reads go on after Close, and may come here.
func (c *Cluster) background(f func()) bool {
	c.ownMu.RLock()
	defer c.ownMu.RUnlock()
	if c.life.Err() != nil {
		return false
	}
	c.own.Go(f)
	return true
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

// Done is closed when the node cannot go on (Err says why: an entry of the log that this program does not understand, a
// disk that cannot sync) or was closed (Err is nil). The owner must then Close it and end the process.
func (c *Cluster) Done() <-chan struct{} { return c.done }

// Err is why the node cannot go on; nil while it can, and after Close.
func (c *Cluster) Err() error {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	return c.failed
}

// ID is the cluster's identity, random, made by Bootstrap and the same on all nodes.
func (c *Cluster) ID() string { return c.id.Cluster }

// endRaft ends raft with the node, and also when the node cannot go on: it must neither lead nor vote then, and who
// waits for an answer must not wait for ever.
func (c *Cluster) endRaft() {
	select {
	case <-c.stop:
	case <-c.done:
	}
	c.raft.Shutdown().Error() // nil: it only waits
	close(c.ended)
}

// leadership tells who waits for it when there is another leader.
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

// followLeadership empties the channel that raft blocks on, and hears of other leaders.
func (c *Cluster) followLeadership(changes <-chan bool, seen <-chan raft.Observation) {
	own := false
	for {
		select {
		case own = <-changes:
		case <-seen: // what it says may be old by now
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
			c.log.Warn("no leader: reading goes on, writing waits for one", "node", c.cfg.Node, "term", c.raft.CurrentTerm())
		case changed:
			c.log.Info("leadership", "node", c.cfg.Node, "leader", leader, "term", c.raft.CurrentTerm())
		}
	}
}

// standAlone makes the only voter the leader at once: it tells itself what a leader that leaves tells its heir. Waiting
// for others to be heard would be in vain.
func (c *Cluster) standAlone(t raft.Transport) {
	id := raft.ServerID(c.cfg.Node)
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: t.EncodePeer(id, raft.ServerAddress(id)),
	}}
	if err := t.TimeoutNow(id, raft.ServerAddress(id), req, &raft.TimeoutNowResponse{}); err != nil {
		c.log.Warn("the only voter waits for the usual time to elect itself", "err", err)
	}
}

// stopped is for writes: another node, or this one after a restart, may take them.
func (c *Cluster) stopped() error {
	return fmt.Errorf("this node has stopped (%v): %w", c.Err(), syscall.EAGAIN)
}

// ready waits until there is a leader that this node can hand a command to, itself or another, and returns its name.
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

// commitIndexEvery is the least time between two writes of the commit index file: one sync for all commits between.
const commitIndexEvery = 50 * time.Millisecond

// keepCommitIndex makes a lower bound of what is committed durable, soon after it was applied. With other voters it
// does so at once, and only then does this node tell them that it shows the entry: so what was acknowledged while all
// were connected shows again on any of them, should it start alone after a power cut.
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
			// The old number still is a lower bound, and what was promised of it.
			c.log.Warn("commit index not written", "err", err)
			c.machine.moved.Raise() // once more
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

// shown is the newest log entry whose effect can be read here, and can again after a power cut.
func (c *Cluster) shown() uint64 {
	c.marked.mu.Lock()
	defer c.marked.mu.Unlock()
	return c.marked.index
}
