package bundle

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
	"syscall"

	"casemate/bundle/lists"
)

// checkDigest says what is wrong with a digest.
func checkDigest(d string) error { return lists.CheckDigest(d) }

// newHash returns the hash of a digest that checkDigest has passed.
func newHash(digest string) hash.Hash {
	if strings.HasPrefix(digest, "sha512:") {
		return sha512.New()
	}
	return sha256.New()
}

// sumString writes what h has seen as a digest of the same algorithm as digest.
func sumString(digest string, h hash.Hash) string {
	alg, _, _ := strings.Cut(digest, ":")
	return alg + ":" + hex.EncodeToString(h.Sum(nil))
}

func sha256Of(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// hashed passes r on and fails at its end, with an error that is syscall.EBADMSG, if its bytes do not have the digest.
type hashed struct {
	r      io.Reader
	h      hash.Hash
	digest string
}

func newHashed(r io.Reader, digest string) *hashed { return &hashed{r, newHash(digest), digest} }

func (v *hashed) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	if err == io.EOF {
		if got := sumString(v.digest, v.h); got != v.digest {
			return n, fmt.Errorf("content is %s, not %s: %w", got, v.digest, syscall.EBADMSG)
		}
	}
	return n, err
}

// digestLike is the digest of data, of the same algorithm as like, which checkDigest has passed.
func digestLike(like string, data []byte) string {
	h := newHash(like)
	h.Write(data)
	return sumString(like, h)
}
