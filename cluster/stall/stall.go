// Package stall ends transfers that make no progress.
//
// Two things count as a stall, and a caller chooses. A transfer between nodes has stalled when one read or write waits
// too long (Deadline alone): nodes are trusted to read on. A client has stalled when what it waited for adds up to too
// much over a number of bytes (Budget): one that takes a byte now and then would otherwise hold a connection for ever.
// Time in which nothing is read or written does not count; the idle timeout of a server bounds that.
//
// Downloads on the connected side and the checks of a node's doctor bound a read by a timer instead, since what they
// read may be a stream of HTTP/2, which has no deadline of its own (bundle/collect/transport, appliance/doctor).
package stall

import (
	"sync/atomic"
	"time"
)

// Deadline sets the deadline of the next read or write. It does not set one that is nearly the same as the last: some
// connections are read in small pieces, and setting a deadline costs a lock of the runtime. Its methods are safe for
// concurrent use.
type Deadline struct {
	last atomic.Int64 // the deadline that is set, in Unix nanoseconds; 0 if another caller may have set one
}

// Extend allows the next read or write to wait for d from now, or up to a sixteenth less. set is the method of the
// connection that sets the deadline. It returns the time.
func (l *Deadline) Extend(set func(time.Time) error, d time.Duration) (now time.Time) {
	now = time.Now()
	end := now.Add(d)
	if last := l.last.Load(); d > 0 && last > end.Add(-d/16).UnixNano() && last <= end.UnixNano() {
		return now
	}
	set(end)
	l.last.Store(end.UnixNano())
	return now
}

// Forget must be called when another caller sets the deadline: the next Extend sets it again.
func (l *Deadline) Forget() { l.last.Store(0) }

// Budget is how long reads or writes may wait for the other side, in total over as many as Chunk bytes take. Its
// methods are safe for concurrent use.
type Budget struct {
	// Wait is the time for each chunk.
	Wait time.Duration
	// Chunk is how many bytes are enough progress.
	Chunk int64

	waited atomic.Int64 // nanoseconds, for the current chunk
	moved  atomic.Int64 // bytes of the current chunk
}

// Left is how long the next read or write may wait. 0 or less: the other side has stalled.
func (b *Budget) Left() time.Duration { return b.Wait - time.Duration(b.waited.Load()) }

// Spend accounts for a read or write of n bytes that began at start.
func (b *Budget) Spend(start time.Time, n int64) {
	b.waited.Add(int64(time.Since(start)))
	if b.moved.Add(n) >= b.Chunk {
		b.moved.Store(0)
		b.waited.Store(0)
	}
}
