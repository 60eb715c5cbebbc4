package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"casemate/cluster/raftlog"
	"casemate/cluster/state"
	"casemate/cluster/wake"
	"casemate/cluster/watch"
)

// machine applies raft's log to the state, and publishes an immutable copy of the state after each batch of entries.
//
// Readers take the copy with one atomic load and then block neither the writer nor each other: with a lock every pull
// would wait for the longest apply (removing a directory of a million names, dropping an import), and a copy costs
// about 1 µs per batch.
type machine struct {
	fail  func(error)
	hub   watch.Hub
	moved wake.Flag // the state has moved

	// Callbacks of the owner, called by raft's FSM goroutine when blobs become known or unknown, before the new state
	// is visible; they must not block. Nil: no callback.
	added     func([]state.Digest)
	collected func([]state.Digest, uint64)
	published func() // the new state is visible; actions that read the state must wait for this
	replaced  func() // the whole state was replaced by a leader's snapshot
	applied   func() // a newer state is visible

	waiters waiters
	sums    sums
	tallies tallies

	log   atomic.Int64 // bytes of commands after the newest snapshot
	limit atomic.Int64 // bound of log, at which
	grown wake.Flag    // is raised
	life  context.Context

	// Owned by raft's FSM goroutine, and by Open before raft runs.
	st *state.State

	dead atomic.Pointer[error]       // set by an unknown entry: nothing is applied any more
	view atomic.Pointer[state.State] // immutable
}

var (
	_ raft.BatchingFSM = (*machine)(nil)
	_ raft.FSM         = (*machine)(nil)
)

func newMachine(fail func(error)) *machine {
	m := &machine{
		fail: fail, moved: wake.NewFlag(), grown: wake.NewFlag(), life: context.Background(), st: state.New(),
	}
	m.limit.Store(math.MaxInt64)
	m.publish(nil)
	return m
}

// publish makes the state visible. notify notifies the watchers, before waiting writers continue (see Tree.Watch); nil:
// no watchers.
func (m *machine) publish(notify func()) {
	m.view.Store(m.st.Clone())
	if notify != nil {
		notify()
	}
	m.waiters.reached(m.st.Index())
	if m.applied != nil {
		m.applied()
	}
	m.moved.Raise()
}

// apply applies one entry unless recover has applied it already; never out of order, never twice.
func (m *machine) apply(l *raft.Log) (r state.Result) {
	if dead := m.dead.Load(); dead != nil {
		return state.Result{Fatal: *dead}
	}
	if l.Type != raft.LogCommand || l.Index <= m.st.Index() {
		return r
	}
	if r = m.st.Apply(l.Index, l.Data); r.Fatal != nil {
		m.dead.Store(&r.Fatal)
		return r
	}
	m.log.Add(int64(len(l.Data)))
	m.tallies.update(&r)
	m.sums.record(m.st)
	return r
}

// ApplyBatch implements raft.BatchingFSM. The copy is published before raft responds to the proposers of these entries
// (promise 3).
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	var changed [][]string
	blobs := false
	for i, l := range logs {
		r := m.apply(l)
		answers[i] = r
		m.waiters.answer(r)
		if len(r.Added) > 0 && m.added != nil {
			m.added(r.Added)
		}
		if len(r.Collected) > 0 && m.collected != nil {
			m.collected(r.Collected, r.Index)
		}
		blobs = blobs || len(r.Added)+len(r.Collected) > 0
		if len(r.Changed) > 0 {
			changed = append(changed, r.Changed)
		}
	}
	m.publish(func() {
		for _, names := range changed {
			m.hub.Notify(names)
		}
	})
	if blobs && m.published != nil {
		m.published()
	}
	if m.log.Load() >= m.limit.Load() {
		m.grown.Raise()
	}
	if dead := m.dead.Load(); dead != nil {
		m.fail(*dead)
	}
	return answers
}

// Apply implements raft.FSM.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot implements raft.FSM. It returns at once; the snapshot is written concurrently with Apply.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if dead := m.dead.Load(); dead != nil {
		// Raft considers the entry applied: a snapshot would skip it for ever (promise 8).
		return nil, *dead
	}
	return persist{m.st.Snapshot(), m, m.log.Load(), m.life}, nil
}

// Restore implements raft.FSM: a leader has sent its snapshot.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	st, err := restore(r)
	if err != nil {
		return err
	}
	if own := m.st; st.Index() < own.Index() || st.Index() == own.Index() && st.Sum() != own.Sum() &&
		own.Sum() != (state.Sum{}) {
		err := &raftlog.Contradiction{At: st.Index(), Applied: own.Index()}
		m.fail(err)
		return err
	}
	m.st = st
	m.log.Store(0)
	m.tallies.recount(st)
	m.sums.clear()
	m.sums.record(st)
	m.publish(m.hub.NotifyAll)
	if m.replaced != nil {
		m.replaced()
	}
	return nil
}

// restore reads a state and then r to its end, where the checksum is.
func restore(r io.Reader) (*state.State, error) {
	st, err := state.Restore(r)
	if err != nil {
		return nil, err
	}
	switch n, err := io.Copy(io.Discard, r); {
	case err != nil:
		return nil, err
	case n > 0:
		return nil, fmt.Errorf("%d bytes after the state: %w", n, raftlog.ErrDamaged)
	}
	return st, nil
}

// recover brings the machine to the newest state that is known to be committed: the newest intact snapshot, then the
// log up to the commit index file. Raft delivers the same entries again once it knows that they are committed, and
// apply skips them. It returns the voters.
//
// A log with a damaged entry is cut off before it if other nodes have the rest: see [Cluster.cutLog].
func (c *Cluster) recover() (voters []raft.ServerID, err error) {
	snaps := c.snaps
	cut, err := readFloor(c.cfg)
	if err != nil {
		return nil, fmt.Errorf("the file %s is damaged: %s: %w", filepath.Join(raftDir, floorFile), wayOut, err)
	}
	c.floor.raise(cut)
	names, err := snaps.Names()
	if err != nil {
		return nil, err
	}
	metas, err := snaps.List()
	if err != nil {
		return nil, err
	}
	if len(metas) == 0 && len(names) > 0 {
		return nil, fmt.Errorf("the snapshots are damaged: %s: %w", wayOut, raftlog.ErrDamaged)
	}
	m := c.machine
	var conf raft.Configuration
	var at, committed uint64 // index of the snapshot used; index up to which all is committed
	var damage error
	for i, meta := range metas {
		if i == 0 {
			committed = meta.Index
		}
		_, r, err := snaps.Open(meta.ID)
		if err == nil {
			m.st, err = restore(r)
			r.Close()
		}
		if err == nil {
			m.tallies.recount(m.st)
			at, conf, damage = meta.Index, meta.Configuration, nil
			break
		}
		c.log.Warn("snapshot is damaged, trying the previous one", "snapshot", meta.ID, "err", err)
		damage = err
	}
	if damage != nil {
		return nil, fmt.Errorf("the snapshots are damaged: %s: %w", wayOut, damage)
	}
	committed = max(committed, c.commitIndex.Last())
	first, err := c.wal.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := c.wal.LastIndex()
	if err != nil {
		return nil, err
	}
	if last != 0 && last < at && at >= committed {
		// A leader had sent its snapshot, and the process ended before the log that it replaces was cleared. Raft
		// continues after the snapshot.
		if err := c.wal.DeleteRange(first, last); err != nil {
			return nil, err
		}
		first, last = 0, 0
	}
	if last < committed && (last != 0 || at < committed) && cut.Index < committed || first > at+1 {
		what := fmt.Sprintf("the raft log has the entries %d to %d", first, last)
		if last == 0 {
			what = "the raft log is empty"
		}
		if len(names) == 0 && first > 1 {
			what += " and the snapshots are missing"
		}
		need := committed
		if first > at+1 {
			need = max(need, first-1)
		}
		return nil, fmt.Errorf("%s, but the entries %d to %d are needed: %s: %w", what, at+1, need, wayOut,
			raftlog.ErrDamaged)
	}
	entry := func(i uint64) (l raft.Log, err error) {
		if err = raftlog.ReadEntry(c.wal, i, &l); err != nil {
			err = fmt.Errorf("%w: %s", err, wayOut)
		}
		return l, err
	}
	for i := max(first, at+1); i <= last && last != 0; i++ {
		l, err := entry(i)
		if err == nil && l.Type == raft.LogConfiguration {
			// A configuration is in force as soon as it is in the log, committed or not (raft dissertation, 4.1).
			var next raft.Configuration
			if next, err = decodeConfiguration(l.Data); err != nil {
				err = fmt.Errorf("entry %d of the raft log is damaged: %s: %w", i, wayOut, err)
			} else {
				conf = next
			}
		}
		if errors.Is(err, raftlog.ErrDamaged) && (c.othersIn(conf) || c.othersBehind(i+1, last)) {
			if err := c.cutLog(i, last, err); err != nil {
				return nil, err
			}
			last = i - 1
			break
		}
		if err != nil {
			return nil, err
		}
		if i <= committed {
			if r := m.apply(&l); r.Fatal != nil {
				return nil, r.Fatal
			}
		}
	}
	for _, s := range conf.Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s.ID)
		}
	}
	if len(voters) == 1 && voters[0] == raft.ServerID(c.cfg.Node) {
		// The only voter is its own majority: everything in its log is committed, acknowledged or not.
		for i := max(committed, at) + 1; i <= last; i++ {
			l, err := entry(i)
			if err != nil {
				return nil, err
			}
			if r := m.apply(&l); r.Fatal != nil {
				return nil, r.Fatal
			}
		}
	}
	m.publish(nil)
	return voters, nil
}

// wayOut tells what to do with a data directory that cannot be opened any more.
const wayOut = "if the cluster has other nodes, run casemate member remove for this one there and join it again, " +
	"under another name and " +
	"with a new data directory; if it has none, restore a backup into a new data directory"

// othersIn reports whether other nodes have the entries of this node's log.
func (c *Cluster) othersIn(conf raft.Configuration) bool {
	if len(c.cfg.Peer) == 0 {
		return false
	}
	for _, s := range conf.Servers {
		if s.Suffrage == raft.Voter && s.ID != raft.ServerID(c.cfg.Node) {
			return true
		}
	}
	return false
}

// othersBehind is othersIn for the configurations in the log after a damaged entry.
func (c *Cluster) othersBehind(from, last uint64) bool {
	for i := from; i <= last; i++ {
		var l raft.Log
		if raftlog.ReadEntry(c.wal, i, &l) != nil || l.Type != raft.LogConfiguration {
			continue
		}
		if conf, err := decodeConfiguration(l.Data); err == nil && c.othersIn(conf) {
			return true
		}
	}
	return false
}

// cutLog removes a damaged entry and all entries after it from the log: the leader sends them again, as entries or in a
// snapshot. Until this node has them again it votes only for nodes that have them (see floor); this is durable first.
func (c *Cluster) cutLog(from, last uint64, why error) error {
	term, err := c.wal.GetUint64([]byte("CurrentTerm"))
	if err != nil {
		return err
	}
	c.log.Error("the log is damaged: this node fetches the rest from the other nodes",
		"entry", from, "last", last, "err", why)
	mark := floorMark{last, term}
	if err := writeFloor(c.cfg, mark); err != nil {
		return err
	}
	c.floor.raise(mark)
	return c.wal.DeleteRange(from, last)
}

// logDamaged handles an entry that is in the state and damaged in the log. After a snapshot no node needs the entry.
func (c *Cluster) logDamaged(err error) {
	if !c.snapping.CompareAndSwap(false, true) {
		return
	}
	c.log.Error("the log is damaged: nodes that need the entry get a snapshot", "err", err)
	if !c.background(func() {
		defer c.snapping.Store(false)
		if err := c.answer(c.life, c.raft.Snapshot()); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			c.log.Warn("snapshot", "err", err)
		}
	}) {
		c.snapping.Store(false)
	}
}

// decodeConfiguration is raft's function, which panics on damaged data.
func decodeConfiguration(data []byte) (conf raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("configuration: %v: %w", p, raftlog.ErrDamaged)
		}
	}()
	return raft.DecodeConfiguration(data), nil
}
