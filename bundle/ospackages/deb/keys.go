package deb

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"casemate/bundle/ospackages/openpgp"
)

var fingerprint = regexp.MustCompile(`^[0-9A-Fa-f]{40,64}!?$`)

// keysOf returns the keys that may sign a source: those that its Signed-By names, otherwise all that the operator gave.
// A file that Signed-By names may have been given under another directory, or be one of this machine; usually the
// sources are those of a node, and this machine does not have the file.
func (c *Collector) keysOf(s *Source) (*openpgp.Keyring, error) {
	all := &openpgp.Keyring{}
	for _, k := range c.opt.Keyrings {
		all = openpgp.Join(all, k.Keyring)
	}
	switch words := strings.FieldsFunc(s.SignedBy, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }); {
	case s.SignedBy == "" && all.Empty():
		return nil, errors.New("no key is known for it: give the publisher's with --keyring")
	case s.SignedBy == "":
		return all, nil
	case strings.Contains(s.SignedBy, "-----BEGIN PGP"):
		k, err := openpgp.ReadKeyring([]byte(s.SignedBy))
		if err != nil {
			return nil, fmt.Errorf("the key in its Signed-By: %w", err)
		}
		return k, nil
	case fingerprint.MatchString(words[0]):
		some := all.Only(words)
		if some.Empty() {
			return nil, fmt.Errorf("no given keyring has the key %s that its Signed-By names: give it with --keyring",
				words[0])
		}
		return some, nil
	default:
		return c.keysInFiles(words, all)
	}
}

// keysInFiles returns the keys in the files that a Signed-By names.
func (c *Collector) keysInFiles(files []string, all *openpgp.Keyring) (*openpgp.Keyring, error) {
	keys := &openpgp.Keyring{}
	for _, file := range files {
		k, err := c.keyFile(file)
		switch {
		case err == nil:
			keys = openpgp.Join(keys, k)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("%s: %w", file, err)
		case all.Empty():
			return nil, fmt.Errorf("its key %s is not on this machine: give a copy with --keyring", file)
		default:
			keys = openpgp.Join(keys, all)
		}
	}
	return keys, nil
}

// keyFile returns the keyring that the operator gave under the name of the file, or the file itself.
func (c *Collector) keyFile(file string) (*openpgp.Keyring, error) {
	for _, k := range c.opt.Keyrings {
		if path.Base(k.Name) == path.Base(file) {
			return k.Keyring, nil
		}
	}
	if !strings.HasPrefix(file, "/") {
		return nil, fmt.Errorf("its Signed-By is neither a path nor a fingerprint nor a key: %w", fs.ErrInvalid)
	}
	b, err := c.opt.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return openpgp.ReadKeyring(b)
}

// unverified reports whether no signature is checked.
func (c *Collector) unverified() bool { return c.opt.Stored && len(c.opt.Keyrings) == 0 }

// allowsUnsigned reports whether the operator takes a repository without a signature.
func (c *Collector) allowsUnsigned(s *Source) bool {
	for _, u := range c.opt.AllowUnsigned {
		u = strings.TrimRight(u, "/")
		if u == s.URI || strings.HasPrefix(s.URI, u+"/") {
			return true
		}
	}
	return false
}
