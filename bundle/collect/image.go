package collect

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"casemate/bundle"
	"casemate/bundle/collect/diagnose"
	"casemate/bundle/collect/download"
	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/bundle/lists"
)

// resolveImage resolves an image. n is its number among the names.
func (c *collector) resolveImage(ctx context.Context, n int, w lists.Image) {
	p, err := c.image(ctx, n, w)
	if err == nil {
		err = c.add(p)
	}
	if err != nil {
		c.fail(n, err)
	}
	c.countResolved()
}

func (c *collector) countResolved() {
	c.mu.Lock()
	c.resolved++
	resolved := c.resolved
	c.mu.Unlock()
	c.opt.Progress.Resolved(resolved, len(c.requests))
}

// add adds the units of an image to the collection. The error is of the image itself; attached units that do not fit
// are left out.
func (c *collector) add(p *imageResolver) error {
	for _, s := range *p.units {
		if err := c.addUnit(s, p.repo); err != nil {
			if s.attachedTo == "" {
				return err
			}
			c.dropUnit(s, err)
		}
	}
	return nil
}

func (c *collector) addUnit(s *unit, repo *remote.Repository) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range s.images {
		ref := m.Ref()
		if other, ok := c.images[ref]; ok && other != m.Digest {
			return fmt.Errorf("%s is requested as %s and as %s; remove one of them", ref, other, m.Digest)
		}
	}
	for _, m := range s.images {
		c.images[m.Ref()] = m.Digest
	}
	for digest, size := range s.blobs {
		b := c.blobs[digest]
		if b == nil {
			b = &wantedBlob{size: size}
			c.blobs[digest] = b
		}
		if !slices.Contains(b.from, repo) {
			b.from = append(b.from, repo)
		}
		if u := s.alternateURLs[digest]; u != "" && !slices.Contains(b.urls, u) {
			b.urls = append(b.urls, u)
		}
		b.units = append(b.units, s)
	}
	c.units = append(c.units, s)
	return nil
}

// blob fetches a blob of images from one of the repositories that have it.
func (c *collector) blob(ctx context.Context, digest string, b *wantedBlob) {
	var err error
	for _, repo := range b.from {
		if err = c.layer(ctx, repo, digest, b.size); err == nil {
			return
		}
		if ctx.Err() != nil || isFatal(err) {
			break
		}
	}
	for _, u := range b.urls {
		if ctx.Err() != nil || isFatal(err) {
			break
		}
		if _, err = c.downloads.Fetch(ctx, download.Request{Client: c.fileClient(true), URL: u, Name: u,
			Digest: digest, Size: b.size, Blob: true}); err == nil {
			return
		}
	}
	for _, s := range b.units {
		c.dropUnit(s, fmt.Errorf("blob %s: %w", digest, err))
	}
}

// layerOfSize fetches one blob of a repository, of exactly that size.
func (c *collector) layerOfSize(ctx context.Context, repo *remote.Repository, digest string, size int64) error {
	algorithm, hex, _ := strings.Cut(digest, ":")
	_, err := c.downloads.Fetch(ctx, download.Request{
		Client: repo.Client,
		URL:    repo.Base + "blobs/" + digest,
		Name:   fmt.Sprintf("%s %s:%.12s", repo.Name, algorithm, hex),
		Digest: digest,
		Size:   size,
		Blob:   true,
		Diagnose: func(m *diagnose.Mismatch, _ *os.File) {
			m.Detail = "the registry, or a proxy in front of it, sent other bytes"
		},
	})
	if transport.HasStatus(err, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests) {
		return remote.RefusedError(repo.Host, err)
	}
	return err
}

// index lists what was collected: the units of the names that succeeded.
func (c *collector) index(failed []Failure) *bundle.Index {
	ix := &bundle.Index{
		Version: bundle.IndexVersion,
		Since:   c.opt.Since,
		Images:  []bundle.Image{},
		Files:   []bundle.File{},
		Blobs:   []bundle.Blob{},
	}
	sizes := map[string]int64{}
	images := map[string]bundle.Image{}
	for _, s := range c.units {
		if _, ok := c.failed[s.request]; ok || c.skipped[s.request] || s.dropped {
			continue
		}
		maps.Copy(sizes, s.blobs)
		for _, m := range s.images {
			// A child of one name may be complete under another name.
			if other, ok := images[m.Ref()]; !ok || other.Size < m.Size {
				images[m.Ref()] = m
			}
		}
	}
	for _, m := range images {
		ix.Images = append(ix.Images, m)
	}
	for url, useful := range c.neededIndexes {
		if !useful { // it was fetched for charts that it does not have
			delete(c.files, url)
		}
	}
	for _, f := range c.files {
		ix.Files = append(ix.Files, f)
		if f.Digest != "" {
			sizes[f.Digest] = f.Size
		}
	}
	for digest := range sizes {
		if n, ok := c.cache.Stat(digest); ok { // descriptors may state another size
			sizes[digest] = n
		}
	}
	for digest, size := range sizes {
		ix.Blobs = append(ix.Blobs, bundle.Blob{Digest: digest, Size: size, Omitted: c.isOnFarSide(digest)})
	}
	for _, f := range failed {
		ix.Absent = append(ix.Absent, bundle.Absent{Name: f.Name, Why: diagnose.OneLine(f.Err.Error())})
	}
	for _, r := range c.redirects {
		ix.Redirects = append(ix.Redirects, bundle.Redirect{From: r.From, To: r.To})
	}
	for _, u := range c.unverified {
		ix.Unverified = append(ix.Unverified, bundle.Unverified{URL: u.URL, Why: diagnose.OneLine(u.Why)})
	}
	slices.SortFunc(ix.Images, func(a, b bundle.Image) int { return bundle.CompareImages(&a, &b) })
	slices.SortFunc(ix.Files, func(a, b bundle.File) int { return cmp.Compare(a.URL, b.URL) })
	slices.SortFunc(ix.Blobs, func(a, b bundle.Blob) int { return cmp.Compare(a.Digest, b.Digest) })
	return ix
}

// day formats a day as Provenance.On has it.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
