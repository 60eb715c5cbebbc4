package openpgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

const (
	maxSignature  = 1 << 20 // bytes of all signatures
	maxSignatures = 64
)

// Signer is the key behind a good signature.
type Signer struct {
	Fingerprint string // of the primary key, in upper-case hex
	Name        string // the user ID, "" if the key has none
}

// Clearsigned returns the text of a document that was signed in place (InRelease), with the keys that signed it. Text
// outside of the signed part is an error, because readers could take it for signed.
func Clearsigned(doc []byte, keys *Keyring, now time.Time) (text []byte, by []Signer, err error) {
	b, rest := clearsign.Decode(doc)
	switch {
	case b == nil:
		return nil, nil, errors.New("it is no signed document: perhaps a proxy or a login page answered")
	case !bytes.HasPrefix(doc, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) || len(bytes.TrimSpace(rest)) > 0:
		return nil, nil, errors.New("it has text outside of the part that is signed")
	}
	raw, err := io.ReadAll(io.LimitReader(b.ArmoredSignature.Body, maxSignature+1))
	if err != nil {
		return nil, nil, fmt.Errorf("its signature cannot be read: %w", err)
	}
	by, err = verify(b.Bytes, raw, keys, now)
	return b.Plaintext, by, err
}

// Detached checks a signature in a file of its own (Release.gpg, repomd.xml.asc), armored or binary.
func Detached(text, signature []byte, keys *Keyring, now time.Time) ([]Signer, error) {
	if bytes.HasPrefix(bytes.TrimSpace(signature), armorStart) {
		block, err := armor.Decode(bytes.NewReader(signature))
		if err != nil {
			return nil, fmt.Errorf("the signature cannot be read: %w", err)
		}
		if signature, err = io.ReadAll(io.LimitReader(block.Body, maxSignature+1)); err != nil {
			return nil, fmt.Errorf("the signature cannot be read: %w", err)
		}
	}
	return verify(text, signature, keys, now)
}

// verify succeeds if one signature of one of the keys is good, as apt does: the others may be of keys that this side
// does not have, or of expired ones. The error lists all of them.
func verify(text, raw []byte, keys *Keyring, now time.Time) (by []Signer, err error) {
	if len(raw) > maxSignature {
		return nil, fmt.Errorf("its signatures are larger than %d MiB", maxSignature>>20)
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	var bad []string
	packets := packet.NewReader(bytes.NewReader(raw))
	for n := 0; n < maxSignatures; n++ {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			bad = append(bad, fmt.Sprintf("one signature cannot be read (%.100s)", err))
			break
		}
		sig, ok := p.(*packet.Signature)
		if !ok {
			continue
		}
		s, err := verifyOne(text, sig, keys, config)
		if err != nil {
			bad = append(bad, err.Error())
			continue
		}
		if !slices.Contains(by, s) {
			by = append(by, s)
		}
	}
	switch {
	case len(by) > 0:
		return by, nil
	case len(bad) == 0:
		return nil, errors.New("it has no signature")
	}
	return nil, errors.New(strings.Join(bad, "; "))
}

// verifyOne checks one signature. What counts is whether the key may sign now, as for gpgv: a keyring often has only
// the newest self-signature of a key, which is younger than a document that was signed long ago.
func verifyOne(text []byte, sig *packet.Signature, keys *Keyring, config *packet.Config) (Signer, error) {
	if sig.IssuerKeyId == nil {
		return Signer{}, errors.New("a signature names no key")
	}
	id := fmt.Sprintf("%016X", *sig.IssuerKeyId)
	if len(sig.IssuerFingerprint) > 0 {
		id = fmt.Sprintf("%X", sig.IssuerFingerprint)
	}
	owners := keys.keys.EntitiesById(*sig.IssuerKeyId)
	err := pgperrors.ErrUnknownIssuer
	for _, e := range owners {
		if err = signedBy(text, sig, e, config); err == nil {
			s := Signer{Fingerprint: fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)}
			if _, i := e.PrimaryIdentity(config.Now(), config); i != nil {
				s.Name = i.Name
			}
			return s, nil
		}
	}
	return Signer{}, errors.New(reason(err, id))
}

// signedBy checks a signature against one key.
func signedBy(text []byte, sig *packet.Signature, e *openpgp.Entity, config *packet.Config) error {
	if e.Revoked(config.Now()) {
		return pgperrors.ErrKeyRevoked
	}
	if _, err := e.VerifyPrimaryKey(config.Now(), config); err != nil {
		return err
	}
	key, ok := e.SigningKeyById(config.Now(), *sig.IssuerKeyId, config)
	switch {
	case !ok && *sig.IssuerKeyId == e.PrimaryKey.KeyId:
		return errors.New("the key may not sign")
	case !ok:
		return subkeyError(e, *sig.IssuerKeyId, config)
	case config.RejectMessageHashAlgorithm(sig.Hash):
		return fmt.Errorf("its hash %s is too weak", sig.Hash)
	case sig.CreationTime.Unix() < key.PublicKey.CreationTime.Unix():
		return pgperrors.ErrSignatureOlderThanKey
	case sig.SigExpired(config.Now()):
		return pgperrors.ErrSignatureExpired
	}
	for _, n := range sig.Notations {
		if n.IsCritical {
			return fmt.Errorf("it has the critical notation %.100q, which is unknown", n.Name)
		}
	}
	h, err := sig.PrepareVerify()
	if err != nil {
		return err
	}
	wrapped := h
	switch sig.SigType {
	case packet.SigTypeBinary:
	case packet.SigTypeText:
		wrapped = openpgp.NewCanonicalTextHash(h)
	default:
		return errors.New("it is not one of a document")
	}
	wrapped.Write(text)
	return key.PublicKey.VerifySignature(h, sig)
}

// subkeyError says why a subkey does not count.
func subkeyError(e *openpgp.Entity, id uint64, config *packet.Config) error {
	for _, s := range e.Subkeys {
		if s.PublicKey.KeyId != id {
			continue
		}
		if s.Revoked(nil, config.Now()) {
			return pgperrors.ErrKeyRevoked
		}
		if _, err := s.Verify(config.Now(), config); err != nil {
			return err
		}
	}
	return errors.New("the subkey may not sign")
}

// reason says in a clause why a signature does not count.
func reason(err error, id string) string {
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return fmt.Sprintf("it is signed by key %s, which is not among the given keys", id)
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return fmt.Sprintf("the key %s has expired", id)
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return fmt.Sprintf("the key %s was revoked", id)
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return fmt.Sprintf("the signature of key %s has expired", id)
	}
	return fmt.Sprintf("the signature of key %s is not good: %.200s", id, err)
}
