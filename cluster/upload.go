package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// BlobWriter is treetest's, and every service's: an alias of the literal interface.
type BlobWriter = interface {
	io.Writer
	Size() int64
	Commit(ctx context.Context, digest string) (string, error)
	Close() error
	Cancel() error
}

// upload is a scratch file of this node on its way to being a blob of the cluster. io.Copy into it is blob.Writer's ReadFrom.
type upload struct {
	c *Cluster
	*blob.Writer
}

var _ io.ReaderFrom = (*upload)(nil)

// CreateBlob opens a new scratch file on this node; id is [A-Za-z0-9._-]{1,128}, or "" for one that cannot be resumed. An existing id is truncated, and
// a writer that still has it open is closed.
func (t *Tree) CreateBlob(id string) (BlobWriter, error) {
	w, err := t.c.blobs.Create(id)
	if err != nil {
		return nil, err
	}
	return &upload{t.c, w}, nil
}

// ResumeBlob opens the scratch file of that id to go on at its end, else fs.ErrNotExist. It survives restarts of the node.
func (t *Tree) ResumeBlob(id string) (BlobWriter, error) {
	w, err := t.c.blobs.Resume(id)
	if err != nil {
		return nil, err
	}
	return &upload{t.c, w}, nil
}

// tries bounds how often Commit starts again after a collection came in between. Each needs a whole GC to have run.
const tries = 10

// Commit implements the contract: bytes before names (promise 1).
func (u *upload) Commit(ctx context.Context, digest string) (string, error) {
	c := u.c
	if digest != "" {
		if _, _, err := blob.ParseDigest(digest); err != nil {
			return "", fmt.Errorf("commit: %w (%w)", err, syscall.EBADMSG)
		}
	}
	// Before anything is moved: without a majority the scratch file stays as it is.
	deadline := time.NewTimer(c.cfg.LeaderWait)
	defer deadline.Stop()
	if err := c.ready(ctx, deadline.C); err != nil {
		return "", err
	}
	got, size, err := u.Place(digest) // held from here until Done or Close, so that the sweeper passes it over
	if err != nil {
		return "", err
	}
	d, err := state.ParseDigest(got)
	if err != nil {
		return "", err
	}
	for range tries {
		// Here a later cluster copies the bytes to peers until a majority of voters has them, each telling the index at which it saw them durable.
		confirmed, err := c.confirm(got)
		if err != nil {
			return "", err
		}
		until := c.cfg.Now().Add(c.cfg.PinTime).UnixNano()
		_, err = c.propose(ctx, &state.AddBlob{Digest: d, Size: size, Confirmed: confirmed, Until: until})
		if err == nil {
			u.Done()
			return got, nil
		}
		if !errors.Is(err, state.ErrCollected) {
			return "", err
		}
	}
	return "", fmt.Errorf("commit %s: collected %d times while it was committed: %w", got, tries, syscall.EAGAIN)
}

// confirm sees the blob on this disk and returns an index that this node had applied before it looked: a collect up to there did not take these bytes.
func (c *Cluster) confirm(digest string) (uint64, error) {
	index := c.machine.view.Load().Index()
	if _, err := c.blobs.Stat(digest); err != nil {
		return 0, fmt.Errorf("confirm %s: %w", digest, err)
	}
	return index, nil
}
