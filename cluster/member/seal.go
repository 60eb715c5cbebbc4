package member

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// KeyFile holds the sealing keys, 32 bytes each, the newest first, mode 0600.
const KeyFile = "sealing.key"

// sealLabel begins every sealed value and is authenticated with it, so no other data encrypted under the same key is
// accepted as a sealed value.
const sealLabel = "casemate sealed 1\n"

// ErrSealed is returned by Unseal for bytes that were not sealed under this cluster's key.
var ErrSealed = errors.New("not sealed under this cluster's key")

// keyring is the sealing keys, the newest first, concatenated as in the file sealing.key. New secrets are sealed under
// the newest. Older keys open the secrets that were sealed under them and have not been replaced on this node yet.
type keyring struct {
	raw   []byte
	aeads []cipher.AEAD
}

const maxKeys = 8

func newKeyring(raw []byte) (*keyring, error) {
	const n = chacha20poly1305.KeySize
	if len(raw) == 0 || len(raw)%n != 0 || len(raw) > maxKeys*n {
		return nil, fmt.Errorf("%s must have %d bytes for each of 1 to %d keys, got %d", KeyFile, n, maxKeys, len(raw))
	}
	k := &keyring{raw: raw}
	for ; len(raw) > 0; raw = raw[n:] {
		a, err := chacha20poly1305.NewX(raw[:n])
		if err != nil {
			return nil, err
		}
		k.aeads = append(k.aeads, a)
	}
	return k, nil
}

// with returns the keyring with a newer key.
func (k *keyring) with(key []byte) (*keyring, error) {
	raw := append(append([]byte{}, key...), k.raw...)
	return newKeyring(raw[:min(len(raw), maxKeys*chacha20poly1305.KeySize)])
}

// newest is the key that new secrets are sealed under.
func (k *keyring) newest() []byte { return k.raw[:chacha20poly1305.KeySize] }

func (k *keyring) seal(plain []byte) []byte {
	a := k.aeads[0]
	out := make([]byte, 0, len(sealLabel)+a.NonceSize()+len(plain)+a.Overhead())
	out = append(out, sealLabel...)
	nonce := out[len(out) : len(out)+a.NonceSize()]
	rand.Read(nonce)
	return a.Seal(out[:len(out)+len(nonce)], nonce, plain, []byte(sealLabel))
}

func (k *keyring) unseal(sealed []byte) ([]byte, error) {
	n := len(sealLabel) + k.aeads[0].NonceSize()
	if len(sealed) < n || string(sealed[:len(sealLabel)]) != sealLabel {
		return nil, ErrSealed
	}
	for _, a := range k.aeads {
		if plain, err := a.Open(nil, sealed[len(sealLabel):n], sealed[n:], []byte(sealLabel)); err == nil {
			return plain, nil
		}
	}
	return nil, ErrSealed
}

// Seal encrypts and authenticates a secret under the cluster's newest sealing key (XChaCha20-Poly1305, random nonce),
// so that it can be stored in the tree, in snapshots and in backups (promise 10). The result is 58 bytes longer than
// plain. Sealing the same secret twice gives different bytes.
func (ms *Members) Seal(plain []byte) ([]byte, error) {
	if err := ms.TakeKeys(); err != nil {
		return nil, err
	}
	return ms.keys.Load().seal(plain), nil
}

// Unseal returns the plain text of what Seal returned on any node; otherwise the error is ErrSealed.
func (ms *Members) Unseal(sealed []byte) ([]byte, error) {
	plain, err := ms.keys.Load().unseal(sealed)
	if err != nil && ms.TakeKeys() == nil { // it may be sealed under a key that this node does not use yet
		plain, err = ms.keys.Load().unseal(sealed)
	}
	return plain, err
}

// CheckKeys checks the content of a KeyFile.
func CheckKeys(raw []byte) error {
	_, err := newKeyring(raw)
	return err
}

// KeyWayOut tells what to do without the sealing key.
const KeyWayOut = "copy " + KeyFile + " from the data directory of another node, with the same owner and mode 0600; " +
	"on a single node, restore " +
	"a backup into a new data directory"
