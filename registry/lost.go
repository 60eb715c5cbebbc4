package registry

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// A name and its bytes are two things: after damage to the disk, or a restore without blobs, the tree may know a blob
// whose bytes cannot be had. That is syscall.EIO, and neither a miss nor an image.

// isLost reports whether the bytes of a blob that the tree knows are damaged or lost.
func (r *Registry) isLost(ctx context.Context, d digest.Digest) bool {
	_, err := r.tree.HasBlob(ctx, d.String())
	return errors.Is(err, syscall.EIO)
}

// pushable reports whether a client that is about to push may be told that the manifest is here: it would not send what
// hangs on it.
func (r *Registry) pushable(ctx context.Context, rt route, h hit) bool {
	_, e, err := r.lookFrom(rt).at(ctx, h, 0)
	return err == nil && len(e.lost) == 0
}

// hasDigest reports whether bytes have a digest. It costs little for what is at most a manifest.
func hasDigest(data []byte, d digest.Digest) bool {
	if d.Algorithm() == digest.SHA512 {
		sum := sha512.Sum512(data)
		return d.Encoded() == hex.EncodeToString(sum[:])
	}
	sum := sha256.Sum256(data)
	return d.Encoded() == hex.EncodeToString(sum[:])
}

// doubter is a tree that can be told that a blob was read with wrong bytes.
type doubter interface {
	// DoubtBlob looks whether the blob's bytes are right. After it, if they were not, HasBlob and OpenBlob know.
	DoubtBlob(ctx context.Context, digest string)
}
