package cluster

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// sealLabel begins every sealed value, and is authenticated with it: nothing else that is encrypted under the same key can be taken for one.
const sealLabel = "casemate sealed 1\n"

// ErrSealed is returned by Unseal for bytes that were not sealed under this cluster's key.
var ErrSealed = errors.New("not sealed under this cluster's key")

func newSealer(key []byte) (cipher.AEAD, error) {
	a, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("sealing key must have %d bytes, got %d", chacha20poly1305.KeySize, len(key))
	}
	return a, nil
}

// Seal encrypts and authenticates a secret under the cluster's sealing key (XChaCha20-Poly1305, random nonce), so that it can stand in the tree,
// in snapshots and in backups (promise 10). It is 58 bytes longer than plain. Sealing the same secret twice gives different bytes.
func (c *Cluster) Seal(plain []byte) ([]byte, error) {
	out := make([]byte, 0, len(sealLabel)+c.sealer.NonceSize()+len(plain)+c.sealer.Overhead())
	out = append(out, sealLabel...)
	nonce := out[len(out) : len(out)+c.sealer.NonceSize()]
	rand.Read(nonce)
	return c.sealer.Seal(out[:len(out)+len(nonce)], nonce, plain, []byte(sealLabel)), nil
}

// Unseal returns what was given to Seal, else ErrSealed.
func (c *Cluster) Unseal(sealed []byte) ([]byte, error) {
	n := len(sealLabel) + c.sealer.NonceSize()
	if len(sealed) < n || string(sealed[:len(sealLabel)]) != sealLabel {
		return nil, ErrSealed
	}
	plain, err := c.sealer.Open(nil, sealed[len(sealLabel):n], sealed[n:], []byte(sealLabel))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
