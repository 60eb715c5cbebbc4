package bundle

import (
	"casemate/bundle/lists"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v3"
)

// maxChartIndex is the most that the index of a chart repository may have.
const maxChartIndex = 64 << 20

// chartIndex is what is needed of an index.yaml (https://helm.sh/docs/topics/chart_repository/).
type chartIndex struct {
	Entries map[string][]chartRelease `yaml:"entries"`
}

type chartRelease struct {
	Version string   `yaml:"version"`
	URLs    []string `yaml:"urls"`
	Digest  string   `yaml:"digest"`
}

// resolveChart finds a chart in its repository's index, and adds the index and the archive to the files; an archive in a registry is an image.
func (c *collector) resolveChart(ctx context.Context, n int, w lists.Chart, files *fileList, names int) {
	image, err := c.chart(ctx, n, w, files)
	switch {
	case err != nil:
		c.lack(n, w.Label(), w.Where, w.Optional, err)
	case image != nil:
		c.resolveImage(ctx, n, *image, names)
		return
	}
	c.countResolved(names)
}

func (c *collector) chart(ctx context.Context, n int, w lists.Chart, files *fileList) (*lists.Image, error) {
	base := strings.TrimSuffix(w.Repo, "/")
	index := base + "/index.yaml"
	ix, err := c.chartIndex(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", index, err)
	}
	v, err := pickChart(ix.Entries[w.Name], w)
	if err != nil {
		return nil, err
	}
	if len(v.URLs) == 0 {
		return nil, fmt.Errorf("version %s has no URL in the index", v.Version)
	}
	if ref, ok := strings.CutPrefix(v.URLs[0], "oci://"); ok {
		return chartImage(ref, v.Version, w.Where)
	}
	b, err := url.Parse(base + "/")
	if err != nil {
		return nil, err
	}
	archive, err := b.Parse(v.URLs[0])
	if err != nil {
		return nil, fmt.Errorf("version %s: %w", v.Version, err)
	}
	job := &fileJob{File: lists.File{URL: archive.String(), Where: w.Where}, n: n, name: w.Label(), plain: true}
	if v.Digest != "" {
		job.Digest, job.Known = digestOfHex(strings.TrimPrefix(v.Digest, "sha256:")), index
		if job.Digest == "" {
			return nil, fmt.Errorf("version %s has the digest %.100q in the index, which is none", v.Version, v.Digest)
		}
	}
	if err := files.add(job); err != nil {
		return nil, err
	}
	if c.opt.NoReferrers {
		return nil, nil
	}
	// The provenance file, which helm install --verify asks for.
	prov := &fileJob{File: lists.File{URL: archive.String() + ".prov", Where: w.Where}, n: n, name: w.Label(), plain: true, optional: true}
	return nil, files.add(prov)
}

// chartIndex fetches a repository's index and reads it. Each is read once in a run, one after the other, because they are large in memory.
func (c *collector) chartIndex(ctx context.Context, index string) (*chartIndex, error) {
	c.chartLock.Lock()
	defer c.chartLock.Unlock()
	if ix := c.charts[index]; ix != nil {
		return ix, nil
	}
	if err := c.file(ctx, &fileJob{File: lists.File{URL: index}, plain: true}); err != nil {
		return nil, err
	}
	c.mu.Lock()
	digest := c.taken[index].Digest
	c.mu.Unlock()
	b, err := c.cache.read(digest, maxChartIndex)
	if err != nil {
		return nil, err
	}
	ix, err := parseChartIndex(b)
	if err == nil {
		c.charts[index] = ix
	}
	return ix, err
}

// parseChartIndex reads an index.yaml. The parser bounds what aliases may make of it.
func parseChartIndex(b []byte) (*chartIndex, error) {
	ix := &chartIndex{}
	if err := yaml.Unmarshal(b, ix); err != nil {
		return nil, fmt.Errorf("not an index of charts: %w", err)
	}
	return ix, nil
}

// pickChart finds the version asked for, with or without a leading v; without one the newest that is no pre-release.
func pickChart(all []chartRelease, w lists.Chart) (chartRelease, error) {
	if len(all) == 0 {
		return chartRelease{}, errors.New("the repository's index does not have it")
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b chartRelease) int { return compareSemver(b.Version, a.Version) })
	var offers []string
	for _, v := range all {
		if v.Version == w.Version || w.Version == "" && !prerelease(v.Version) || w.Version != "" && strings.TrimPrefix(v.Version, "v") == strings.TrimPrefix(w.Version, "v") {
			return v, nil
		}
		if len(offers) < 3 {
			offers = append(offers, v.Version)
		}
	}
	if w.Version == "" {
		return chartRelease{}, fmt.Errorf("it has only pre-releases, name one of them: %s", strings.Join(offers, ", "))
	}
	return chartRelease{}, fmt.Errorf("the index has no such version; its newest are %s", strings.Join(offers, ", "))
}

// chartImage is the image of an archive that lies in a registry. A tag has "_" where a version has "+" (https://helm.sh/docs/topics/registries/).
func chartImage(ref, version, where string) (*lists.Image, error) {
	r, err := name.ParseReference(ref, name.WithDefaultTag(strings.ReplaceAll(version, "+", "_")))
	if err != nil {
		return nil, fmt.Errorf("oci://%s: %w", ref, err)
	}
	host := r.Context().RegistryStr()
	if host == name.DefaultRegistry || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	w := &lists.Image{Repository: host + "/" + r.Context().RepositoryStr(), Where: where}
	switch r := r.(type) {
	case name.Digest:
		w.Digest = r.DigestStr()
	case name.Tag:
		w.Tag = r.TagStr()
	}
	return w, nil
}
