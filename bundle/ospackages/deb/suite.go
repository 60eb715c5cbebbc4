package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages/openpgp"
	"casemate/bundle/ospackages/unpack"
)

// Fetcher fetches the files of repositories. What it fetched need not be fetched again for the bundle.
type Fetcher interface {
	// Document fetches a file of which nothing is known yet, of at most limit bytes, and returns it with its digest.
	// fs.ErrNotExist: the server does not have it.
	Document(ctx context.Context, url string, limit int64) (content []byte, digest string, err error)
	// Content fetches a file of known digest and size, and opens it. syscall.EBADMSG: the server has other content;
	// fs.ErrNotExist: it has none.
	Content(ctx context.Context, url, digest string, size int64) (io.ReadCloser, error)
	// Last returns what Document returned for the URL in an earlier run; nil if nothing is known.
	Last(url string, limit int64) []byte
}

// maxAttempts is how often a suite is read from the beginning, because its publisher changed it while it was read.
const maxAttempts = 3

// suite is one suite as it was read.
type suite struct {
	*Source
	*Release
	signers  []openpgp.Signer
	files    []lists.File // the Release file, its signature, the indices
	packages []*Package
	notes    []string
	// unverified is not nil if the signature is not good, but need not be.
	unverified *lists.Unverified
}

// changedError says that a publisher changes a suite while it is read: another attempt may succeed.
type changedError struct{ error }

func (e changedError) Unwrap() error { return e.error }

// readSuite fetches a suite and checks it: the signature of the Release file before anything in it is believed, every
// index by its sum there.
func (c *Collector) readSuite(ctx context.Context, src *Source) (s *suite, err error) {
	for range maxAttempts {
		s, err = c.readSuiteOnce(ctx, src)
		if changed := (changedError{}); c.opt.Stored || !errors.As(err, &changed) {
			return s, err
		}
	}
	if changed := (changedError{}); errors.As(err, &changed) {
		err = fmt.Errorf("%w; the publisher seems to be changing the suite: try again later", changed.error)
	}
	return s, err
}

func (c *Collector) readSuiteOnce(ctx context.Context, src *Source) (*suite, error) {
	s := &suite{Source: src}
	if err := c.readRelease(ctx, s); err != nil {
		return nil, err
	}
	archs := src.Architectures
	if archs == nil {
		archs = c.opt.Architectures
	}
	var supported []string
	for _, a := range archs {
		if s.supports(a) {
			supported = append(supported, a)
		} else {
			s.note("it has no packages for %s, only for %s", a, strings.Join(s.Release.Architectures, ", "))
		}
	}
	list, missing := indices(src, s.Release, supported)
	if len(missing) > 0 {
		return nil, fmt.Errorf("it does not have %s, only %s", strings.Join(missing, " and "),
			strings.Join(s.Release.Components, ", "))
	}
	for i := range list {
		if err := c.readIndex(ctx, s, &list[i]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *suite) note(format string, args ...any) {
	s.notes = append(s.notes, s.Source.String()+": "+fmt.Sprintf(format, args...))
}

// readRelease fetches the Release file and checks its signature and its dates.
func (c *Collector) readRelease(ctx context.Context, s *suite) error {
	text, err := c.signedRelease(ctx, s)
	if err != nil {
		return err
	}
	if s.Release, err = ParseRelease(text); err != nil {
		return err
	}
	if err := s.checkTime(c.opt.Now(), s.AnyDate); err != nil {
		return err
	}
	if !s.names(s.Source.Suite) {
		s.note("its Release file is the one of %s (%s)", s.Codename, s.Release.Suite)
	}
	return nil
}

// signedRelease returns the text of InRelease, or of Release with Release.gpg beside it.
func (c *Collector) signedRelease(ctx context.Context, s *suite) ([]byte, error) {
	base := s.Base()
	doc, digest, err := c.fetch.Document(ctx, base+"InRelease", MaxRelease)
	switch {
	case err == nil:
		text, err := c.verifyInline(s, doc)
		if err != nil {
			return nil, fmt.Errorf("%sInRelease: %w", base, err)
		}
		s.addFile(base+"InRelease", digest, int64(len(doc)))
		return text, c.checkOlder(base+"InRelease", text)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%sInRelease: %w", base, err)
	}
	text, digest, err := c.fetch.Document(ctx, base+"Release", MaxRelease)
	if errors.Is(err, fs.ErrNotExist) {
		if c.opt.Stored {
			return nil, fmt.Errorf("neither %sInRelease nor Release is stored here: import a bundle of it", base)
		}
		return nil, fmt.Errorf("there is neither %sInRelease nor Release: the source's URI or suite is wrong", base)
	}
	if err != nil {
		return nil, fmt.Errorf("%sRelease: %w", base, err)
	}
	s.addFile(base+"Release", digest, int64(len(text)))
	sig, sigDigest, err := c.fetch.Document(ctx, base+"Release.gpg", MaxRelease)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.unverified():
	case errors.Is(err, fs.ErrNotExist):
		if !c.allowsUnsigned(s.Source) {
			return nil, fmt.Errorf("it is not signed: --allow-unsigned %s takes it all the same", s.URI)
		}
		s.note("it is not signed: nothing says who made its packages")
		if !s.Trusted {
			s.note("apt on the nodes refuses it unless their source says trusted=yes")
		}
	case err != nil:
		return nil, fmt.Errorf("%sRelease.gpg: %w", base, err)
	default:
		if err := c.verifyDetached(s, text, sig); err != nil {
			// The two files may be of two generations.
			return nil, changedError{fmt.Errorf("%sRelease.gpg: %w", base, err)}
		}
		s.addFile(base+"Release.gpg", sigDigest, int64(len(sig)))
	}
	return text, c.checkOlder(base+"Release", text)
}

// verifyInline checks InRelease, and returns its text.
func (c *Collector) verifyInline(s *suite, doc []byte) ([]byte, error) {
	if c.unverified() {
		text, _, err := openpgp.Clearsigned(doc, &openpgp.Keyring{}, c.opt.Now())
		if text != nil {
			err = nil
		}
		return text, err
	}
	keys, err := c.keysOf(s.Source)
	if err != nil && !c.allowsUnsigned(s.Source) {
		return nil, err
	}
	if keys == nil {
		keys = &openpgp.Keyring{}
	}
	text, by, err := openpgp.Clearsigned(doc, keys, c.opt.Now())
	if err != nil && text != nil && c.allowsUnsigned(s.Source) {
		s.allow("InRelease", err)
		return text, nil
	}
	s.signers = by
	return text, err
}

// allow records that a document is taken although its signature is not good.
func (s *suite) allow(document string, err error) {
	s.note("its signature is not checked: %v", err)
	s.unverified = &lists.Unverified{URL: s.Base() + document, Why: err.Error()}
}

func (c *Collector) verifyDetached(s *suite, text, sig []byte) (err error) {
	if c.unverified() {
		return nil
	}
	keys, err := c.keysOf(s.Source)
	if err == nil {
		s.signers, err = openpgp.Detached(text, sig, keys, c.opt.Now())
	}
	if err != nil && c.allowsUnsigned(s.Source) {
		s.allow("Release", err)
		err = nil
	}
	return err
}

// checkOlder compares the date with that of an earlier run: an older Release file can be a mirror that lags, or
// somebody who withholds updates.
func (c *Collector) checkOlder(url string, text []byte) error {
	before := c.fetch.Last(url, MaxRelease)
	if inner, _, _ := openpgp.Clearsigned(before, &openpgp.Keyring{}, c.opt.Now()); inner != nil {
		before = inner
	}
	old, err := ParseRelease(before)
	if err != nil {
		return nil // nothing is known
	}
	last := old.Date
	r, err := ParseRelease(text)
	if err == nil && r.Date.Before(last) {
		return fmt.Errorf("%s is older (%s) than the one that was fetched earlier (%s): the mirror lags, or somebody "+
			"withholds updates; use another mirror, try again later, or name an empty directory with --cache if the "+
			"publisher did go back", url, r.Date.Format(time.RFC3339), last.Format(time.RFC3339))
	}
	return nil
}

func (s *suite) addFile(url, digest string, size int64) {
	s.files = append(s.files, lists.File{
		URL: url, Digest: digest, Known: "the Release file of " + s.Source.String(), Size: size, Where: s.Where,
	})
}

// readIndex fetches an index in the first form that exists, and reads the packages in it.
func (c *Collector) readIndex(ctx context.Context, s *suite, i *index) error {
	var missing []string
	for _, f := range i.forms {
		r, err := c.open(ctx, s, f)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, f.path)
			continue
		}
		if errors.Is(err, syscall.EBADMSG) {
			return changedError{fmt.Errorf("%s%s is not the file that the Release file lists: %w", s.Base(), f.path,
				err)}
		}
		if err != nil {
			return fmt.Errorf("%s%s: %w", s.Base(), f.path, err)
		}
		defer r.Close()
		s.addFile(s.Base()+f.path, f.Digest, f.Size)
		if !i.packages {
			return nil
		}
		if err := s.readPackages(r, i, f); err != nil {
			return fmt.Errorf("%s%s: %w", s.Base(), f.path, err)
		}
		return nil
	}
	text := "the Release file lists %s, but the server does not have it (%s)"
	if c.opt.Stored {
		text = "the Release file lists %s, which is not stored here (%s)"
	}
	return changedError{fmt.Errorf(text, i.key, strings.Join(missing, ", "))}
}

// open fetches one form of an index, by its hash if the repository has that: such a name means the same content even
// while the publisher changes the suite.
func (c *Collector) open(ctx context.Context, s *suite, f form) (io.ReadCloser, error) {
	if f.Size == 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	at := s.Base() + f.path
	if algorithm, hex, ok := strings.Cut(f.Digest, ":"); ok && s.ByHash {
		dir := at[:strings.LastIndexByte(at, '/')+1]
		r, err := c.fetch.Content(ctx, dir+"by-hash/"+strings.ToUpper(algorithm)+"/"+hex, f.Digest, f.Size)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EBADMSG) {
			return r, err
		}
	}
	return c.fetch.Content(ctx, at, f.Digest, f.Size)
}

// readPackages reads an index of packages. Its expanded size is the one that the Release file states, where it does.
func (s *suite) readPackages(r io.Reader, i *index, f form) error {
	limit := f.Size * unpack.MaxRatio
	if plain, ok := s.sums[i.key]; ok {
		limit = plain.Size
	}
	limit = min(limit, unpack.MaxExpanded)
	in, err := unpack.Reader(r, f.path, limit)
	if err != nil {
		return err
	}
	defer in.Close()
	return readPackages(in, limit, func(p *Package) error {
		if p.Arch != "all" && i.arch != "" && p.Arch != i.arch {
			return fmt.Errorf("the package %.100s is for %.40s", p.Name, p.Arch)
		}
		p.suite = s
		s.packages = append(s.packages, p)
		if len(s.packages) > maxPackages {
			return fmt.Errorf("more than %d packages", maxPackages)
		}
		return nil
	})
}
