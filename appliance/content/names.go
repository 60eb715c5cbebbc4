package content

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"casemate/bundle"
	"casemate/cluster"
	"casemate/fileserver"
	"casemate/registry"
)

// Parts of the tree.
const (
	imagesDir = "registry"
	filesDir  = "files"
)

// maxManifest is the largest manifest that a registry serves, in bytes.
const maxManifest = 4 << 20

// Kinds of names.
const (
	KindImage    = "image"    // a tag
	KindManifest = "manifest" // a manifest without a tag in the import: a child of an index, a referrer
	KindFile     = "file"
	KindRedirect = "redirect" // a URL that redirects elsewhere; its digest is that of the target's address
)

// Name is one name that clients ask for.
type Name struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"` // "registry.k8s.io/pause:3.10", "registry.k8s.io/pause@sha256:…", "https://dl.k8s.io/…"
	Digest string `json:"digest"`
	path   string // path in the tree
}

// edit is a link or a record that an import will write. It is stored as data and not applied to a Batch at once,
// because edits are counted, compared and retried.
type edit struct {
	name, digest string
	holds        []string
	weak         bool
	record       []byte // if set, it is a record and not a link
}

// edits is a list of links and records of an import, unique by name, in insertion order.
type edits struct {
	list []edit
	at   map[string]int
	err  error
}

func (l *edits) add(e edit) {
	if i, ok := l.at[e.name]; ok {
		if l.list[i].digest != e.digest {
			l.err = errors.Join(l.err, fmt.Errorf("%s would be %s and %s: two of its names resolve to the same name: "+
				"%w", e.name, l.list[i].digest, e.digest, fs.ErrInvalid))
		}
		l.list[i] = e
		return
	}
	l.at[e.name] = len(l.list)
	l.list = append(l.list, e)
}

// into is a Batch of the part of the tree below dir; it appends to l.
type into struct {
	l   *edits
	dir string
}

func (b into) Link(name, digest string, holds ...string) {
	b.l.add(edit{name: b.dir + "/" + name, digest: digest, holds: slices.Clone(holds)})
}
func (b into) LinkWeak(name, digest string) {
	b.l.add(edit{name: b.dir + "/" + name, digest: digest, weak: true})
}
func (b into) Put(name string, data []byte) {
	b.l.add(edit{name: b.dir + "/" + name, record: slices.Clone(data)})
}

// An import only adds. Any other operation is a programming error, which must not be ignored silently.
func (b into) Remove(name string)           { b.refuse(name) }
func (b into) Expect(name string, _ uint64) { b.refuse(name) }
func (b into) refuse(name string) {
	b.l.err = errors.Join(b.l.err, fmt.Errorf("import: %s is neither a link nor a record: %w", name, fs.ErrInvalid))
}

// write adds them to a batch of the tree.
func (l *edits) write(b cluster.Batch) {
	for _, e := range l.list {
		switch {
		case e.record != nil:
			b.Put(e.name, e.record)
		case e.weak:
			b.LinkWeak(e.name, e.digest)
		default:
			b.Link(e.name, e.digest, e.holds...)
		}
	}
}

// opener opens blobs of the import.
type opener interface {
	Open(ctx context.Context, digest string) (io.ReadSeekCloser, error)
}

// linksOf converts an index to the links that create its names. The manifests are read through blobs. An image that
// cannot be linked is an error, unless skip is set and returns nil: then the image is left out.
func (e *Engine) linksOf(ctx context.Context, ix *bundle.Index, blobs opener,
	skip func(repository, digest string, err error) error) (*edits, error) {
	l := &edits{at: make(map[string]int, len(ix.Images)+len(ix.Files))}
	with := make(map[string]bool, len(ix.Blobs))
	for _, b := range ix.Blobs {
		with[b.Digest] = true
	}
	manifests := make(map[[2]string]bool, len(ix.Images)) // by repository and digest
	for _, m := range ix.Images {
		manifests[[2]string{m.Repository, m.Digest}] = true
	}
	for im := range manifestsOf(ix) {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		data, err := readManifest(ctx, blobs, im.Digest)
		if err != nil {
			err = fmt.Errorf("image %s@%s: %w", im.Repository, im.Digest, err)
		} else {
			im.Data, im.With = data, func(d string) bool { return with[d] }
			im.Manifest = func(d string) bool { return manifests[[2]string{im.Repository, d}] }
			err = e.cfg.Images.Link(into{l, imagesDir}, *im)
		}
		if err != nil && skip != nil {
			err = skip(im.Repository, im.Digest, err)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, f := range ix.Files {
		key, err := e.fileKey(f.URL)
		if err != nil {
			return nil, err
		}
		into{l, filesDir}.Link(key, f.Digest)
	}
	for _, r := range ix.Redirects {
		if err := e.redirect(l, r); err != nil {
			return nil, err
		}
	}
	return l, l.err
}

// manifestsOf yields every manifest of each repository once, with its tags.
func manifestsOf(ix *bundle.Index) func(func(*registry.Import) bool) {
	type key struct{ repository, digest string }
	var order []*registry.Import
	at := map[key]*registry.Import{}
	for _, m := range ix.Images {
		k := key{m.Repository, m.Digest}
		im := at[k]
		if im == nil {
			im = &registry.Import{Repository: m.Repository, Digest: m.Digest, MediaType: m.MediaType}
			at[k] = im
			order = append(order, im)
		}
		if m.Tag != "" {
			im.Tags = append(im.Tags, m.Tag)
		}
	}
	return slices.Values(order)
}

func readManifest(ctx context.Context, blobs opener, digest string) ([]byte, error) {
	f, err := blobs.Open(ctx, digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("its manifest has more than %d bytes: %w", maxManifest, fs.ErrInvalid)
	}
	return data, err
}

// fileKey returns the name of a file below files/, whether or not its host is an origin.
func (e *Engine) fileKey(url string) (string, error) {
	key, err := fileserver.KeyIn(url, func(host string) (string, bool) { return e.cfg.Canonical(host), true })
	if err == nil && e.cfg.Managed != nil && e.cfg.Managed(key) {
		return "", fmt.Errorf("%s is a file of a repository of packages, which only casemate package put changes: %w",
			url, fs.ErrInvalid)
	}
	return key, err
}

// names returns the names that clients request: tags, manifests without a tag, files; sorted.
func (e *Engine) names(l *edits) []Name {
	var list []Name
	for _, ed := range l.list {
		if n, ok := e.nameOf(ed.name, ed.digest); ok {
			list = append(list, n)
		}
	}
	return tidy(list)
}

// nameOf parses a name of the tree.
func (e *Engine) nameOf(path, digest string) (Name, bool) {
	if key, ok := strings.CutPrefix(path, filesDir+"/"); ok {
		return Name{KindFile, fileserver.URL(key), digest, path}, true
	}
	if strings.HasPrefix(path, RedirectsDir+"/") {
		return Name{KindRedirect, redirectURL(path), digest, path}, true
	}
	below, ok := strings.CutPrefix(path, imagesDir+"/")
	if !ok {
		return Name{}, false
	}
	repository, tag, revision, ok := e.cfg.Images.NameOf(below)
	switch {
	case !ok:
		return Name{}, false
	case tag != "":
		return Name{KindImage, repository + ":" + tag, digest, path}, true
	default:
		return Name{KindManifest, repository + "@" + revision, digest, path}, true
	}
}

// tidy sorts names and removes manifests that have a tag in the same repository.
func tidy(list []Name) []Name {
	spoken := map[string]bool{}
	for _, n := range list {
		if n.Kind == KindImage {
			spoken[n.Name[:strings.LastIndexByte(n.Name, ':')]+"@"+n.Digest] = true
		}
	}
	list = slices.DeleteFunc(list, func(n Name) bool { return n.Kind == KindManifest && spoken[n.Name] })
	slices.SortFunc(list, func(a, b Name) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// hostsOf returns the hosts of the links, sorted.
func hostsOf(l *edits) []Host {
	found := map[string]bool{} // host → it serves images
	for _, ed := range l.list {
		if rest, ok := strings.CutPrefix(ed.name, imagesDir+"/repositories/"); ok {
			if host, _, _ := strings.Cut(rest, "/"); strings.Contains(host, ".") {
				found[host] = true
			}
			continue
		}
		rest, ok := strings.CutPrefix(ed.name, filesDir+"/")
		if !ok {
			rest, ok = strings.CutPrefix(ed.name, RedirectsDir+"/")
		}
		if host, _, _ := strings.Cut(strings.ReplaceAll(rest, "?", "/"), "/"); ok && !found[host] {
			found[host] = false
		}
	}
	return sortedHosts(found)
}

func sortedHosts(found map[string]bool) []Host {
	var list []Host
	for h, images := range found {
		list = append(list, Host{h, images})
	}
	slices.SortFunc(list, func(a, b Host) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
