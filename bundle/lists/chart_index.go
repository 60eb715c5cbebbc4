package lists

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"casemate/bundle/digests"
)

// MaxChartIndex is the maximum size of the index of a chart repository, in bytes; the largest public ones have about 25
// MiB.
const MaxChartIndex = 64 << 20

// ChartIndex is the relevant part of the index.yaml of a classic chart repository
// (https://helm.sh/docs/topics/chart_repository/).
type ChartIndex struct {
	entries map[string][]release
}

type release struct {
	Version string   `yaml:"version"`
	URLs    []string `yaml:"urls"`
	Digest  string   `yaml:"digest"` // sha256 in hex, in some with "sha256:"
}

// ReadChartIndex reads an index.yaml. The parser bounds the expansion of aliases.
func ReadChartIndex(b []byte) (*ChartIndex, error) {
	var ix struct {
		Entries map[string][]release `yaml:"entries"`
	}
	if err := yaml.Unmarshal(b, &ix); err != nil {
		return nil, fmt.Errorf("not an index of charts: %.200s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return &ChartIndex{ix.Entries}, nil
}

// IndexURL is the URL of the index of the chart's repository.
func (w Chart) IndexURL() string { return strings.TrimSuffix(w.Repo, "/") + "/index.yaml" }

// Archive finds the chart's archive: a file, perhaps on another host, or an image if the index refers to an OCI
// registry; the other result is nil.
func (x *ChartIndex) Archive(w Chart) (*File, *Image, error) {
	v, err := pick(x.entries[w.Name], w)
	if err != nil {
		return nil, nil, err
	}
	if len(v.URLs) == 0 {
		return nil, nil, fmt.Errorf("version %s has no URL in the index", v.Version)
	}
	if strings.HasPrefix(v.URLs[0], "oci://") {
		i, err := ParseReference(v.URLs[0])
		if err != nil {
			i, err = ParseReference(v.URLs[0] + ":" + v.Version)
		}
		i.Where, i.Optional = w.Where, w.Optional
		return nil, &i, err
	}
	base, err := url.Parse(w.IndexURL())
	if err != nil {
		return nil, nil, err
	}
	archive, err := base.Parse(v.URLs[0])
	if err != nil {
		return nil, nil, fmt.Errorf("version %s: %w", v.Version, err)
	}
	f := &File{URL: archive.String(), Where: w.Where, Optional: w.Optional}
	if v.Digest != "" {
		f.Digest, f.Known = "sha256:"+strings.ToLower(strings.TrimPrefix(v.Digest, "sha256:")), w.IndexURL()
		if digests.Check(f.Digest) != nil {
			return nil, nil, fmt.Errorf(
				"version %s has the digest %.100q in the index, which is not a digest",
				v.Version,
				v.Digest,
			)
		}
	}
	return f, nil, nil
}

// pick finds the requested version, with or without a leading v; without a version the newest that is not a
// pre-release, as helm pull does.
func pick(all []release, w Chart) (release, error) {
	if len(all) == 0 {
		return release{}, errors.New("the repository's index does not list it")
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b release) int { return compareSemver(b.Version, a.Version) })
	var offers []string
	for _, v := range all {
		if v.Version == w.Version || w.Version == "" && !prerelease(v.Version) ||
			w.Version != "" && strings.TrimPrefix(v.Version, "v") == strings.TrimPrefix(w.Version, "v") {
			return v, nil
		}
		if len(offers) < 3 {
			offers = append(offers, v.Version)
		}
	}
	if w.Version == "" {
		return release{}, fmt.Errorf("it has only pre-releases, name one of them: %s", strings.Join(offers, ", "))
	}
	return release{}, fmt.Errorf("the index has no such version; its newest are %s", strings.Join(offers, ", "))
}
