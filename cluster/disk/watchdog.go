package disk

import (
	"sync"
	"time"
)

// HangTime is how long the disk may take for one write. A disk that takes longer does not fail, as far as raft can see:
// a leader would keep its leadership for as long as the disk hangs, and nothing could be written.
const HangTime = 2 * time.Second

// Watchdog knows since when the disk owes an answer. Its zero value is ready.
type Watchdog struct {
	mu    sync.Mutex
	next  uint64
	under map[uint64]time.Time
}

// Begin reports that the disk is asked; the function that it returns reports the answer.
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

// Waits is how long the disk has owed its oldest answer; 0 if it owes none.
func (w *Watchdog) Waits() (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, since := range w.under {
		d = max(d, time.Since(since))
	}
	return d
}

// Hung reports whether the disk hangs.
func (w *Watchdog) Hung() bool { return w.Waits() >= HangTime }
