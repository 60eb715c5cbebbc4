// Package secret stores the cluster's secrets in the tree, sealed, one file each below secrets/.
package secret

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"

	"casemate/cluster"
)

// The secrets of a cluster. The first two are created at init, the third one at its first use.
const (
	Token     = "token"     // signs the registry's tokens
	Upload    = "upload"    // signs the state of upload sessions
	Inventory = "inventory" // seed of the ed25519 key that signs inventories
)

// What operators give the cluster to log in elsewhere.
const (
	LDAP = "ldap" // password of the bind DN
	OIDC = "oidc" // secret of the client at the OpenID provider
)

// Size of a secret in bytes.
const Size = 32

const dir = "secrets/"

// Sealer encrypts data for the tree, and decrypts it.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Unseal(sealed []byte) ([]byte, error)
}

// Tree is the part of the tree that secrets need.
type Tree interface {
	fs.ReadFileFS
	fs.StatFS
	Update(ctx context.Context, edit func(cluster.Batch) error) error
}

// Put creates a secret in a batch.
func Put(b interface {
	Put(name string, data []byte)
}, s Sealer, name string) error {
	key := make([]byte, Size)
	rand.Read(key)
	sealed, err := s.Seal(key)
	if err == nil {
		b.Put(dir+name, sealed)
	}
	return err
}

// Read returns an existing secret.
func Read(tree fs.ReadFileFS, s Sealer, name string) ([]byte, error) {
	data, err := tree.ReadFile(dir + name)
	if err == nil {
		data, err = s.Unseal(data)
	}
	if err != nil {
		return nil, fmt.Errorf("the cluster's secret %s cannot be read, casemate init has not finished "+
			"or the sealing key in the data directory is another cluster's: %w", name, err)
	}
	return data, nil
}

// ReadOrMake returns a secret; the first node that needs it creates it. Several nodes may create it concurrently; all
// of them return the one that was committed first.
func ReadOrMake(ctx context.Context, tree Tree, s Sealer, name string) ([]byte, error) {
	if _, err := tree.Stat(dir + name); errors.Is(err, fs.ErrNotExist) {
		err := tree.Update(ctx, func(b cluster.Batch) error {
			b.Expect(dir+name, 0)
			return Put(b, s, name)
		})
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("the cluster's secret %s cannot be created: %w", name, err)
		}
	}
	key, err := Read(tree, s, name)
	if err == nil && len(key) != Size {
		err = fmt.Errorf("the cluster's secret %s has %d bytes, want %d", name, len(key), Size)
	}
	return key, err
}

// maxGiven bounds what operators give, in bytes.
const maxGiven = 1024

// Set seals and stores what an operator has given; "" removes it.
func Set(ctx context.Context, tree Tree, s Sealer, name, text string) error {
	if len(text) > maxGiven {
		return fmt.Errorf("a password or secret has at most %d bytes, got %d: %w", maxGiven, len(text), fs.ErrInvalid)
	}
	sealed, err := s.Seal([]byte(text))
	if err != nil {
		return err
	}
	return tree.Update(ctx, func(b cluster.Batch) error {
		if text == "" {
			b.Remove(dir + name)
		} else {
			b.Put(dir+name, sealed)
		}
		return nil
	})
}

// Given returns what an operator has given, "" if nothing.
func Given(tree fs.ReadFileFS, s Sealer, name string) (string, error) {
	data, err := tree.ReadFile(dir + name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil {
		data, err = s.Unseal(data)
	}
	if err != nil {
		return "", fmt.Errorf("the cluster's secret %s cannot be read, set it again with casemate directory login: %w",
			name, err)
	}
	return string(data), nil
}
