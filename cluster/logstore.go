package cluster

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// logStore is the log as raft sees it. Raft answers an error of its disk by a panic in one of its goroutines (term, vote, reading an entry) or by
// electing itself again, for ever (appending; raft-wal refuses all appends once a segment could not be rolled over). Here any such error stops the
// node: it says so by Done, raft's goroutine ends, and what the disk really has is found out by the next Open, where recovery is the normal path.
type logStore struct {
	*wal.WAL
	fail func(error)
}

var (
	_ raft.LogStore          = logStore{}
	_ raft.StableStore       = logStore{}
	_ raft.MonotonicLogStore = logStore{}
)

// abandon ends raft's calling goroutine, whose deferred functions run, so that Shutdown does not wait for it. NewRaft calls from a goroutine of its own too.
func (l logStore) abandon(what string, err error) {
	l.fail(fmt.Errorf("%s of the raft log: %w", what, err))
	runtime.Goexit()
}

// GetLog implements raft.LogStore.
func (l logStore) GetLog(index uint64, log *raft.Log) error {
	err := l.WAL.GetLog(index, log)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		l.abandon("read", err)
	}
	return err
}

// StoreLog implements raft.LogStore.
func (l logStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore. Raft answers those who wait with the error, so it is handed on.
func (l logStore) StoreLogs(logs []*raft.Log) error {
	err := l.WAL.StoreLogs(logs)
	if err != nil {
		l.fail(fmt.Errorf("append to the raft log: %w", err))
	}
	return err
}

// DeleteRange implements raft.LogStore.
func (l logStore) DeleteRange(low, high uint64) error {
	err := l.WAL.DeleteRange(low, high)
	if err != nil {
		l.fail(fmt.Errorf("truncate the raft log: %w", err))
	}
	return err
}

// Set implements raft.StableStore: the vote.
func (l logStore) Set(key, value []byte) error {
	if err := l.WAL.Set(key, value); err != nil {
		l.abandon("vote", err)
	}
	return nil
}

// SetUint64 implements raft.StableStore: the term.
func (l logStore) SetUint64(key []byte, value uint64) error {
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
		r, err = raft.NewRaft(rc, fsm, log, log, snaps, transport)
	}()
	<-done
	return r, err
}
