// Package search finds what is stored by any part of a name or of a digest.
//
// It keeps an index while it is in use (index.go): the tree alone takes more than a second for 200 000 names. The index
// is made before it is asked, when somebody opens a page on which one can search (Prepare), or by the first search; it
// is brought up to date by each, and is dropped when nobody has searched or prepared for a while. It
// promises: a search finds what this node had when the search began; it is never more than the names' own text in
// memory; and it ends with its context.
package search

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"casemate/appliance/names"
	"casemate/appliance/usage"
	"casemate/cluster/tree"
	"casemate/registry"
)

// The kinds of hits, in the order in which they are found.
const (
	KindRepository = "repository" // of images
	KindImage      = "image"      // a tag, or a manifest by its digest
	KindLayer      = "layer"      // a repository that has a blob, by the whole digest of the blob
	KindFile       = "file"
	KindPackage    = "package" // a file that is a package of an operating system or of Python
	KindChart      = "chart"   // a file that is a chart of a repository of charts
	KindName       = "name"    // a DNS record
	KindImport     = "import"
)

// A Hit is something that was found.
type Hit struct {
	Kind string `json:"kind"`
	// Name is what other requests and commands call it: a repository, a reference, a URL, the name and the type of a
	// DNS record, an import.
	Name   string `json:"name"`
	Detail string `json:"detail,omitempty"` // the values of a DNS record
	Digest string `json:"digest,omitempty"`

	at string
}

// At returns the position of the hit; a search behind it goes on there.
func (h Hit) At() string { return h.at }

// Tree is the part of the tree that is used, from its root.
type Tree interface {
	names.Tree
	Follow(ctx context.Context, dir string) (changed <-chan struct{}, take func() (names []string, all bool))
	StatBlob(digest string) (int64, error)
}

// Config configures a Search. Tree and Registry are required.
type Config struct {
	Tree     Tree
	Registry *registry.Registry
	// Keep is how long the index is kept after a search; 0: half an hour.
	Keep time.Duration
}

// Search searches. It is safe for concurrent use.
type Search struct {
	cfg  Config
	turn chan struct{} // has a token while nobody makes or changes the index
	life context.Context
	end  context.CancelFunc // of life
	wg   sync.WaitGroup     // of preparing

	mu     sync.Mutex
	busy   bool   // it prepares
	index  *index // nil: there is none
	drop   *time.Timer
	closed bool
}

// New returns a Search; it does no I/O.
func New(cfg Config) *Search {
	if cfg.Keep == 0 {
		cfg.Keep = 30 * time.Minute
	}
	s := &Search{cfg: cfg, turn: make(chan struct{}, 1)}
	s.life, s.end = context.WithCancel(context.Background())
	s.turn <- struct{}{}
	return s
}

// errClosed is the error of a search after Close.
var errClosed = fmt.Errorf("this node stops: %w", syscall.EAGAIN)

// Prepare makes the index in the background, or brings it up to date, for a search that is likely to come. It does not
// wait.
func (s *Search) Prepare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.busy {
		return
	}
	s.busy = true
	s.wg.Go(func() {
		s.units(s.life) // whoever searches gets its error again
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
	})
}

// Close frees the index, and ends searching.
func (s *Search) Close() {
	s.end()
	defer s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.drop != nil {
		s.drop.Stop()
	}
	if s.index != nil {
		s.index.stop()
		s.index = nil
	}
}

// units returns the index as it is now.
func (s *Search) units(ctx context.Context) ([]unit, error) {
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	x, closed := s.index, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, errClosed
	case x == nil:
		x = follow(s.cfg)
	}
	// Whoever asked may have gone, but others wait, and the next one would begin again.
	units, err := x.fresh(s.life)
	if s.life.Err() != nil {
		err = errClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || s.closed {
		x.stop()
		s.index = nil
		return units, err
	}
	s.index = x
	if s.drop != nil {
		s.drop.Stop()
	}
	s.drop = time.AfterFunc(s.cfg.Keep, s.idle)
	return units, err
}

// idle drops the index.
func (s *Search) idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index != nil {
		s.index.stop()
		s.index = nil
	}
}

// Bounds of a query, and the fewest digits by which a digest is found.
const (
	minQuery  = 2   // characters
	maxQuery  = 200 // bytes
	minDigits = 4
)

// query is what is searched for, in lower case.
type query struct {
	text    string // in names
	inFiles string // in URLs, which are percent-encoded
	digits  string // in digests: hex, "" for none
	prefix  string // of a digest with its algorithm, "sha256:1234"; "" for none
}

// parse reads a query. An error is a [usage.Error].
func parse(text string) (q query, err error) {
	text = strings.TrimSpace(text)
	if len(text) > maxQuery || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return q, usage.Errorf("what to search for must be text of at most %d bytes, without control characters, "+
			"got %d bytes", maxQuery, len(text))
	}
	for _, scheme := range []string{"https://", "http://", "docker://", "oci://"} {
		text = strings.TrimPrefix(text, scheme)
	}
	q.text = strings.ToLower(text)
	if utf8.RuneCountInString(q.text) < minQuery {
		return q, usage.Errorf("what to search for must have at least %d characters, got %q", minQuery, text)
	}
	q.inFiles = q.text
	if strings.ContainsFunc(text, escaped) {
		q.inFiles = strings.ToLower((&url.URL{Path: "/" + text}).EscapedPath()[1:])
	}
	algorithm, digits, whole := strings.Cut(q.text, ":")
	switch {
	case whole && (algorithm == "sha256" || algorithm == "sha512") && isHex(digits):
		q.prefix = q.text
	case isHex(q.text) && len(q.text) >= minDigits:
		q.digits = q.text
	}
	return q, nil
}

// escaped reports whether a character is always percent-encoded in a URL.
func escaped(r rune) bool { return r >= utf8.RuneSelf || strings.ContainsRune(" \"<>[]^`{|}\\", r) }

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// digest reports whether a digest is meant.
func (q query) digest(d string) bool {
	return q.digits != "" && strings.Contains(d, q.digits) || q.prefix != "" && strings.HasPrefix(d, q.prefix)
}

// Kinds are all kinds, in the order in which they are found.
func Kinds() []string {
	return []string{KindRepository, KindImage, KindLayer, KindFile, KindPackage, KindChart, KindName, KindImport}
}

// Filter says what is found.
type Filter struct {
	Kind   string // only this kind; "": all
	Public bool   // only images and files
}

// Find yields what contains text, case-insensitively: repositories, tags, manifests, files, DNS records and imports, by
// a part of the name or, from four hexadecimal digits on, of the digest; "sha256:" begins the beginning of a digest. It
// begins behind the position after ("" for the beginning). With a kind, text may be empty: everything of the kind is
// found. An error that is a [usage.Error] is about text or the kind.
func (s *Search) Find(ctx context.Context, text, after string, only Filter) iter.Seq2[Hit, error] {
	return func(yield func(Hit, error) bool) {
		q, err := parse(text)
		if only.Kind != "" {
			if !slices.Contains(Kinds(), only.Kind) {
				err = usage.Errorf("kind must be one of %s, got %.40q", strings.Join(Kinds(), ", "), only.Kind)
			} else if strings.TrimSpace(text) == "" {
				q, err = query{}, nil
			}
			all := yield
			yield = func(h Hit, err error) bool { return err == nil && h.Kind != only.Kind || all(h, err) }
		}
		var units []unit
		if err == nil {
			units, err = s.units(ctx)
		}
		if err != nil {
			yield(Hit{}, err)
			return
		}
		key, line, _ := strings.Cut(after, "\n")
		from, _ := slices.BinarySearchFunc(units, key, byKey)
		charts := func(dir string) bool { return hasCharts(units, dir) }
		layers := ""
		if d := wholeDigest(q); d != "" {
			if _, err := s.cfg.Tree.StatBlob(d); err == nil {
				layers = d
			}
		}
		for i := from; i < len(units); i++ {
			if i&255 == 0 && ctx.Err() != nil {
				yield(Hit{}, ctx.Err())
				return
			}
			u := &units[i]
			if only.Public && u.key[0] == sectionNames {
				break
			}
			last := ""
			if u.key == key {
				last = line
			}
			if layers == "" && !u.may(q) {
				continue
			}
			for h := range u.find(q, last, charts) {
				if !yield(h, nil) {
					return
				}
			}
			if layers != "" && u.key[0] == sectionImages && last < afterLines &&
				s.cfg.Registry.HasLayer(u.key[1:], layers) {
				h := Hit{Kind: KindLayer, Name: u.key[1:], Digest: layers, at: u.key + "\n" + afterLines}
				if !yield(h, nil) {
					return
				}
			}
		}
		if !only.Public {
			s.imports(ctx, q, after, yield)
		}
	}
}

// wholeDigest returns the digest that a query is, "" if it is none.
func wholeDigest(q query) string {
	if len(q.digits) == 64 {
		return "sha256:" + q.digits
	}
	if _, digits, _ := strings.Cut(q.prefix, ":"); len(digits) == 64 || len(digits) == 128 {
		return q.prefix
	}
	return ""
}

// imports yields the imports; they are few, and not in the index.
func (s *Search) imports(ctx context.Context, q query, after string, yield func(Hit, error) bool) {
	at, is := strings.CutPrefix(after, sectionImports)
	if !is {
		at = ""
	}
	for c := range tree.Children(s.cfg.Tree.Walk, "imports", at) {
		if err := ctx.Err(); err != nil {
			yield(Hit{}, err)
			return
		}
		name := c.Name
		if name == "pending" { // of imports that have not ended
			continue
		}
		h := Hit{Kind: KindImport, Name: name, at: sectionImports + name}
		if c.Dir && contains(name, q.text) && !yield(h, nil) {
			return
		}
	}
}

// contains reports whether s contains text, which is in lower case, in any case.
func contains(s, text string) bool { return strings.Contains(lower(s), text) }

// lower is strings.ToLower, which looks at each rune where nothing is to do.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf {
			return strings.ToLower(s)
		}
	}
	return s
}
