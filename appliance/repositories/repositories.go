// Package repositories knows which repositories of operating-system packages are stored: their dates, who signed them,
// and which of them package managers on nodes will soon refuse.
//
// It reads only the Release files and repomd.xml, once for each content, and follows the tree from then on. It verifies
// no signature: the publishers' keyrings are where packages are collected and installed.
package repositories

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"casemate/cluster/tree"
	"casemate/fileserver"
	"casemate/fileserver/ospackages"
)

// The formats of repositories.
const (
	DEB = "deb"
	RPM = "rpm"
)

// A Repository is one suite of an apt repository, or one RPM repository.
type Repository struct {
	Format string `json:"format"` // DEB or RPM
	// URL is what package files are named from: https://HOST/debian for all suites of that repository.
	URL string `json:"url"`
	// Suite is the directory of the Release file below URL/dists/; "" for RPM and for a repository without dists.
	Suite         string   `json:"suite,omitempty"`
	Codename      string   `json:"codename,omitempty"`
	Origin        string   `json:"origin,omitempty"`
	Components    []string `json:"components"`
	Architectures []string `json:"architectures"`
	// Date is that of the metadata; absent if it has none.
	Date time.Time `json:"date,omitzero"`
	// ValidUntil is when apt begins to refuse it; absent if it never does.
	ValidUntil time.Time `json:"valid_until,omitzero"`
	// SignedBy are the keys that its signatures name: nobody has verified them here. It is empty if it is not signed.
	SignedBy []Signer `json:"signed_by"`
	// Import is the import whose content is visible, "" if it was put by hand.
	Import string `json:"import,omitempty"`
	// Packages counts the package files below URL.
	Packages int `json:"packages"`
}

// Name is the repository in sentences: its URL and suite.
func (r Repository) Name() string { return strings.TrimSpace(r.URL + " " + r.Suite) }

// A Signer is a key that a signature names.
type Signer struct {
	KeyID       string `json:"key_id"`                // 16 hex digits
	Fingerprint string `json:"fingerprint,omitempty"` // hex; "" if the signature has only the key's ID
}

// Tree is the file server's part of the tree.
type Tree interface {
	fs.StatFS
	Walk(dir, after string) iter.Seq2[string, fs.FileInfo]
	OpenBlob(ctx context.Context, digest string) (io.ReadSeekCloser, error)
	Follow(ctx context.Context, dir string) (changed <-chan struct{}, take func() (names []string, all bool))
}

// Index knows the stored repositories. Its methods are safe for concurrent use.
type Index struct {
	Tree Tree
	Log  *slog.Logger

	mu    sync.Mutex
	known map[string]stored // by directory in the tree
	ready chan struct{}     // closed when the tree was read once
	once  sync.Once
}

// stored is what the files of one directory say.
type stored struct {
	files string // their digests and imports
	is    bool   // they are those of a repository
	Repository
}

// New returns an index that knows nothing before Run.
func New(t Tree, log *slog.Logger) *Index {
	return &Index{Tree: t, Log: log, known: map[string]stored{}, ready: make(chan struct{})}
}

// Run follows the tree until ctx is done.
func (x *Index) Run(ctx context.Context) {
	changed, take := x.Tree.Follow(ctx, ".")
	var failed []string
	for all := true; ; {
		begin := time.Now()
		names, more := take()
		all = all || more
		failed = x.update(ctx, append(failed, names...), all)
		x.once.Do(func() { close(x.ready) })
		pause := time.Duration(0)
		if all { // a large import is running: walk for at most a tenth of the time
			pause = min(9*time.Since(begin), maxPause)
		}
		all = false
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		var retry <-chan time.Time
		if len(failed) > 0 {
			retry = time.After(maxPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-retry:
		case _, ok := <-changed:
			if !ok {
				return
			}
		}
	}
}

// maxPause is how long a change may wait to be read.
const maxPause = 10 * time.Second

// update reads what changed, and returns the names whose bytes cannot be read now, to read them again.
func (x *Index) update(ctx context.Context, names []string, all bool) (failed []string) {
	dirs := map[string]bool{}
	if all {
		names = nil
		for name := range x.Tree.Walk(".", "") {
			if dir, ok := directoryOf(name); ok {
				dirs[dir] = true
			}
			if ctx.Err() != nil {
				return nil
			}
		}
	}
	x.mu.Lock()
	for dir := range x.known {
		if all {
			dirs[dir] = true
		}
	}
	for _, name := range names {
		if dir, ok := directoryOf(name); ok {
			dirs[dir] = true
			continue
		}
		if strings.Contains(name, "?") {
			continue // another file
		}
		for dir := range x.known { // a directory was removed
			if name == "." || dir == name || strings.HasPrefix(dir, name+"/") || name == dir+"/repodata" {
				dirs[dir] = true
			}
		}
	}
	x.mu.Unlock()
	for dir := range dirs {
		now := stored{files: x.files(dir)}
		x.mu.Lock()
		same := x.known[dir].files == now.files
		x.mu.Unlock()
		if same {
			continue
		}
		var err error
		if now.Repository, now.is, err = x.read(ctx, dir); err != nil {
			x.Log.Warn("the metadata of a package repository cannot be read", "url", fileserver.URL(dir), "err", err)
			failed = append(failed, dir+"/Release?")
			continue
		}
		x.mu.Lock()
		if delete(x.known, dir); now.files != "" {
			x.known[dir] = now
		}
		x.mu.Unlock()
	}
	return failed
}

// documents are the files that describe a repository, below its directory.
var documents = []string{"InRelease", "Release", "Release.gpg", "repodata/repomd.xml", "repodata/repomd.xml.asc"}

// directoryOf returns the directory of the repository that a file of the tree describes.
func directoryOf(name string) (dir string, ok bool) {
	for _, doc := range documents {
		if dir, ok := strings.CutSuffix(name, "/"+doc+"?"); ok {
			return dir, true
		}
	}
	return "", false
}

// files returns which documents a directory has; "" if it has none.
func (x *Index) files(dir string) string {
	var b strings.Builder
	for _, doc := range documents {
		if fi, err := x.Tree.Stat(dir + "/" + doc + "?"); err == nil && tree.DigestOf(fi) != "" {
			fmt.Fprintf(&b, "%s %s %s\n", doc, tree.DigestOf(fi), tree.ClaimOf(fi))
		}
	}
	return b.String()
}

// read reads the repository of a directory; ok is false if there is none.
func (x *Index) read(ctx context.Context, dir string) (r Repository, ok bool, err error) {
	for _, kind := range []struct {
		file, signature string
		parse           func(dir string, document io.Reader) (Repository, error)
	}{
		{"InRelease", "", parseDEB}, {"Release", "Release.gpg", parseDEB},
		{"repodata/repomd.xml", "repodata/repomd.xml.asc", parseRPM},
	} {
		fi, err := x.Tree.Stat(dir + "/" + kind.file + "?")
		if err != nil || tree.DigestOf(fi) == "" {
			continue
		}
		document, err := x.content(ctx, tree.DigestOf(fi))
		if err != nil {
			return r, false, err
		}
		if r, err = kind.parse(dir, strings.NewReader(document)); err != nil {
			x.Log.Debug("no package repository", "url", fileserver.URL(dir), "err", err)
			continue
		}
		r.Import = tree.ClaimOf(fi)
		signature := document
		if kind.signature != "" {
			signature = ""
			if fi, err := x.Tree.Stat(dir + "/" + kind.signature + "?"); err == nil && tree.DigestOf(fi) != "" {
				if signature, err = x.content(ctx, tree.DigestOf(fi)); err != nil {
					return r, false, err
				}
			}
		}
		r.SignedBy = signers(signature)
		return r, true, nil
	}
	return r, false, nil
}

// content reads the bytes of a document; a larger one is cut off.
func (x *Index) content(ctx context.Context, digest string) (string, error) {
	blob, err := x.Tree.OpenBlob(ctx, digest)
	if err != nil {
		return "", err
	}
	defer blob.Close()
	b, err := io.ReadAll(io.LimitReader(blob, ospackages.MaxDocument))
	return string(b), err
}

func parseDEB(dir string, document io.Reader) (Repository, error) {
	rel, err := ospackages.ParseRelease(document)
	if err != nil {
		return Repository{}, err
	}
	base, suite, ok := strings.Cut(dir, "/dists/")
	if !ok {
		base, suite = dir, ""
	}
	return Repository{
		Format: DEB, URL: fileserver.URL(base), Suite: suite, Codename: rel.Codename,
		Origin: cmp.Or(rel.Origin, rel.Label), Components: append([]string{}, rel.Components...),
		Architectures: append([]string{}, rel.Architectures...), Date: rel.Date, ValidUntil: rel.ValidUntil,
	}, nil
}

func parseRPM(dir string, document io.Reader) (Repository, error) {
	md, err := ospackages.ParseRepomd(document)
	if err != nil {
		return Repository{}, err
	}
	return Repository{
		Format: RPM, URL: fileserver.URL(dir), Components: []string{}, Architectures: []string{}, Date: md.Date,
	}, nil
}

// All returns the repositories by URL and suite, without their counts. It waits until the tree was read once.
func (x *Index) All(ctx context.Context) ([]Repository, error) {
	select {
	case <-x.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return x.now(), nil
}

// now returns what is known now.
func (x *Index) now() []Repository {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := []Repository{}
	for _, s := range x.known {
		if s.is {
			list = append(list, s.Repository)
		}
	}
	slices.SortFunc(list, func(a, b Repository) int {
		return cmp.Or(strings.Compare(a.URL, b.URL), strings.Compare(a.Suite, b.Suite))
	})
	return list
}

// Counted is All with the number of package files, for which it walks the repositories' directories.
func (x *Index) Counted(ctx context.Context) ([]Repository, error) {
	list, err := x.All(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for i, r := range list {
		n, again := counts[r.URL]
		if !again {
			for name := range x.Tree.Walk(strings.TrimPrefix(r.URL, "https://"), "") {
				if file, ok := strings.CutSuffix(name, "?"); ok && strings.HasSuffix(file, "."+r.Format) {
					n++
				}
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
			}
			counts[r.URL] = n
		}
		list[i].Packages = n
	}
	return list, nil
}
