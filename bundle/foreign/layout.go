package foreign

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"casemate/bundle"
	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// Annotations by which a layout's index.json names images.
const (
	annotationRef        = "org.opencontainers.image.ref.name" // a tag, or a whole name
	annotationContainerd = "io.containerd.image.name"          // a whole name
)

// layoutPart is an OCI image layout (OCI image specification 1.1, image-layout.md), perhaps with docker's manifest.json
// beside it.
type layoutPart struct {
	a       *archive
	root    string
	unnamed naming // of images without a name: --repository, or the path of the layout
	dir     bool   // written by skopeo's dir: transport, which has no blobs/ and no index.json
	haul    bool
	tops    []top
	// blobs are the files of the archive that the tops need, by digest.
	blobs  map[string]*entry
	inline map[string][]byte // of descriptors that embed their blob
	files  []haulFile
}

// top is one manifest in index.json.
type top struct {
	oci.Descriptor
	name naming // "" until it has one
}

// isLayout reports whether an OCI layout begins at root. hauler can omit the file oci-layout.
func (a *archive) isLayout(root string) bool {
	if a.file(root+"index.json") == nil {
		return false
	}
	if a.file(root+"oci-layout") != nil {
		return true
	}
	return slices.ContainsFunc(
		a.entries,
		func(e *entry) bool { return strings.HasPrefix(e.name, root+"blobs/") && blobDigest(e.name) != "" },
	)
}

// blobDigest returns the digest in the path of a layout's blob (blobs/sha256/…, perhaps in a directory), or "".
func blobDigest(name string) string {
	if dir, rest, ok := strings.Cut(name, "/"); ok && dir != "blobs" {
		name = rest
	}
	algorithm, digits, ok := strings.Cut(strings.TrimPrefix(name, "blobs/"), "/")
	if d := algorithm + ":" + digits; ok && strings.HasPrefix(name, "blobs/") && digests.Check(d) == nil {
		return d
	}
	return ""
}

func blobPath(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

func (r *Reader) newLayout(ctx context.Context, a *archive, root string, unnamed naming) (*layoutPart, error) {
	p := &layoutPart{a: a, root: root, unnamed: unnamed, blobs: map[string]*entry{}, inline: map[string][]byte{}}
	data, err := r.document(ctx, a, a.file(root+"index.json"))
	if err != nil {
		return nil, err
	}
	var index struct {
		Manifests []oci.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%s: index.json: %w", a.name, err)
	}
	if len(index.Manifests) == 0 {
		return nil, fmt.Errorf("%s: the layout's index.json lists no image", a.name)
	}
	for _, d := range index.Manifests {
		if err := digests.Check(d.Digest); err != nil {
			return nil, fmt.Errorf("%s: index.json: %w", a.name, err)
		}
		if !oci.IsManifestType(d.MediaType) {
			r.note(
				"%s: left out %s, index.json says that it is %.100q, which is not a manifest",
				a.name,
				d.Digest,
				d.MediaType,
			)
			continue
		}
		p.haul = p.haul || isHaul(d)
		p.tops = append(p.tops, top{Descriptor: d})
	}
	return p, p.resolve(ctx, r)
}

// resolve reads everything below the tops, and names them.
func (p *layoutPart) resolve(ctx context.Context, r *Reader) error {
	for _, t := range p.tops {
		if err := p.follow(ctx, r, t.Descriptor, true, 0); err != nil {
			return fmt.Errorf("%s: %w", p.a.name, err)
		}
	}
	if p.haul {
		return p.nameHaul(ctx, r)
	}
	return p.name(ctx, r)
}

// find returns the file of a blob, nil if the archive does not have it.
func (p *layoutPart) find(digest string) *entry {
	if p.dir {
		return p.findInDir(digest)
	}
	return p.a.file(p.root + blobPath(digest))
}

// follow reads a manifest and everything below it. Missing manifests are reported by whoever needs them, unless must is
// set. depth is the number of indexes around it.
func (p *layoutPart) follow(ctx context.Context, r *Reader, d oci.Descriptor, must bool, depth int) error {
	if p.blobs[d.Digest] != nil {
		return nil // read before
	}
	if depth > maxNested {
		return errNested(d.Digest)
	}
	e := p.find(d.Digest)
	var data []byte
	var err error
	switch {
	case e != nil:
		if data, err = r.document(ctx, p.a, e); err != nil {
			return err
		}
		if digests.Like(d.Digest, data) != d.Digest {
			return fmt.Errorf("%s does not have its digest: the archive is damaged", e.name)
		}
		p.blobs[d.Digest] = e
	case d.Inline() != nil:
		data = d.Data
		p.inline[d.Digest] = data
	case !must:
		return nil
	default:
		if _, ok := r.sink.Has(d.Digest); !ok {
			return errIncomplete(p.a, blobPath(d.Digest))
		}
		if data, err = r.readStored(ctx, d.Digest); err != nil {
			return err
		}
	}
	m, err := r.graph.add(d.Digest, d.MediaType, data)
	if err != nil {
		return err
	}
	for _, b := range m.Blobs {
		p.addBlob(b)
	}
	for _, c := range m.Children {
		is, err := p.isManifest(ctx, r, c)
		if err == nil && is {
			err = p.follow(ctx, r, c, false, depth+1)
		}
		if err != nil {
			return err
		}
		// One that was read before was not counted on the way down.
		if below := r.graph.manifests[c.Digest]; is && below != nil {
			if m.Depth = max(m.Depth, below.Depth+1); m.Depth > maxNested {
				return errNested(d.Digest)
			}
		}
		if !is {
			p.addBlob(c)
		}
	}
	return nil
}

// addBlob adds a blob of a manifest if the archive has it. Its digest is verified when it is put.
func (p *layoutPart) addBlob(d oci.Descriptor) {
	if e := p.find(d.Digest); e != nil {
		p.blobs[d.Digest] = e
	} else if data := d.Inline(); data != nil {
		p.inline[d.Digest] = data
	}
}

// isManifest reports whether an entry of an index is a manifest. An index may list anything, so the content decides if
// it is available: an entry with a manifest's media type must be one, and an entry of another type is one if its
// content says so.
func (p *layoutPart) isManifest(ctx context.Context, r *Reader, d oci.Descriptor) (bool, error) {
	says := oci.IsManifestType(d.MediaType)
	data := d.Inline()
	if e := p.find(d.Digest); e != nil {
		if e.size > oci.MaxDocument {
			return false, nil
		}
		var err error
		if data, err = r.document(ctx, p.a, e); err != nil {
			return false, err
		}
	}
	if data == nil {
		return says, nil
	}
	m, err := oci.Parse(d.Digest, "", data)
	var self struct {
		MediaType string `json:"mediaType"`
	}
	if err != nil || says {
		return err == nil, nil
	}
	return json.Unmarshal(data, &self) == nil && self.MediaType != "" && oci.IsManifestType(m.MediaType), nil
}

var tagOnly = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// name gives the tops their names: by their annotations, by docker's manifest.json, by --repository.
func (p *layoutPart) name(ctx context.Context, r *Reader) error {
	docker, err := p.dockerTags(ctx, r)
	if err != nil {
		return err
	}
	var named []top
	for _, t := range p.tops {
		names := []string{t.Annotations[annotationContainerd]}
		ref := t.Annotations[annotationRef]
		if names[0] == "" && strings.ContainsAny(ref, "/:") {
			names[0] = ref
		}
		if m := r.graph.manifests[t.Digest]; names[0] == "" && len(m.Blobs) > 0 && docker[m.Blobs[0].Digest] != nil {
			names = docker[m.Blobs[0].Digest]
		}
		for _, name := range names {
			t := t
			switch {
			case name != "":
				if t.name, err = r.parseName(p.a, name); err != nil {
					r.refused.Add(name, fmt.Errorf("%s: index.json: %w", p.a.name, err))
					continue
				}
			case p.unnamed.repository != "":
				t.name = p.unnamed
				if tagOnly.MatchString(ref) {
					t.name.tag = ref
				}
			case ref != "":
				r.refused.Add(
					t.Digest,
					needsRepository(p.a, fmt.Sprintf("the image %s has a tag (%.130q) and no name", t.Digest, ref)),
				)
				continue
			}
			named = append(named, t)
		}
	}
	p.tops = named
	p.checkUnnamed(r)
	return nil
}

// checkUnnamed examines the tops without a name: a child of another one, or one with a subject, needs none.
func (p *layoutPart) checkUnnamed(r *Reader) {
	below := map[string]bool{}
	for _, t := range p.tops {
		for _, c := range r.graph.manifests[t.Digest].Children {
			below[c.Digest] = true
		}
	}
	p.tops = slices.DeleteFunc(p.tops, func(t top) bool {
		if t.name.repository != "" || below[t.Digest] || r.graph.manifests[t.Digest].Subject != "" {
			return false
		}
		r.refused.Add(t.Digest, needsRepository(p.a, fmt.Sprintf("the image %s has no name", t.Digest)))
		return true
	})
}

func needsRepository(a *archive, what string) error {
	return fmt.Errorf(
		"%s: %s; name its repository with --repository (--repository registry.k8s.io/pause, or "+
			"registry.k8s.io/pause:3.10 with a tag)",
		a.name,
		what,
	)
}

// dockerTags returns the tags in docker's manifest.json, by the digest of the image's config. docker and hauler write
// it beside the layout for older readers.
func (p *layoutPart) dockerTags(ctx context.Context, r *Reader) (map[string][]string, error) {
	e := p.a.file(p.root + "manifest.json")
	if e == nil || p.dir {
		return nil, nil
	}
	list, err := r.dockerManifest(ctx, p.a, e)
	if err != nil {
		return nil, err
	}
	tags := map[string][]string{}
	for _, image := range list {
		if d := blobDigest(path.Clean(image.Config)); d != "" {
			tags[d] = append(tags[d], image.RepoTags...)
		}
	}
	return tags, nil
}

func (p *layoutPart) kind() string {
	if p.haul {
		return bundle.KindHaul
	}
	return bundle.KindLayout
}

func (p *layoutPart) need(r *Reader) int64 {
	var n int64
	for digest, e := range p.blobs {
		if _, ok := r.sink.Has(digest); !ok && e.digest == "" {
			n += e.size
		}
	}
	return n
}

func (p *layoutPart) load(ctx context.Context, r *Reader) error {
	digests := slices.Sorted(maps.Keys(p.blobs))
	err := parallel(ctx, len(digests), func(ctx context.Context, i int) error {
		return r.put(ctx, p.a, p.blobs[digests[i]], digests[i])
	})
	if err != nil {
		return err
	}
	for _, digest := range slices.Sorted(maps.Keys(p.inline)) {
		if err := r.putBytes(ctx, digest, p.inline[digest]); err != nil {
			return fmt.Errorf("%s: %s: %w", p.a.name, digest, err)
		}
	}
	for _, t := range p.tops {
		if t.name.repository == "" {
			r.names.untagged = append(r.names.untagged, t.Digest)
		} else {
			r.addImage(t.name, t.Digest, p.a.name)
		}
	}
	for _, f := range p.files {
		r.addFile(f.url, f.digest, f.size, p.a.name)
	}
	return nil
}
