package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/raftlog"
	"casemate/cluster/tree"
)

// RecoverOptions are the options of Recover.
type RecoverOptions struct {
	// DryRun only reports the cost; the node is not changed.
	DryRun bool
	// Edit changes the tree before the node is recovered, to remove records of the lost nodes. It may Put and Remove.
	// nil changes nothing.
	Edit func(Batch) error
}

// RecoverReport is the cost of a recovery.
type RecoverReport struct {
	Node    string `json:"node"`
	Cluster string `json:"cluster"` // identity: with DryRun the old one, otherwise the new one
	// Lost are the voters that the cluster had besides this node. Empty: it was a cluster of one, and nothing was
	// changed.
	Lost []string `json:"lost"`
	// Voter is false if this node was not a voter: it had not caught up yet, and may be missing far more than the last
	// writes.
	Voter bool `json:"voter"`
	// Committed is the newest log entry that this node knows to be committed; Last is its newest entry. The entries in
	// between become committed: most of them were acknowledged, some may be writes that were reported as failed.
	Committed uint64 `json:"committed"`
	Last      uint64 `json:"last"`
	// Term is that of Last. Of several survivors, the one with the greatest term, then the greatest Last, has the most.
	Term uint64 `json:"term"`
	// Missing is the number of blobs that names refer to and that are not on this disk. MissingBlobs has at most 100 of
	// them.
	Missing      int      `json:"lacking"`
	MissingBlobs []string `json:"lacking_blobs"`
}

// Recover turns the node in cfg.Dir, which must not be open, into a cluster of one: its newest snapshot and its whole
// log, including entries that it does not know to be committed. It is for the permanent loss of the majority. Writes
// that the others acknowledged and this node never received are lost, and cannot be counted.
//
// The cluster gets a new identity, which is durable before anything else changes: returning members, with their votes
// and their newer logs, must neither elect a leader over this node nor be accepted as members, and all members'
// certificates stay valid. They must be wiped and joined again under other names: the first leader finds their records
// and completes their removal. If Recover is interrupted, the next one continues; for a cluster of one it changes
// nothing.
func Recover(cfg Config, opt RecoverOptions) (rep RecoverReport, err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return rep, err
	}
	defer func() { err = describe("recover", cfg.Dir, err) }()
	lock, id, _, err := openDir(cfg)
	if err != nil {
		return rep, err
	}
	defer lock.Close()
	// The same steps as in Open (promise 7).
	c := &Cluster{cfg: cfg, log: cfg.Log, machine: newMachine(func(error) {})}
	if c.wal, err = openWAL(cfg, false, nil); err != nil {
		return rep, fmt.Errorf("the raft log is damaged: %s: %w", wayOut, err)
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
	rep = RecoverReport{Node: cfg.Node, Cluster: id.Cluster, Lost: []string{}, MissingBlobs: []string{}}
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
	if err := c.countMissing(&rep); err != nil {
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
	// If we were to crash here, the node would wait for a majority that it cannot have, and the next Recover would
	// recover it.
	at++
	cmd, err := applyEdit(c.machine.st, at, cfg, opt.Edit, tree.Event{
		Verb: "cluster.recover", Object: id.Cluster, Old: "members " + strings.Join(append(rep.Lost, cfg.Node), ", "),
	})
	if err != nil {
		return rep, err
	}
	// Without an edit there is an entry too: the snapshot below must not have the name of one that raft made.
	entry := raft.Log{Index: at, Term: term, Type: raft.LogNoop}
	if cmd != nil {
		entry.Type, entry.Data = raft.LogCommand, cmd
	}
	if err := c.wal.StoreLog(raftlog.WithChecksum(&entry)); err != nil {
		return rep, err
	}
	// From here on the recovery is effective: after a snapshot with a configuration, raft ignores configurations in the
	// log before it. The log and an older snapshot are kept in case this snapshot is damaged; then the node knows its
	// lost members again and must be recovered again.
	sink, err := snaps.Create(raft.SnapshotVersionMax, at, term, only(cfg.Node), at, nil)
	if err != nil {
		return rep, err
	}
	if err := writeSnapshot(context.Background(), sink, c.machine.st); err != nil {
		return rep, err
	}
	return rep, c.commitIndex.Set(at)
}

// ends determines the newest entry that this node knows to be committed, and its newest entry with its term.
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

// maxMissing bounds the list of a report.
const maxMissing = 100

// countMissing counts the blobs that names refer to and this disk does not have.
func (c *Cluster) countMissing(rep *RecoverReport) error {
	blobs, err := blob.Open(filepath.Join(c.cfg.Dir, blobDir), blob.Options{FS: c.cfg.FS})
	if err != nil {
		return err
	}
	defer blobs.Close()
	for d, size := range c.machine.st.Kept() {
		if n, err := blobs.Stat(d.String()); err == nil && n == size {
			continue
		}
		rep.Missing++
		if len(rep.MissingBlobs) < maxMissing {
			rep.MissingBlobs = append(rep.MissingBlobs, d.String())
		}
	}
	return nil
}
