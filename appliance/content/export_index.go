package content

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"casemate/bundle"
	"casemate/bundle/oci"
)

// describe makes the index of what was selected.
func (x *exporter) describe() error {
	ix, repository := x.out.Index, ""
	for _, k := range slices.SortedFunc(maps.Keys(x.images), func(a, b manifestKey) int {
		return cmp.Or(cmp.Compare(a.repository, b.repository), cmp.Compare(a.digest, b.digest))
	}) {
		if k.repository != repository {
			repository = k.repository
			clear(x.docs)
		}
		im, err := x.image(k)
		if err := x.ctx.Err(); err != nil {
			return context.Cause(x.ctx)
		}
		tags := x.images[k]
		if len(tags) == 0 {
			tags = []string{""}
		}
		for _, tag := range slices.Sorted(slices.Values(tags)) {
			if im.Tag = tag; err != nil {
				x.find(KindImage, im.Ref(), err)
				continue
			}
			ix.Images = append(ix.Images, im)
		}
	}
	for _, f := range x.files {
		if _, ok := x.held(f.Digest); !ok {
			x.find(KindFile, f.URL, errLost)
			continue
		}
		x.blobs[f.Digest] = f.Size
		ix.Files = append(ix.Files, f)
	}
	for from, to := range x.redirects {
		if _, ok := x.files[from]; !ok { // a file answers before a redirect
			ix.Redirects = append(ix.Redirects, bundle.Redirect{From: from, To: to})
		}
	}
	for digest, size := range x.blobs {
		ix.Blobs = append(ix.Blobs, bundle.Blob{Digest: digest, Size: size})
	}
	slices.SortFunc(x.out.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return nil
}

var errLost = errors.New(lostDetail)

func (x *exporter) find(kind, name string, err error) {
	x.out.Findings = append(x.out.Findings, Finding{Kind: kind, Name: name, Verdict: VerdictMissing,
		Detail: err.Error()})
}

// held returns the size of a blob whose bytes are here.
func (x *exporter) held(digest string) (int64, bool) {
	if size, ok := x.blobs[digest]; ok {
		return size, true
	}
	return x.e.held(x.ctx, digest)
}

// fetched returns the size of a blob that was not here, after it was fetched.
func (x *exporter) fetched(repository, digest string) (int64, error) {
	if x.fetch != nil {
		if err := x.fetch(x.ctx, repository, digest); err != nil {
			return 0, fmt.Errorf("no client has asked for all of it, and the rest cannot be fetched (%s): %w",
				digest, err)
		}
	}
	size, ok := x.held(digest)
	if !ok {
		return 0, fmt.Errorf("its bytes are damaged or lost (%s): import or push it again", digest)
	}
	return size, nil
}

// image describes a manifest, and adds what it needs to the blobs. An error says why it cannot be pulled.
func (x *exporter) image(k manifestKey) (bundle.Image, error) {
	im := bundle.Image{Repository: k.repository, Digest: k.digest}
	m, err := x.manifest(k.digest)
	if err != nil {
		return im, err
	}
	im.MediaType = m.MediaType
	w := walk{x: x, of: k.repository, sizes: map[string]int64{}, platforms: map[string]bool{}}
	if err := w.manifest(m, nil); err != nil {
		return im, err
	}
	for digest, size := range w.sizes {
		x.blobs[digest] = size
		im.Size += size
	}
	im.Platforms, im.Sparse = slices.Sorted(maps.Keys(w.platforms)), w.sparse
	return im, nil
}

// manifest reads a manifest of the repository that is described.
func (x *exporter) manifest(digest string) (*oci.Manifest, error) {
	if m := x.docs[digest]; m != nil {
		return m, nil
	}
	if _, ok := x.held(digest); !ok {
		return nil, errLost
	}
	m, _, err := x.read(digest)
	if err == nil {
		x.docs[digest] = m
	}
	return m, err
}

// walk visits a manifest and everything below it.
type walk struct {
	x         *exporter
	of        string           // the repository
	sizes     map[string]int64 // by digest
	platforms map[string]bool
	sparse    bool
}

// manifest visits one manifest. said is its platform in the index that lists it.
func (w *walk) manifest(m *oci.Manifest, said *oci.Platform) error {
	if _, ok := w.sizes[m.Digest]; ok {
		return nil
	}
	w.sizes[m.Digest] = m.Size
	for i, b := range m.Blobs {
		size, ok := w.x.held(b.Digest)
		if !ok {
			if b.NonDistributable() || len(b.URLs) > 0 || b.Inline() != nil {
				continue // clients do not ask for it here
			}
			var err error
			if size, err = w.x.fetched(w.of, b.Digest); err != nil {
				return err
			}
		}
		w.sizes[b.Digest] = size
		if i == 0 && m.Platform == "" && size <= oci.MaxDocument &&
			(b.MediaType == oci.MediaTypeConfig || b.MediaType == oci.MediaTypeDockerConfig) {
			data, err := readManifest(w.x.ctx, stored{w.x.e.cfg.Tree}, b.Digest)
			if err != nil {
				return fmt.Errorf("config %s: %w", b.Digest, err)
			}
			m.Platform = oci.ConfigPlatform(b.MediaType, data)
		}
	}
	p := said.String()
	if said == nil {
		p = m.Platform
	}
	if oci.ValidPlatform(p) {
		w.platforms[p] = true
	}
	for _, c := range m.Children {
		if err := w.child(c); err != nil {
			return err
		}
	}
	return nil
}

// child visits an entry of an index: a manifest that is selected, or a blob of the repository.
func (w *walk) child(c oci.Descriptor) error {
	if _, ok := w.x.images[manifestKey{w.of, c.Digest}]; ok {
		m, err := w.x.manifest(c.Digest)
		if err != nil {
			return fmt.Errorf("%s, which it lists: %w", c.Digest, err)
		}
		return w.manifest(m, c.Platform)
	}
	if path, err := w.x.e.cfg.Images.LayerName(w.of, c.Digest); err == nil {
		if _, err := w.x.e.cfg.Tree.Stat(imagesDir + "/" + path); err == nil {
			if size, ok := w.x.held(c.Digest); ok {
				w.sizes[c.Digest] = size
				return nil
			}
		}
	}
	w.sparse = w.sparse || c.Inline() == nil
	return nil
}

// recall adds what the imports' own indexes say of the names and no content tells: where and when they were fetched,
// and, for selected imports, which names could not be collected at that time. Without selected imports all are read,
// the newest first.
func (x *exporter) recall(selected []string) error {
	records, err := x.e.records()
	if err != nil {
		return err
	}
	from := slices.SortedFunc(maps.Keys(records), func(a, b string) int {
		return cmp.Or(records[b].Time.Compare(records[a].Time), cmp.Compare(a, b))
	})
	if len(selected) > 0 {
		from = slices.DeleteFunc(from, func(name string) bool { return !slices.Contains(selected, name) })
	}
	ix := x.out.Index
	images, files := map[string]*bundle.Image{}, map[string]*bundle.File{}
	for i := range ix.Images {
		images[ix.Images[i].Ref()] = &ix.Images[i]
	}
	for i := range ix.Files {
		files[ix.Files[i].URL] = &ix.Files[i]
	}
	for _, name := range from {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		old, err := x.e.readIndex(indexName(name))
		if err != nil {
			x.out.Notes = append(x.out.Notes, fmt.Sprintf("where the content of import %s was fetched is unknown: its "+
				"index cannot be read", name))
			continue
		}
		for i := range old.Images {
			is := &old.Images[i]
			im := images[is.Ref()]
			if im == nil || im.Digest != is.Digest || im.Provenance != (bundle.Provenance{}) {
				continue
			}
			if im.Provenance = is.Provenance; im.Size == is.Size { // the same content: also the platforms of the index
				im.Platforms = is.Platforms
			}
		}
		for i := range old.Files {
			is := &old.Files[i]
			if f := files[is.URL]; f != nil && f.Digest == is.Digest && f.Provenance == (bundle.Provenance{}) {
				f.Provenance = is.Provenance
			}
		}
		if len(selected) > 0 {
			ix.Absent = append(ix.Absent, old.Absent...)
		}
	}
	slices.SortFunc(ix.Absent, func(a, b bundle.Absent) int { return cmp.Compare(a.Name, b.Name) })
	ix.Absent = slices.CompactFunc(ix.Absent, func(a, b bundle.Absent) bool { return a.Name == b.Name })
	return nil
}
