package cluster

import (
	"sync"
	"time"
)

// hangTime is how long the disk may take for one write of the log. A disk that takes longer does not fail, as far as raft
// can see: a leader would keep its leadership for as long as it hangs, and nothing could be written.
const hangTime = 2 * time.Second

// watchdog knows since when the disk owes an answer. Its zero value is ready.
type watchdog struct {
	mu    sync.Mutex
	next  uint64
	under map[uint64]time.Time
	hangs bool
}

// begin says that the disk is asked; the function that it returns, that it has answered.
func (w *watchdog) begin() (end func()) {
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

// waits is how long the disk has owed its oldest answer; 0 if it owes none.
func (w *watchdog) waits() (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, since := range w.under {
		d = max(d, time.Since(since))
	}
	return d
}

// hung reports whether the disk hangs.
func (w *watchdog) hung() bool { return w.waits() >= hangTime }
