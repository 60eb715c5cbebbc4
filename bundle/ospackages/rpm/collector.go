package rpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/openpgp"
)

// Fetcher fetches the files of repositories. What it fetched need not be fetched again for the bundle.
type Fetcher interface {
	// Document fetches a file of which nothing is known yet, of at most limit bytes, and returns it with its digest.
	// fs.ErrNotExist: the server does not have it.
	Document(ctx context.Context, url string, limit int64) (content []byte, digest string, err error)
	// Content fetches a file of known digest and size (-1: not known), and opens it. syscall.EBADMSG: the server has
	// other content; fs.ErrNotExist: it has none.
	Content(ctx context.Context, url, digest string, size int64) (io.ReadCloser, error)
	// Last returns what a run before this one collected from the URL; nil if nothing is known.
	Last(url string, limit int64) []byte
}

// Options say what is collected.
type Options struct {
	Repos []Repo
	// Packages are the requested packages.
	Packages []lists.Package
	// Architectures are those of the nodes, in rpm's names. None: x86_64.
	Architectures []string
	// Modules are streams of modules that nodes enable, NAME:STREAM.
	Modules []string
	// Installed is what nodes of each kind have already. None: nothing is known of them.
	Installed []*Installed
	// NoRecommends leaves out weak dependencies, as install_weak_deps=False does.
	NoRecommends bool
	// Stored says that the fetcher reads the copy that is served to nodes: nothing changes while it is read, and what
	// is absent was not brought. Without Keyrings no signature is checked then.
	Stored bool
	// AllowUnsigned are the URLs of repositories whose signatures are not required.
	AllowUnsigned []string
	// Keyrings are those that the operator gave.
	Keyrings []ospackages.NamedKeyring
	// ReadFile reads a keyring that gpgkey names.
	ReadFile func(path string) ([]byte, error)
	// Now is the clock.
	Now func() time.Time
	// Near returns the end of a message with the names that are similar to one that does not exist.
	Near func(name string, names iter.Seq[string]) string
}

// Collector reads repositories.
type Collector struct {
	fetch Fetcher
	opt   Options
	pool  *pool
}

// repository is one repository as it was read.
type repository struct {
	*Repo
	*Repomd
	base    string // the URL of the directory that has repodata
	keys    *openpgp.Keyring
	signers []openpgp.Signer
	files   []lists.File // repomd.xml, its signature, keys, the indices
	// redirects leads the URL of mirrors to the document that bastions generate.
	redirects []lists.Redirect
	packages  []*Package
	modules   modules
	groups    groups // nil unless a group is requested
	notes     []string
	// checked says that the signature of each package is checked.
	checked bool
	// unverified is not nil if the signature of repomd.xml is not good, but need not be.
	unverified *lists.Unverified
}

func (r *repository) note(format string, args ...any) {
	r.notes = append(r.notes, r.Repo.String()+": "+fmt.Sprintf(format, args...))
}

// Collect reads all repositories, and finds what the requested packages need. If a repository cannot be used the error
// names all of these: nodes read all of them, and install nothing if one is not right.
func Collect(ctx context.Context, fetch Fetcher, opt Options) (*ospackages.Result, error) {
	c := &Collector{fetch: fetch, opt: opt, pool: newPool()}
	if len(c.opt.Architectures) == 0 {
		c.opt.Architectures = []string{"x86_64"}
	}
	var bad []error
	var repos []*repository
	res := &ospackages.Result{Packages: map[string]ospackages.Package{}}
	for i := range opt.Repos {
		r, err := c.readRepo(ctx, &opt.Repos[i])
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			bad = append(bad, &ospackages.SourceError{Where: opt.Repos[i].Where, Name: opt.Repos[i].String(), Err: err})
			continue
		}
		repos = append(repos, r)
		res.Files = append(res.Files, r.files...)
		res.Redirects = append(res.Redirects, r.redirects...)
		if r.unverified != nil {
			res.Unverified = append(res.Unverified, *r.unverified)
		}
		res.Suites = append(res.Suites, describe(r))
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	c.pool = nil // what was shared is in the packages
	c.expand(repos, res)
	u, err := c.universe(ctx, repos)
	if err != nil {
		return nil, err
	}
	for _, r := range repos {
		res.Notes = append(res.Notes, r.notes...)
	}
	c.choose(u, res)
	return res, nil
}

func describe(r *repository) ospackages.Suite {
	d := ospackages.Suite{Name: r.Repo.String(), Date: r.Date, Packages: len(r.packages), Checked: r.checked}
	for _, k := range r.signers {
		d.Signers = append(d.Signers, strings.TrimSpace(k.Name+" "+k.Fingerprint))
	}
	return d
}

// universe joins the packages of all repositories, as far as they are candidates.
func (c *Collector) universe(ctx context.Context, repos []*repository) (*universe, error) {
	var m modules
	var all []*Package
	for _, r := range repos {
		m.add(&r.modules)
		for _, p := range r.packages {
			if matches(r.Exclude, p) || len(r.Include) > 0 && !matches(r.Include, p) {
				continue
			}
			all = append(all, p)
		}
		r.packages = nil
	}
	if len(all) > maxPackages {
		return nil, fmt.Errorf("the repositories have more than %d packages", maxPackages)
	}
	on, notes := m.enabled(c.opt.Modules)
	if len(notes) > 0 {
		return nil, errors.New(strings.Join(notes, "; "))
	}
	u := newUniverse(m.filter(all, on), c.opt.Packages)
	for _, r := range repos {
		if err := c.findFiles(ctx, r, u); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", r.Where, r.Repo.String(), err)
		}
	}
	u.sort()
	return u, nil
}

// findFiles reads the paths of all packages of a repository, if packages need paths that primary.xml does not have.
func (c *Collector) findFiles(ctx context.Context, r *repository, u *universe) error {
	d := r.find("filelists")
	paths := u.unknownPaths()
	if d == nil || len(paths) == 0 {
		return nil
	}
	byDigest := map[string]*Package{}
	for _, p := range u.packages {
		if p.repo == r {
			_, hex, _ := strings.Cut(p.digest, ":")
			byDigest[hex] = p
		}
	}
	return c.read(ctx, d, func(in io.Reader) error {
		return readFilelists(in, func(path string) bool { return paths[path] }, func(digest, path string) {
			if p := byDigest[digest]; p != nil {
				u.provided[path] = append(u.provided[path], provider{Package: p})
			}
		})
	})
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
