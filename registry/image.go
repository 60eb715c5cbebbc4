package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"syscall"
	"time"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// Image is one entry of the registry's list: a tag, or a manifest that no tag, index or subject refers to.
type Image struct {
	// Name is the canonical repository, "registry.k8s.io/pause".
	Name string
	// Reference is the tag, "" for an untagged manifest.
	Reference string
	// Digest is that of the manifest.
	Digest    digest.Digest
	MediaType string
	// ArtifactType is set for artifacts (a manifest's own artifactType; that of a config is not considered).
	ArtifactType string
	// Size is in bytes: the manifest and its parts that are here, each blob once, and everything below it.
	Size int64
	// Platforms are the entries of an index that are here, as "linux/arm64/v8" or, without one, by digest; Sparse means
	// that other entries are absent; Absent lists them.
	Platforms []string
	Sparse    bool
	Absent    []string
	// Lost means that the manifest's bytes are damaged or lost: then nothing else is known of it.
	Lost bool
	// Stored is when the tag or the manifest was written.
	Stored time.Time
}

// Images yields every image in the order of names (element by element), a repository's untagged ones after its tags,
// from one consistent list of names. An image that is deleted meanwhile is omitted. Images ends at the first error or
// when ctx does.
func (r *Registry) Images(ctx context.Context) iter.Seq2[Image, error] { return r.ImagesBelow(ctx, "") }

// ImagesBelow is Images for repositories whose canonical name begins with prefix. It reads no manifest of another
// repository.
func (r *Registry) ImagesBelow(ctx context.Context, prefix string) iter.Seq2[Image, error] {
	return func(yield func(Image, error) bool) {
		dir := "repositories"
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = repoDir(prefix[:i])
		}
		var repo string
		var c contents
		for name, fi := range r.tree.Walk(dir, "") {
			if err := ctx.Err(); err != nil {
				yield(Image{}, err)
				return
			}
			in, tag, revision, ok := r.NameOf(name)
			d := digest.Digest(tree.DigestOf(fi))
			if !ok || d == "" || !strings.HasPrefix(in, prefix) {
				continue
			}
			if in != repo {
				if !r.yieldRepo(ctx, repo, c, yield) {
					return
				}
				repo, c = in, contents{}
			}
			if n := (named{tag, d, fi.Size(), fi.ModTime()}); revision != "" {
				c.revisions = append(c.revisions, n)
			} else {
				c.tags = append(c.tags, n)
			}
		}
		r.yieldRepo(ctx, repo, c, yield)
	}
}

// NameOf parses a name of the registry's tree: that of a tag (then digest is "") or of a manifest in its repository
// (then tag is ""). ok is false for every other name: layers, referrers, unknown files.
func (r *Registry) NameOf(treeName string) (repository, tag, digest string, ok bool) {
	rest, ours := strings.CutPrefix(treeName, "repositories/")
	i := strings.Index(rest, "/_")
	if !ours || i < 0 {
		return "", "", "", false
	}
	parts := strings.Split(rest[i+1:], "/")
	if len(parts) != 5 || parts[0] != "_manifests" || parts[4] != "link" {
		return "", "", "", false
	}
	switch {
	case parts[1] == "tags" && parts[3] == "current" && validTag(parts[2]):
		return rest[:i], parts[2], "", true
	case parts[1] == "revisions" && tree.ValidDigest(parts[2]+":"+parts[3]):
		return rest[:i], "", parts[2] + ":" + parts[3], true
	}
	return "", "", "", false
}

// TreeName returns the name in the registry's tree that Link gives a tag, or, if tag is "", the manifest digest. The
// repository is canonicalised as Link does; NameOf is the inverse. fs.ErrInvalid: repository, tag or digest is
// malformed.
func (r *Registry) TreeName(repository, tag, dg string) (string, error) {
	repo, err := r.canonical(repository)
	switch {
	case err != nil:
	case tag != "" && validTag(tag):
		return tagPath(repo, tag), nil
	case tag == "" && tree.ValidDigest(dg):
		return revisionPath(repo, digest.Digest(dg)), nil
	default:
		err = fmt.Errorf("%.200q is not a tag and %.200q not a digest: %w", tag, dg, fs.ErrInvalid)
	}
	return "", fmt.Errorf("image %.300s: %w", repository, err)
}

// contents are the names in one repository.
type contents struct{ revisions, tags []named }

type named struct {
	tag    string
	digest digest.Digest
	size   int64 // of the manifest
	stored time.Time
}

func (r *Registry) yieldRepo(ctx context.Context, repo string, c contents, yield func(Image, error) bool) bool {
	spoken := map[digest.Digest]bool{}
	manifests := map[digest.Digest]*summary{}
	lost := map[digest.Digest]bool{}
	for _, n := range c.revisions {
		m, err := r.listable(ctx, repo, n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, syscall.EIO) {
			lost[n.digest] = true
			continue
		}
		if err != nil {
			yield(Image{}, fmt.Errorf("image %s@%s: %w", repo, n.digest, err))
			return false
		}
		manifests[n.digest] = m
		for _, p := range m.Parts {
			spoken[p.Digest] = true
		}
		if m.Subject != "" {
			spoken[n.digest] = true
		}
	}
	for _, n := range c.tags {
		spoken[n.digest] = true
	}
	below := func(d digest.Digest) *summary { return manifests[d] }
	for _, n := range slices.Concat(c.tags, c.revisions) {
		m := manifests[n.digest]
		if n.tag == "" && spoken[n.digest] || m == nil && !lost[n.digest] {
			continue
		}
		img := Image{Name: repo, Reference: n.tag, Digest: n.digest, Lost: true, Stored: n.stored}
		if m != nil {
			img = r.imageOf(repo, n, m, below)
		}
		if !yield(img, nil) {
			return false
		}
	}
	return true
}

// listable returns what a list reports of a manifest, including its parts but not its annotations. If the manifest has
// to be read, its bytes are compared with its digest.
func (r *Registry) listable(ctx context.Context, repo string, n named) (*summary, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := r.known(repo, n.digest, needParts)
	switch {
	case s == nil:
		var err error
		if s, err = r.summaryOf(ctx, n.digest, n.size, n.size >= summarizeFrom); err != nil {
			return nil, err
		}
	case r.isLost(ctx, n.digest):
		return nil, fmt.Errorf("manifest %s: %w", n.digest, syscall.EIO)
	}
	if s.Annotations != nil {
		bare := *s
		bare.Annotations = nil
		s = &bare
	}
	return s, nil
}

// imageOf describes an image. below returns the summary of a manifest of the repository, nil if there is none.
func (r *Registry) imageOf(repo string, n named, m *summary, below func(digest.Digest) *summary) Image {
	img := Image{Name: repo, Reference: n.tag, Digest: n.digest, MediaType: m.MediaType, ArtifactType: m.ArtifactType,
		Stored: n.stored}
	sized := map[digest.Digest]bool{}
	add := func(d digest.Digest) {
		if !sized[d] {
			sized[d] = true
			if size, err := r.tree.StatBlob(d.String()); err == nil {
				img.Size += size
			}
		}
	}
	var walk func(d digest.Digest, m *summary, depth int)
	walk = func(d digest.Digest, m *summary, depth int) {
		add(d)
		for _, p := range m.Parts {
			if sized[p.Digest] { // a manifest cannot contain its own digest, so this ends
				continue
			}
			at := below(p.Digest)
			if !m.index() {
				if at == nil || depth >= maxNested {
					add(p.Digest)
				} else {
					walk(p.Digest, at, depth+1)
				}
				continue
			}
			name := p.Platform
			if name == "" {
				name = p.Digest.String()
			}
			switch {
			case at != nil && depth < maxNested:
				if !at.index() || p.Platform != "" {
					img.Platforms = append(img.Platforms, name)
				}
				walk(p.Digest, at, depth+1)
			case at == nil && hasLink(r.tree, layerPath(repo, p.Digest)):
				img.Platforms = append(img.Platforms, name)
				add(p.Digest)
			case p.Embedded:
			default: // deeper levels are examined, too, as for pulls (reach.go)
				img.Sparse, img.Absent = true, append(img.Absent, name)
			}
		}
	}
	walk(n.digest, m, 0)
	return img
}

const (
	// sampleTags is how many tags of one repository Samples examines.
	sampleTags = 8
	// sampleBytes bounds the bytes of manifests that Samples reads, and sampleParts the parts of one manifest that it
	// examines.
	sampleBytes = 8 << 20
	sampleParts = 256
)

// Samples yields up to n images by their tags, as Images would, from as many repositories as it can. Its cost is
// bounded, whatever is stored: it examines few tags of a repository and reads few bytes; an image for which these do
// not suffice is reported as sparse. It ends when ctx does.
func (r *Registry) Samples(ctx context.Context, n int) iter.Seq[Image] {
	return func(yield func(Image) bool) {
		var read int64
		for _, repo := range r.read.names.fresh().repos {
			look := func(d digest.Digest) *summary {
				s := r.known(repo, d, needParts)
				if s == nil {
					h, err := statLink(r.tree, revisionPath(repo, d))
					if err != nil || read+h.size > sampleBytes {
						return nil
					}
					read += h.size
					if s, err = r.summaryOf(ctx, d, h.size, true); err != nil {
						return nil
					}
				}
				if len(s.Parts) > sampleParts {
					return nil
				}
				return s
			}
			tags := 0
			for name, fi := range r.tree.Walk(tagsDir(repo), "") {
				if ctx.Err() != nil || n == 0 {
					return
				}
				if tags++; tags > sampleTags {
					break
				}
				d := digest.Digest(tree.DigestOf(fi))
				_, tag, _, ok := r.NameOf(name)
				if d == "" || !ok || tag == "" {
					continue
				}
				n--
				at := named{tag, d, fi.Size(), fi.ModTime()}
				img := Image{Name: repo, Reference: tag, Digest: at.digest, Lost: true, Stored: at.stored}
				if s := look(at.digest); s != nil && !r.isLost(ctx, at.digest) {
					img = r.imageOf(repo, at, s, look)
				}
				if !yield(img) {
					return
				}
			}
		}
	}
}

// DeleteImage deletes "NAME:TAG" (the tag alone) or "NAME@DIGEST" (the manifest, its tags and its entry among
// referrers), where NAME is a canonical repository. fs.ErrNotExist: it does not exist.
func (r *Registry) DeleteImage(ctx context.Context, ref string) error {
	if repo, s, ok := strings.Cut(ref, "@"); ok {
		d, fail := parseDigest(s)
		if fail != nil || !validName(repo) {
			return fmt.Errorf("image reference must be NAME:TAG or NAME@DIGEST, got %.300q: %w", ref, fs.ErrInvalid)
		}
		return deleted(ref, r.removeRevision(ctx, repo, d))
	}
	i := strings.LastIndexByte(ref, ':')
	if i < 0 || !validName(ref[:i]) || !validTag(ref[i+1:]) {
		return fmt.Errorf("image reference must be NAME:TAG or NAME@DIGEST, got %.300q: %w", ref, fs.ErrInvalid)
	}
	return deleted(ref, r.removeTag(ctx, ref[:i], ref[i+1:]))
}

func deleted(ref string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no image %s: %w", ref, fs.ErrNotExist)
	case err != nil:
		return fmt.Errorf("delete image %s: %w", ref, err)
	}
	return nil
}
