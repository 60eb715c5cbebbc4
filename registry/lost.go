package registry

import (
	"context"
	"errors"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// A name can exist without its bytes: after damage to the disk, or a restore without blobs, the tree may know a blob
// whose bytes are unavailable. Reads then fail with syscall.EIO, which is neither a miss nor an image.

// isLost reports whether the bytes of a blob that the tree knows are damaged or lost.
func (r *Registry) isLost(ctx context.Context, d digest.Digest) bool {
	_, err := r.tree.HasBlob(ctx, d.String())
	return errors.Is(err, syscall.EIO)
}

// pushable reports whether a client that is about to push may be told that the manifest exists: it would not send the
// manifest's blobs.
func (r *Registry) pushable(ctx context.Context, rt route, h hit) bool {
	_, e, err := r.traverse(rt).at(ctx, h, 0)
	return err == nil && len(e.lost) == 0
}
