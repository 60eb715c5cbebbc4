package cluster

import (
	"context"
	"path/filepath"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/member"
	"casemate/cluster/peer"
	"casemate/cluster/replica"
	"casemate/cluster/state"
)

// host is what the rooms below see of a Cluster: each declares, in its own package, the part that it needs.
type host struct{ c *Cluster }

var (
	_ replica.State  = host{}
	_ replica.Tasks  = host{}
	_ replica.Peers  = (*peer.Port)(nil)
	_ peer.Host      = host{}
	_ peer.Members   = (*member.Members)(nil)
	_ member.Cluster = host{}
)

// View is the newest state that can be read on this node.
func (h host) View() *state.State { return h.c.machine.view.Load() }

// Durable is the newest log entry whose effect can be read here, and can again after a power cut.
func (h host) Durable() uint64 { return h.c.shown() }

// WaitDurable waits until Durable has reached index.
func (h host) WaitDurable(ctx context.Context, index uint64) error {
	return h.c.marked.wait(ctx, index)
}

// Voters are the names of the voters, and how many of them are a majority.
func (h host) Voters() (map[string]bool, int) { return h.c.voters() }

// Others are the names of all members but this node.
func (h host) Others() []string { return h.c.others() }

// CaughtUp waits, briefly, until this node has applied what was committed when it was called.
func (h host) CaughtUp() bool { return h.c.caughtUp() }

// Propose carries edits out at one log entry.
func (h host) Propose(ctx context.Context, ops ...state.Op) error {
	_, err := h.c.propose(ctx, ops...)
	return err
}

// Commit is Propose for edits of names, however many.
func (h host) Commit(ctx context.Context, ops []state.Op) error {
	_, err := h.c.commit(ctx, false, ops)
	return err
}

// AddLearner makes a node a member that does not vote yet.
func (h host) AddLearner(ctx context.Context, node string) error {
	return h.c.changeMembership(ctx, membershipChange{Op: addMember, Node: node})
}

// Watch receives after a name below dir has changed, until ctx is done.
func (h host) Watch(ctx context.Context, dir string) <-chan struct{} {
	return h.c.machine.hub.Watch(ctx, dir)
}

// Background runs f in a goroutine that Close waits for, unless Close has begun to wait.
func (h host) Background(f func()) bool { return h.c.background(f) }

// Stopped is the error for what this node cannot do any more.
func (h host) Stopped() error { return h.c.stopped() }

// openReplica opens the directory of this node's blobs.
func (c *Cluster) openReplica() (err error) {
	cfg := c.cfg
	c.replica, err = replica.Open(replica.Config{
		Node: cfg.Node, Dir: filepath.Join(cfg.Dir, blobDir), Options: blob.Options{FS: cfg.FS, Reserve: cfg.Reserve, Now: cfg.Now},
		Log: c.log, State: host{c}, Tasks: host{c}, Life: c.life, Patience: cfg.LeaderWait, CatchUp: cfg.CatchUp,
	})
	if err == nil {
		c.blobs = c.replica.Dir()
	}
	return err
}

type (
	// ScrubReport is what a scrub found.
	ScrubReport = replica.ScrubReport
	// ScrubStatus is the state of the scrub that runs by itself. The counters are of all scrubs since the process
	// began.
	ScrubStatus = replica.ScrubStatus
	// Lost is a blob that this node does not have whole.
	Lost = replica.Lost
)

// Scrub reads every blob that the tree knows from this disk, now and as fast as it goes, and compares the bytes with
// the digest. What is wrong or missing is fetched from another node; where there is none that has it, importing or
// pushing the blob again repairs it. One file at a time, so it takes one core and as much of the disk as is idle.
func (c *Cluster) Scrub(ctx context.Context) (ScrubReport, error) { return c.replica.Scrub(ctx) }

// Patrol scrubs by itself until ctx is done: every blob is read at least once in what interval returns, 0 for never.
func (c *Cluster) Patrol(ctx context.Context, interval func() time.Duration) {
	c.replica.Patrol(ctx, interval)
}

// ScrubStatus returns what is so now.
func (c *Cluster) ScrubStatus() ScrubStatus { return c.replica.ScrubStatus() }

// Damaged is how many blobs are damaged on this disk, as far as is known.
func (c *Cluster) Damaged() int { return c.replica.Damaged() }

// Lost lists blobs that are damaged on this disk, or that it does not have and could not fetch, at most so many, and
// returns how many there are: what clients of this node may not get until somebody brings the bytes. What is on its way
// is not among them.
func (c *Cluster) Lost(most int) (list []Lost, all int) { return c.replica.Lost(most) }
