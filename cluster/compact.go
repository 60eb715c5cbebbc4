package cluster

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
)

// A start reads the newest snapshot and applies the log after it, and an entry of the log costs several times as much
// as its share of a snapshot. So the log after the newest snapshot is kept short in proportion to the snapshot, in
// bytes, since entries have between a hundred bytes and 256 KiB. Raft also counts entries, which bounds many small
// ones.
const (
	logPerSnapshot = 8  // an eighth of the newest snapshot's bytes in the log make a new one
	logAtStop      = 16 // at a clean stop, a sixteenth
)

// stopTime bounds the time for a snapshot at a clean stop, which only speeds up the next start.
const stopTime = 3 * time.Second

// retrySnapshot is the delay before the retry of a failed snapshot.
const retrySnapshot = time.Minute

// logLimit is how many bytes of log after the newest snapshot cause a new one.
func (c *Cluster) logLimit() int64 { return max(c.cfg.snapshotLog, c.snaps.Size()/logPerSnapshot) }

// keepCompact makes snapshots when the log after the newest one has grown.
func (c *Cluster) keepCompact() {
	for {
		c.machine.limit.Store(c.logLimit())
		select {
		case <-c.stop:
			return
		case <-c.machine.grown:
		}
		if c.machine.log.Load() < c.logLimit() {
			continue
		}
		// Nothing new: raft does not know yet what Open has applied. Its next entry wakes this loop again.
		err := c.answer(c.life, c.raft.Snapshot())
		if err == nil || errors.Is(err, raft.ErrNothingNewToSnapshot) || c.life.Err() != nil {
			continue
		}
		c.log.Warn("snapshot", "err", err)
		select {
		case <-c.stop:
			return
		case <-time.After(retrySnapshot):
		}
	}
}

// compactAtStop makes a snapshot if that speeds up the next start noticeably. It is optional: if it is interrupted, the
// next start is like one after a crash.
func (c *Cluster) compactAtStop() {
	if c.Err() != nil || c.machine.log.Load() < max(c.cfg.snapshotLog/8, c.snaps.Size()/logAtStop) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := c.answer(ctx, c.raft.Snapshot()); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		c.log.Info("no snapshot at the stop: the next start reads the log", "err", err)
	}
}

// persist is a snapshot that raft has requested.
type persist struct {
	st   io.WriterTo
	m    *machine
	log  int64 // bytes of log that it makes superfluous
	life context.Context
}

// Persist implements raft.FSMSnapshot.
func (p persist) Persist(sink raft.SnapshotSink) error {
	err := writeSnapshot(p.life, sink, p.st)
	if err == nil {
		p.m.log.Add(-p.log)
	}
	return err
}

// Release implements raft.FSMSnapshot.
func (p persist) Release() {}

func writeSnapshot(life context.Context, sink raft.SnapshotSink, st io.WriterTo) error {
	if _, err := st.WriteTo(mortal{sink, life}); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// mortal ends a snapshot when the node ends, because Close waits for it.
type mortal struct {
	w    io.Writer
	life context.Context
}

func (m mortal) Write(p []byte) (int, error) {
	if err := m.life.Err(); err != nil {
		return 0, err
	}
	return m.w.Write(p)
}

// thrift is the garbage collector's target while a state is read, in percent of live memory: nearly all of it is in
// blocks without pointers, which cost the collector nothing, so it can run often.
const thrift = 25

// leanly runs f, which reads a state, and then returns garbage to the system if it may be much.
func leanly(f func() (bytes int64, err error)) error {
	before := debug.SetGCPercent(thrift)
	bytes, err := f()
	if os.Getenv("GOGC") == "" {
		before = garbage(bytes)
	}
	debug.SetGCPercent(before)
	if bytes > roomy {
		debug.FreeOSMemory()
	}
	return err
}

// roomy is the size up to which the garbage of a state does not matter.
const roomy = 32 << 20

// garbage is the collector's target for a process with a state whose snapshot has that many bytes: the usual target for
// the rest of the process, and less for the state.
func garbage(bytes int64) int {
	if bytes <= roomy {
		return 100
	}
	return int(max(thrift, 100*roomy/bytes))
}
