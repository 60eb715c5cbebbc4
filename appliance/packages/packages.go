// Package packages keeps repositories of one's own packages: DEB or RPM files that an operator or a build puts, with
// metadata that is generated and signed by the cluster's OpenPGP key.
//
// It promises: a change of a repository is one log entry, so no client sees packages and metadata of different changes;
// writers on several nodes lose nothing of each other; what is refused changes nothing. The files are those of the file
// server at https://packages.<domain>/<repository>/, which serves them as it serves every file.
package packages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/usage"
	"casemate/cluster/tree"
	"casemate/fileserver"
)

// The formats of repositories.
const (
	DEB = "deb"
	RPM = "rpm"
)

// Formats are all of them.
var Formats = []string{DEB, RPM}

// Where the records are in the tree. The files that clients read are below filesDir, as every file is.
const (
	filesDir        = "files/"
	repositoriesDir = "packages/repositories"
	keysDir         = "packages/keys"
)

const (
	maxRepositories = 1000
	maxTries        = 50 // of a change that others are faster than
)

// Tree is the part of the tree that repositories need.
type Tree interface {
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	Update(ctx context.Context, fn func(tree.Batch) error) error
	OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	CreateBlob(id string) (tree.BlobWriter, error)
}

// Sealer encrypts keys for the tree. *cluster.Cluster implements it.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Unseal(sealed []byte) ([]byte, error)
}

// Config is what a Store needs. Tree, Sealer and Host are required.
type Config struct {
	Tree   Tree
	Sealer Sealer
	Host   string // packages.<domain>
	// Allow decides whether the sender of a request may "push" or "delete" packages of the repository at url, and
	// returns the context of the change; fs.ErrPermission: an account that may not. nil: nobody may.
	Allow func(r *http.Request, action, url string) (context.Context, error)
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: slog.Default()
}

// Store keeps the repositories. It is safe for concurrent use, on every node of the cluster.
type Store struct {
	cfg Config
	mu  sync.Mutex // changes of this node, one at a time: they would only get into each other's way

	keyMu sync.Mutex
	read  map[string]*signingKey // by the sealed key
}

// New returns a store over a tree.
func New(cfg Config) *Store {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Allow == nil {
		cfg.Allow = func(*http.Request, string, string) (context.Context, error) { return nil, errors.New("no users") }
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Store{cfg: cfg, read: map[string]*signingKey{}}
}

// Repository is one repository of the cluster.
type Repository struct {
	Name   string `json:"name"`
	Format string `json:"format"` // DEB or RPM
	URL    string `json:"url"`    // https://packages.<domain>/<name>
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,60}[a-z0-9])?$`)

// CheckName returns an error that states the form of a repository's name, if name is none. It becomes part of URLs and
// of file names on nodes.
func CheckName(name string) error {
	if !nameForm.MatchString(name) || name == "simple" {
		return usage.Errorf("a repository's name has 1 to 62 lower-case letters, digits, dots, hyphens and "+
			"underscores, begins and ends with a letter or digit, and is not simple; got %.100q", name)
	}
	return nil
}

func aboutOf(name string) string { return repositoriesDir + "/" + name + "/format" }
func indexOf(name string) string { return repositoriesDir + "/" + name + "/index" }

// dir is the directory of a repository's files.
func (s *Store) dir(name string) string { return filesDir + s.cfg.Host + "/" + name }

// Get returns a repository; fs.ErrNotExist: there is none of that name.
func (s *Store) Get(name string) (Repository, error) {
	if err := CheckName(name); err != nil {
		return Repository{}, err
	}
	format, err := s.cfg.Tree.ReadFile(aboutOf(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Repository{}, fmt.Errorf("there is no repository %s, see casemate repo list, or make it with casemate "+
			"repo add %s: %w", name, name, fs.ErrNotExist)
	}
	if err != nil {
		return Repository{}, err
	}
	return Repository{Name: name, Format: string(format), URL: "https://" + s.cfg.Host + "/" + name}, nil
}

// All returns the repositories by name.
func (s *Store) All() ([]Repository, error) {
	entries, err := s.cfg.Tree.ReadDir(repositoriesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	list := []Repository{}
	for _, e := range entries {
		r, err := s.Get(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed at this moment
		}
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// Add makes an empty repository, with signed metadata. fs.ErrExist: there is one of that name.
func (s *Store) Add(ctx context.Context, name, format string) (Repository, error) {
	if err := CheckName(name); err != nil {
		return Repository{}, err
	}
	if !slices.Contains(Formats, format) {
		return Repository{}, usage.Errorf("format must be %s, got %.100q", strings.Join(Formats, " or "), format)
	}
	if all, err := s.All(); err != nil {
		return Repository{}, err
	} else if len(all) >= maxRepositories {
		return Repository{}, usage.Errorf("there are %d repositories, which is the maximum", len(all))
	}
	if err := s.makeKey(ctx); err != nil {
		return Repository{}, err
	}
	r := &repository{Format: format, Files: map[string]string{}}
	err := s.publish(ctx, name, r)
	if errors.Is(err, fs.ErrExist) {
		return Repository{}, fmt.Errorf("there is a repository %s: %w", name, fs.ErrExist)
	}
	if err != nil {
		return Repository{}, fmt.Errorf("add repository %s: %w", name, err)
	}
	s.cfg.Log.Info("package repository added", "repository", name, "format", format)
	return s.Get(name)
}

// Remove removes a repository with its packages; unless force is set only an empty one. fs.ErrNotExist: there is none.
func (s *Store) Remove(ctx context.Context, name string, force bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retry(func() error {
		if _, err := s.Get(name); err != nil {
			return err
		}
		fi, err := s.cfg.Tree.Stat(indexOf(name))
		if err != nil {
			return err
		}
		if !force { // else one that cannot be read is removed too
			r, err := s.load(ctx, name)
			if err != nil {
				return err
			}
			if n := len(r.packages); n > 0 {
				return fmt.Errorf("the repository %s has %d packages: casemate repo remove --force %s removes them "+
					"too: %w", name, n, name, fs.ErrExist)
			}
		}
		err = s.cfg.Tree.Update(ctx, func(b tree.Batch) error {
			b.Expect(indexOf(name), tree.VersionOf(fi))
			b.Remove(s.dir(name))
			b.Remove(path.Dir(indexOf(name)))
			return nil
		})
		if err == nil {
			s.cfg.Log.Info("package repository removed", "repository", name)
		}
		return lost(err)
	})
}

// errLost is the error of a change that another node was faster than.
var errLost = errors.New("another change was faster")

func lost(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return errLost
	}
	return err
}

// retry repeats a change that begins with what is in the tree, until no other change comes between.
func (s *Store) retry(change func() error) error {
	for range maxTries {
		if err := change(); !errors.Is(err, errLost) {
			return err
		}
	}
	return fmt.Errorf("the repository is being changed by others all the time, try again: %w", syscall.EAGAIN)
}

// change edits a repository in one step. edit gets what is in the tree, and may be called again; it reports whether it
// has changed anything.
func (s *Store) change(ctx context.Context, name string, edit func(*repository) (changed bool, err error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retry(func() error {
		r, err := s.load(ctx, name)
		if err != nil {
			return err
		}
		changed, err := edit(r)
		if err != nil || !changed {
			return err
		}
		return lost(s.publish(ctx, name, r))
	})
}

// key returns the name in the tree of a file of a repository.
func (s *Store) key(name, file string) (string, error) {
	u := "https://" + s.cfg.Host + "/" + name + "/" + escaped(file)
	key, err := fileserver.KeyIn(u, func(host string) (string, bool) { return host, true })
	return filesDir + key, err
}
