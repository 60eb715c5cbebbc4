package archive

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"filippo.io/age"
)

// The sealing key leaves a node only in a backup, wrapped with age (https://age-encryption.org/v1), so that `age -d`
// can open the key file of a backup too.

// wrapWork is scrypt's work factor, log2: N=2^17, r=8, p=1 is the recommendation of OWASP's Password Storage Cheat
// Sheet. age's default of 2^18 temporarily takes 256 MiB, which is much on a bastion.
const (
	wrapWork    = 17
	wrapWorkMax = 20 // when reading a backup; takes 1 GiB temporarily
)

// shortest is the minimum length of a passphrase: an attacker with the backup can try passphrases offline.
const shortest = 12

// Wrap encrypts the sealing keys to either a passphrase or the recipients in the text of an age recipients file. An
// invalid one is fs.ErrInvalid.
func Wrap(key []byte, opt Options) ([]byte, error) {
	passphrase, recipients, work := opt.Passphrase, opt.Recipients, cmp.Or(opt.Work, wrapWork)
	var to []age.Recipient
	switch {
	case (passphrase == "") == (recipients == ""):
		return nil, fmt.Errorf("the sealing key must be wrapped: give either a passphrase or recipients: %w",
			fs.ErrInvalid)
	case passphrase != "":
		if len(passphrase) < shortest {
			return nil, fmt.Errorf("the passphrase must have at least %d bytes, got %d: %w", shortest, len(passphrase),
				fs.ErrInvalid)
		}
		s, err := age.NewScryptRecipient(passphrase)
		if err != nil {
			return nil, err
		}
		s.SetWorkFactor(work)
		to = append(to, s)
	default:
		var err error
		if to, err = age.ParseRecipients(strings.NewReader(recipients)); err != nil {
			return nil, fmt.Errorf("the recipients must be lines that begin with age1 (%w): %w", err, fs.ErrInvalid)
		}
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(key)
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}

// ErrWrongKey reports a passphrase or identity that is not the backup's.
var ErrWrongKey = errors.New("wrong key")

// unwrap reverses Wrap; identities is the text of an age identity file (AGE-SECRET-KEY-1…).
func unwrap(wrapped []byte, passphrase, identities string) ([]byte, error) {
	var with []age.Identity
	switch {
	case (passphrase == "") == (identities == ""):
		return nil, fmt.Errorf("the sealing key is wrapped: give either the passphrase or the identity: %w",
			fs.ErrInvalid)
	case passphrase != "":
		s, err := age.NewScryptIdentity(passphrase)
		if err != nil {
			return nil, err
		}
		s.SetMaxWorkFactor(wrapWorkMax)
		with = append(with, s)
	default:
		var err error
		if with, err = age.ParseIdentities(strings.NewReader(identities)); err != nil {
			return nil, fmt.Errorf("the identity must be a line that begins with AGE-SECRET-KEY-1 (%w): %w", err,
				fs.ErrInvalid)
		}
	}
	r, err := age.Decrypt(bytes.NewReader(wrapped), with...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none) && passphrase != "" && !isScrypt(none):
		return nil, fmt.Errorf("the backup was made for recipients, not with a passphrase: give the identity of one "+
			"of them: %w", ErrWrongKey)
	case errors.As(err, &none) && passphrase == "" && isScrypt(none):
		return nil, fmt.Errorf("the backup was made with a passphrase, not for recipients: give the passphrase: %w",
			ErrWrongKey)
	case errors.As(err, &none) && passphrase != "":
		return nil, fmt.Errorf("the passphrase is not the one that the backup was made with: %w", ErrWrongKey)
	case errors.As(err, &none):
		return nil, fmt.Errorf("the identity is none of those that the backup was made for: %w", ErrWrongKey)
	case err != nil:
		return nil, &Error{"its sealing key is damaged", err}
	}
	key, err := io.ReadAll(io.LimitReader(r, maxKey+1))
	if err != nil || len(key) == 0 || len(key) > maxKey {
		return nil, &Error{"its sealing key is damaged", err}
	}
	return key, nil
}

func isScrypt(e *age.NoIdentityMatchError) bool {
	for _, t := range e.StanzaTypes {
		if t == "scrypt" {
			return true
		}
	}
	return false
}
