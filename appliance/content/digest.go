package content

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"strings"
)

// digest returns the digest of the blob have in the algorithm of want. It reads the blob only if the algorithms
// differ.
func (c *Checker) digest(ctx context.Context, have, want string) (string, error) {
	algorithm, _, _ := strings.Cut(want, ":")
	if strings.HasPrefix(have, algorithm+":") {
		return have, nil
	}
	var h hash.Hash
	switch algorithm {
	case "sha256":
		h = sha256.New()
	case "sha512":
		h = sha512.New()
	default:
		return "", fmt.Errorf("a digest must be sha256:… or sha512:…, got %.80q: %w", want, fs.ErrInvalid)
	}
	b, err := c.Open(ctx, have)
	if err != nil {
		return "", err
	}
	defer b.Close()
	if _, err := io.Copy(h, cancelled{ctx, b}); err != nil {
		return "", err
	}
	return algorithm + ":" + hex.EncodeToString(h.Sum(nil)), nil
}

// cancelled ends reading when the request is cancelled.
type cancelled struct {
	ctx context.Context
	io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}
