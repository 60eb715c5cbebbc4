package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"casemate/bundle/lists"
)

// maxChartIndex is the largest index.yaml that is read, in bytes; the largest public ones have about 25 MiB.
const maxChartIndex = 32 << 20

// chartIndex is what a check needs of a classic repository's index.yaml (Helm's "The Chart Repository Guide").
type chartIndex struct {
	Entries map[string][]chartVersion `yaml:"entries"`
}

type chartVersion struct {
	Version string   `yaml:"version"`
	URLs    []string `yaml:"urls"`
	Digest  string   `yaml:"digest"` // sha256 in hex, in some without "sha256:"
}

// chart checks the repository's index and the archive that it names. indexes keeps what was read for the charts that follow.
func (c *Checker) chart(ctx context.Context, w lists.Chart, indexes map[string]*chartIndex) (*Finding, error) {
	version := w.Version
	if version == "" {
		version = "newest"
	}
	f := &Finding{Kind: "chart", Name: fmt.Sprintf("%s %s of %s", w.Name, version, w.Repo), Where: w.Where}
	at := strings.TrimSuffix(w.Repo, "/") + "/index.yaml"
	if found, err := c.file(ctx, lists.File{URL: at}); err != nil {
		return nil, err
	} else if found != nil && found.Verdict != VerdictLuck {
		return f.because(at, found), nil
	}
	index, ok := indexes[at]
	if !ok {
		var err error
		if index, err = c.readChartIndex(ctx, at); err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				return nil, err
			}
			f.Verdict, f.Detail = VerdictMissing, err.Error()
			return f, nil
		}
		indexes[at] = index
	}
	v, ok := index.find(w.Name, w.Version)
	if !ok {
		f.Verdict, f.Detail = VerdictMissing, at+" does not have it"
		return f, nil
	}
	archive, err := c.archive(ctx, at, v)
	if err != nil || archive == nil {
		return nil, err
	}
	return f.because(archive.Name, archive), nil
}

// because makes f say what was found about the part of it at name.
func (f *Finding) because(name string, found *Finding) *Finding {
	where, kind, whole := f.Where, f.Kind, f.Name
	*f = *found
	f.Where, f.Kind, f.Name = where, kind, whole
	f.Detail = strings.TrimSuffix(name+": "+found.Detail, ": ")
	return f
}

// archive checks the chart itself. Its URL may be relative to the index, on another host, or of an OCI registry.
func (c *Checker) archive(ctx context.Context, at string, v chartVersion) (*Finding, error) {
	if len(v.URLs) == 0 {
		return &Finding{Name: at, Verdict: VerdictMissing, Detail: "version " + v.Version + " has no url"}, nil
	}
	if strings.HasPrefix(v.URLs[0], "oci://") {
		w, err := lists.ParseReference(v.URLs[0])
		if err != nil {
			w, err = lists.ParseReference(v.URLs[0] + ":" + v.Version)
		}
		if err != nil {
			return &Finding{Name: at, Verdict: VerdictMissing, Detail: err.Error()}, nil
		}
		return c.image(ctx, w, nil)
	}
	base, err := url.Parse(at)
	if err != nil {
		return nil, fmt.Errorf("chart repository: %w: %w", err, fs.ErrInvalid)
	}
	ref, err := base.Parse(v.URLs[0])
	if err != nil {
		return &Finding{Name: at, Verdict: VerdictMissing, Detail: fmt.Sprintf("the url of version %s is none: %.200q", v.Version, v.URLs[0])}, nil
	}
	w := lists.File{URL: ref.String(), Known: at}
	if hex := strings.TrimPrefix(v.Digest, "sha256:"); len(hex) == 64 {
		w.Digest = "sha256:" + strings.ToLower(hex)
	}
	return c.file(ctx, w)
}

// readChartIndex reads the index.yaml at a URL that is here. fs.ErrInvalid: it cannot be read as one.
func (c *Checker) readChartIndex(ctx context.Context, at string) (*chartIndex, error) {
	info, _, err := c.Files.Resolve(ctx, at)
	if err != nil {
		return nil, err
	}
	if info.Size > maxChartIndex {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read: %w", at, info.Size, maxChartIndex, fs.ErrInvalid)
	}
	b, err := c.Open(ctx, info.Digest)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	data, err := io.ReadAll(cancelled{ctx, io.LimitReader(b, maxChartIndex)})
	if err != nil {
		return nil, err
	}
	return parseChartIndex(at, data)
}

func parseChartIndex(at string, data []byte) (*chartIndex, error) {
	var index chartIndex
	if err := yaml.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s is no index of charts: %.200s: %w", at, strings.ReplaceAll(err.Error(), "\n", " "), fs.ErrInvalid)
	}
	return &index, nil
}

// find returns a version of a chart; "" is the newest that is no pre-release, as for helm pull without --version.
func (x *chartIndex) find(name, version string) (found chartVersion, ok bool) {
	var newest [3]uint64
	for _, v := range x.Entries[name] {
		if version != "" {
			if strings.TrimPrefix(v.Version, "v") == strings.TrimPrefix(version, "v") {
				return v, true
			}
			continue
		}
		if n, stable := release(v.Version); stable && (!ok || less(newest, n)) {
			found, newest, ok = v, n, true
		}
	}
	return found, ok
}

// release reads a semantic version; ok is false for pre-releases and what is none.
func release(version string) (n [3]uint64, ok bool) {
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "v"), "+")
	parts := strings.Split(version, ".")
	if len(parts) > len(n) {
		return n, false
	}
	for i, p := range parts { // Helm takes 1.2 for 1.2.0
		var err error
		if n[i], err = strconv.ParseUint(p, 10, 63); err != nil {
			return n, false
		}
	}
	return n, true
}

func less(a, b [3]uint64) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}
