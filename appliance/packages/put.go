package packages

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"casemate/appliance/usage"
)

// maxUpload is the number of packages that one change may bring.
const maxUpload = 10_000

// maxUploadMetadata are the bytes of metadata that they may have, which are in memory until the change. Tests lower it.
var maxUploadMetadata = 256 << 20

// Package is one package of a repository.
type Package struct {
	Repository string    `json:"repository"`
	Name       string    `json:"name"`
	Version    string    `json:"version"` // as its format writes it: 1:2.0-1
	Arch       string    `json:"arch"`
	URL        string    `json:"url"`
	Digest     string    `json:"digest"` // sha256:…
	Size       int64     `json:"size"`   // bytes
	Time       time.Time `json:"time"`   // when it was put
}

// Compare compares packages as lists sort them: by repository, by name, and of one name by age.
func Compare(x, y Package) int {
	return cmp.Or(strings.Compare(x.Repository, y.Repository), strings.Compare(x.Name, y.Name), x.Time.Compare(y.Time),
		strings.Compare(x.Version+" "+x.Arch, y.Version+" "+y.Arch))
}

// uploaded is a package that was read, and whose bytes are stored.
type uploaded struct {
	entry
	file      string // as the sender calls it
	dir, base string // where its file goes
	// describe writes what the indices say of it, when all else of the entry is known.
	describe func(*entry) ([]string, error)
}

// A Source gives the files of an upload, one at a time: the name that the sender gives it, for messages, and its bytes,
// which are read before the next call. io.EOF: there is no further file.
type Source func() (name string, body io.Reader, err error)

// Put adds packages to a repository in one step, all or none. The name, version and architecture are those that the
// package says. A package that is there with the same bytes is no change; with other bytes it is refused with
// fs.ErrExist, and with force replaced.
//
// A usage.Error is a file that cannot be a package of this repository. Errors of next, and of the bodies, are returned
// wrapped.
func (s *Store) Put(ctx context.Context, repo string, force bool, next Source) ([]Package, error) {
	r, err := s.Get(repo)
	if err != nil {
		return nil, err
	}
	var all []*uploaded
	size := 0
	for {
		name, body, err := next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(all) == maxUpload {
			return nil, usage.Errorf("more than %d packages at once", maxUpload)
		}
		u, err := s.upload(ctx, r.Format, name, body)
		if err != nil {
			return nil, fmt.Errorf("%.200s: %w", name, err)
		}
		for _, text := range u.Metadata {
			size += len(text)
		}
		if size > maxUploadMetadata {
			return nil, usage.Errorf("the metadata of these packages has more than %d MiB: put them in several steps",
				maxUploadMetadata>>20)
		}
		for _, other := range all {
			if u.same(&other.entry) && u.Digest != other.Digest {
				return nil, usage.Errorf("%.200s and %.200s are both %s, with different content", other.file, u.file,
					u.label())
			}
		}
		all = append(all, u)
	}
	if len(all) == 0 {
		return nil, usage.Errorf("no package was sent")
	}
	err = s.change(ctx, repo, func(have *repository) (changed bool, err error) {
		if have.Format != r.Format { // it was removed and added again during the upload
			return false, fmt.Errorf("the repository %s was replaced by one of the format %s meanwhile: %w", repo,
				have.Format, fs.ErrExist)
		}
		for _, u := range all {
			added, err := have.add(u, force)
			if err != nil {
				return false, err
			}
			changed = changed || added
		}
		return changed, nil
	})
	if err != nil {
		return nil, err
	}
	list := make([]Package, len(all))
	for i, u := range all {
		list[i] = u.info(r)
		s.cfg.Log.Info("package put", "repository", repo, "package", u.label(), "digest", u.Digest)
	}
	return list, nil
}

// upload reads a package, and stores its bytes.
func (s *Store) upload(ctx context.Context, format, name string, body io.Reader) (*uploaded, error) {
	blob, err := s.cfg.Tree.CreateBlob("")
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	from := &copied{from: body, to: blob}
	read := readDEB
	if format == RPM {
		read = readRPM
	}
	u, err := read(from)
	if from.err != nil {
		return nil, from.err
	}
	if err != nil {
		return nil, &usage.Error{Err: err}
	}
	u.file, u.Size = name, blob.Size()
	u.Time = s.cfg.Now().UTC().Truncate(time.Second)
	if u.Digest, err = blob.Commit(ctx, ""); err != nil {
		return nil, err
	}
	// With a part of the digest, so that the lists that a client has never lead to other bytes.
	sum := strings.TrimPrefix(u.Digest, "sha256:")
	u.File = u.dir + "/" + sum[:16] + "/" + u.base
	if u.Metadata, err = u.describe(&u.entry); err != nil {
		return nil, &usage.Error{Err: err}
	}
	return u, nil
}

// copied writes what is read from it to a blob. It remembers an error of either side, which is another thing than what
// is wrong with the bytes.
type copied struct {
	from io.Reader
	to   io.Writer
	err  error
}

func (c *copied) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if _, werr := c.to.Write(p[:n]); werr != nil {
		err = werr
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// add adds a package, and reports whether that changes anything.
func (r *repository) add(u *uploaded, force bool) (bool, error) {
	i := slices.IndexFunc(r.packages, func(e entry) bool { return e.same(&u.entry) })
	switch {
	case i < 0:
		r.packages = append(r.packages, u.entry)
		return true, nil
	case r.packages[i].Digest == u.Digest:
		return false, nil
	case !force:
		return false, fmt.Errorf("%.200s: the repository has %s with other content: give it another version, or "+
			"replace it with --force: %w", u.file, u.label(), fs.ErrExist)
	}
	was := r.packages[i]
	was.Metadata = nil
	r.Replaced = append(r.Replaced, replaced{was, keptGenerations})
	r.packages[i] = u.entry
	return true, nil
}

func (e *entry) info(r Repository) Package {
	return Package{Repository: r.Name, Name: e.Name, Version: e.Version, Arch: e.Arch,
		URL: r.URL + "/" + escaped(e.File), Digest: e.Digest, Size: e.Size, Time: e.Time}
}

// List returns the packages of a repository by name, in the order in which they were put.
func (s *Store) List(ctx context.Context, repo string) ([]Package, error) {
	about, err := s.Get(repo)
	if err != nil {
		return nil, err
	}
	r, err := s.load(ctx, repo)
	if err != nil {
		return nil, err
	}
	list := make([]Package, len(r.packages))
	for i := range r.packages {
		list[i] = r.packages[i].info(about)
	}
	return list, nil
}

// RemovePackages removes the packages NAME, or NAME=VERSION, of all architectures, and returns them. fs.ErrNotExist:
// there is none.
func (s *Store) RemovePackages(ctx context.Context, repo, what string) ([]Package, error) {
	return s.removePackages(ctx, repo, what, func(e *entry) bool { return matches(what, e.Name, e.Version) })
}

// Matches reports whether RemovePackages(what) would remove the package.
func Matches(what string, p Package) bool { return matches(what, p.Name, p.Version) }

func matches(what, name, version string) bool {
	wantName, wantVersion, one := strings.Cut(what, "=")
	return name == wantName && (!one || version == wantVersion)
}

func (s *Store) removePackages(
	ctx context.Context, repo, what string, match func(*entry) bool,
) (removed []Package, err error) {
	about, err := s.Get(repo)
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, repo, func(r *repository) (bool, error) {
		removed = nil
		r.packages = slices.DeleteFunc(r.packages, func(e entry) bool {
			if !match(&e) {
				return false
			}
			removed = append(removed, e.info(about))
			return true
		})
		if len(removed) == 0 {
			return false, notExist(repo, what)
		}
		r.Replaced = slices.DeleteFunc(r.Replaced, func(p replaced) bool {
			return slices.ContainsFunc(removed, func(q Package) bool {
				return q.Name == p.Name && q.Version == p.Version && q.Arch == p.Arch
			})
		})
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Log.Info("packages removed", "repository", repo, "what", what, "packages", len(removed))
	return removed, nil
}
