package cluster

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"casemate/cluster/disk"
)

// logStore is the log as raft sees it. Raft answers an error of its disk by a panic in one of its goroutines (term,
// vote, reading an entry) or by electing itself again, for ever (appending; raft-wal refuses all appends once a segment
// could not be rolled over). Here any such error stops the node: it says so by Done, raft's goroutine ends, and what
// the disk really has is found out by the next Open, where recovery is the normal path.
//
// It also sees to what raft believes without a look: that entries are what was written (see withSum), and that a leader
// takes nothing back that was applied here.
type logStore struct {
	*wal.WAL
	fail    func(error)
	applied func() uint64              // newest entry in the state
	snapped func() uint64              // the newest snapshot's
	older   func() uint64              // the one's before, 0 if there is none
	watch   *disk.Watchdog             // of the disk
	raft    *atomic.Pointer[raft.Raft] // nil until it runs
	rotten  func(error)                // an entry that is applied, and that only others could need, is damaged
}

var (
	_ raft.LogStore          = logStore{}
	_ raft.StableStore       = logStore{}
	_ raft.MonotonicLogStore = logStore{}
)

// plainStore is a log that no raft runs on.
func plainStore(log *wal.WAL) logStore {
	none := func() uint64 { return 0 }
	return logStore{
		WAL: log, fail: func(error) {}, applied: none, snapped: none, older: none, watch: &disk.Watchdog{}, raft: new(atomic.Pointer[raft.Raft]),
		rotten: func(error) {},
	}
}

// abandon ends raft's calling goroutine, whose deferred functions run, so that Shutdown does not wait for it. NewRaft
// calls from a goroutine of its own too.
func (l logStore) abandon(what string, err error) {
	l.fail(fmt.Errorf("%s of the raft log: %w", what, err))
	runtime.Goexit()
}

// GetLog implements raft.LogStore. Where a leader reads for others an entry that is damaged here, and that is in its
// own state, it says that the entry is not there: then they get a snapshot.
func (l logStore) GetLog(index uint64, log *raft.Log) error {
	end := l.watch.Begin()
	err := readEntry(l.WAL, index, log)
	end()
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	if r := l.raft.Load(); r != nil && errors.Is(err, errDamaged) && r.State() == raft.Leader && index <= r.AppliedIndex() {
		l.rotten(err)
		return raft.ErrLogNotFound
	}
	l.abandon("read", err)
	return err
}

// StoreLog implements raft.LogStore.
func (l logStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore. Raft answers those who wait with the error, so it is handed on.
func (l logStore) StoreLogs(logs []*raft.Log) error {
	sealed := make([]*raft.Log, len(logs))
	for i, log := range logs {
		sealed[i] = withSum(log)
	}
	defer l.watch.Begin()()
	err := l.WAL.StoreLogs(sealed)
	if err != nil {
		l.fail(fmt.Errorf("append to the raft log: %w", err))
	}
	return err
}

// DeleteRange implements raft.LogStore. Raft deletes what a snapshot has made superfluous, and what a leader's log
// contradicts. The second must not reach what is applied: it is committed, and a leader that does not have it was
// elected by disks that have forgotten it. The first must not reach what the older of the two snapshots is good for
// nothing without; where a leader's snapshot replaces the log, all of it goes.
func (l logStore) DeleteRange(low, high uint64) error {
	if last, err := l.LastIndex(); err == nil && high < last && high <= l.snapped() {
		if high = min(high, l.older()); high < low {
			return nil
		}
	}
	if applied := l.applied(); low <= applied && low > l.snapped() {
		l.abandon("truncation", &contradiction{low, applied})
	}
	err := l.WAL.DeleteRange(low, high)
	if err != nil {
		l.fail(fmt.Errorf("truncate the raft log: %w", err))
	}
	return err
}

// contradiction is a leader whose log is not that of this node where this node has applied it.
type contradiction struct{ at, applied uint64 }

// Error implements error.
func (e *contradiction) Error() string {
	return fmt.Sprintf("the leader has another entry %d than the one that this node has applied (its newest is %d): disks were put back to "+
		"an older state, here or on a majority of the nodes. Nothing is changed here, and this copy may be the newer one: see "+
		"\"Nodes that differ\" in docs/troubleshooting.md before you start it again", e.at, e.applied)
}

// Set implements raft.StableStore: the vote.
func (l logStore) Set(key, value []byte) error {
	defer l.watch.Begin()()
	if err := l.WAL.Set(key, value); err != nil {
		l.abandon("vote", err)
	}
	return nil
}

// SetUint64 implements raft.StableStore: the term.
func (l logStore) SetUint64(key []byte, value uint64) error {
	defer l.watch.Begin()()
	if err := l.WAL.SetUint64(key, value); err != nil {
		l.abandon("term", err)
	}
	return nil
}

// newRaft is raft.NewRaft in a goroutine that logStore can end.
func newRaft(rc *raft.Config, fsm raft.FSM, log logStore, snaps raft.SnapshotStore, transport raft.Transport) (r *raft.Raft, err error) {
	err = errors.New("the raft log cannot be used")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r, err = raft.NewRaft(rc, fsm, log, log, snaps, transport); err == nil {
			log.raft.Store(r)
		}
	}()
	<-done
	return r, err
}
