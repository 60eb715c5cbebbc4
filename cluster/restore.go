package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/archive"
	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/member"
	"casemate/cluster/state"
	"casemate/cluster/tree"
)

// RestoreOptions are the options of Restore. Exactly one of Passphrase and Identities must be set.
type RestoreOptions struct {
	// Passphrase unwraps the sealing key.
	Passphrase string
	// Identities unwraps the sealing key: the text of an age identity file (AGE-SECRET-KEY-1…).
	Identities string
	// Edit changes the tree of the backup before it is restored, to remove records of the old nodes. It may Put and
	// Remove. nil changes nothing.
	Edit func(Batch) error
}

// RestoreReport is the result of a restore.
type RestoreReport struct {
	Cluster string `json:"cluster"` // identity, a new one
	Node    string `json:"node"`
	From    struct {
		Cluster string `json:"cluster"`
		Node    string `json:"node"`
		Created string `json:"created"` // RFC 3339
	} `json:"from"`
	Index uint64 `json:"index"` // log index at which the restored cluster begins
	Names int    `json:"names"` // in the backup, by its manifest (BackupReport.Names)
	// Kept is the number of names in the restored cluster: without the records of the old nodes.
	Kept    int   `json:"kept"`
	Blobs   int   `json:"blobs"` // on this disk now
	Bytes   int64 `json:"bytes"` // of those
	NoBlobs bool  `json:"no_blobs"`
	// Missing is the number of blobs that the state knows and this disk does not have: the backup has no blobs, or
	// marks them as damaged or missing. Scrub lists them; pushing or importing them again repairs them.
	Missing int `json:"lacking"`
}

// Restore makes the data directory of a cluster of one node from the output of Backup. cfg.Dir must be empty (except
// for lost+found) or not exist. The cluster gets a new identity, so that nodes of the old one cannot connect to it, and
// cfg.Node, which may be a new name, is the only voter.
//
// Every byte is verified before the directory becomes valid. If the backup is damaged, incomplete or cannot be
// unwrapped, no file of it is left; the error is one sentence. After an interrupted Restore, the next one starts over.
// Nothing stays open.
func Restore(ctx context.Context, cfg Config, r io.Reader, opt RestoreOptions) (rep RestoreReport, err error) {
	cfg, err = cfg.complete()
	if err != nil {
		return rep, err
	}
	defer func() {
		var bad *archive.Error
		if errors.As(err, &bad) || errors.Is(err, archive.ErrWrongKey) || errors.Is(err, fs.ErrInvalid) {
			err = fmt.Errorf("restore: %w", err)
			return
		}
		err = describe("restore", cfg.Dir, err)
	}()
	if err := checkFresh(cfg); err != nil {
		return rep, err
	}
	// Checks that need no disk come first, so a wrong passphrase changes nothing.
	b, err := archive.Open(ctx, r, opt.Passphrase, opt.Identities)
	if err != nil {
		return rep, err
	}
	if err := disk.MkdirAll(cfg.FS, cfg.Dir); err != nil {
		return rep, err
	}
	lock, err := cfg.FS.Lock(filepath.Join(cfg.Dir, lockFile))
	if err != nil {
		return rep, err
	}
	defer lock.Close()
	// From here to the format file, a crash leaves a directory that is marked as incomplete, and the next Restore
	// starts over.
	if err := disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, incompleteFile), nil, 0o640); err != nil {
		return rep, err
	}
	defer func() {
		if err != nil {
			if undo := undoRestore(cfg); undo != nil {
				cfg.Log.Warn("could not remove the files of the failed restore", "dir", cfg.Dir, "err", undo)
			}
		}
	}()
	if err := clearData(cfg); err != nil {
		return rep, err
	}
	for _, name := range []string{raftDir, snapshotDir, blobDir} {
		if err := disk.MkdirAll(cfg.FS, filepath.Join(cfg.Dir, name)); err != nil {
			return rep, err
		}
	}
	st, err := b.State()
	if err != nil {
		return rep, err
	}
	blobs, err := blob.Open(filepath.Join(cfg.Dir, blobDir), blob.Options{FS: cfg.FS, Reserve: cfg.Reserve})
	if err != nil {
		return rep, err
	}
	defer blobs.Close()
	end, err := b.Blobs(st, blobs)
	if err != nil {
		return rep, err
	}
	if err := b.End(end); err != nil {
		return rep, err
	}
	if err := disk.WriteFile(cfg.FS, filepath.Join(cfg.Dir, member.KeyFile), b.Key(), 0o600); err != nil {
		return rep, err
	}
	edit := opt.Edit
	if st.IsDir("cluster") {
		edit = func(b Batch) error {
			// The old nodes are not members here, whatever their names, and the newest sealing key that they were sent
			// is in the backup's keyring.
			for _, name := range []string{member.MembersDir, member.TokensDir, member.KeysName} {
				b.Remove(name)
			}
			if opt.Edit == nil {
				return nil
			}
			return opt.Edit(b)
		}
	}
	id := identity{Format: diskFormat, Cluster: newClusterID(), Node: cfg.Node}
	cluster, node, created, noBlobs := b.Origin()
	told := tree.Event{Verb: "cluster.restore", Object: id.Cluster}
	told.Old = fmt.Sprintf("cluster %s, backup of %s by node %s", cluster, created.UTC().Format(time.RFC3339), node)
	if _, err := applyEdit(st, st.Index()+1, cfg, edit, told); err != nil {
		return rep, err
	}
	if err := beginLog(cfg, st); err != nil {
		return rep, err
	}
	if err := writeIdentity(cfg, id); err != nil {
		return rep, err
	}
	rep = RestoreReport{
		Cluster: id.Cluster, Node: id.Node, Index: max(1, st.Index()), Names: b.Names(), Kept: st.Stats().Entries,
		Blobs: end.Blobs, Bytes: end.Bytes, NoBlobs: noBlobs, Missing: st.Stats().Blobs - end.Blobs,
	}
	rep.From.Cluster, rep.From.Node, rep.From.Created = cluster, node, created.UTC().Format(time.RFC3339)
	cfg.FS.Remove(filepath.Join(cfg.Dir, incompleteFile)) // if it remains, the format file takes precedence
	return rep, nil
}

// only is the configuration of a cluster of one.
func only(node string) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: raft.ServerID(node), Address: raft.ServerAddress(node)},
	}}
}

// applyEdit applies the edits as a command without a session at this index of the log, and records why: the log of
// events has a break here. It returns the command; nil if there is none.
func applyEdit(
	st *state.State, index uint64, cfg Config, edit func(Batch) error, why tree.Event,
) ([]byte, error) {
	b := &batch{&Tree{}, &edits{}}
	if edit != nil {
		if err := edit(b); err != nil {
			return nil, err
		}
	}
	if b.err != nil {
		return nil, b.err
	}
	if st.Format() >= eventFormat {
		b.ops = append(b.ops, eventOf(Occurrence{Event: why}, cfg.Node))
	}
	if len(b.ops) == 0 {
		return nil, nil
	}
	cmd := state.Command{Time: cfg.Now().UnixNano(), Ops: b.ops}
	data, err := cmd.Encode()
	if err != nil {
		return nil, err
	}
	r := st.Apply(index, data)
	return data, errors.Join(r.Fatal, r.Err)
}

// beginLog writes the state as a snapshot of a cluster of one, and an empty log after it.
func beginLog(cfg Config, st *state.State) error {
	const term = 1
	index := max(1, st.Index())
	snaps := newSnapshots(cfg)
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, term, only(cfg.Node), index, nil)
	if err != nil {
		return err
	}
	if err := writeSnapshot(context.Background(), sink, st); err != nil {
		return err
	}
	log, err := openWAL(cfg, true, nil)
	if err != nil {
		return err
	}
	// As if the node had voted in the snapshot's term: the first election is for the next one.
	return errors.Join(log.SetUint64([]byte("CurrentTerm"), term), log.Close())
}
