package raftlog

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"casemate/cluster/disk"
)

// Store is the log as raft sees it. Raft answers an error of its disk by a panic in one of its goroutines (term,
// vote, reading an entry) or by electing itself again, for ever (appending; raft-wal refuses all appends once a segment
// could not be rolled over). Here any such error stops the node: it says so by Done, raft's goroutine ends, and what
// the disk really has is found out by the next Open, where recovery is the normal path.
//
// It also sees to what raft believes without a look: that entries are what was written (see WithChecksum), and that a
// leader takes nothing back that was applied here.
type Store struct {
	*wal.WAL
	Fail      func(error)                // stops the node
	Applied   func() uint64              // newest entry in the state
	Snapshots *Snapshots                 // nil: there are none
	Watch     *disk.Watchdog             // of the disk
	Raft      *atomic.Pointer[raft.Raft] // nil until it runs
	Damaged   func(error)                // an entry that is applied, and that only others could need, is damaged
}

var (
	_ raft.LogStore          = Store{}
	_ raft.StableStore       = Store{}
	_ raft.MonotonicLogStore = Store{}
)

// PlainStore is a log that no raft runs on.
func PlainStore(log *Log) Store {
	return Store{
		WAL: log, Fail: func(error) {}, Applied: func() uint64 { return 0 }, Watch: &disk.Watchdog{},
		Raft: new(atomic.Pointer[raft.Raft]), Damaged: func(error) {},
	}
}

// snapped is the index of the newest snapshot, older of the one before; 0 if there is none.
func (l Store) snapped() uint64 {
	if l.Snapshots == nil {
		return 0
	}
	return l.Snapshots.Newest()
}

func (l Store) older() uint64 {
	if l.Snapshots == nil {
		return 0
	}
	return l.Snapshots.Older()
}

// abandon ends raft's calling goroutine, whose deferred functions run, so that Shutdown does not wait for it. NewRaft
// calls from a goroutine of its own too.
func (l Store) abandon(what string, err error) {
	l.Fail(fmt.Errorf("%s of the raft log: %w", what, err))
	runtime.Goexit()
}

// GetLog implements raft.LogStore. Where a leader reads for others an entry that is damaged here, and that is in its
// own state, it says that the entry is not there: then they get a snapshot.
func (l Store) GetLog(index uint64, log *raft.Log) error {
	end := l.Watch.Begin()
	err := ReadEntry(l.WAL, index, log)
	end()
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	if r := l.Raft.Load(); r != nil && errors.Is(err, ErrDamaged) && r.State() == raft.Leader && index <= r.AppliedIndex() {
		l.Damaged(err)
		return raft.ErrLogNotFound
	}
	l.abandon("read", err)
	return err
}

// StoreLog implements raft.LogStore.
func (l Store) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore. Raft answers those who wait with the error, so it is handed on.
func (l Store) StoreLogs(logs []*raft.Log) error {
	sealed := make([]*raft.Log, len(logs))
	for i, log := range logs {
		sealed[i] = WithChecksum(log)
	}
	defer l.Watch.Begin()()
	err := l.WAL.StoreLogs(sealed)
	if err != nil {
		l.Fail(fmt.Errorf("append to the raft log: %w", err))
	}
	return err
}

// DeleteRange implements raft.LogStore. Raft deletes what a snapshot has made superfluous, and what a leader's log
// contradicts. The second must not reach what is applied: it is committed, and a leader that does not have it was
// elected by disks that have forgotten it. The first must not reach what the older of the two snapshots is good for
// nothing without; where a leader's snapshot replaces the log, all of it goes.
func (l Store) DeleteRange(low, high uint64) error {
	if last, err := l.LastIndex(); err == nil && high < last && high <= l.snapped() {
		if high = min(high, l.older()); high < low {
			return nil
		}
	}
	if applied := l.Applied(); low <= applied && low > l.snapped() {
		l.abandon("truncation", &Contradiction{low, applied})
	}
	err := l.WAL.DeleteRange(low, high)
	if err != nil {
		l.Fail(fmt.Errorf("truncate the raft log: %w", err))
	}
	return err
}

// Contradiction is a leader whose log is not that of this node where this node has applied it.
type Contradiction struct{ At, Applied uint64 }

// Error implements error.
func (e *Contradiction) Error() string {
	return fmt.Sprintf("the leader has another entry %d than the one that this node has applied (its newest is %d): disks were put back to "+
		"an older state, here or on a majority of the nodes. Nothing is changed here, and this copy may be the newer one: see "+
		"\"Nodes that differ\" in docs/troubleshooting.md before you start it again", e.At, e.Applied)
}

// Set implements raft.StableStore: the vote.
func (l Store) Set(key, value []byte) error {
	defer l.Watch.Begin()()
	if err := l.WAL.Set(key, value); err != nil {
		l.abandon("vote", err)
	}
	return nil
}

// SetUint64 implements raft.StableStore: the term.
func (l Store) SetUint64(key []byte, value uint64) error {
	defer l.Watch.Begin()()
	if err := l.WAL.SetUint64(key, value); err != nil {
		l.abandon("term", err)
	}
	return nil
}

// NewRaft is raft.NewRaft in a goroutine that Store can end.
func NewRaft(
	rc *raft.Config, fsm raft.FSM, log Store, snaps raft.SnapshotStore, transport raft.Transport,
) (r *raft.Raft, err error) {
	err = errors.New("the raft log cannot be used")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r, err = raft.NewRaft(rc, fsm, log, log, snaps, transport); err == nil {
			log.Raft.Store(r)
		}
	}()
	<-done
	return r, err
}
