package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"casemate/bundle/lists"
)

// chart checks the repository's index and the archive that it lists. indexes caches the indexes that were read, for
// later charts of the same repository.
func (c *Checker) chart(ctx context.Context, w lists.Chart, indexes map[string]*lists.ChartIndex) (*Finding, error) {
	version := w.Version
	if version == "" {
		version = "newest"
	}
	f := &Finding{Kind: "chart", Name: fmt.Sprintf("%s %s of %s", w.Name, version, w.Repo), Where: w.Where}
	at := w.IndexURL()
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
	file, image, err := index.Archive(w)
	if err != nil {
		f.Verdict, f.Detail = VerdictMissing, at+": "+err.Error()
		return f, nil
	}
	var archive *Finding
	if image != nil {
		archive, err = c.image(ctx, *image, nil)
	} else {
		archive, err = c.file(ctx, *file)
	}
	if err != nil || archive == nil {
		return nil, err
	}
	return f.because(archive.Name, archive), nil
}

// because adds to f the finding about its part called name.
func (f *Finding) because(name string, found *Finding) *Finding {
	where, kind, whole := f.Where, f.Kind, f.Name
	*f = *found
	f.Where, f.Kind, f.Name = where, kind, whole
	f.Detail = strings.TrimSuffix(name+": "+found.Detail, ": ")
	return f
}

// readChartIndex reads the index.yaml stored for a URL. fs.ErrInvalid: it cannot be parsed.
func (c *Checker) readChartIndex(ctx context.Context, at string) (*lists.ChartIndex, error) {
	info, _, err := c.Files.Resolve(ctx, at)
	if err != nil {
		return nil, err
	}
	if info.Size > lists.MaxChartIndex {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are supported: %w", at, info.Size, lists.MaxChartIndex,
			fs.ErrInvalid)
	}
	b, err := c.Open(ctx, info.Digest)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	data, err := io.ReadAll(cancelled{ctx, io.LimitReader(b, lists.MaxChartIndex)})
	if err != nil {
		return nil, err
	}
	index, err := lists.ReadChartIndex(data)
	if err != nil {
		return nil, fmt.Errorf("%s is %w: %w", at, err, fs.ErrInvalid)
	}
	return index, nil
}
