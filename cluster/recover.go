package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/raftlog"
)

// RecoverOptions are what Recover is given besides the node.
type RecoverOptions struct {
	// DryRun only finds out what it would cost; the next Open finds the node as it was.
	DryRun bool
	// Edit changes the tree before the node counts as recovered: what speaks of the lost nodes has to go. It may Put
	// and Remove. nil changes nothing.
	Edit func(Batch) error
}

// RecoverReport is what a recovery costs.
type RecoverReport struct {
	Node    string `json:"node"`
	Cluster string `json:"cluster"` // identity: of DryRun the old one, else a new one
	// Lost are the voters that the cluster had besides this node. Empty: it was a cluster of one, and there was nothing
	// to do.
	Lost []string `json:"lost"`
	// Voter is false if this node was not a voter: it had not caught up yet, and may lack far more than the last
	// moment.
	Voter bool `json:"voter"`
	// Committed is the newest log entry that this node knows a majority had; Last is the newest that it has. What
	// stands between becomes true: most of it was acknowledged, some of it may be writes that somebody was told had
	// failed.
	Committed uint64 `json:"committed"`
	Last      uint64 `json:"last"`
	// Term is that of Last. Of several survivors the one with the greatest term, then the greatest Last, has the most.
	Term uint64 `json:"term"`
	// Lacking is the number of blobs that names keep and that are not on this disk. At most 100 of them are in
	// LackingBlobs.
	Lacking      int      `json:"lacking"`
	LackingBlobs []string `json:"lacking_blobs"`
}

// Recover makes the node in cfg.Dir, which must not be open, a cluster of one: its newest snapshot and its whole log,
// also those entries that it does not know to be committed. It is for the day on which the majority is lost for good.
// What the others had acknowledged and this node never got is gone, and nobody can count it.
//
// The cluster's identity is a new one, and durable before anything else changes: members that come back, with their
// votes and their newer logs, must neither elect a leader over this node nor be taken for members, and the certificates
// that all of them have cannot tell them apart. They are to be wiped and joined again, under other names: the first
// leader finds their records and does for them what a removal does. Cut short, the next Recover goes on; of a cluster
// of one it changes nothing.
func Recover(cfg Config, opt RecoverOptions) (rep RecoverReport, err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return rep, err
	}
	defer func() { err = tell("recover", cfg.Dir, err) }()
	lock, id, _, err := openDir(cfg)
	if err != nil {
		return rep, err
	}
	defer lock.Close()
	// The beginning of Open: recovery is the normal path.
	c := &Cluster{cfg: cfg, log: cfg.Log, machine: newMachine(func(error) {})}
	if c.wal, err = openWAL(cfg, false, nil); err != nil {
		return rep, fmt.Errorf("its raft log is damaged: %s: %w", wayOut, err)
	}
	defer func() { err = errors.Join(err, c.wal.Close()) }()
	if c.commitIndex, err = disk.OpenWatermark(cfg.FS, filepath.Join(cfg.Dir, raftDir, "commit"), nil); err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, c.commitIndex.Close()) }()
	c.snaps = newSnapshots(cfg)
	snaps := c.snaps
	if err := snaps.Clean(); err != nil {
		return rep, err
	}
	voters, err := c.recover()
	if err != nil {
		return rep, err
	}
	rep = RecoverReport{Node: cfg.Node, Cluster: id.Cluster, Lost: []string{}, LackingBlobs: []string{}}
	for _, v := range voters {
		if string(v) != cfg.Node {
			rep.Lost = append(rep.Lost, string(v))
		}
	}
	rep.Voter = slices.Contains(voters, raft.ServerID(cfg.Node))
	at, term, err := c.ends(snaps, &rep)
	if err != nil {
		return rep, err
	}
	for i := rep.Committed + 1; i <= rep.Last; i++ {
		var l raft.Log
		if err := raftlog.ReadEntry(c.wal, i, &l); err != nil {
			return rep, fmt.Errorf("%w: %s", err, wayOut)
		}
		if r := c.machine.apply(&l); r.Fatal != nil {
			return rep, r.Fatal
		}
	}
	if err := c.lacking(&rep); err != nil {
		return rep, err
	}
	if opt.DryRun || len(rep.Lost) == 0 && rep.Voter {
		return rep, nil
	}
	id.Cluster = newClusterID()
	if err := writeIdentity(cfg, id); err != nil {
		return rep, err
	}
	rep.Cluster = id.Cluster
	// If we were to crash here, the node would wait for a majority that it cannot have, and be recovered by the next
	// try.
	at++
	cmd, err := applyEdit(c.machine.st, at, cfg, opt.Edit)
	if err != nil {
		return rep, err
	}
	// Also without an edit there is an entry: the snapshot below must not have the name of one that raft made.
	entry := raft.Log{Index: at, Term: term, Type: raft.LogNoop}
	if cmd != nil {
		entry.Type, entry.Data = raft.LogCommand, cmd
	}
	if err := c.wal.StoreLog(raftlog.WithChecksum(&entry)); err != nil {
		return rep, err
	}
	// This is the moment: with a snapshot that says who is in the cluster, no configuration in the log before it
	// counts. The log stays, and an older snapshot too, for the day on which this one is damaged; then the node knows
	// its lost members again, and is to be recovered again.
	sink, err := snaps.Create(raft.SnapshotVersionMax, at, term, only(cfg.Node), at, nil)
	if err != nil {
		return rep, err
	}
	if err := writeSnapshot(context.Background(), sink, c.machine.st); err != nil {
		return rep, err
	}
	return rep, c.commitIndex.Set(at)
}

// ends finds out which entry this node knows to be committed and which is its newest, with its term.
func (c *Cluster) ends(snaps *raftlog.Snapshots, rep *RecoverReport) (at, term uint64, err error) {
	metas, err := snaps.List()
	if err != nil {
		return 0, 0, err
	}
	if len(metas) > 0 {
		at, term = metas[0].Index, metas[0].Term
	}
	rep.Committed = max(at, c.commitIndex.Last())
	last, err := c.wal.LastIndex()
	if err != nil {
		return 0, 0, err
	}
	if last > at {
		var l raft.Log
		if err := raftlog.ReadEntry(c.wal, last, &l); err != nil {
			return 0, 0, fmt.Errorf("%w: %s", err, wayOut)
		}
		at, term = last, l.Term
	}
	rep.Last, rep.Term = at, term
	return at, term, nil
}

// maxLacking bounds the list of a report.
const maxLacking = 100

// lacking counts the blobs that names keep and this disk does not have.
func (c *Cluster) lacking(rep *RecoverReport) error {
	blobs, err := blob.Open(filepath.Join(c.cfg.Dir, blobDir), blob.Options{FS: c.cfg.FS})
	if err != nil {
		return err
	}
	defer blobs.Close()
	for d, size := range c.machine.st.Kept() {
		if n, err := blobs.Stat(d.String()); err == nil && n == size {
			continue
		}
		rep.Lacking++
		if len(rep.LackingBlobs) < maxLacking {
			rep.LackingBlobs = append(rep.LackingBlobs, d.String())
		}
	}
	return nil
}
