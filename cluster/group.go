package cluster

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// groupCopies is how many blobs of a group are copied to other nodes at once.
const groupCopies = 16

// CommitBlobs is Commit for several different writers of this tree, with digests as for Commit. Small blobs cost less
// together, because they share syncs and one log entry. It returns the digests of the committed blobs, "" for the
// others, and the first error. A blob that cannot be committed does not affect the others. The caller must bound the
// number and size of the blobs; all files stay open meanwhile.
func (t *Tree) CommitBlobs(ctx context.Context, writers []BlobWriter, digests []string) ([]string, error) {
	c := t.c
	done := make([]string, len(writers))
	var first error
	failed := func(err error) {
		if first == nil {
			first = err
		}
	}
	var ups []*upload
	var at []int
	var names []string
	for i, w := range writers {
		if u, ok := w.(*upload); ok {
			ups, at, names = append(ups, u), append(at, i), append(names, digests[i])
			continue
		}
		var err error
		if done[i], err = w.Commit(ctx, digests[i]); err != nil {
			failed(err)
		}
	}
	// Before any file is moved, as in Commit.
	if err := c.readyFor(ctx, t.patient); err != nil {
		return done, errors.Join(first, err)
	}
	files := make([]*blob.Writer, len(ups))
	for i, u := range ups {
		files[i] = u.Writer
	}
	placed := c.blobs.PlaceAll(files, names)
	confirmed := make([]uint64, len(ups))
	errs := make([]error, len(ups))
	var copies sync.WaitGroup
	var next atomic.Int64
	for range min(len(ups), groupCopies) {
		copies.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(ups)); i = next.Add(1) - 1 {
				if errs[i] = placed[i].Err; errs[i] == nil {
					confirmed[i], errs[i] = ups[i].Replicate(ctx, placed[i].Digest, placed[i].Size)
				}
			}
		})
	}
	copies.Wait()
	var ops []state.Op
	for i := range ups {
		if errs[i] != nil {
			continue
		}
		d, err := state.ParseDigest(placed[i].Digest)
		if errs[i] = err; err == nil {
			ops = append(ops, c.addBlob(d, placed[i].Size, confirmed[i]))
		}
	}
	var err error
	if len(ops) > 0 {
		_, err = c.proposeAll(ctx, t.patient, ops)
	}
	// because of one of them, most likely by a collection: commit each separately
	refused := errors.As(err, new(*state.Error))
	for i, u := range ups {
		switch {
		case errs[i] != nil:
		case err == nil:
			u.Done()
		case refused:
			d, _ := state.ParseDigest(placed[i].Digest)
			_, errs[i] = u.publish(ctx, d, placed[i].Size, nil)
		default:
			errs[i] = err
		}
		if errs[i] == nil {
			done[at[i]] = placed[i].Digest
		} else {
			failed(errs[i])
		}
	}
	return done, first
}
