package rpm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strings"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages/openpgp"
)

// readKeys finds the keys that may sign a repository: those of its gpgkey, otherwise all that the operator gave. A file
// that gpgkey names may have been given under another directory, or be one of this machine; usually the .repo files are
// those of a node, and this machine does not have the file. A key at a URL comes along, because nodes fetch it.
func (c *Collector) readKeys(ctx context.Context, r *repository) error {
	all := &openpgp.Keyring{}
	for _, k := range c.opt.Keyrings {
		all = openpgp.Join(all, k.Keyring)
	}
	if r.keys = all; len(r.Keys) == 0 {
		return nil
	}
	r.keys = &openpgp.Keyring{}
	for _, name := range r.Keys {
		k, err := c.key(ctx, r, name)
		switch {
		case err == nil:
			r.keys = openpgp.Join(r.keys, k)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("its gpgkey %s: %w", name, err)
		case c.unverified():
			return nil
		case all.Empty() && (r.GPGCheck || r.RepoGPGCheck) && !c.allowsUnsigned(r):
			return fmt.Errorf("its gpgkey %s is not on this machine: give a copy with --keyring", name)
		default:
			r.keys = openpgp.Join(r.keys, all)
		}
	}
	return nil
}

// key returns the keyring that the operator gave under the name of a file, or the file itself.
func (c *Collector) key(ctx context.Context, r *repository, name string) (*openpgp.Keyring, error) {
	u, err := url.Parse(name)
	if err != nil {
		return nil, errors.New("it is neither a URL nor a path")
	}
	remote := u.Scheme == "http" || u.Scheme == "https"
	var content []byte
	if remote {
		b, digest, err := c.fetch.Document(ctx, name, maxSigned)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			content = b
			r.files = append(r.files, lists.File{URL: name, Digest: digest, Known: "what was fetched",
				Size: int64(len(b)), Where: r.Where})
		}
	}
	for _, k := range c.opt.Keyrings {
		if path.Base(k.Name) == path.Base(u.Path) {
			return k.Keyring, nil
		}
	}
	switch {
	case u.Scheme == "http":
		return nil, fs.ErrNotExist // anybody on the way may have changed it: only a given key counts
	case remote && content == nil:
		return nil, fs.ErrNotExist
	case remote:
		return openpgp.ReadKeyring(content)
	case u.Scheme != "file" && u.Scheme != "" || !strings.HasPrefix(u.Path, "/"):
		return nil, errors.New("it is neither an https URL nor an absolute path")
	}
	if content, err = c.opt.ReadFile(u.Path); err != nil {
		return nil, err
	}
	return openpgp.ReadKeyring(content)
}

// unverified reports whether no signature is checked.
func (c *Collector) unverified() bool { return c.opt.Stored && len(c.opt.Keyrings) == 0 }

// allowsUnsigned reports whether the operator takes a repository without a signature.
func (c *Collector) allowsUnsigned(r *repository) bool {
	for _, u := range c.opt.AllowUnsigned {
		u = strings.TrimRight(u, "/") + "/"
		for _, at := range append([]string{r.base, r.Metalink + "/", r.Mirrorlist + "/"}, r.BaseURLs...) {
			if strings.HasPrefix(at, u) {
				return true
			}
		}
	}
	return false
}
