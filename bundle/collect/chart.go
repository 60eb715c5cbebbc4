package collect

import (
	"context"
	"fmt"
	"slices"

	"casemate/bundle/lists"
)

// resolveChart finds a chart in the index of its repository, and adds the index and the archive to the files; an
// archive in a registry is an image.
func (c *collector) resolveChart(ctx context.Context, n int, w lists.Chart, files *fileList) {
	image, err := c.chart(ctx, n, w, files)
	switch {
	case err != nil:
		c.fail(n, err)
	case image != nil:
		c.resolveImage(ctx, n, *image)
		return
	}
	c.countResolved()
}

func (c *collector) chart(ctx context.Context, n int, w lists.Chart, files *fileList) (*lists.Image, error) {
	ix, err := c.chartIndex(ctx, w.IndexURL())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.IndexURL(), err)
	}
	archive, image, err := ix.Archive(w)
	if err != nil {
		return nil, err
	}
	c.chartLock.Lock()
	c.neededIndexes[w.IndexURL()] = true
	c.chartLock.Unlock()
	if image != nil {
		return image, nil
	}
	if err := files.add(&fileJob{File: *archive, n: n, name: w.Label(), plain: true}); err != nil || c.opt.NoReferrers {
		return nil, err
	}
	// The provenance file, which helm install --verify requests.
	prov := &fileJob{
		File:     lists.File{URL: archive.URL + ".prov", Where: w.Where},
		n:        n,
		name:     w.Label(),
		plain:    true,
		optional: true,
	}
	return nil, files.add(prov)
}

// chartIndex fetches and reads the index of a repository. A run reads each index once, one after the other, because
// they take much memory.
func (c *collector) chartIndex(ctx context.Context, index string) (*lists.ChartIndex, error) {
	c.chartLock.Lock()
	defer c.chartLock.Unlock()
	if ix := c.charts[index]; ix != nil {
		return ix, nil
	}
	if err := c.file(ctx, &fileJob{File: lists.File{URL: index}, plain: true}); err != nil {
		return nil, err
	}
	c.neededIndexes[index] = c.neededIndexes[index] ||
		slices.ContainsFunc(c.requests, func(n request) bool { return n.name == index })
	c.mu.Lock()
	digest := c.files[index].Digest
	c.mu.Unlock()
	b, err := c.cache.Read(digest, lists.MaxChartIndex)
	if err != nil {
		return nil, err
	}
	ix, err := lists.ReadChartIndex(b)
	if err == nil {
		c.charts[index] = ix
	}
	return ix, err
}
