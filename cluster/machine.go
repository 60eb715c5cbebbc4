package cluster

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"casemate/cluster/state"
)

// machine applies the log to the state for raft, and publishes an immutable copy of it after each batch of entries.
//
// Readers take the copy with one atomic load and then neither wait nor are waited for: a lock would make every pull wait for the longest apply
// (removing a directory of a million names, dropping an import), and a copy costs a constant 1 µs or so per batch.
type machine struct {
	fail  func(error)
	hub   hub
	moved chan struct{} // capacity 1: the state has moved since it was last received from

	// What the owner does when blobs become known or may go, called by raft's FSM goroutine before anybody can see the new state; they must not wait. Nil: nothing.
	added     func([]state.Digest)
	collected func([]state.Digest, uint64)
	published func() // now everybody can see it: to be acted on not before, since what looks at the state would find the old one
	replaced  func() // the whole state is another one: a leader's snapshot

	waiters waiters

	// Owned by raft's FSM goroutine, and by Open before raft runs.
	st *state.State

	dead atomic.Pointer[error]       // an entry was not understood: nothing is applied any more
	view atomic.Pointer[state.State] // nobody applies to it
}

var (
	_ raft.BatchingFSM = (*machine)(nil)
	_ raft.FSM         = (*machine)(nil)
)

func newMachine(fail func(error)) *machine {
	m := &machine{fail: fail, moved: make(chan struct{}, 1), st: state.New()}
	m.publish()
	return m
}

func (m *machine) publish() {
	m.view.Store(m.st.Clone())
	m.waiters.reached(m.st.Index())
	select {
	case m.moved <- struct{}{}:
	default:
	}
}

// apply applies one entry unless recover has done it already. Never out of order, never twice.
func (m *machine) apply(l *raft.Log) (r state.Result) {
	if dead := m.dead.Load(); dead != nil {
		return state.Result{Fatal: *dead}
	}
	if l.Type != raft.LogCommand || l.Index <= m.st.Index() {
		return r
	}
	if r = m.st.Apply(l.Index, l.Data); r.Fatal != nil {
		m.dead.Store(&r.Fatal)
	}
	return r
}

// ApplyBatch implements raft.BatchingFSM. The copy is published before raft answers those who wait for these entries (promise 3).
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
	m.publish()
	if blobs && m.published != nil {
		m.published()
	}
	for _, names := range changed {
		m.hub.notify(names)
	}
	if dead := m.dead.Load(); dead != nil {
		m.fail(*dead)
	}
	return answers
}

// Apply implements raft.FSM.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// Snapshot implements raft.FSM. It returns at once; writing goes on beside Apply.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if dead := m.dead.Load(); dead != nil {
		// Raft believes the entry to be applied: a snapshot would skip it for ever (promise 8).
		return nil, *dead
	}
	return persist{m.st.Snapshot()}, nil
}

// Restore implements raft.FSM: a leader has sent its snapshot, or a backup is read back.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	st, err := restore(r)
	if err != nil {
		return err
	}
	m.st = st
	m.publish()
	if m.replaced != nil {
		m.replaced()
	}
	m.hub.notifyAll()
	return nil
}

// restore reads a state and then to the end of r, where the checksum is.
func restore(r io.Reader) (*state.State, error) {
	st, err := state.Restore(r)
	if err != nil {
		return nil, err
	}
	switch n, err := io.Copy(io.Discard, r); {
	case err != nil:
		return nil, err
	case n > 0:
		return nil, fmt.Errorf("%d bytes behind the state: %w", n, errDamaged)
	}
	return st, nil
}

type persist struct{ st io.WriterTo }

// Persist implements raft.FSMSnapshot.
func (p persist) Persist(sink raft.SnapshotSink) error {
	if _, err := p.st.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (p persist) Release() {}

// recover brings the machine to the newest state that is known to be committed: the newest snapshot that is whole, then the log up to the mark.
// Raft will hand out the same entries again once it knows by itself that they are committed, and apply passes over them. It returns the voters.
func (c *Cluster) recover(snaps *snapshots) (voters []raft.ServerID, err error) {
	names, err := snaps.names()
	if err != nil {
		return nil, err
	}
	metas, err := snaps.List()
	if err != nil {
		return nil, err
	}
	if len(metas) == 0 && len(names) > 0 {
		return nil, fmt.Errorf("its snapshots are damaged, restore a backup into a new directory: %w", errDamaged)
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
			at, conf, damage = meta.Index, meta.Configuration, nil
			break
		}
		c.log.Warn("snapshot damaged, trying the one before", "snapshot", meta.ID, "err", err)
		damage = err
	}
	if damage != nil {
		return nil, fmt.Errorf("its snapshots are damaged, restore a backup into a new directory: %w", damage)
	}
	committed = max(committed, c.mark.last)
	first, err := c.wal.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := c.wal.LastIndex()
	if err != nil {
		return nil, err
	}
	if last != 0 && last < at && at >= committed {
		// A leader had sent its snapshot, and the end came before the log, which it replaces, was cleared. Raft goes on behind the snapshot.
		if err := c.wal.DeleteRange(first, last); err != nil {
			return nil, err
		}
		first, last = 0, 0
	}
	if last < committed && (last != 0 || at < committed) || first > at+1 {
		return nil, fmt.Errorf("its raft log has the entries %d to %d, but %d to %d are needed: restore a backup into a new directory: %w", first, last, at+1, committed, errDamaged)
	}
	entry := func(i uint64) (l raft.Log, err error) {
		if err = c.wal.GetLog(i, &l); err != nil {
			err = fmt.Errorf("entry %d of its raft log is damaged, restore a backup into a new directory: %w", i, err)
		}
		return l, err
	}
	for i := max(first, at+1); i <= last && last != 0; i++ {
		l, err := entry(i)
		if err != nil {
			return nil, err
		}
		if l.Type == raft.LogConfiguration {
			// In force as soon as it stands in the log, committed or not (raft dissertation, 4.1).
			conf, err = decodeConfiguration(l.Data)
			if err != nil {
				return nil, fmt.Errorf("entry %d of its raft log is damaged, restore a backup into a new directory: %w", i, err)
			}
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
		// The only voter is its own majority: what its log holds is committed, acknowledged a moment before the end or not.
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
	m.publish()
	return voters, nil
}

// decodeConfiguration is raft's, which panics on damage.
func decodeConfiguration(data []byte) (conf raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("configuration: %v: %w", p, errDamaged)
		}
	}()
	return raft.DecodeConfiguration(data), nil
}
