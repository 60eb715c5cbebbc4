package blob

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"

	"casemate/cluster/tree"
)

// ParseDigest is tree.ParseDigest: a blob's digest becomes a path.
func ParseDigest(digest string) (algorithm, digits string, err error) {
	return tree.ParseDigest(digest)
}

// NewSum returns a hash of a digest's algorithm, and a function that returns the digest of the bytes written to it.
func NewSum(digest string) (hash.Hash, func() string) {
	algorithm, _, _ := strings.Cut(digest, ":")
	h := newHash(algorithm)
	return h, func() string { return digestOf(algorithm, h) }
}

func newHash(algorithm string) hash.Hash {
	if algorithm == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

func digestOf(algorithm string, h hash.Hash) string {
	return algorithm + ":" + hex.EncodeToString(h.Sum(nil))
}
