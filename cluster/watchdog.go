package cluster

import (
	"time"

	"casemate/cluster/disk"
)

// watchDisk handles a disk that hangs: raft's own goroutine may be waiting for it, so raft can neither transfer its
// leadership nor notice another leader. Meanwhile [careful] sends nothing, so the others elect a leader, and their
// beats name it.
func (c *Cluster) watchDisk() {
	tick := time.NewTicker(disk.HangTime / 4)
	defer tick.Stop()
	hung := false
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		wait := c.watch.Waits()
		switch now := wait >= disk.HangTime; {
		case now && !hung:
			c.log.Error("the disk does not answer: this node does not lead until it does",
				"for", wait.Round(time.Millisecond), "dir", c.cfg.Dir)
		case !now && hung:
			c.log.Info("the disk answers again")
			c.look.Raise()
		}
		if hung = wait >= disk.HangTime; hung {
			c.lead.set(c.leaderElsewhere())
		}
	}
}

// leaderElsewhere is the leader by the beat of another node that is up; "" if none reports one. It may be outdated; a
// node that does not lead says so when it gets a request.
func (c *Cluster) leaderElsewhere() string {
	if c.peers == nil {
		return ""
	}
	for _, node := range c.peers.UpNodes() {
		if b, _, _ := c.peers.Last(node); b.Leader != "" && b.Leader != c.cfg.Node {
			return b.Leader
		}
	}
	return ""
}
