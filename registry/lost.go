package registry

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"slices"
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

// lostOf lists what a client that pulls the manifest d, m, from repo would need and not get, because its bytes are
// damaged or lost: of the manifest itself, config and layers, and the same of the children that are in repo. seen says
// of what was looked at before whether it, or something that it needs, is lost.
func (r *Registry) lostOf(
	ctx context.Context, repo string, d digest.Digest, m *manifest, seen map[digest.Digest]bool,
) (list []digest.Digest, err error) {
	look := func(d digest.Digest) {
		lost, known := seen[d]
		if !known && d.Validate() == nil {
			lost = r.isLost(ctx, d)
			seen[d] = lost
		}
		if lost {
			list = append(list, d)
		}
	}
	look(d)
	if m.Config != nil {
		look(m.Config.Digest)
	}
	for _, l := range m.Layers {
		look(l.Digest)
	}
	for _, c := range m.Manifests {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if c.Digest.Validate() != nil {
			continue
		}
		if _, _, err := r.digestOf(revisionPath(repo, c.Digest)); err != nil {
			continue // a sparse index
		}
		if lost, known := seen[c.Digest]; known {
			if lost {
				list = append(list, c.Digest)
			}
			continue
		}
		child, err := r.manifestIn(repo, c.Digest)
		if errors.Is(err, syscall.EIO) {
			seen[c.Digest] = true
			list = append(list, c.Digest)
			continue
		}
		if err != nil {
			continue // deleted meanwhile, or no manifest at all
		}
		more, err := r.lostOf(ctx, repo, c.Digest, child, seen) // ends, since no manifest can name itself
		if err != nil {
			return nil, err
		}
		seen[c.Digest] = len(more) > 0
		list = append(list, more...)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// pushable reports whether a client that is about to push may be told that the manifest is here: it would not send what
// hangs on it.
func (r *Registry) pushable(ctx context.Context, h hit) bool {
	m, err := r.manifestIn(h.repo, h.digest)
	if err != nil {
		return false
	}
	lost, err := r.lostOf(ctx, h.repo, h.digest, m, map[digest.Digest]bool{})
	return err == nil && len(lost) == 0
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
