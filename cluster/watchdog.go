package cluster

import (
	"sync"
	"time"
)

// hangTime is how long the disk may take for one write of the log. A disk that takes longer does not fail, as far as
// raft can see: a leader would keep its leadership for as long as it hangs, and nothing could be written.
const hangTime = 2 * time.Second

// watchdog knows since when the disk owes an answer. Its zero value is ready.
type watchdog struct {
	mu    sync.Mutex
	next  uint64
	under map[uint64]time.Time
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

// watchDisk sees to it that a disk that hangs keeps nobody: raft's own goroutine may be waiting for it, so that raft
// can neither give its leadership away nor hear of another leader. [careful] keeps quiet meanwhile, so the others elect
// one, and their beats name it.
func (c *Cluster) watchDisk() {
	tick := time.NewTicker(hangTime / 4)
	defer tick.Stop()
	hung := false
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		wait := c.watch.waits()
		switch now := wait >= hangTime; {
		case now && !hung:
			c.log.Error("the disk does not answer: this node does not lead until it does", "for", wait.Round(time.Millisecond), "dir", c.cfg.Dir)
		case !now && hung:
			c.log.Info("the disk answers again")
			select {
			case c.look <- struct{}{}:
			default:
			}
		}
		if hung = wait >= hangTime; hung {
			c.lead.set(c.leaderElsewhere())
		}
	}
}

// leaderElsewhere is who leads as another node says that is up, "" if none says so. It may be old; whoever does not
// lead says so when it is asked.
func (c *Cluster) leaderElsewhere() string {
	if c.peers == nil {
		return ""
	}
	for _, node := range c.peers.upNodes() {
		if b, _, _ := c.peers.last(node); b.Leader != "" && b.Leader != c.cfg.Node {
			return b.Leader
		}
	}
	return ""
}
