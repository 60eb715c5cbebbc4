// Package digests checks and computes digests: "sha256:<hex>" and "sha512:<hex>".
//
// The daemon's rooms have cluster/tree for that. This package stays beside it because bundle is built without any other
// room, and because it checks content while it is read, which only bundle does.
package digests

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
	"syscall"
)

// Check returns an error unless d is "sha256:" or "sha512:" with lower-case hex of the right length.
func Check(d string) error {
	alg, sum, _ := strings.Cut(d, ":")
	n := map[string]int{"sha256": 64, "sha512": 128}[alg]
	if n == 0 {
		return fmt.Errorf("digest %.150q is neither sha256:<hex> nor sha512:<hex>", d)
	}
	if len(sum) != n || strings.Trim(sum, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %.150q is not %s: and %d lower-case hex digits", d, alg, n)
	}
	return nil
}

// NewHash returns the hash of a digest that Check accepts.
func NewHash(digest string) hash.Hash {
	if strings.HasPrefix(digest, "sha512:") {
		return sha512.New()
	}
	return sha256.New()
}

// Encode returns the sum of h as a digest of the same algorithm as digest.
func Encode(digest string, h hash.Hash) string {
	alg, _, _ := strings.Cut(digest, ":")
	return alg + ":" + hex.EncodeToString(h.Sum(nil))
}

func SHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Reader reads content that must have a digest. The read that returns the last byte fails with an error that is
// syscall.EBADMSG if the content does not have it.
type Reader struct {
	r      io.Reader
	h      hash.Hash
	digest string
	size   int64
	read   int64
}

// NewReader returns a Reader of content whose size is not known: it is checked at its end. Check must accept digest.
func NewReader(r io.Reader, digest string) *Reader { return NewSizedReader(r, digest, -1) }

// NewSizedReader returns a Reader of content that must have size bytes. It is checked as soon as these were read,
// because a caller that knows the size need not read to the end. Fewer or more bytes are io.ErrUnexpectedEOF.
func NewSizedReader(r io.Reader, digest string, size int64) *Reader {
	return &Reader{r: r, h: NewHash(digest), digest: digest, size: size}
}

func (v *Reader) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.read += int64(n)
	switch {
	case v.size >= 0 && (v.read > v.size || err == io.EOF && v.read < v.size):
		return n, fmt.Errorf("%d of %d bytes: %w", v.read, v.size, io.ErrUnexpectedEOF)
	case err == io.EOF || v.read == v.size:
		if got := Encode(v.digest, v.h); got != v.digest {
			return n, fmt.Errorf("content is %s, not %s: %w", got, v.digest, syscall.EBADMSG)
		}
	}
	return n, err
}

// Like returns the digest of data, of the same algorithm as like, which Check must accept.
func Like(like string, data []byte) string {
	h := NewHash(like)
	h.Write(data)
	return Encode(like, h)
}
