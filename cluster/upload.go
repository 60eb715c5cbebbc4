package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"casemate/cluster/blob"
	"casemate/cluster/replica"
	"casemate/cluster/state"
	"casemate/cluster/tree"
)

// BlobWriter is a scratch file of this node that becomes a blob.
type BlobWriter = tree.BlobWriter

// upload is a scratch file of this node that becomes a blob of the cluster.
type upload struct {
	c *Cluster
	t *Tree // the tree that made the writer; CommitNamed writes names to it
	*replica.Upload
}

var (
	_ io.ReaderFrom       = (*upload)(nil)
	_ tree.NamedCommitter = (*upload)(nil)
	_ tree.Summer         = (*upload)(nil)
	_ tree.Scratcher      = (*upload)(nil)
	_ tree.Doubter        = (*Tree)(nil)
	_ tree.Info           = info{}
)

// CreateBlob opens a new scratch file on this node; id is [A-Za-z0-9._-]{1,128}, or "" for one that cannot be resumed.
// An existing scratch file of that id is truncated, and a writer that still has it open is closed.
func (t *Tree) CreateBlob(id string) (BlobWriter, error) {
	u, err := t.c.replica.Create(id)
	if err != nil {
		return nil, err
	}
	return &upload{c: t.c, t: t, Upload: u}, nil
}

// ResumeBlob opens the scratch file of that id to append to it; fs.ErrNotExist if there is none. Scratch files survive
// restarts of the node.
func (t *Tree) ResumeBlob(id string) (BlobWriter, error) {
	u, err := t.c.replica.Resume(id)
	if err != nil {
		return nil, err
	}
	return &upload{c: t.c, t: t, Upload: u}, nil
}

// OpenScratch opens the scratch file to read it while it grows.
func (u *upload) OpenScratch() (tree.Scratch, error) { return u.Upload.OpenScratch() }

// tries bounds how often Commit starts over after a collection. Each time a whole GC must have run.
const tries = 10

// Commit implements the contract: bytes before names (promise 1).
func (u *upload) Commit(ctx context.Context, digest string) (string, error) {
	got, _, err := u.commit(ctx, digest, nil)
	return got, err
}

// CommitNamed is Commit and, with the blob's digest, an Update of the writer's tree, at one log entry: there is one
// wait for a majority instead of two, and never a name without the blob or, unless the batch is too large for one
// entry, the blob without its names. After an error the writer is as after an error of Commit, and CommitNamed may be
// called again.
func (u *upload) CommitNamed(ctx context.Context, digest string, names func(Batch, string) error) (string, error) {
	got, index, err := u.commit(ctx, digest, func(got string) ([]state.Op, error) {
		return u.t.edits(func(b Batch) error { return names(b, got) })
	})
	if err == nil && u.c.peers != nil {
		u.c.peers.WaitShown(ctx, index)
	}
	return got, err
}

// commit makes the bytes a blob, and commits the edits that names returns with it. It returns the index of the newest
// entry.
func (u *upload) commit(
	ctx context.Context, digest string, names func(got string) ([]state.Op, error),
) (string, uint64, error) {
	c := u.c
	if digest != "" {
		if _, _, err := blob.ParseDigest(digest); err != nil {
			return "", 0, fmt.Errorf("commit: %w (%w)", err, syscall.EBADMSG)
		}
	}
	// Before any file is moved: without a majority the scratch file stays as it is.
	if err := c.readyFor(ctx, u.t.patient); err != nil {
		return "", 0, err
	}
	got, size, err := u.Place(digest)
	if err != nil {
		return "", 0, err
	}
	d, err := state.ParseDigest(got)
	if err != nil {
		return "", 0, err
	}
	var ops []state.Op
	if names != nil {
		if ops, err = names(got); err != nil {
			u.StopCopies()
			return "", 0, err
		}
	}
	index, err := u.publish(ctx, d, size, ops)
	if err != nil {
		return "", 0, err
	}
	return got, index, nil
}

// publish makes a placed blob durable on other nodes and known to the tree, and commits names with it. It returns the
// index of the newest entry.
func (u *upload) publish(ctx context.Context, d state.Digest, size int64, names []state.Op) (uint64, error) {
	for range tries {
		confirmed, err := u.Replicate(ctx, d.String(), size)
		if err != nil {
			return 0, err
		}
		index, err := u.c.commitBlob(ctx, u.t.patient, u.c.addBlob(d, size, confirmed), names)
		if err == nil {
			u.Done()
			return index, nil
		}
		if !errors.Is(err, state.ErrCollected) {
			return 0, err
		}
	}
	return 0, fmt.Errorf("commit %s: collected %d times while it was committed: %w", d, tries, syscall.EAGAIN)
}

func (c *Cluster) addBlob(d state.Digest, size int64, confirmed uint64) state.Op {
	until := c.cfg.Now().Add(c.cfg.PinTime).UnixNano()
	return &state.AddBlob{Digest: d, Size: size, Confirmed: confirmed, Until: until}
}

// commitBlob commits a blob and its names at one entry, or one after the other if the names do not fit.
func (c *Cluster) commitBlob(ctx context.Context, patient bool, add state.Op, names []state.Op) (uint64, error) {
	all := append([]state.Op{add}, names...)
	if len(names) == 0 || c.fits(all) {
		r, err := c.proposeAll(ctx, patient, all)
		return r.Index, err
	}
	if _, err := c.proposeAll(ctx, patient, []state.Op{add}); err != nil {
		return 0, err
	}
	return c.commit(ctx, patient, names)
}
