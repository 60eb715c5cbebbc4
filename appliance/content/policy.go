package content

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"time"
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
	// Origins are the only hosts whose names an import may have; none: all (import.policy.origins).
	Origins []string
	// MaxSize is how many bytes the content of an import may have, 0: any number (import.policy.max_size).
	MaxSize int64
	// MinAge is how long ago each image must have been built; 0: any time (import.policy.min_age).
	MinAge time.Duration
	// ApproveWithin is how long a staged import waits; 0: two weeks.
	ApproveWithin time.Duration
}

// checkIndex refuses what an index says already.
func (p Policy) checkIndex(ix *bundle.Index, canonical func(string) string) error {
	var r Record
	for _, b := range ix.Blobs {
		r.Bytes += b.Size
	}
	var hosts []Host
	for _, i := range ix.Images {
		if host, _, _ := strings.Cut(i.Repository, "/"); strings.Contains(host, ".") {
			hosts = append(hosts, Host{Name: canonical(host)})
		}
	}
	for _, list := range [][]string{fileURLs(ix.Files), redirectURLs(ix.Redirects)} {
		for _, text := range list {
			if u, err := url.Parse(text); err == nil && u.Host != "" { // others are refused later
				hosts = append(hosts, Host{Name: canonical(u.Hostname())})
			}
		}
	}
	return p.checkNames(r, hosts)
}

func fileURLs(files []bundle.File) (list []string) {
	for _, f := range files {
		list = append(list, f.URL)
	}
	return list
}

func redirectURLs(redirects []bundle.Redirect) (list []string) {
	for _, r := range redirects {
		list = append(list, r.From)
	}
	return list
}

// checkNames refuses an import for its size and its hosts.
func (p Policy) checkNames(r Record, hosts []Host) error {
	if p.MaxSize > 0 && r.Bytes > p.MaxSize {
		return fmt.Errorf("its content has %s, more than import.policy.max_size allows (%s): %w", BytesText(r.Bytes),
			BytesText(p.MaxSize), fs.ErrPermission)
	}
	for _, h := range hosts {
		if len(p.Origins) > 0 && !slices.Contains(p.Origins, h.Name) {
			return fmt.Errorf("it has names of %s, which is not one of import.policy.origins (%s): %w", h.Name,
				strings.Join(p.Origins, " "), fs.ErrPermission)
		}
	}
	return nil
}

// checkAge refuses an image that was built too recently. built is what its config says, zero if it says nothing, as
// with reproducible builds: such an image has no age.
func (p Policy) checkAge(image string, built, now time.Time) error {
	if p.MinAge == 0 || built.IsZero() || built.Unix() <= 0 || now.Sub(built) >= p.MinAge {
		return nil
	}
	return fmt.Errorf("image %s was built on %s, and import.policy.min_age is %s: import it after %s: %w", image,
		built.UTC().Format(time.DateOnly), p.MinAge, built.Add(p.MinAge).UTC().Format(time.DateTime), fs.ErrPermission)
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
