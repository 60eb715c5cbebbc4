package openpgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

const (
	maxKeyring = 16 << 20 // bytes of a keyring
	maxKeys    = 1000     // keys of a keyring
	maxBits    = 16384    // of a key
)

// Keyring is a set of public keys that may sign. The zero value has none.
type Keyring struct {
	keys openpgp.EntityList
}

// ReadKeyring reads public keys as gpg exports them: binary or armored, several of them in any order. Keys of unknown
// kinds are skipped as long as one can be used.
func ReadKeyring(b []byte) (*Keyring, error) {
	switch {
	case len(b) > maxKeyring:
		return nil, fmt.Errorf("the keyring is larger than %d MiB", maxKeyring>>20)
	case len(bytes.TrimSpace(b)) == 0:
		return nil, errors.New("the keyring is empty")
	case len(b) > 12 && string(b[8:12]) == "KBXf":
		return nil, errors.New("it is a keybox, which apt cannot read either: write its keys with gpg --export")
	}
	k := &Keyring{}
	var err error
	if b[0]&0x80 != 0 { // an OpenPGP packet (RFC 9580, 4.2)
		k.keys, err = readKeys(b)
	} else {
		err = k.readArmored(b)
	}
	switch {
	case len(k.keys) > maxKeys:
		return nil, fmt.Errorf("the keyring has more than %d keys", maxKeys)
	case len(k.keys) > 0:
		return k, nil
	case err != nil:
		return nil, fmt.Errorf("no public key can be read: %.200s", err)
	}
	return nil, errors.New("it has no public key: give what gpg --export or gpg --armor --export writes")
}

// readKeys reads binary keys. Reading a key verifies its own signatures, which takes minutes for one of 64 000 bits.
func readKeys(b []byte) (openpgp.EntityList, error) {
	packets := packet.NewReader(bytes.NewReader(b))
	for {
		p, err := packets.Next()
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return openpgp.ReadKeyRing(bytes.NewReader(b))
		}
		if k, ok := p.(*packet.PublicKey); ok && err == nil {
			if bits, err := k.BitLength(); err == nil && bits > maxBits {
				return nil, fmt.Errorf("the key %s has more than %d bits", k.KeyIdString(), maxBits)
			}
		}
	}
}

var armorStart = []byte("-----BEGIN PGP ")

// readArmored reads one or more armored blocks.
func (k *Keyring) readArmored(b []byte) (failed error) {
	for {
		at := bytes.Index(b, armorStart)
		if at < 0 {
			return failed
		}
		b = b[at:]
		end := len(b)
		if next := bytes.Index(b[1:], armorStart); next >= 0 {
			end = next + 1
		}
		block, err := armor.Decode(bytes.NewReader(b[:end]))
		if err == nil && block.Type == openpgp.PublicKeyType {
			var raw []byte
			var keys openpgp.EntityList
			if raw, err = io.ReadAll(block.Body); err == nil {
				keys, err = readKeys(raw)
			}
			k.keys = append(k.keys, keys...)
		}
		if err != nil {
			failed = err
		}
		b = b[end:]
	}
}

// Join returns the keys of several keyrings.
func Join(rings ...*Keyring) *Keyring {
	all := &Keyring{}
	for _, r := range rings {
		if r != nil {
			all.keys = append(all.keys, r.keys...)
		}
	}
	return all
}

// Empty reports whether there are no keys.
func (k *Keyring) Empty() bool { return len(k.keys) == 0 }

// Only returns the keys with one of the fingerprints, which are those of a key or of one of its subkeys. An exclamation
// mark behind a fingerprint, which in apt excludes the key's other subkeys, has no effect.
func (k *Keyring) Only(fingerprints []string) *Keyring {
	some := &Keyring{}
	for _, e := range k.keys {
		if slices.ContainsFunc(fingerprints, func(f string) bool { return hasFingerprint(e, f) }) {
			some.keys = append(some.keys, e)
		}
	}
	return some
}

func hasFingerprint(e *openpgp.Entity, fingerprint string) bool {
	f := strings.TrimSuffix(fingerprint, "!")
	if strings.EqualFold(f, fmt.Sprintf("%x", e.PrimaryKey.Fingerprint)) {
		return true
	}
	return slices.ContainsFunc(e.Subkeys, func(s openpgp.Subkey) bool {
		return strings.EqualFold(f, fmt.Sprintf("%x", s.PublicKey.Fingerprint))
	})
}
