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

// host is the Cluster as the rooms below see it: each declares, in its own package, the part that it needs.
type host struct{ c *Cluster }

var (
	_ replica.State  = host{}
	_ replica.Tasks  = host{}
	_ replica.Peers  = (*peer.Port)(nil)
	_ peer.Host      = host{}
	_ peer.Members   = (*member.Members)(nil)
	_ member.Cluster = host{}
)

// View is the newest state that is readable on this node.
func (h host) View() *state.State { return h.c.machine.view.Load() }

// Durable is the newest log entry whose effect is readable here, also after a power cut.
func (h host) Durable() uint64 { return h.c.shown() }

// WaitDurable waits until Durable has reached index.
func (h host) WaitDurable(ctx context.Context, index uint64) error {
	return h.c.marked.wait(ctx, index)
}

// Voters are the names of the voters, and how many of them are a majority.
func (h host) Voters() (map[string]bool, int) { return h.c.voters() }

// Others are the names of all members but this node.
func (h host) Others() []string { return h.c.others() }

// CaughtUp waits briefly until this node has applied what was committed at the call.
func (h host) CaughtUp() bool { return h.c.caughtUp() }

// Propose carries out the edits at one log entry.
func (h host) Propose(ctx context.Context, ops ...state.Op) error {
	_, err := h.c.propose(ctx, ops...)
	return err
}

// Commit is Propose for any number of edits of names.
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

// Stopped is the error for work that is impossible because this node has stopped.
func (h host) Stopped() error { return h.c.stopped() }

// openReplica opens the directory of this node's blobs.
func (c *Cluster) openReplica() (err error) {
	cfg := c.cfg
	c.replica, err = replica.Open(replica.Config{
		Node: cfg.Node, Dir: filepath.Join(cfg.Dir, blobDir), Options: blob.Options{FS: cfg.FS, Reserve: cfg.Reserve,
			Now: cfg.Now},
		Log: c.log, State: host{c}, Tasks: host{c}, Life: c.life, Patience: cfg.LeaderWait, CatchUp: cfg.CatchUp,
	})
	if err == nil {
		c.blobs = c.replica.Dir()
	}
	return err
}

type (
	// ScrubReport is the result of a scrub.
	ScrubReport = replica.ScrubReport
	// ScrubStatus is the progress of the background scrub. The counters include all scrubs since the process began.
	ScrubStatus = replica.ScrubStatus
	// Lost is a blob that this node does not have intact.
	Lost = replica.Lost
)

// Scrub reads every blob that the tree knows from this disk, at full speed, and compares the bytes with the digest.
// Damaged and missing blobs are fetched from another node; if no node has one, importing or pushing it again repairs
// it. It reads one file at a time, so it uses one core.
func (c *Cluster) Scrub(ctx context.Context) (ScrubReport, error) { return c.replica.Scrub(ctx) }

// Patrol scrubs in the background until ctx is done: every blob is read at least once in what interval returns (0:
// never).
func (c *Cluster) Patrol(ctx context.Context, interval func() time.Duration) {
	c.replica.Patrol(ctx, interval)
}

// ScrubStatus returns the progress of the background scrub.
func (c *Cluster) ScrubStatus() ScrubStatus { return c.replica.ScrubStatus() }

// Damaged is the number of blobs that are known to be damaged on this disk.
func (c *Cluster) Damaged() int { return c.replica.Damaged() }

// Lost lists, up to most, the blobs that are damaged on this disk, or missing and could not be fetched, and returns how
// many there are. Clients of this node may not get them until an import or a push brings the bytes. Blobs that are
// being fetched for the first time are not included.
func (c *Cluster) Lost(most int) (list []Lost, all int) { return c.replica.Lost(most) }
