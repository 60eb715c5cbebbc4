package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"casemate/bundle"
)

// fit removes what cannot be stored here from the index, or returns an error unless the import may be partial. It is
// called when the names are known, and again when everything was read. An import without any name is refused, because
// the operator must have meant something else.
func (j *job) fit(c *bundle.Contents) error {
	var o bundle.NameErrors
	fitting := j.e.fitting(c.Index, &o)
	if err := o.Err(); err != nil && !j.req.Partial {
		return fmt.Errorf("%w: %w", err, fs.ErrInvalid)
	}
	for _, l := range o.List {
		if !slices.Contains(c.Refused, l) {
			c.Refused = append(c.Refused, l)
		}
	}
	if len(fitting.Images)+len(fitting.Files)+len(fitting.Redirects) == 0 {
		why := "it has no image and no file: check its content (casemate bundle inspect, tar tf)"
		if len(c.Refused) > 0 {
			why = fmt.Sprintf("nothing of it can be stored here: %s: %s", c.Refused[0].Name, c.Refused[0].Why)
		}
		return fmt.Errorf("%s: %w", why, fs.ErrInvalid)
	}
	return j.without(c, fitting, len(o.List) > 0)
}

// without replaces the contents' index. The reduced index is other content, with an ID of its own, so the whole can
// be imported later.
func (j *job) without(c *bundle.Contents, ix *bundle.Index, other bool) error {
	c.Index = ix
	j.refused, j.left = c.Refused, c.Skipped
	if !other && !(j.req.Partial && len(c.Refused) > 0) {
		return nil
	}
	data, err := ix.Encode()
	c.ID = fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	return err
}

// fitting returns ix without the names that the services refuse, and without pairs of names that resolve to the same
// name.
func (e *Engine) fitting(ix *bundle.Index, o *bundle.NameErrors) *bundle.Index {
	kept := *ix
	kept.Images, kept.Files, kept.Redirects = []bundle.Image{}, []bundle.File{}, nil
	type name struct{ said, digest string }
	at := map[string]name{}
	double := map[string]bool{}
	see := func(path, said, digest string) bool {
		old, ok := at[path]
		if ok && old.digest != digest {
			double[path] = true
			o.Add(said, fmt.Errorf("%s is %s, and %s is %s: two of its names resolve to the same name", said, digest,
				old.said, old.digest))
			return false
		}
		at[path] = name{said, digest}
		return true
	}
	paths := map[string]string{} // by path, the name as written in the index
	for _, m := range ix.Images {
		said := m.Repository + ":" + m.Tag
		if m.Tag == "" {
			said = m.Repository + "@" + m.Digest
		}
		path, err := e.cfg.Images.TreeName(m.Repository, m.Tag, m.Digest)
		if err != nil {
			o.Add(said, err)
		} else if see(imagesDir+"/"+path, said, m.Digest) {
			paths[said] = imagesDir + "/" + path
			kept.Images = append(kept.Images, m)
		}
	}
	for _, f := range ix.Files {
		key, err := e.fileKey(f.URL)
		if err != nil {
			o.Add(f.URL, err)
		} else if see(filesDir+"/"+key, f.URL, f.Digest) {
			paths[f.URL] = filesDir + "/" + key
			kept.Files = append(kept.Files, f)
		}
	}
	for _, r := range ix.Redirects {
		l := &edits{at: map[string]int{}}
		if err := e.redirect(l, r); err != nil {
			o.Add(r.From, err)
		} else if name := l.list[0].name; see(name, r.From, textDigest(r.To)) {
			paths[r.From] = name
			kept.Redirects = append(kept.Redirects, r)
		}
	}
	// It is undecidable which of the two was meant.
	kept.Images = slices.DeleteFunc(kept.Images, func(m bundle.Image) bool {
		said := m.Repository + ":" + m.Tag
		if m.Tag == "" {
			said = m.Repository + "@" + m.Digest
		}
		return double[paths[said]]
	})
	kept.Files = slices.DeleteFunc(kept.Files, func(f bundle.File) bool { return double[paths[f.URL]] })
	kept.Redirects = slices.DeleteFunc(kept.Redirects, func(r bundle.Redirect) bool { return double[paths[r.From]] })
	return &kept
}

// links returns the links of what was read. A partial import leaves out images with missing layers, and missing
// files.
func (j *job) links(ctx context.Context, c *bundle.Contents, s opener) (*edits, error) {
	if !j.req.Partial {
		return j.e.linksOf(ctx, c.Index, s, nil)
	}
	absent := map[string]bool{}
	for _, d := range c.Absent {
		absent[d] = true
	}
	kept := *c.Index
	kept.Blobs = slices.DeleteFunc(slices.Clone(kept.Blobs), func(b bundle.Blob) bool { return absent[b.Digest] })
	before := len(c.Refused)
	kept.Files = slices.DeleteFunc(slices.Clone(kept.Files), func(f bundle.File) bool {
		if absent[f.Digest] {
			c.Refused = append(c.Refused, bundle.Skipped{Name: f.URL,
				Why: "its bytes are neither in the import nor stored here"})
		}
		return absent[f.Digest]
	})
	lost := map[string]bool{} // by repository and digest
	links, err := j.e.linksOf(ctx, &kept, s, func(repository, digest string, err error) error {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			return err
		}
		lost[repository+"@"+digest] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	kept.Images = slices.DeleteFunc(slices.Clone(kept.Images), func(m bundle.Image) bool {
		if !lost[m.Repository+"@"+m.Digest] {
			return false
		}
		if m.Tag != "" {
			c.Refused = append(c.Refused, bundle.Skipped{Name: m.Repository + ":" + m.Tag,
				Why: "some of it is neither in the import nor stored here"})
		}
		return true
	})
	if len(c.Refused) == before && len(lost) == 0 {
		return links, j.without(c, c.Index, false)
	}
	if len(kept.Images)+len(kept.Files) == 0 {
		return nil, fmt.Errorf("nothing of it is complete: %w", fs.ErrNotExist)
	}
	return links, j.without(c, &kept, true)
}
