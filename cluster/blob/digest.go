package blob

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io/fs"
	"strings"
)

// Digest names a blob: "sha256:" and 64 or "sha512:" and 128 lower-case hex digits (OCI image-spec, descriptor,
// "Digests").

// ParseDigest splits a digest into its algorithm and its hex digits. Anything else than the two forms above is
// fs.ErrInvalid: a digest becomes a path, so nothing else may pass.
func ParseDigest(digest string) (algorithm, digits string, err error) {
	algorithm, digits, _ = strings.Cut(digest, ":")
	size := map[string]int{"sha256": 2 * sha256.Size, "sha512": 2 * sha512.Size}[algorithm]
	if size == 0 || len(digits) != size {
		return "", "", invalid(digest)
	}
	for _, c := range []byte(digits) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", "", invalid(digest)
		}
	}
	return algorithm, digits, nil
}

func invalid(digest string) error {
	if len(digest) > 160 {
		digest = digest[:160] + "…"
	}
	return fmt.Errorf("digest %q is not sha256:<64 hex> or sha512:<128 hex>: %w", digest, fs.ErrInvalid)
}

// NewSum returns a hash of the algorithm that a digest names, and a function that says which digest the bytes written
// to it have.
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
