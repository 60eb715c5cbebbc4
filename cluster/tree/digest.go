package tree

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io/fs"
	"strings"
)

// A digest names a blob: "sha256:" and 64, or "sha512:" and 128, lower-case hexadecimal digits (OCI image-spec,
// descriptor.md, "Digests").

// DigestForm describes the form of a digest for error messages.
const DigestForm = "sha256: and 64 or sha512: and 128 lower-case hexadecimal digits"

// ParseDigest splits a digest into its algorithm and its hexadecimal digits. Any other text is fs.ErrInvalid: digests
// become paths and headers.
func ParseDigest(digest string) (algorithm, encoded string, err error) {
	if algorithm, encoded, ok := cutDigest(digest); ok {
		return algorithm, encoded, nil
	}
	const most = 160 // longer than the longest digest
	if len(digest) > most {
		digest = digest[:most] + "…"
	}
	return "", "", fmt.Errorf("a digest has the form %s, got %q: %w", DigestForm, digest, fs.ErrInvalid)
}

// ValidDigest reports whether ParseDigest accepts digest. It does not allocate.
func ValidDigest(digest string) bool {
	_, _, ok := cutDigest(digest)
	return ok
}

func cutDigest(digest string) (algorithm, encoded string, ok bool) {
	algorithm, encoded, _ = strings.Cut(digest, ":")
	switch {
	case algorithm == "sha256" && len(encoded) == 2*sha256.Size:
	case algorithm == "sha512" && len(encoded) == 2*sha512.Size:
	default:
		return "", "", false
	}
	for i := range len(encoded) {
		if c := encoded[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", "", false
		}
	}
	return algorithm, encoded, true
}

// NewHash returns the hash of the algorithm of the digest like; sha256 if like is "".
func NewHash(like string) hash.Hash {
	if strings.HasPrefix(like, "sha512:") {
		return sha512.New()
	}
	return sha256.New()
}

// SumOf returns the sum of h as a digest. NewHash must have made h for the same like.
func SumOf(like string, h hash.Hash) string {
	algorithm := "sha256:"
	if strings.HasPrefix(like, "sha512:") {
		algorithm = "sha512:"
	}
	return algorithm + hex.EncodeToString(h.Sum(nil))
}

// Sum returns the digest of data in the algorithm of like; sha256 if like is "".
func Sum(data []byte, like string) string {
	if strings.HasPrefix(like, "sha512:") {
		sum := sha512.Sum512(data)
		return "sha512:" + hex.EncodeToString(sum[:])
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
