package collect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"

	"casemate/bundle"
	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
	"casemate/bundle/lists"
	"casemate/bundle/oci"
)

const (
	maxDepth     = 5    // for indexes in indexes, and for signatures of signatures
	maxManifests = 5000 // that belong to one name
)

// imageResolver resolves one unit: the requested image, or something that is attached to it. It is used by one
// goroutine.
type imageResolver struct {
	c      *collector
	wanted lists.Image
	repo   *remote.Repository
	*unit
	docs  map[string]*oci.Manifest
	tags  map[string]string // a tag that has this digest according to the registry
	units *[]*unit          // all of the image's, this one among them once it is complete
	seen  map[string]bool   // manifests whose referrers were requested
}

// image resolves one image: it fetches all manifests that belong to it and records the blobs that they need. n is its
// number among the names.
func (c *collector) image(ctx context.Context, n int, w lists.Image) (*imageResolver, error) {
	repo, err := c.registries.Repository(ctx, w.Repository)
	if err != nil {
		return nil, err
	}
	p := &imageResolver{
		c:      c,
		wanted: w,
		repo:   repo,
		unit:   &unit{request: n, blobs: map[string]int64{}, alternateURLs: map[string]string{}},
		docs:   map[string]*oci.Manifest{},
		tags:   map[string]string{},
		units:  &[]*unit{},
		seen:   map[string]bool{},
	}
	digest, err := p.resolve(ctx, w)
	if err != nil {
		return nil, err
	}
	if err := p.name(ctx, w.Tag, digest, true); err != nil {
		return nil, err
	}
	if err := p.resolveAll(); err != nil {
		return nil, err
	}
	if !c.opt.NoReferrers {
		if err := p.attached(ctx, digest, 0); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// resolveAll completes a unit.
func (p *imageResolver) resolveAll() error {
	for i := range p.images {
		if err := p.totalSize(&p.images[i]); err != nil {
			return err
		}
	}
	*p.units = append(*p.units, p.unit)
	return nil
}

// resolve finds the digest of a name. A pinned digest is used whatever the tag is now; the tag is requested only for a
// note.
func (p *imageResolver) resolve(ctx context.Context, w lists.Image) (string, error) {
	if w.Digest == "" {
		return p.tag(ctx, cmp.Or(w.Tag, "latest"))
	}
	if _, have := p.c.cache.Stat(w.Digest); w.Tag == "" || have {
		return w.Digest, nil
	}
	now, err := p.repo.DigestOf(ctx, w.Tag)
	if err != nil || now == "" {
		var b []byte
		if now, b, err = p.repo.Manifest(ctx, w.Tag); err == nil && digests.Like(w.Digest, b) == w.Digest {
			return w.Digest, p.c.cache.Put(w.Digest, b)
		}
	}
	switch {
	case err == nil && now == w.Digest:
		p.tags[w.Digest] = w.Tag
	case err == nil:
		p.c.note("%s: the tag %s is now %s; the pinned digest is collected under this tag", w.Ref(), w.Tag, now)
	case transport.HasStatus(err, http.StatusNotFound):
		p.c.note("%s: the tag %s no longer exists; the pinned digest is collected under this tag", w.Ref(), w.Tag)
	case ctx.Err() == nil:
		p.c.note("%s: could not find out whether the tag %s still has the pinned digest: %v", w.Ref(), w.Tag, err)
	}
	return w.Digest, nil
}

// tag finds the current digest of a tag, and fetches the manifest only if it is not in the cache. HEAD is only a hint:
// if the registry refuses it, or names a digest that it does not have, the manifest is requested with GET before the
// tag fails.
func (p *imageResolver) tag(ctx context.Context, tag string) (string, error) {
	said, err := p.repo.DigestOf(ctx, tag)
	if err == nil && said != "" {
		if _, err = p.readManifest(ctx, said); err == nil || isFatal(err) || ctx.Err() != nil {
			return said, err
		}
	}
	if said == "" && !p.mayExist(err) {
		return "", err
	}
	digest, b, gerr := p.repo.Manifest(ctx, tag)
	switch {
	case gerr != nil && said != "":
		// Not %w: a caller that finds a 404 concludes that the tag does not exist, but it does.
		return "", fmt.Errorf("the registry says that the tag %s is %s, and does not send it: %v", tag, said, err)
	case gerr != nil:
		return "", gerr
	case said != "" && digests.Like(said, b) == said:
		return said, p.c.cache.Put(said, b)
	case said != "" && p.attachedTo != "":
		return "", fmt.Errorf(
			"the registry says that the tag %s is %s, does not have it, and sends %s for the tag",
			tag,
			said,
			digest,
		)
	case said != "":
		p.c.note(
			"%s:%s: the registry says that it is %s, does not have that, and sends %s, which is collected",
			p.repo.Name,
			tag,
			said,
			digest,
		)
	}
	return digest, p.c.cache.Put(digest, b)
}

// mayExist reports whether GET may find a tag for which HEAD returned err. Most tags that could be attached to an image
// do not exist: a registry whose HEAD has found manifests is believed.
func (p *imageResolver) mayExist(err error) bool {
	return p.attachedTo == "" || err == nil || !transport.HasStatus(err, http.StatusNotFound) ||
		!p.c.registries.SupportsHead(p.repo)
}

// readManifest returns a manifest from the cache or the registry: by its digest, or by a tag that has it.
func (p *imageResolver) readManifest(ctx context.Context, digest string) ([]byte, error) {
	b, err := p.c.cache.Read(digest, oci.MaxDocument)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if _, b, err = p.repo.Manifest(ctx, digest); err != nil {
		tag := p.tags[digest]
		if tag == "" || ctx.Err() != nil {
			return nil, err
		}
		_, byTag, terr := p.repo.Manifest(ctx, tag)
		if terr != nil || digests.Like(digest, byTag) != digest {
			return nil, err
		}
		b = byTag
	}
	return b, p.c.cache.Put(digest, b)
}

// manifest returns a manifest as bytes and parsed.
func (p *imageResolver) manifest(ctx context.Context, digest string) (*oci.Manifest, []byte, error) {
	b, err := p.readManifest(ctx, digest)
	if err != nil {
		return nil, nil, err
	}
	m, err := oci.Parse(digest, "", b)
	if err != nil {
		return nil, nil, err
	}
	return m, b, nil
}

// name adds a name for a manifest, and what is attached to it. If choose is set, only the requested platforms of an
// index are collected.
func (p *imageResolver) name(ctx context.Context, tag, digest string, choose bool) error {
	if p.named(tag, digest) {
		return nil
	}
	m := bundle.Image{Repository: p.repo.Name, Tag: tag, Digest: digest}
	if err := p.walk(ctx, &m, digest, choose, 0); err != nil {
		return err
	}
	if choose && m.Sparse && !p.hasChosenPlatform(digest) {
		return fmt.Errorf(
			"it is not for %s, but for %s",
			strings.Join(p.c.opt.Platforms, ", "),
			strings.Join(p.platformsOf(digest), ", "),
		)
	}
	if choose {
		p.noteAbsent(m)
	}
	return p.add(m)
}

func (p *imageResolver) named(tag, digest string) bool {
	return slices.ContainsFunc(p.images, func(m bundle.Image) bool { return m.Tag == tag && m.Digest == digest })
}

// add completes a name whose manifests were fetched.
func (p *imageResolver) add(m bundle.Image) error {
	if len(p.images) >= maxManifests {
		return fmt.Errorf("more than %d manifests belong to it", maxManifests)
	}
	slices.Sort(m.Platforms)
	m.Platforms = slices.Compact(m.Platforms)
	m.MediaType = p.docs[m.Digest].MediaType
	on, err := p.c.cache.FirstSeen(m.Ref(), m.Digest, day(p.c.now()))
	m.On, m.From = on, p.repo.From
	p.images = append(p.images, m)
	return err
}

// walk fetches a manifest and those below it, and records their blobs.
func (p *imageResolver) walk(ctx context.Context, top *bundle.Image, digest string, choose bool, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("indexes are nested deeper than %d", maxDepth)
	}
	m, raw, err := p.manifest(ctx, digest)
	if err != nil {
		return err
	}
	p.docs[digest] = m
	p.blobs[digest] = m.Size
	if len(p.docs) > maxManifests {
		return fmt.Errorf("more than %d manifests belong to it", maxManifests)
	}
	if !m.IsIndex {
		for _, b := range m.Blobs {
			if err := p.part(ctx, b, digest, depth); err != nil {
				return err
			}
		}
		if depth > 0 {
			return nil
		}
		return p.single(ctx, top, m, choose)
	}
	chosen, sparse, err := p.choose(raw, m, choose)
	if err != nil {
		return err
	}
	top.Sparse = top.Sparse || sparse
	for _, d := range chosen {
		// Children have no tag and are names of their own: clients request them by digest.
		child := bundle.Image{Repository: p.repo.Name, Digest: d.Digest}
		if blob, err := p.entry(ctx, &child, d, digest, choose, depth); err != nil {
			return fmt.Errorf("%s %s: %w", cmp.Or(d.Platform.String(), "manifest"), d.Digest, err)
		} else if blob {
			continue
		}
		if s := d.Platform.String(); s != "" {
			child.Platforms = []string{s}
		}
		top.Platforms = append(top.Platforms, child.Platforms...)
		top.Sparse = top.Sparse || child.Sparse
		if !p.named("", d.Digest) {
			if err := p.add(child); err != nil {
				return err
			}
		}
	}
	return nil
}

// choose returns the children of an index that are collected.
func (p *imageResolver) choose(raw []byte, m *oci.Manifest, choose bool) ([]oci.Descriptor, bool, error) {
	if !choose {
		return m.Children, false, nil
	}
	return oci.Choose(m, raw, p.c.platforms, !p.c.opt.NoReferrers)
}

// single finds the platform of an image that is not an index, in its config.
func (p *imageResolver) single(ctx context.Context, top *bundle.Image, m *oci.Manifest, choose bool) error {
	if len(m.Blobs) == 0 ||
		m.Blobs[0].MediaType != oci.MediaTypeConfig && m.Blobs[0].MediaType != oci.MediaTypeDockerConfig {
		return nil // an artifact is for no platform
	}
	config := m.Blobs[0]
	if config.Size > oci.MaxDocument {
		return nil
	}
	if !p.c.cache.Has(config.Digest, config.Size) {
		if err := p.c.layer(ctx, p.repo, config.Digest, config.Size); err != nil {
			return fmt.Errorf("config: %w", err)
		}
	}
	b, err := p.c.cache.Read(config.Digest, oci.MaxDocument)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	var is oci.Platform
	if json.Unmarshal(b, &is) != nil || is.String() == "" {
		return nil
	}
	top.Platforms = []string{is.String()}
	if choose && len(p.c.platforms) > 0 && !is.In(p.c.platforms) {
		return fmt.Errorf("it is for %s only, not for %s", is.String(), strings.Join(p.c.opt.Platforms, ", "))
	}
	return nil
}

// blob records a blob that is needed. A layer that must not be distributed is fetched from the registry, or else from
// its own URLs.
func (p *imageResolver) blob(ctx context.Context, d oci.Descriptor, of string) error {
	if d.Size > oci.MaxBlob {
		return fmt.Errorf("manifest %s names a blob of %d bytes", of, d.Size)
	}
	p.c.recordSize(of, d)
	embedded, err := p.embedded(d)
	if err != nil {
		return err
	}
	if !embedded && d.NonDistributable() && !p.c.cache.Has(d.Digest, d.Size) {
		at, err := p.addForeignLayer(ctx, d)
		if isFatal(err) || ctx.Err() != nil {
			return err
		}
		if err != nil {
			p.c.note(
				"%s: the layer %s must not be distributed and could not be fetched (from %s); it is left out: %v",
				p.repo.Name,
				d.Digest,
				strings.Join(d.URLs, " "),
				err,
			)
			return nil
		}
		p.alternateURLs[d.Digest] = at
	}
	if _, ok := p.blobs[d.Digest]; !ok { // the content decides which of two sizes is right
		p.blobs[d.Digest] = d.Size
	}
	return nil
}

// addForeignLayer finds out where a layer that must not be distributed can be fetched: in the registry (""), or from
// one of its URLs.
func (p *imageResolver) addForeignLayer(ctx context.Context, d oci.Descriptor) (at string, err error) {
	resp, err := p.repo.Send(ctx, http.MethodHead, "blobs/"+d.Digest, "")
	if err == nil {
		resp.Body.Close()
		return "", nil
	}
	for _, u := range d.URLs[:min(len(d.URLs), maxForeign)] {
		if cerr := checkURL(u); cerr != nil {
			err = fmt.Errorf("%.200q: %w", u, cerr)
			continue
		}
		size, herr := p.c.head(ctx, u)
		if herr == nil && (size < 0 || size == d.Size) {
			return u, nil
		}
		if err = herr; herr == nil {
			err = fmt.Errorf("%s has %d bytes there and must have %d", u, size, d.Size)
		}
	}
	return "", err
}

// maxForeign is the maximum number of URLs of a layer that are tried.
const maxForeign = 8

// noteAbsent notes which of the requested platforms an index does not have.
func (p *imageResolver) noteAbsent(m bundle.Image) {
	if !p.docs[m.Digest].IsIndex {
		return
	}
	for i, a := range p.c.platforms {
		if !slices.ContainsFunc(m.Platforms, func(have string) bool {
			is, err := oci.ParsePlatform(have)
			return err == nil && is.In([]oci.Platform{a})
		}) {
			p.c.note(
				"%s: it has nothing for %s",
				lists.Image{Repository: m.Repository, Tag: m.Tag, Digest: m.Digest}.Ref(),
				p.c.opt.Platforms[i],
			)
		}
	}
}

// totalSize adds up the sizes of what a name needs.
func (p *imageResolver) totalSize(m *bundle.Image) error {
	seen := map[string]bool{}
	var sum func(digest string) error
	sum = func(digest string) error {
		if seen[digest] {
			return nil
		}
		seen[digest] = true
		size, have := p.blobs[digest]
		if !have {
			return nil
		}
		if m.Size += size; m.Size > bundle.MaxContent {
			return fmt.Errorf("more than %d bytes", int64(bundle.MaxContent))
		}
		doc := p.docs[digest]
		if doc == nil {
			return nil
		}
		for _, list := range [][]oci.Descriptor{doc.Children, doc.Blobs} {
			for _, d := range list {
				if err := sum(d.Digest); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return sum(m.Digest)
}
