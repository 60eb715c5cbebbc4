package bundle

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"

	"casemate/bundle/oci"
)

// Part is one of the indexes that Merge merges.
type Part struct {
	Name  string // of where it comes from, for messages
	Index *Index
}

// Merge merges indexes into one: every name and every blob of each. open opens a blob of any of them, of which
// manifests are read. A name that stands for different content in two parts cannot be in one bundle: conflicts has a
// text for each of these, and then the index is of no use. differ are the URLs of questions whose answers differ
// although the content does not.
func Merge(parts []Part, open func(digest string) (io.ReadCloser, error)) (ix *Index, conflicts, differ []string,
	err error) {
	m := merger{images: map[string]Image{}, tags: map[string]said{}, urls: map[string]said{}, blobs: map[string]Blob{},
		open: open}
	ix = &Index{Version: IndexVersion}
	var questions [][]Question
	for _, p := range parts {
		questions = append(questions, p.Index.Questions)
		for _, b := range p.Index.Blobs {
			m.blobs[b.Digest] = b
		}
		for _, f := range p.Index.Files {
			if m.say(m.urls, f.URL, f.Digest, p.Name) {
				ix.Files = append(ix.Files, f)
			}
		}
		for _, r := range p.Index.Redirects {
			if m.say(m.urls, r.From, "a redirect to "+r.To, p.Name) {
				ix.Redirects = append(ix.Redirects, r)
			}
		}
		ix.Absent = append(ix.Absent, p.Index.Absent...)
		ix.Unverified = append(ix.Unverified, p.Index.Unverified...)
	}
	for _, p := range parts { // when all blobs are known
		for _, i := range p.Index.Images {
			if i.Tag != "" {
				m.say(m.tags, i.Repository+":"+i.Tag, i.Digest, p.Name)
			}
			if err := m.image(i); err != nil {
				return nil, nil, nil, err
			}
		}
	}
	ix.Images = slices.Collect(maps.Values(m.images))
	ix.Blobs = slices.Collect(maps.Values(m.blobs))
	byName := func(a, b Absent) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortStableFunc(ix.Absent, byName)
	ix.Absent = slices.CompactFunc(ix.Absent, func(a, b Absent) bool { return byName(a, b) == 0 })
	byURL := func(a, b Unverified) int { return cmp.Compare(a.URL, b.URL) }
	slices.SortStableFunc(ix.Unverified, byURL)
	ix.Unverified = slices.CompactFunc(ix.Unverified, func(a, b Unverified) bool { return byURL(a, b) == 0 })
	ix.Questions, differ = JoinQuestions(questions...)
	return ix, m.conflicts, differ, nil
}

// said is what a name stands for, and which part says so.
type said struct{ what, part string }

// merger merges indexes.
type merger struct {
	images     map[string]Image // by reference
	tags, urls map[string]said
	blobs      map[string]Blob
	conflicts  []string
	open       func(digest string) (io.ReadCloser, error)
}

// say records what a name stands for in a part; false if it is known, or stands for something else already.
func (m *merger) say(names map[string]said, name, what, part string) bool {
	before, known := names[name]
	switch {
	case !known:
		names[name] = said{what, part}
		return true
	case before.what != what:
		m.conflicts = append(m.conflicts, fmt.Sprintf("%s is %s in %s and %s in %s", name, before.what, before.part,
			what, part))
	}
	return false
}

// image adds an image, or the platforms of one that is there.
func (m *merger) image(i Image) error {
	ref := i.Ref() + "@" + i.Digest
	have, known := m.images[ref]
	if !known {
		m.images[ref] = i
		return nil
	}
	if slices.Equal(have.Platforms, i.Platforms) && have.Size == i.Size {
		return nil
	}
	platforms := slices.Sorted(slices.Values(slices.Concat(have.Platforms, i.Platforms)))
	have.Platforms = slices.Compact(platforms)
	sizes := map[string]int64{}
	sparse, err := m.measure(i.Digest, sizes)
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Ref(), err)
	}
	have.Size, have.Sparse = 0, sparse
	for _, n := range sizes {
		have.Size += n
	}
	m.images[ref] = have
	return nil
}

// measure adds the sizes of a manifest and of everything below it that the parts have.
func (m *merger) measure(digest string, sizes map[string]int64) (sparse bool, err error) {
	sizes[digest] = m.blobs[digest].Size
	r, err := m.open(digest)
	if err != nil {
		return false, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, oci.MaxDocument+1))
	if err != nil {
		return false, err
	}
	doc, err := oci.Parse(digest, "", data)
	if err != nil {
		return false, err
	}
	for _, b := range doc.Blobs {
		if have, ok := m.blobs[b.Digest]; ok {
			sizes[b.Digest] = have.Size
		}
	}
	for _, c := range doc.Children {
		_, ok := m.blobs[c.Digest]
		switch _, seen := sizes[c.Digest]; {
		case seen:
		case !ok:
			sparse = sparse || c.Inline() == nil
		case !oci.IsManifestType(c.MediaType):
			sizes[c.Digest] = m.blobs[c.Digest].Size
		default:
			below, err := m.measure(c.Digest, sizes)
			if err != nil {
				return false, err
			}
			sparse = sparse || below
		}
	}
	return sparse, nil
}
