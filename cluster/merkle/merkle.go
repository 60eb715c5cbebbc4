// Package merkle is the growing end of a Merkle tree of RFC 6962, section 2.1: what is needed to add leaves to a tree
// and to know its root, without the leaves that are in it.
package merkle

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// HashSize is the size of a hash in bytes.
const HashSize = tlog.HashSize

// Hash is a hash of a leaf or of a subtree: SHA-256, as RFC 6962 prescribes.
type Hash = tlog.Hash

// Frontier is a tree of some number of leaves, as the roots of the largest complete subtrees that cover them, from left
// to right: one for each bit of the number. The zero value is the empty tree. A Frontier does not change.
type Frontier struct {
	size  uint64
	peaks []Hash
}

// LeafHash returns the hash of a leaf.
func LeafHash(leaf []byte) Hash { return tlog.RecordHash(leaf) }

// Size is the number of leaves.
func (f Frontier) Size() uint64 { return f.size }

// Add returns the tree with one more leaf.
func (f Frontier) Add(leaf Hash) Frontier {
	done := bits.TrailingZeros64(^f.size) // how many subtrees the leaf completes
	keep := len(f.peaks) - done
	for i := len(f.peaks) - 1; i >= keep; i-- {
		leaf = tlog.NodeHash(f.peaks[i], leaf)
	}
	return Frontier{f.size + 1, append(f.peaks[:keep:keep], leaf)}
}

// Root returns the root of the tree. That of the empty tree is the hash of no bytes.
func (f Frontier) Root() Hash {
	if f.size == 0 {
		return sha256.Sum256(nil)
	}
	root := f.peaks[len(f.peaks)-1]
	for i := len(f.peaks) - 2; i >= 0; i-- {
		root = tlog.NodeHash(f.peaks[i], root)
	}
	return root
}

// Append appends the hashes of the frontier to b.
func (f Frontier) Append(b []byte) []byte {
	for _, p := range f.peaks {
		b = append(b, p[:]...)
	}
	return b
}

// Parse is the reverse of Append.
func Parse(size uint64, hashes []byte) (f Frontier, err error) {
	if n := bits.OnesCount64(size); len(hashes) != n*HashSize {
		return f, fmt.Errorf("a tree of %d leaves has %d hashes of %d bytes at its end, got %d bytes", size, n,
			HashSize, len(hashes))
	}
	f.size = size
	for ; len(hashes) > 0; hashes = hashes[HashSize:] {
		f.peaks = append(f.peaks, Hash(hashes[:HashSize]))
	}
	return f, nil
}
