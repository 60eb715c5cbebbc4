package packages

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"casemate/appliance/usage"
	"casemate/cluster/tree"
)

// keyBits is the size of the keys. RSA is what the package managers of all supported distributions accept, also in FIPS
// mode; 3072 bits are good beyond 2030 (NIST SP 800-57, part 1, table 2).
const keyBits = 3072

// newRSA makes a key; tests replace it by a faster one.
var newRSA = func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, keyBits) }

// signingKey is one of the cluster's keys for repositories. They are numbered; the highest one is the newest. The tree
// has them sealed.
type signingKey = pgp.Entity

func keyFile(number int) string { return fmt.Sprintf("%s/%08d", keysDir, number) }

// keyNumbers are those of the keys that are in use, the oldest first.
func (s *Store) keyNumbers() ([]int, error) {
	entries, err := s.cfg.Tree.ReadDir(keysDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, n)
		}
	}
	return list, nil
}

// keys are those that sign now, the oldest first.
func (s *Store) keys() ([]*signingKey, error) {
	numbers, err := s.keyNumbers()
	if err != nil {
		return nil, err
	}
	var list []*signingKey
	for _, n := range numbers {
		sealed, err := s.cfg.Tree.ReadFile(keyFile(n))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed at this moment
		}
		var k *signingKey
		if err == nil {
			k, err = s.unsealed(sealed)
		}
		if err != nil {
			return nil, fmt.Errorf("the key of the package repositories cannot be read: %w", err)
		}
		list = append(list, k)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("the cluster has no key for package repositories: casemate repo add makes it: %w",
			fs.ErrNotExist)
	}
	return list, nil
}

// maxUnsealed is the number of keys that a node keeps unsealed in memory.
const maxUnsealed = 8

// unsealed returns a key of the tree. Nodes ask for the public keys often, and reading a private key takes a while.
func (s *Store) unsealed(sealed []byte) (*signingKey, error) {
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	if k := s.read[string(sealed)]; k != nil {
		return k, nil
	}
	plain, err := s.cfg.Sealer.Unseal(sealed)
	if err != nil {
		return nil, err
	}
	k, err := pgp.ReadEntity(packet.NewReader(bytes.NewReader(plain)))
	if err != nil {
		return nil, err
	}
	if len(s.read) >= maxUnsealed {
		clear(s.read)
	}
	s.read[string(sealed)] = k
	return k, nil
}

// makeKey makes the first key, unless there is one.
func (s *Store) makeKey(ctx context.Context) error {
	numbers, err := s.keyNumbers()
	if err != nil || len(numbers) > 0 {
		return err
	}
	err = s.addKey(ctx, 1)
	if errors.Is(err, fs.ErrExist) { // another node was faster
		return nil
	}
	return err
}

// addKey makes a key with a number. fs.ErrExist: there is one.
func (s *Store) addKey(ctx context.Context, number int) error {
	raw, err := newRSA()
	if err != nil {
		return err
	}
	// A little in the past: nodes whose clocks are behind have to accept it too.
	at := s.cfg.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	private := packet.NewSignerPrivateKey(at, raw)
	e := &pgp.Entity{PrimaryKey: &private.PublicKey, PrivateKey: private, Identities: map[string]*pgp.Identity{}}
	cfg := &packet.Config{DefaultHash: crypto.SHA512, Time: func() time.Time { return at }}
	if err := e.AddUserId("packages of "+s.cfg.Host, "", "", cfg); err != nil {
		return err
	}
	var secret bytes.Buffer
	if err := e.SerializePrivateWithoutSigning(&secret, nil); err != nil {
		return err
	}
	sealed, err := s.cfg.Sealer.Seal(secret.Bytes())
	if err != nil {
		return err
	}
	return s.cfg.Tree.Update(ctx, func(b tree.Batch) error {
		b.Expect(keyFile(number), 0)
		b.Put(keyFile(number), sealed)
		return nil
	})
}

// PublicKey returns the keys that sign now, as one armored text: two while a rotation is not finished. fs.ErrNotExist:
// there is none before the first repository.
func (s *Store) PublicKey() (string, error) {
	keys, err := s.keys()
	if err != nil {
		return "", err
	}
	text, err := armored(keys)
	return string(text), err
}

// Key describes a key that signs.
type Key struct {
	Fingerprint string    `json:"fingerprint"` // 40 hex digits
	Created     time.Time `json:"created"`
	State       string    `json:"state"` // current, or retiring: until the rotation is finished
}

// Keys describes the keys that sign now, the newest first.
func (s *Store) Keys() ([]Key, error) {
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	list := make([]Key, len(keys))
	for i, k := range keys {
		state := "retiring"
		if i == len(keys)-1 {
			state = "current"
		}
		list[len(keys)-1-i] = Key{fingerprint(k), k.PrimaryKey.CreationTime.UTC(), state}
	}
	return list, nil
}

// Rotate makes a second key: from then on DEB repositories are signed with both, and RPM repositories with the old one.
// If there are two already, it only completes what an interrupted rotation has left, and says so with fs.ErrExist.
func (s *Store) Rotate(ctx context.Context) error {
	numbers, err := s.keyNumbers()
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return usage.Errorf("there is no key to rotate: casemate repo add makes the first one")
	}
	if len(numbers) == 1 {
		err := s.addKey(ctx, numbers[0]+1)
		if err == nil {
			s.cfg.Log.Info("key of package repositories added")
			return s.signAll(ctx)
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := s.signAll(ctx); err != nil {
		return err
	}
	return fmt.Errorf("the key is being rotated: when all nodes have the new one, end that with casemate repo key "+
		"rotate --finish: %w", fs.ErrExist)
}

// Finish ends a rotation: the old key is deleted, and all repositories are signed with the new one alone.
func (s *Store) Finish(ctx context.Context) error {
	numbers, err := s.keyNumbers()
	if err != nil {
		return err
	}
	if len(numbers) < 2 {
		if err := s.signAll(ctx); err != nil { // what an interrupted one has left
			return err
		}
		return usage.Errorf("the key is not being rotated: casemate repo key rotate begins that")
	}
	err = s.cfg.Tree.Update(ctx, func(b tree.Batch) error {
		for _, n := range numbers[:len(numbers)-1] {
			b.Remove(keyFile(n))
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.cfg.Log.Info("old key of package repositories removed")
	return s.signAll(ctx)
}

// signAll signs every repository that other keys than the present ones have signed.
func (s *Store) signAll(ctx context.Context) error {
	all, err := s.All()
	if err != nil {
		return err
	}
	for _, r := range all {
		err := s.change(ctx, r.Name, func(have *repository) (bool, error) {
			keys, err := s.keys()
			return err == nil && !slices.Equal(fingerprints(keys), have.Signers), err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sign repository %s: %w", r.Name, err)
		}
	}
	return nil
}

func fingerprint(k *signingKey) string { return fmt.Sprintf("%X", k.PrimaryKey.Fingerprint) }

func fingerprints(keys []*signingKey) (list []string) {
	for _, k := range keys {
		list = append(list, fingerprint(k))
	}
	return list
}

// armored is the public part of keys as one block (RFC 9580, 6.2), which gpg, apt and rpm read whole.
func armored(keys []*signingKey) ([]byte, error) {
	var b bytes.Buffer
	w, err := armor.EncodeWithChecksumOption(&b, pgp.PublicKeyType, nil, true)
	if err != nil {
		return nil, err
	}
	for i := range keys { // the newest first
		if err := keys[len(keys)-1-i].Serialize(w); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func signing(now func() time.Time) *packet.Config {
	return &packet.Config{DefaultHash: crypto.SHA512, Time: now}
}

// clearsigned is text with an inline signature of each key.
func clearsigned(text []byte, keys []*signingKey, now func() time.Time) ([]byte, error) {
	var private []*packet.PrivateKey
	for _, k := range keys {
		private = append(private, k.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, private, signing(now))
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// detached is an armored signature of text by each key.
func detached(text []byte, keys []*signingKey, now func() time.Time) ([]byte, error) {
	var b bytes.Buffer
	w, err := armor.EncodeWithChecksumOption(&b, pgp.SignatureType, nil, true)
	if err != nil {
		return nil, err
	}
	if err := pgp.DetachSign(w, keys, bytes.NewReader(text), signing(now)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	_, err = io.WriteString(&b, "\n")
	return b.Bytes(), err
}
