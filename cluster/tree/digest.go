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

// DigestForm says for people what form a digest has.
const DigestForm = "sha256: and 64 or sha512: and 128 lower-case hexadecimal digits"

// ParseDigest splits a digest into its algorithm and its hexadecimal digits. Anything else than the two forms is
// fs.ErrInvalid. Digests become paths and headers, so nothing else may pass.
func ParseDigest(digest string) (algorithm, encoded string, err error) {
	if algorithm, encoded, ok := cutDigest(digest); ok {
		return algorithm, encoded, nil
	}
	const most = 160 // more than the longest digest; the rest is somebody's mistake
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

// NewHash returns the hash of the algorithm that like, a digest, is of; sha256 where like is "".
func NewHash(like string) hash.Hash {
	if strings.HasPrefix(like, "sha512:") {
		return sha512.New()
	}
	return sha256.New()
}

// SumOf returns what was written to h, which NewHash made for the same like, as a digest.
func SumOf(like string, h hash.Hash) string {
	algorithm := "sha256:"
	if strings.HasPrefix(like, "sha512:") {
		algorithm = "sha512:"
	}
	return algorithm + hex.EncodeToString(h.Sum(nil))
}

// Sum returns the digest of data in the algorithm of like; by sha256 where like is "".
func Sum(data []byte, like string) string {
	if strings.HasPrefix(like, "sha512:") {
		sum := sha512.Sum512(data)
		return "sha512:" + hex.EncodeToString(sum[:])
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
