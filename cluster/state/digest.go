package state

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

// Digest names a blob in binary: one byte for the algorithm (1 is sha256, 2 is sha512) and the sum. It is comparable
// and half as long as the text.
type Digest string

const (
	sha256Tag, sha256Len = 1, 32
	sha512Tag, sha512Len = 2, 64
)

// ParseDigest reads "sha256:" and 64 or "sha512:" and 128 lower-case hexadecimal digits; any other text is
// fs.ErrInvalid.
func ParseDigest(text string) (Digest, error) {
	tag, n := byte(sha256Tag), sha256Len
	digits, ok := strings.CutPrefix(text, "sha256:")
	if !ok {
		tag, n = sha512Tag, sha512Len
		digits, ok = strings.CutPrefix(text, "sha512:")
	}
	if !ok || len(digits) != 2*n || strings.ToLower(digits) != digits {
		return "", badDigest(text)
	}
	buf := make([]byte, 1+n)
	buf[0] = tag
	if _, err := hex.Decode(buf[1:], []byte(digits)); err != nil {
		return "", badDigest(text)
	}
	return Digest(buf), nil
}

func badDigest(text string) error {
	return fmt.Errorf("digest must be sha256:<64 hex digits> or sha512:<128 hex digits>, got %q: %w", short(text),
		fs.ErrInvalid)
}

// String is the text form, "sha256:…"; "" for the zero Digest.
func (d Digest) String() string {
	switch {
	case d == "":
		return ""
	case !d.valid():
		return fmt.Sprintf("invalid digest %x", short(string(d)))
	case d[0] == sha256Tag:
		return "sha256:" + hex.EncodeToString([]byte(d[1:]))
	default:
		return "sha512:" + hex.EncodeToString([]byte(d[1:]))
	}
}

func (d Digest) valid() bool {
	return len(d) == 1+sha256Len && d[0] == sha256Tag || len(d) == 1+sha512Len && d[0] == sha512Tag
}

// digests is a list of valid digests, concatenated: the first byte of each gives its length. It is a third of the size
// of a slice of strings.
type digests string

func (l digests) each(fn func(Digest)) {
	for len(l) > 0 {
		n := 1 + sha256Len
		if l[0] == sha512Tag {
			n = 1 + sha512Len
		}
		fn(Digest(l[:n]))
		l = l[n:]
	}
}

func (l digests) valid() bool {
	for len(l) > 0 {
		n := 1 + sha256Len
		if l[0] == sha512Tag {
			n = 1 + sha512Len
		}
		if len(l) < n || !Digest(l[:n]).valid() {
			return false
		}
		l = l[n:]
	}
	return true
}
