package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"casemate/cluster/archive"
	"casemate/cluster/blob"
	"casemate/cluster/disk"
	"casemate/cluster/member"
	"casemate/cluster/replica"
	"casemate/cluster/tree"
)

type (
	// BackupOptions are the options of Backup.
	BackupOptions = archive.Options
	// BackupReport is the summary of a backup.
	BackupReport = archive.Report
)

// Backup writes this node's current tree to w: the state at one log entry, and the bytes of every blob that it knows.
// Any node can do it, also without a majority. Writes and reads continue; blobs that are collected meanwhile leave the
// tree at once, but their files stay on this disk until the next GC.
//
// Each blob is hashed while it is read. A blob with wrong bytes, or one that cannot be read, is marked in the backup
// and counted in the report, and the backup continues: an incomplete backup is better than none. After an error the
// output is not a backup, and Restore refuses it.
func (c *Cluster) Backup(ctx context.Context, w io.Writer, opt BackupOptions) (r BackupReport, err error) {
	defer func() {
		c.log.Info("backup", "index", r.Index, "blobs", r.Blobs, "bytes", r.Bytes, "no_blobs", opt.NoBlobs, "faults",
			r.Faults, "err", err)
	}()
	key, err := disk.ReadFile(c.cfg.FS, filepath.Join(c.cfg.Dir, member.KeyFile))
	if err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	wrapped, err := archive.Wrap(key, opt)
	if err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	// Before the state is loaded: from now on no file of a blob that it knows is removed.
	defer c.blobs.HoldAll()()
	r, err = archive.Write(ctx, w, archive.Source{
		Cluster: c.id.Cluster, Node: c.cfg.Node, Time: c.cfg.Now(), State: c.machine.view.Load(), Key: key,
		Wrapped: wrapped,
		Blobs:   backedUp{c.replica}, Log: c.log,
	}, opt.NoBlobs)
	if err != nil {
		return r, fmt.Errorf("backup: %w", err)
	}
	told := tree.Event{Verb: "cluster.backup"}
	told.New = fmt.Sprintf("%d names, %d blobs, log index %d", r.Names, r.Blobs, r.Index)
	if opt.NoBlobs {
		told.New += ", without the bytes of blobs"
	}
	// A backup works without a majority, which an event needs.
	record := Occurrence{Event: told, Actor: tree.ActorIn(ctx), Time: c.cfg.Now()}
	if err := c.Record(context.WithoutCancel(ctx), []Occurrence{record}); err != nil {
		c.log.Warn("the backup is not in the audit log", "err", err)
	}
	return r, nil
}

// backedUp are the blobs of a backup.
type backedUp struct{ *replica.Store }

// Open implements archive.Blobs.
func (b backedUp) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	return b.Store.Open(ctx, digest)
}

// Damaged implements archive.Blobs.
func (b backedUp) Damaged(digest string) bool {
	_, err := b.Dir().Stat(digest)
	return errors.Is(err, blob.ErrDamaged)
}

// Doubt implements archive.Blobs.
func (b backedUp) Doubt(ctx context.Context, digest string) { b.Dir().Verify(ctx, digest) }
