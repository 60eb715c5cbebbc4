package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Import is one manifest that an import stores under a name. Its bytes and those of everything that it refers to must
// be blobs of the tree.
type Import struct {
	// Repository is host and path ("registry.k8s.io/pause"), or a local name without a host ("team/app"). It is
	// canonicalised like that of a push: aliases of an origin, a port, and a missing library/ at docker.io. The host
	// need not be an origin yet: it may become one in the same batch.
	Repository string
	// Tags may be empty: an untagged child of an index, or a referrer.
	Tags []string
	// Digest is that of Data, sha256 or sha512; "" means sha256.
	Digest string
	// MediaType is the media type sent with the manifest; "" if the manifest states it.
	MediaType string
	// Data is the manifest, at most 4 MiB.
	Data []byte
	// With reports whether the same batch brings something that the manifest refers to, and Manifest whether it brings
	// it as a manifest of this repository, by another Import; nil: nothing. Content that With reports and the tree does
	// not know is missing nevertheless.
	With     func(digest string) bool
	Manifest func(digest string) bool
}

// Link adds to b, a batch of the registry's own subtree, all names of one manifest: the revision, which holds
// everything that it refers to, its tags, its entry among its subject's referrers, and a weak name for each blob, so
// that the batch's claim covers the whole image, whatever else refers to the same blobs. It accepts and refuses the
// same manifests as a push: an index may lack some of its entries, an image must have all its layers.
//
// fs.ErrInvalid: a name, the manifest or its digest is invalid. fs.ErrNotExist: config, layers or the manifest's own
// bytes are missing; the text says which. After an error b is unchanged.
func (r *Registry) Link(b Batch, im Import) error {
	repo, d, m, err := r.checkImport(im)
	if err != nil {
		return fmt.Errorf("image %s: %w", im.name(), err)
	}
	refs, missing := r.referencesOf(repo, m, im.With, im.Manifest)
	if _, err := r.tree.HasBlob(context.Background(), d.String()); err != nil {
		missing = append([]digest.Digest{d}, missing...)
	}
	if len(missing) > 0 {
		return fmt.Errorf("image %s needs content that is not stored here: %s: %w", im.name(), joinDigests(missing),
			fs.ErrNotExist)
	}
	if err := refs.tooMany(); err != nil {
		return fmt.Errorf("image %s: %w: %w", im.name(), err, fs.ErrInvalid)
	}
	linkManifest(b, repo, d, im.Tags, m, refs)
	for _, l := range refs.blobs {
		b.LinkWeak(layerPath(repo, l), l.String())
	}
	r.warnSizes(repo, d, m)
	return nil
}

// checkImport returns the canonical repository, the digest and the manifest.
func (r *Registry) checkImport(im Import) (repo string, d digest.Digest, m *manifest, err error) {
	if repo, err = r.canonical(im.Repository); err != nil {
		return "", "", nil, err
	}
	if len(im.Data) > maxManifest {
		return "", "", nil, fmt.Errorf("its manifest has %d bytes, at most %d are taken: %w", len(im.Data),
			maxManifest, fs.ErrInvalid)
	}
	if im.Digest != "" {
		var fail *apiError
		if d, fail = parseDigest(im.Digest); fail != nil {
			return "", "", nil, fail.withoutCode()
		}
	}
	d, m, err = checkManifest(d, im.Tags, im.MediaType, im.Data)
	var fail *apiError
	if errors.As(err, &fail) {
		err = fail.withoutCode()
	}
	return repo, d, m, err
}

// canonical returns the repository of the tree for a name without a view; fs.ErrInvalid if no repository can have that
// name.
func (r *Registry) canonical(name string) (string, error) {
	if !validName(name) {
		return "", fmt.Errorf("its repository is not %s: %w", repositoryForm, fs.ErrInvalid)
	}
	p := place{path: name}
	if host, rest, ok := hostPart(name); ok {
		p.origin, p.known = r.fold(host)
		p.path = rest
	}
	switch {
	case p.origin != "" && p.exactRepository() == "":
		return "", fmt.Errorf("its host %s has no dot and is no origin here: %w", p.origin, fs.ErrInvalid)
	case p.origin == "" && strings.Contains(strings.SplitN(name, "/", 2)[0], "."):
		return "", fmt.Errorf("its repository looks like a host and has no path: %w", fs.ErrInvalid)
	}
	if fail := r.bound(p); fail != nil {
		return "", fail.withoutCode()
	}
	return p.canonical(), nil
}

// name returns the image in the usual notation.
func (im Import) name() string {
	s := im.Repository
	if len(s) > maxName {
		s = s[:maxName] + "…"
	}
	switch {
	case len(im.Tags) > 0:
		return s + ":" + strings.Join(im.Tags[:min(len(im.Tags), 8)], ",")
	case im.Digest != "":
		return s + "@" + im.Digest
	}
	return s
}

func joinDigests(missing []digest.Digest) string {
	var list []string
	for _, d := range missing[:min(len(missing), maxMissing)] {
		list = append(list, d.String())
	}
	s := strings.Join(list, ", ")
	if more := len(missing) - len(list); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}
