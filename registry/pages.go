package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"
	"syscall"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// ImagesAfter is ImagesBelow for the images whose reference ("NAME:TAG" or "NAME@DIGEST") begins with prefix, from the
// one behind after on ("" for all; it need not exist). Its cost depends on what is consumed, not on what is before
// after: it seeks. The images of one repository are from one state of the tree each.
//
// Which manifests have no tag and no other manifest that refers to them depends on all manifests of their repository:
// they are read when the tags have been consumed, and if a manifest has no tag.
func (r *Registry) ImagesAfter(ctx context.Context, prefix, after string) iter.Seq2[Image, error] {
	return func(yield func(Image, error) bool) {
		name, tag, dg := cutReference(prefix)
		begin, lastTag, lastDigest := cutReference(after)
		if name != prefix { // one repository
			p := imagesPage{repo: name, tag: tag, digest: dg, onlyDigests: strings.Contains(prefix, "@")}
			p.onlyTags = !p.onlyDigests
			if begin == name {
				p.lastTag, p.lastDigest = lastTag, lastDigest
			}
			if fs.ValidPath(repoDir(name)) && (begin == "" || compareNames(begin, name) <= 0) {
				r.yieldPage(ctx, p, yield)
			}
			return
		}
		for repo := range r.Repositories(name, begin) {
			p := imagesPage{repo: repo}
			if repo == begin {
				p.lastTag, p.lastDigest = lastTag, lastDigest
			}
			if !r.yieldPage(ctx, p, yield) {
				return
			}
		}
	}
}

// cutReference splits a reference, or the beginning of one.
func cutReference(ref string) (name, tag, dg string) {
	name, dg, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	return name, tag, dg
}

// Repositories yields the canonical repositories that have manifests and whose name begins with prefix, in the order of
// names (element by element), beginning with begin ("" for all). It seeks past what is in a repository.
func (r *Registry) Repositories(prefix, begin string) iter.Seq[string] {
	return func(yield func(string) bool) {
		dir, from := "repositories", ""
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = repoDir(prefix[:i])
		}
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			from = repoDir(prefix)
		}
		if begin != "" && fs.ValidPath(begin) && (from == "" || compareNames(repoDir(begin)+"/_", from) > 0) {
			from = repoDir(begin) + "/_"
		}
		if !fs.ValidPath(dir) {
			return
		}
		for again := true; again; {
			again = false
			for name := range r.tree.Walk(dir, from) {
				i := strings.Index(name, "/_")
				if i < len("repositories") {
					continue // no name of a repository
				}
				repo := name[len("repositories/"):i]
				inside, _, _ := strings.Cut(name[i+1:], "/")
				if !strings.HasPrefix(name, repoDir(prefix)) {
					return // names with the prefix are contiguous
				}
				from, again = repoDir(repo)+"/_\U0010ffff", true // after what is in it
				switch {
				case !strings.HasPrefix(repo, prefix):
				case inside < "_manifests":
					from = repoDir(repo) + "/_manifests"
				case inside == "_manifests" && !yield(repo):
					return
				}
				break
			}
		}
	}
}

// imagesPage is the part of a repository's images that ImagesAfter yields.
type imagesPage struct {
	repo                  string
	tag, digest           string // that tags and digests begin with
	onlyTags, onlyDigests bool
	lastTag, lastDigest   string // after which it begins
}

// yieldPage yields a part of a repository's images, and reports whether to go on.
func (r *Registry) yieldPage(ctx context.Context, p imagesPage, yield func(Image, error) bool) bool {
	look := r.manifestsOf(ctx, p.repo)
	if !p.onlyDigests && p.lastDigest == "" {
		from := ""
		if p.tag != "" {
			from = tagsDir(p.repo) + "/" + p.tag
		}
		if p.lastTag != "" && p.lastTag >= p.tag {
			from = tree.Behind(tagsDir(p.repo) + "/" + p.lastTag)
		}
		for name, fi := range r.tree.Walk(tagsDir(p.repo), from) {
			if err := ctx.Err(); err != nil {
				yield(Image{}, err)
				return false
			}
			_, tag, _, ok := r.NameOf(name)
			d := digest.Digest(tree.DigestOf(fi))
			if !ok || d == "" {
				continue
			}
			if !strings.HasPrefix(tag, p.tag) {
				break
			}
			img, ok, err := r.imageAt(ctx, p.repo, named{tag, d, fi.Size(), fi.ModTime()}, look)
			if err != nil {
				yield(Image{}, err)
				return false
			}
			if ok && !yield(img, nil) {
				return false
			}
		}
	}
	if p.onlyTags {
		return true
	}
	loose, err := r.loose(ctx, p.repo)
	if err != nil {
		yield(Image{}, err)
		return false
	}
	for _, n := range loose {
		if d := n.digest.String(); d <= p.lastDigest || !strings.HasPrefix(d, p.digest) {
			continue
		}
		img, ok, err := r.imageAt(ctx, p.repo, n, look)
		if err != nil {
			yield(Image{}, err)
			return false
		}
		if ok && !yield(img, nil) {
			return false
		}
	}
	return true
}

// manifestsOf returns a function that returns the summary of a manifest of the repository, nil if it has none.
func (r *Registry) manifestsOf(ctx context.Context, repo string) func(digest.Digest) *summary {
	seen := map[digest.Digest]*summary{}
	return func(d digest.Digest) *summary {
		s, ok := seen[d]
		if !ok {
			if n, here := r.revision(repo, d); here {
				s, _ = r.listable(ctx, repo, n)
			}
			seen[d] = s
		}
		return s
	}
}

// revision returns a manifest of a repository. Unlike Stat it never asks other nodes about one that is not there.
func (r *Registry) revision(repo string, d digest.Digest) (n named, ok bool) {
	at := revisionPath(repo, d)
	for name, fi := range r.tree.Walk(path.Dir(at), "") {
		if name == at && tree.DigestOf(fi) == d.String() {
			return named{"", d, fi.Size(), fi.ModTime()}, true
		}
	}
	return named{}, false
}

// imageAt describes an image of a repository; !ok: it was deleted meanwhile.
func (r *Registry) imageAt(
	ctx context.Context, repo string, n named, look func(digest.Digest) *summary,
) (img Image, ok bool, err error) {
	if _, here := r.revision(repo, n.digest); !here {
		return img, false, nil
	}
	m, err := r.listable(ctx, repo, n)
	switch {
	case errors.Is(err, syscall.EIO):
		return Image{Name: repo, Reference: n.tag, Digest: n.digest, Lost: true, Stored: n.stored}, true, nil
	case errors.Is(err, fs.ErrNotExist):
		return img, false, nil
	case err != nil:
		return img, false, fmt.Errorf("image %s@%s: %w", repo, n.digest, err)
	}
	return r.imageOf(repo, n, m, look), true, nil
}

// loose returns the manifests of a repository that no tag, index or subject refers to, sorted by digest.
func (r *Registry) loose(ctx context.Context, repo string) ([]named, error) {
	spoken := map[digest.Digest]bool{}
	for _, fi := range r.tree.Walk(tagsDir(repo), "") {
		spoken[digest.Digest(tree.DigestOf(fi))] = true
	}
	var all []named
	untagged := false
	for name, fi := range r.tree.Walk(revisionsDir(repo), "") {
		_, _, dg, ok := r.NameOf(name)
		if d := digest.Digest(tree.DigestOf(fi)); ok && dg != "" && d != "" {
			all = append(all, named{"", d, fi.Size(), fi.ModTime()})
			untagged = untagged || !spoken[d]
		}
	}
	if !untagged {
		return nil, ctx.Err()
	}
	for _, n := range all {
		m, err := r.listable(ctx, repo, n)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EIO):
			continue
		case err != nil:
			return nil, fmt.Errorf("image %s@%s: %w", repo, n.digest, err)
		}
		for _, p := range m.Parts {
			spoken[p.Digest] = true
		}
		if m.Subject != "" {
			spoken[n.digest] = true
		}
	}
	var loose []named
	for _, n := range all {
		if !spoken[n.digest] {
			loose = append(loose, n)
		}
	}
	return loose, nil
}

// ImageAt describes one image of a canonical repository, by a tag or by the digest of a manifest, which may be part of
// an index. It does not ask other nodes. fs.ErrNotExist: it does not exist here.
func (r *Registry) ImageAt(ctx context.Context, repo, tag, dg string) (Image, error) {
	at, err := r.TreeName(repo, tag, dg)
	if err != nil {
		return Image{}, err
	}
	for name, fi := range r.tree.Walk(path.Dir(at), "") {
		if name != at || tree.DigestOf(fi) == "" {
			continue
		}
		in, _, _, _ := r.NameOf(name)
		n := named{tag, digest.Digest(tree.DigestOf(fi)), fi.Size(), fi.ModTime()}
		if img, ok, err := r.imageAt(ctx, in, n, r.manifestsOf(ctx, in)); ok || err != nil {
			return img, err
		}
	}
	return Image{}, fmt.Errorf("image %.300s: %w", repo, fs.ErrNotExist)
}

// Level yields what is directly below a path of repositories, "docker.io" or "" for all origins and first elements,
// sorted, beginning after the element called after. repository reports whether the path with the element is a
// repository with manifests; it may have others below it, too.
func (r *Registry) Level(at, after string) iter.Seq2[string, bool] {
	return func(yield func(elem string, repository bool) bool) {
		dir := "repositories"
		if at != "" {
			dir = repoDir(at)
		}
		if !fs.ValidPath(dir) || strings.Contains(at, "/_") || strings.HasPrefix(at, "_") {
			return
		}
		for c := range tree.Children(r.tree.Walk, dir, after) {
			if !c.Dir || c.Name[0] == '_' {
				continue
			}
			repository := false
			for range r.tree.Walk(dir+"/"+c.Name+"/_manifests", "") {
				repository = true
				break
			}
			if !yield(c.Name, repository) {
				return
			}
		}
	}
}

// HasLayer reports whether a canonical repository has a blob, by the digest of it.
func (r *Registry) HasLayer(repo, dg string) bool {
	if !tree.ValidDigest(dg) {
		return false
	}
	at := layerPath(repo, digest.Digest(dg))
	for name := range r.tree.Walk(path.Dir(at), "") {
		if name == at {
			return true
		}
	}
	return false
}
