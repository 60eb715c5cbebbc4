package disk

import (
	"sync"
	"time"
)

// HangTime is how long the disk may take for one write. Raft does not see a slower disk as failed: a leader would stay
// leader for as long as its disk hangs, and the cluster could not write.
const HangTime = 2 * time.Second

// Watchdog records which disk operations have not ended. Its zero value is ready.
type Watchdog struct {
	mu    sync.Mutex
	next  uint64
	under map[uint64]time.Time
}

// Begin reports that an operation on the disk begins; the returned function reports its end.
func (w *Watchdog) Begin() (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.under == nil {
		w.under = map[uint64]time.Time{}
	}
	w.next++
	id := w.next
	w.under[id] = time.Now()
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.under, id)
	}
}

// Waits is how long the oldest operation that has not ended has taken so far; 0 if there is none.
func (w *Watchdog) Waits() (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, since := range w.under {
		d = max(d, time.Since(since))
	}
	return d
}

// Hung reports whether an operation has taken HangTime or longer.
func (w *Watchdog) Hung() bool { return w.Waits() >= HangTime }
