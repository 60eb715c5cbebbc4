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

// fit takes what has no place here out of what was read, and makes an error of it unless the import may be partial. It
// is called as soon as the names are known, and again when everything was read; what brings no name at all is refused,
// because it is something else than the operator meant.
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
		why := "it brings no image and no file: look what it holds (casemate bundle inspect, tar tf)"
		if len(c.Refused) > 0 {
			why = fmt.Sprintf("nothing of it has a place here: %s: %s", c.Refused[0].Name, c.Refused[0].Why)
		}
		return fmt.Errorf("%s: %w", why, fs.ErrInvalid)
	}
	return j.without(c, fitting, len(o.List) > 0)
}

// without gives contents another index. What was left out of makes other content, with an ID of its own: the whole can
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

// fitting is ix without the names that the rooms refuse, and without those of which two are one here.
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
			o.Add(said, fmt.Errorf("%s is %s, and %s is %s: two of its names mean the same", said, digest, old.said, old.digest))
			return false
		}
		at[path] = name{said, digest}
		return true
	}
	paths := map[string]string{} // by the name as it is said
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
	// Nobody can say which of two was meant.
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

// links are the links of what was read. A partial import leaves out the images whose layers nobody has, and the files
// that are not here.
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
			c.Refused = append(c.Refused, bundle.Skipped{Name: f.URL, Why: "its bytes are neither in it nor here"})
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
			c.Refused = append(c.Refused, bundle.Skipped{Name: m.Repository + ":" + m.Tag, Why: "some of it is neither in it nor here"})
		}
		return true
	})
	if len(c.Refused) == before && len(lost) == 0 {
		return links, j.without(c, c.Index, false)
	}
	if len(kept.Images)+len(kept.Files) == 0 {
		return nil, fmt.Errorf("nothing of it is whole: %w", fs.ErrNotExist)
	}
	return links, j.without(c, &kept, true)
}
