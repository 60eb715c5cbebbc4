package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"casemate/bundle/lists"
)

// resolveImage finds out what an image is. n is its number among names.
func (c *collector) resolveImage(ctx context.Context, n int, w lists.Image, names int) {
	p, err := c.image(ctx, w)
	if err == nil {
		err = c.add(n, p)
	}
	if err != nil {
		c.lack(n, w.Ref(), w.Where, w.Optional, err)
	}
	c.countResolved(names)
}

func (c *collector) countResolved(names int) {
	c.mu.Lock()
	c.resolved++
	resolved := c.resolved
	c.mu.Unlock()
	c.opt.Progress.Resolved(resolved, names)
}

// add takes what an image brings into what is collected.
func (c *collector) add(n int, p *picture) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range p.names {
		ref := m.ref()
		if other, ok := c.images[ref]; ok && other.Digest != m.Digest {
			return fmt.Errorf("%s is asked for as %s and as %s; one of them must go", ref, other.Digest, m.Digest)
		}
	}
	for _, m := range p.names {
		// What is a child here may be whole under another name.
		if other, ok := c.images[m.ref()]; !ok || other.Size < m.Size {
			c.images[m.ref()] = m
		}
	}
	for digest, size := range p.blobs {
		b := c.blobs[digest]
		if b == nil {
			b = &wantedBlob{size: size}
			c.blobs[digest] = b
		}
		if !slices.Contains(b.from, p.repo) {
			b.from = append(b.from, p.repo)
		}
		b.names = append(b.names, n)
		b.refs = append(b.refs, p.wanted)
	}
	return nil
}

// blob fetches a blob of images from one of the repositories that have it.
func (c *collector) blob(ctx context.Context, digest string, b *wantedBlob) {
	var err error
	for _, repo := range b.from {
		if err = c.layer(ctx, repo, digest, b.size); err == nil {
			return
		}
		var local localError
		if ctx.Err() != nil || errors.As(err, &local) {
			break
		}
	}
	for i, n := range b.names {
		c.fail(n, b.refs[i].Ref(), b.refs[i].Where, fmt.Errorf("blob %s: %w", digest, err))
	}
}

// sizedLayer fetches one blob of a repository, of exactly that size.
func (c *collector) sizedLayer(ctx context.Context, repo *repository, digest string, size int64) error {
	algorithm, hex, _ := strings.Cut(digest, ":")
	_, err := c.fetch(ctx, download{
		client: repo.http,
		url:    repo.base + "blobs/" + digest,
		name:   fmt.Sprintf("%s %s:%.12s", repo.name, algorithm, hex),
		digest: digest,
		size:   size,
		blob:   true,
		judge: func(m *Mismatch, _ *os.File) {
			m.Detail = "the registry, or what stands before it, sent other bytes"
		},
	})
	if hasStatus(err, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests) {
		return refused(repo.host.RegistryStr(), err)
	}
	return err
}

// index writes down what was collected.
func (c *collector) index() *Index {
	ix := &Index{Version: IndexVersion, Since: c.opt.Since, Images: []Image{}, Files: []File{}, Blobs: []Blob{}}
	sizes := map[string]int64{}
	for digest, b := range c.blobs {
		sizes[digest] = b.size
	}
	for _, m := range c.images {
		ix.Images = append(ix.Images, m)
	}
	for _, f := range c.taken {
		ix.Files = append(ix.Files, f)
		if f.Digest != "" {
			sizes[f.Digest] = f.Size
		}
	}
	for digest := range sizes {
		if n, ok := c.cache.stat(digest); ok { // descriptors may say something else
			sizes[digest] = n
		}
	}
	for digest, size := range sizes {
		ix.Blobs = append(ix.Blobs, Blob{Digest: digest, Size: size, Omitted: c.held(digest)})
	}
	slices.SortFunc(ix.Images, func(a, b Image) int { return compareImages(&a, &b) })
	slices.SortFunc(ix.Files, func(a, b File) int { return cmp.Compare(a.URL, b.URL) })
	slices.SortFunc(ix.Blobs, func(a, b Blob) int { return cmp.Compare(a.Digest, b.Digest) })
	return ix
}
