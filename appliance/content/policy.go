package content

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode"

	"casemate/bundle"
	"casemate/bundle/signing"
)

// Policy decides whose bundles are accepted.
type Policy struct {
	// Require accepts only bundles that a trusted key signed (import.require_signature).
	Require bool
	// Keys are trusted (import.keys).
	Keys []ed25519.PublicKey
}

// admit returns the keys of which one must have signed the content, none if no signature is required. asked are the
// keys in the request: they narrow the keys of the policy, and are the only trusted keys if the policy requires a
// signature and has no keys.
func (p Policy) admit(asked []ed25519.PublicKey) ([]ed25519.PublicKey, error) {
	if !p.Require {
		return asked, nil
	}
	keys := p.Keys
	switch {
	case len(p.Keys) == 0 && len(asked) == 0:
		return nil, fmt.Errorf("import.require_signature is on, but no key is trusted: set import.keys, or give one "+
			"with --key: %w", fs.ErrPermission)
	case len(p.Keys) == 0:
		keys = asked
	case len(asked) > 0:
		keys = nil
		for _, k := range asked {
			if slices.ContainsFunc(p.Keys, func(t ed25519.PublicKey) bool { return t.Equal(k) }) {
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 {
			return nil, fmt.Errorf("import.require_signature is on, but no --key is one of import.keys: %w",
				fs.ErrPermission)
		}
	}
	return keys, nil
}

// check refuses a bundle that none of the known keys signed, even if no signature is required: otherwise removing the
// signature would bypass the check. Inputs other than bundles have no signature to check.
func (p Policy) check(c *bundle.Contents) error {
	signer := c.Signer
	switch {
	case len(p.Keys) == 0 || signer == "" && c.Kind != bundle.KindBundle:
		return nil
	case signer == "":
		return fmt.Errorf("it is not signed, but import.keys requires a signature by one of its keys: %w",
			fs.ErrPermission)
	}
	if slices.ContainsFunc(p.Keys, func(k ed25519.PublicKey) bool { return signing.KeyName(k) == signer }) {
		return nil
	}
	return fmt.Errorf("it is signed by %s, which is not one of import.keys: %w", signer, fs.ErrPermission)
}

// ParseKeys reads public keys as bundle.ReadPublicKey does, several of them: PEM blocks one after another, or base64
// separated by white space or commas.
func ParseKeys(text string) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	add := func(one []byte) error {
		k, err := signing.ReadPublicKey(one)
		if err != nil {
			return fmt.Errorf("%w: %w", err, fs.ErrInvalid)
		}
		keys = append(keys, k)
		return nil
	}
	fields := func(s string) error {
		for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
			if err := add([]byte(f)); err != nil {
				return err
			}
		}
		return nil
	}
	for rest := text; ; {
		before, _, found := strings.Cut(rest, pemBegin)
		if err := fields(before); err != nil || !found {
			return keys, err
		}
		block, after := pem.Decode([]byte(rest[len(before):]))
		if block == nil {
			return nil, fmt.Errorf("a PEM block is damaged: %w", fs.ErrInvalid)
		}
		if err := add(pem.EncodeToMemory(block)); err != nil {
			return nil, err
		}
		rest = string(after)
	}
}

const pemBegin = "-----BEGIN "
