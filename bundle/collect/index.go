package collect

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"casemate/bundle"
	"casemate/bundle/collect/download"
	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/oci"
)

// entry adds an entry of an index: a manifest with everything below it, or a blob. The image specification lets an
// index list anything (image-index.md: unknown media types are not an error), and build caches list layers there, so
// what the registry has under the digest decides; the media type decides only what is requested first.
func (p *imageResolver) entry(
	ctx context.Context,
	child *bundle.Image,
	d oci.Descriptor,
	of string,
	choose bool,
	depth int,
) (blob bool,
	err error) {
	if p.docs[d.Digest] != nil {
		p.c.recordSize(of, d)
		return false, nil
	}
	says := oci.IsManifestType(d.MediaType) && !p.cachedBlob(d.Digest)
	embedded, err := p.embedded(d)
	if err != nil {
		return false, err
	}
	if !says && (embedded || p.maybeBlob(ctx, d)) {
		return true, p.blob(ctx, d, of)
	}
	err = p.walk(ctx, child, d.Digest, choose, depth+1)
	if says && transport.HasStatus(err, http.StatusNotFound) && p.docs[d.Digest] == nil && p.maybeBlob(ctx, d) {
		return true, p.blob(ctx, d, of)
	}
	if err == nil {
		p.c.recordSize(of, d)
	}
	return false, err
}

// part adds an entry of a manifest that is not an index: a blob, unless its media type is that of a manifest, which
// clients request and push as one.
func (p *imageResolver) part(ctx context.Context, d oci.Descriptor, of string, depth int) error {
	if d.MediaType == "" || !oci.IsManifestType(d.MediaType) {
		return p.blob(ctx, d, of)
	}
	child := bundle.Image{Repository: p.repo.Name, Digest: d.Digest}
	blob, err := p.entry(ctx, &child, d, of, false, depth)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if blob || p.named("", d.Digest) {
		return nil
	}
	return p.add(child)
}

// maybeBlob reports whether the registry may have a blob. Only a 404 says that it does not: not every registry answers
// HEAD.
func (p *imageResolver) maybeBlob(ctx context.Context, d oci.Descriptor) bool {
	resp, err := p.repo.Send(ctx, http.MethodHead, "blobs/"+d.Digest, "")
	if err != nil {
		return !transport.HasStatus(err, http.StatusNotFound)
	}
	resp.Body.Close()
	return true
}

// cachedBlob reports whether the cache has content under the digest that is not a manifest.
func (p *imageResolver) cachedBlob(digest string) bool {
	n, have := p.c.cache.Stat(digest)
	if !have || n > oci.MaxDocument {
		return have
	}
	b, err := p.c.cache.Read(digest, oci.MaxDocument)
	if err != nil {
		return false
	}
	_, err = oci.Parse(digest, "", b)
	return err != nil
}

// embedded stores the blob that a descriptor contains, which the registry need not have.
func (p *imageResolver) embedded(d oci.Descriptor) (bool, error) {
	data := d.Inline()
	if data == nil {
		return false, nil
	}
	return true, p.c.cache.Put(d.Digest, data)
}

// hasChosenPlatform reports whether a manifest leads to anything but indexes.
func (p *imageResolver) hasChosenPlatform(digest string) bool {
	doc := p.docs[digest]
	if doc == nil {
		_, blob := p.blobs[digest]
		return blob
	}
	return !doc.IsIndex ||
		slices.ContainsFunc(doc.Children, func(d oci.Descriptor) bool { return p.hasChosenPlatform(d.Digest) })
}

// platformsOf lists the platforms of an index and of the indexes below it.
func (p *imageResolver) platformsOf(digest string) []string {
	var all []string
	for _, d := range p.docs[digest].Children {
		if s := d.Platform.String(); s != "" {
			all = append(all, s)
		} else if below := p.docs[d.Digest]; below != nil && below.IsIndex {
			all = append(all, p.platformsOf(d.Digest)...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// recordSize records the size that a descriptor states. Two different sizes are not an error: the digest decides.
func (c *collector) recordSize(of string, d oci.Descriptor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.statedSizes == nil {
		c.statedSizes = map[statedSize]string{}
	}
	if s := (statedSize{d.Digest, d.Size}); c.statedSizes[s] == "" || of < c.statedSizes[s] {
		c.statedSizes[s] = of
	}
}

// statedSize is a size that a descriptor states.
type statedSize struct {
	digest string
	size   int64
}

// noteWrongSizes notes the descriptors whose size is not that of their content. They are kept as they are: a change
// would change digests.
func (c *collector) noteWrongSizes() {
	for s, of := range c.statedSizes {
		if n, ok := c.cache.Stat(s.digest); ok && n != s.size {
			c.note("%s says that %s has %d bytes, it has %d: containerd refuses it", of, s.digest, s.size, n)
		}
	}
}

// layer fetches one blob of a repository. If the registry has another size than the descriptor states, the digest
// decides which of them is right.
func (c *collector) layer(ctx context.Context, repo *remote.Repository, digest string, size int64) error {
	err := c.layerOfSize(ctx, repo, digest, size)
	var other download.SizeError
	if !errors.As(err, &other) {
		return err
	}
	if again := c.layerOfSize(ctx, repo, digest, other.Has); again != nil {
		return fmt.Errorf("%v, and %w", err, again)
	}
	return nil
}
