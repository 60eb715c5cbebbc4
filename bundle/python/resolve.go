package python

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"casemate/bundle/lists"
)

// Options say where the files of requirements are.
type Options struct {
	// Index is the index of requirements whose file names none, with a slash at the end; "": there is none.
	Index   string
	Targets *Targets
	// Page fetches a small document, at most limit bytes, and returns it with the URL at which redirects ended;
	// fs.ErrNotExist: there is none.
	Page func(ctx context.Context, url string, limit int64) (content []byte, end string, err error)
	// Store keeps a small document that is made here, and returns its digest.
	Store func(content []byte) (digest string, err error)
}

// pagesAtOnce is the number of pages that are fetched at once.
const pagesAtOnce = 4

// Find returns the files of requirements, under their names in the index: INDEX/PROJECT/FILE, and beside it what the
// index says of them (FILE.metadata, FILE.yanked, FILE.requires-python). Nothing is resolved: a requirement is one
// version, and the files that have one of its hashes. What cannot be found is in unavailable.
func Find(ctx context.Context, all []Requirement, o Options) (files []lists.File, unavailable []lists.Unavailable,
	err error) {
	type found struct {
		files []lists.File
		err   error
	}
	results := make([]found, len(all))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pagesAtOnce)
	for i, r := range all {
		g.Go(func() error {
			results[i].files, results[i].err = o.find(gctx, r)
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	for i, r := range results {
		if r.err != nil {
			unavailable = append(unavailable, lists.Unavailable{Name: all[i].label(), Where: all[i].Where, Err: r.err})
		}
		files = append(files, r.files...)
	}
	return files, unavailable, nil
}

func (r Requirement) label() string {
	if r.Version == "" && len(r.Files) == 1 {
		return r.Files[0].URL
	}
	return "python package " + r.Project + "==" + r.Version
}

func (o *Options) find(ctx context.Context, r Requirement) (files []lists.File, err error) {
	if len(r.Files) > 0 {
		return o.direct(r)
	}
	indices := r.Indices
	if len(indices) == 0 && o.Index != "" {
		indices = []string{o.Index}
	}
	if len(indices) == 0 {
		return nil, errors.New("no index is known: name the one that clients use with --python-index (pip config get " +
			"global.index-url prints it), or with a line --index-url URL of the file")
	}
	seen := map[string]bool{}
	version, other := 0, 0 // files of this version that have another hash, or are for other machines
	for _, index := range indices {
		page, end, err := o.Page(ctx, index+r.Project+"/", maxPage)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s%s/: %w", index, r.Project, err)
		}
		links, err := ParsePage(end, page)
		if err != nil {
			return nil, fmt.Errorf("%s%s/: %w", index, r.Project, err)
		}
		for _, l := range links {
			f, err := ParseFile(l.File)
			if err != nil || seen[l.File] || !o.matches(r, f, l) {
				if err == nil && SamePublicVersion(f.Version, r.Version) {
					version++
				}
				continue
			}
			if seen[l.File] = true; !o.Targets.Want(f) {
				other++
				continue
			}
			more, err := o.named(r, index, l)
			if err != nil {
				return nil, err
			}
			files = append(files, more...)
		}
	}
	switch {
	case len(files) > 0:
		return files, nil
	case other > 0:
		return nil, otherTargets(other)
	case version > 0:
		return nil, fmt.Errorf("none of its %d files has a hash of the list: make the list again (%s)", version,
			HowToPin)
	}
	return nil, fmt.Errorf("%s does not have it: %w", strings.Join(indices, ", "), fs.ErrNotExist)
}

// direct returns the files that a requirement names itself. One whose name says nothing, like an archive of sources, is
// for every target.
func (o *Options) direct(r Requirement) (files []lists.File, err error) {
	for _, d := range r.Files {
		name, err := url.PathUnescape(path.Base(d.URL))
		if err != nil {
			return nil, err
		}
		if f, err := ParseFile(name); err == nil && !o.Targets.Want(f) {
			continue
		}
		files = append(files, lists.File{URL: d.URL, Digest: d.Digest, Known: r.Where, Where: r.Where})
	}
	if len(files) == 0 {
		return nil, otherTargets(len(r.Files))
	}
	return files, nil
}

func otherTargets(files int) error {
	return fmt.Errorf("none of its %d files is for the given --python-version and --python-platform", files)
}

// matches reports whether a file is one of the requirement: the hash decides.
func (o *Options) matches(r Requirement, f File, l Link) bool {
	return l.Digest != "" && slices.Contains(r.Hashes, l.Digest) &&
		(f.Project == r.Project || !f.Wheel() && strings.HasPrefix(normalStem(f.Name), r.Project+"-"))
}

// named returns a file under its name in the index, and what the index says of it.
func (o *Options) named(r Requirement, index string, l Link) ([]lists.File, error) {
	at := index + r.Project + "/" + url.PathEscape(l.File)
	if _, err := lists.PlaceURL(at + ".requires-python"); err != nil {
		return nil, err
	}
	files := []lists.File{{URL: at, From: l.URL, Digest: l.Digest, Known: r.Where, Where: r.Where}}
	if l.Metadata != "" {
		files = append(files, lists.File{URL: at + ".metadata", From: metadataURL(l.URL), Digest: l.Metadata,
			Known: index, Where: r.Where})
	} else if l.RequiresPython != "" {
		f, err := o.made(at+".requires-python", l.RequiresPython, r.Where)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if l.Yanked {
		f, err := o.made(at+".yanked", l.YankedReason, r.Where)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// made is a small file that says something of the one beside it.
func (o *Options) made(at, text, where string) (lists.File, error) {
	content := []byte(strings.Join(strings.Fields(text), " ") + "\n")
	digest, err := o.Store(content)
	return lists.File{URL: at, Digest: digest, Size: int64(len(content)), Known: where, Where: where}, err
}

// metadataURL is the URL of what a package says of itself (PEP 658): a query stays at its end.
func metadataURL(of string) string {
	path, query, asked := strings.Cut(of, "?")
	if asked {
		return path + ".metadata?" + query
	}
	return path + ".metadata"
}
