package replica

import (
	"cmp"
	"container/heap"
	"time"

	"casemate/cluster/state"
)

const (
	// FetchTurns is how many blobs are fetched at a time when no reader waits for them: small blobs wait for a round
	// trip and two syncs each, and that happens in parallel.
	FetchTurns = 8
	// largeTurns of them may be for large blobs: more would share the rate, and the newest blob would arrive later. The
	// other turns are for small ones.
	largeTurns = 2
	largeFrom  = 4 << 20 // bytes

	retryLeast, retryMost = 50 * time.Millisecond, time.Second
)

// backlog holds the blobs that a node is missing, in the order in which they are fetched: those that failed least often
// first, and of these the newest. So a failed blob goes behind the others, and one that failed again behind those that
// failed once. The backlog has no lock and no clock; its owner has both. Each step costs at most O(log n).
type backlog struct {
	all    map[state.Digest]*missingBlob
	queues [2]queue // small, large
}

// queue holds the blobs that wait for a turn, and the state of those that have one.
type queue struct {
	waiting missingHeap
	under   int // turns that are taken

	// Blobs that failed before are retried with backoff: a failure pauses retries for a time that doubles, and each
	// success doubles the number of concurrent retries.
	retries, window int
	backoff         time.Duration
	until           time.Time // no retries before this time
}

// missingBlob is one blob that is not on this disk.
type missingBlob struct {
	d        state.Digest
	born     uint64
	failures int32
	at       int32 // position in its queue; -1: it is not in the queue, because it is being checked or fetched
	large    bool
	again    bool // reported missing again since take or look, so the outcome of the check may be outdated
}

func newBacklog() backlog {
	return backlog{all: map[state.Digest]*missingBlob{}, queues: [2]queue{{window: 1}, {window: 1}}}
}

// add records that a blob is missing.
func (b *backlog) add(d state.Digest, size int64, born uint64) {
	if l := b.all[d]; l != nil {
		l.again = true
		if l.born = born; l.at >= 0 {
			heap.Fix(&b.queue(l).waiting, int(l.at))
		}
		return
	}
	l := &missingBlob{d: d, born: born, at: -1, large: size >= largeFrom}
	b.all[d] = l
	heap.Push(&b.queue(l).waiting, l)
}

func (b *backlog) queue(l *missingBlob) *queue {
	if l.large {
		return &b.queues[1]
	}
	return &b.queues[0]
}

// take returns the next blob if a turn is free. The blob is out of its queue until back or drop.
func (b *backlog) take(now time.Time, turns int) *missingBlob {
	small, large := &b.queues[0], &b.queues[1]
	if small.under+large.under >= turns {
		return nil
	}
	var next *missingBlob
	for _, q := range []*queue{small, large} {
		if l := q.first(now); l != nil && (next == nil || l.before(next)) && (q == small || q.under < largeTurns) {
			next = l
		}
	}
	if next != nil {
		heap.Pop(&b.queue(next).waiting)
		next.again = false
	}
	return next
}

func (q *queue) first(now time.Time) *missingBlob {
	if len(q.waiting) == 0 {
		return nil
	}
	if l := q.waiting[0]; l.failures == 0 || q.retries < q.window && !now.Before(q.until) {
		return l
	}
	return nil
}

// waits is how long to wait before the next take if nothing else happens; 0 if the queues are empty.
func (b *backlog) waits(now time.Time) (d time.Duration) {
	for i := range b.queues {
		if q := &b.queues[i]; len(q.waiting) > 0 {
			mine := q.until.Sub(now)
			if mine <= 0 {
				mine = retryMost
			}
			if d == 0 || mine < d {
				d = mine
			}
		}
	}
	return d
}

// began takes a turn for a taken blob; ended frees it, before back or drop.
func (b *backlog) began(l *missingBlob) {
	q := b.queue(l)
	q.under++
	if l.failures > 0 {
		q.retries++
	}
}

func (b *backlog) ended(l *missingBlob) {
	q := b.queue(l)
	q.under--
	if l.failures > 0 {
		q.retries--
	}
}

// succeeded raises the number of concurrent retries after a blob that had failed has arrived.
func (b *backlog) succeeded(l *missingBlob) {
	if q := b.queue(l); l.failures > 0 {
		q.window = min(2*q.window, FetchTurns)
		q.backoff, q.until = 0, time.Time{}
	}
}

// resetBackoff ends the pauses, because the failed blobs may be available now.
func (b *backlog) resetBackoff() {
	for i := range b.queues {
		b.queues[i].backoff, b.queues[i].until = 0, time.Time{}
	}
}

// back returns a taken blob to its queue.
func (b *backlog) back(l *missingBlob) { heap.Push(&b.queue(l).waiting, l) }

// failed is back for a blob that could not be fetched.
func (b *backlog) failed(l *missingBlob, now time.Time) {
	if l.failures > 0 {
		q := b.queue(l)
		q.window = 1
		q.backoff = min(max(2*q.backoff, retryLeast), retryMost)
		q.until = now.Add(q.backoff)
	}
	l.failures++
	b.back(l)
}

// look must precede a check of the disk that may lead to drop.
func (b *backlog) look(d state.Digest) {
	if l := b.all[d]; l != nil {
		l.again = false
	}
}

// drop removes a blob, unless it was reported missing since take or look: then it is checked again.
func (b *backlog) drop(l *missingBlob) {
	switch {
	case !l.again:
		if l.at >= 0 {
			heap.Remove(&b.queue(l).waiting, int(l.at))
		}
		delete(b.all, l.d)
	case l.at < 0:
		heap.Push(&b.queue(l).waiting, l)
	}
}

// forget removes a blob that the state no longer knows, if it is in a queue. Otherwise the goroutine that took it drops
// it.
func (b *backlog) forget(d state.Digest) bool {
	l := b.all[d]
	if l == nil || l.at < 0 {
		return false
	}
	heap.Remove(&b.queue(l).waiting, int(l.at))
	delete(b.all, d)
	return true
}

// missingHeap implements heap.Interface.
type missingHeap []*missingBlob

func (l *missingBlob) before(m *missingBlob) bool {
	return cmp.Or(cmp.Compare(l.failures, m.failures), cmp.Compare(m.born, l.born), cmp.Compare(l.d, m.d)) < 0
}

func (q missingHeap) Len() int           { return len(q) }
func (q missingHeap) Less(i, j int) bool { return q[i].before(q[j]) }
func (q missingHeap) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = int32(i), int32(j)
}

func (q *missingHeap) Push(x any) {
	l := x.(*missingBlob)
	l.at = int32(len(*q))
	*q = append(*q, l)
}

func (q *missingHeap) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	l.at = -1
	return l
}
