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

// Store is the log as raft sees it. Raft responds to a disk error with a panic in one of its goroutines (term, vote,
// reading an entry) or with endless elections (appending; raft-wal refuses all appends once a segment could not be
// rolled over). Here any such error stops the node: it closes Done, raft's goroutine ends, and the next Open finds out
// what the disk has, by normal recovery.
//
// It also guarantees what raft assumes without checking: that entries have not changed since they were written (see
// WithChecksum), and that a leader does not truncate entries that were applied here.
type Store struct {
	*wal.WAL
	Fail      func(error)                // stops the node
	Applied   func() uint64              // newest entry in the state
	Snapshots *Snapshots                 // nil: no snapshots
	Watch     *disk.Watchdog             // of the disk
	Raft      *atomic.Pointer[raft.Raft] // nil until it runs
	// called for a damaged entry that is applied here and that only other nodes need
	Damaged func(error)
}

var (
	_ raft.LogStore          = Store{}
	_ raft.StableStore       = Store{}
	_ raft.MonotonicLogStore = Store{}
)

// PlainStore is a log without a running raft.
func PlainStore(log *Log) Store {
	return Store{
		WAL: log, Fail: func(error) {}, Applied: func() uint64 { return 0 }, Watch: &disk.Watchdog{},
		Raft: new(atomic.Pointer[raft.Raft]), Damaged: func(error) {},
	}
}

// snapped is the index of the newest snapshot, older that of the one before; 0 if there is none.
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

// abandon ends the goroutine of raft that calls it and runs its deferred functions, so that Shutdown does not wait for
// it. NewRaft calls raft.NewRaft in its own goroutine for this reason.
func (l Store) abandon(what string, err error) {
	l.Fail(fmt.Errorf("%s of the raft log: %w", what, err))
	runtime.Goexit()
}

// GetLog implements raft.LogStore. If a leader reads an entry for another node, and the entry is damaged here but in
// its own state, GetLog reports that the entry does not exist; then raft sends a snapshot.
func (l Store) GetLog(index uint64, log *raft.Log) error {
	end := l.Watch.Begin()
	err := ReadEntry(l.WAL, index, log)
	end()
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	if r := l.Raft.Load(); r != nil && errors.Is(err, ErrDamaged) && r.State() == raft.Leader &&
		index <= r.AppliedIndex() {
		l.Damaged(err)
		return raft.ErrLogNotFound
	}
	l.abandon("read", err)
	return err
}

// StoreLog implements raft.LogStore.
func (l Store) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore. It returns the error, because raft passes it to the waiting proposers.
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

// DeleteRange implements raft.LogStore. Raft deletes entries that a snapshot has made superfluous, and entries that a
// leader's log contradicts. The latter must not include applied entries: they are committed, and a leader without them
// was elected by disks that have lost them. The former must not include entries that the older of the two snapshots
// needs. If a leader's snapshot replaces the log, all of it is deleted.
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

// Contradiction reports a leader whose log differs from this node's at an entry that this node has applied.
type Contradiction struct{ At, Applied uint64 }

// Error implements error.
func (e *Contradiction) Error() string {
	return fmt.Sprintf("the leader's entry %d differs from the one that this node has applied (its newest is %d): "+
		"disks were put back to "+
		"an older state, here or on a majority of the nodes. This node has changed nothing, and its copy may be the "+
		"newer one: see "+
		"\"Nodes that differ\" in docs/troubleshooting.md before you start this node again", e.At, e.Applied)
}

// Set implements raft.StableStore; it stores the vote.
func (l Store) Set(key, value []byte) error {
	defer l.Watch.Begin()()
	if err := l.WAL.Set(key, value); err != nil {
		l.abandon("vote", err)
	}
	return nil
}

// SetUint64 implements raft.StableStore; it stores the term.
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
