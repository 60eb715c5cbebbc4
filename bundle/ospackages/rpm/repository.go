package rpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"syscall"
	"time"

	"casemate/bundle/digests"
	"casemate/bundle/lists"
	"casemate/bundle/ospackages/openpgp"
	"casemate/bundle/ospackages/unpack"
)

// maxAttempts is how often a repository is read from the beginning, because its publisher changed it while it was read.
const maxAttempts = 3

// changedError says that a publisher changes a repository while it is read: another attempt may succeed.
type changedError struct{ error }

func (e changedError) Unwrap() error { return e.error }

// readRepo reads a repository from the first of its addresses that can be used.
func (c *Collector) readRepo(ctx context.Context, repo *Repo) (*repository, error) {
	bases := repo.BaseURLs
	var m *mirrors
	if len(bases) == 0 {
		var err error
		if m, err = c.findMirrors(ctx, repo); err != nil {
			return nil, err
		}
		bases = m.bases[:min(len(m.bases), maxMirrors)]
	}
	var failed []error
	for _, base := range bases {
		r, err := c.readBase(ctx, repo, base, m)
		if err == nil || ctx.Err() != nil {
			if len(failed) > 0 && err == nil {
				r.note("%s is used, because of an address before it: %v", base, errors.Join(failed...))
			}
			return r, err
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// readBase reads a repository at one address, again from the beginning if it changes meanwhile.
func (c *Collector) readBase(ctx context.Context, repo *Repo, base string, m *mirrors) (r *repository, err error) {
	changed := changedError{}
	for range maxAttempts {
		r, err = c.readOnce(ctx, repo, base, m)
		if c.opt.Stored || !errors.As(err, &changed) {
			return r, err
		}
	}
	return nil, fmt.Errorf("%w; the publisher seems to be changing the repository: try again later", changed.error)
}

// readOnce fetches a repository and checks it: repomd.xml before anything in it is believed, every index by its sum
// there.
func (c *Collector) readOnce(ctx context.Context, repo *Repo, base string, m *mirrors) (*repository, error) {
	r := &repository{Repo: repo, base: base}
	if err := c.readKeys(ctx, r); err != nil {
		return nil, err
	}
	if err := c.signedRepomd(ctx, r, m); err != nil {
		return nil, err
	}
	r.checked = r.GPGCheck && !c.unverified() && !c.allowsUnsigned(r)
	if m != nil {
		c.addMirrors(r, m)
	}
	for i := range r.Data {
		var err error
		d := &r.Data[i]
		r.files = append(r.files, lists.File{URL: d.URL, Digest: d.Digest, Known: "the repomd.xml of " + r.base,
			Size: d.Size, Where: r.Where})
		switch d.Type {
		case "primary":
			err = c.read(ctx, d, func(in io.Reader) error { return c.pool.readPrimary(in, r.add) })
		case "modules":
			err = c.read(ctx, d, r.modules.read)
		case "group", "group_gz": // the same document
			if r.groups == nil && c.wantsGroups() {
				r.groups = groups{}
				err = c.read(ctx, d, r.groups.read)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// add takes a package of primary.xml.
func (r *repository) add(p *Package) error {
	if len(r.packages) >= maxPackages {
		return fmt.Errorf("more than %d packages", maxPackages)
	}
	if _, err := resolve(r.base, p.base, p.href); err != nil {
		return fmt.Errorf("the package %.100s: %w", p.Name, err)
	}
	p.repo = r
	r.packages = append(r.packages, p)
	return nil
}

// signedRepomd fetches repomd.xml, and its signature if there is one.
func (c *Collector) signedRepomd(ctx context.Context, r *repository, m *mirrors) error {
	at := r.base + "repodata/repomd.xml"
	text, digest, err := c.fetch.Document(ctx, at, maxRepomd)
	if isNotExist(err) && c.opt.Stored {
		return fmt.Errorf("%s is not stored here: import a bundle of it", at)
	}
	if isNotExist(err) {
		return fmt.Errorf("there is no %s: the repository's address is wrong", at)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if m != nil && len(m.digests) > 0 && !m.allows(text) {
		return changedError{fmt.Errorf("%s is not the file that the metalink lists", at)}
	}
	r.files = append(r.files, lists.File{URL: at, Digest: digest, Known: "what was fetched", Size: int64(len(text)),
		Where: r.Where})
	if err := c.checkRepomd(ctx, r, at, text); err != nil {
		return err
	}
	if r.Repomd, err = ParseRepomd(text, r.base); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if before, err := ParseRepomd(c.fetch.Last(at, maxRepomd), r.base); err == nil && r.Date.Before(before.Date) {
		return fmt.Errorf("%s is older (%s) than the one that was fetched earlier (%s): the mirror lags, or "+
			"somebody withholds updates; use another mirror, try again later, or name an empty directory with --cache "+
			"if the publisher did go back", at, r.Date.Format(time.RFC3339), before.Date.Format(time.RFC3339))
	}
	return nil
}

// allows reports whether a metalink lists this repomd.xml.
func (m *mirrors) allows(text []byte) bool {
	for _, d := range m.digests {
		if digests.Like(d, text) == d {
			return true
		}
	}
	return false
}

// checkRepomd checks the signature of repomd.xml. Without repo_gpgcheck dnf does not ask for it; then the signatures of
// packages have to say who made them.
func (c *Collector) checkRepomd(ctx context.Context, r *repository, at string, text []byte) error {
	sig, digest, err := c.fetch.Document(ctx, at+".asc", maxSigned)
	switch {
	case isNotExist(err):
		err = errors.New("it is not signed")
	case err != nil:
		return fmt.Errorf("%s.asc: %w", at, err)
	default:
		r.files = append(r.files, lists.File{URL: at + ".asc", Digest: digest, Known: "what was fetched",
			Size: int64(len(sig)), Where: r.Where})
		if r.keys.Empty() {
			err = errors.New("no key is known for it: give the publisher's with --keyring")
			break
		}
		if r.signers, err = openpgp.Detached(text, sig, r.keys, c.opt.Now()); err == nil {
			return nil
		}
	}
	allowed := c.allowsUnsigned(r)
	switch {
	case c.unverified():
		return nil
	case r.RepoGPGCheck && !allowed && sig != nil: // the two files may be of two generations
		return changedError{fmt.Errorf("%s.asc: %w", at, err)}
	case r.RepoGPGCheck && !allowed:
		return fmt.Errorf("%s: %w: --allow-unsigned %s takes it all the same", at, err, r.base)
	case allowed:
		r.note("its signature is not checked (%v): nothing says who made its packages", err)
		if sig != nil {
			r.unverified = &lists.Unverified{URL: at, Why: err.Error()}
		}
		if r.GPGCheck || r.RepoGPGCheck {
			r.note("dnf on the nodes verifies it with their keys, unless its .repo file says gpgcheck=0 and " +
				"repo_gpgcheck=0")
		}
		return nil
	case r.GPGCheck && !r.keys.Empty():
		return nil
	case r.GPGCheck:
		return errors.New("no key is known for its packages: give the publisher's with --keyring")
	}
	return fmt.Errorf("neither its repomd.xml (%w) nor its packages (gpgcheck=0) are verified: --allow-unsigned %s "+
		"takes it all the same", err, r.base)
}

// read opens a file that repomd.xml names, expands it, and reads it to its end.
func (c *Collector) read(ctx context.Context, d *Data, read func(io.Reader) error) error {
	err := c.readData(ctx, d, read)
	switch {
	case isNotExist(err) && c.opt.Stored:
		return fmt.Errorf("repomd.xml lists %s, which is not stored here", d.URL)
	case isNotExist(err):
		return changedError{fmt.Errorf("repomd.xml lists %s, but the server does not have it", d.URL)}
	case errors.Is(err, syscall.EBADMSG):
		return changedError{fmt.Errorf("%s is not the file that repomd.xml lists: %w", d.URL, err)}
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("%s: %w", d.URL, err)
	}
	return err
}

func (c *Collector) readData(ctx context.Context, d *Data, read func(io.Reader) error) error {
	size := d.Size
	if size == 0 {
		size = -1
	}
	in, err := c.fetch.Content(ctx, d.URL, d.Digest, size)
	if err != nil {
		return err
	}
	defer in.Close()
	limit := int64(unpack.MaxExpanded)
	switch {
	case d.OpenSize > 0:
		limit = min(limit, d.OpenSize)
	case d.Size > 0:
		limit = min(limit, d.Size*unpack.MaxRatio)
	}
	expanded, err := unpack.Reader(in, path.Base(d.URL), limit)
	if err != nil {
		return err
	}
	defer expanded.Close()
	if d.OpenDigest == "" {
		return read(expanded)
	}
	checked := digests.NewReader(expanded, d.OpenDigest)
	if err := read(checked); err != nil {
		return err
	}
	// A reader of documents may stop before the end.
	if _, err := io.Copy(io.Discard, checked); err != nil {
		return fmt.Errorf("its expanded content: %w", err)
	}
	return nil
}
