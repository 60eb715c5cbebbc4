package foreign

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"casemate/bundle"
	"casemate/bundle/digests"
	"casemate/bundle/lists"
	"casemate/bundle/oci"
)

// names are the names in the inputs. Each name has one meaning.
type names struct {
	images   map[naming]nameOrigin      // those with a tag
	bare     map[string]map[string]bool // repository → digests without a tag
	files    map[string]nameOrigin
	untagged []string // manifests that have a subject and no name
}

// nameOrigin is the meaning of a name, and the input that it comes from.
type nameOrigin struct {
	digest string
	size   int64
	input  string
	double bool // it is ambiguous, so it is not imported
}

func (n *names) addImage(name naming, digest, input string) error {
	if name.tag == "" {
		n.addUntagged(name.repository, digest)
		return nil
	}
	if n.images == nil {
		n.images = map[naming]nameOrigin{}
	}
	if old, ok := n.images[name]; ok && old.digest != digest {
		old.double = true
		n.images[name] = old
		return errAmbiguous(name.repository+":"+name.tag, old, digest, input)
	} else if !ok {
		n.images[name] = nameOrigin{digest: digest, input: input}
	}
	return nil
}

func (n *names) addUntagged(repository, digest string) {
	if n.bare == nil {
		n.bare = map[string]map[string]bool{}
	}
	if n.bare[repository] == nil {
		n.bare[repository] = map[string]bool{}
	}
	n.bare[repository][digest] = true
}

func (n *names) addFile(url, digest string, size int64, input string) error {
	if n.files == nil {
		n.files = map[string]nameOrigin{}
	}
	if old, ok := n.files[url]; ok && old.digest != digest {
		old.double = true
		n.files[url] = old
		return errAmbiguous(url, old, digest, input)
	} else if !ok {
		n.files[url] = nameOrigin{digest: digest, size: size, input: input}
	}
	return nil
}

func errAmbiguous(name string, old nameOrigin, digest, input string) error {
	if old.input == input {
		return fmt.Errorf("%s: %s is both %s and %s: %w", input, name, old.digest, digest, fs.ErrInvalid)
	}
	return fmt.Errorf(
		"%s is %s in %s and %s in %s; import them separately, the later one wins: %w",
		name,
		old.digest,
		old.input,
		digest,
		input,
		fs.ErrInvalid,
	)
}

// parseName reads an image's name as Docker does, and returns its name here (lists.Place). A note reports a different
// name, unless a is nil.
func (r *Reader) parseName(a *archive, s string) (naming, error) {
	w, err := lists.ParseReference(s)
	if err != nil {
		return naming{}, err
	}
	place, err := lists.Place(w.Repository)
	if err != nil {
		return naming{}, err
	}
	if renamed := lists.Renamed(w.Repository); renamed != "" && a != nil {
		r.note("%s: %s", a.name, renamed)
	}
	return naming{place, w.Tag}, nil
}

// addImage gives an image a name; an ambiguous name is refused.
func (r *Reader) addImage(name naming, digest, input string) {
	if err := r.names.addImage(name, digest, input); err != nil {
		r.refused.Add(name.repository+":"+name.tag, err)
	}
}

// addFile is addImage for a file.
func (r *Reader) addFile(url, digest string, size int64, input string) {
	if err := r.names.addFile(url, digest, size, input); err != nil {
		r.refused.Add(url, err)
	}
}

// contents returns the Contents of what was read.
func (r *Reader) contents(ctx context.Context) (*bundle.Contents, error) {
	r.attach()
	c := &bundle.Contents{Kind: r.kind()}
	blobs := map[string]int64{}
	absent := map[string]bool{}
	ix := &bundle.Index{
		Version: bundle.IndexVersion,
		Images:  []bundle.Image{},
		Files:   []bundle.File{},
		Blobs:   []bundle.Blob{},
	}
	add := func(n naming, digest string) error {
		m, err := r.image(ctx, digest, blobs, absent)
		if err != nil {
			return err
		}
		m.Repository, m.Tag = n.repository, n.tag
		ix.Images = append(ix.Images, m)
		return nil
	}
	for _, n := range slices.SortedFunc(maps.Keys(r.names.images), func(a, b naming) int {
		return strings.Compare(a.repository+":"+a.tag, b.repository+":"+b.tag)
	}) {
		if r.names.images[n].double {
			continue
		}
		if err := add(n, r.names.images[n].digest); err != nil {
			return nil, err
		}
	}
	for _, repository := range slices.Sorted(maps.Keys(r.names.bare)) {
		for _, digest := range slices.Sorted(maps.Keys(r.names.bare[repository])) {
			if err := add(naming{repository: repository}, digest); err != nil {
				return nil, err
			}
		}
	}
	for _, url := range slices.Sorted(maps.Keys(r.names.files)) {
		f := r.names.files[url]
		if f.double {
			continue
		}
		ix.Files = append(ix.Files, bundle.File{URL: url, Digest: f.digest, Size: f.size})
		blobs[f.digest] = f.size
		if _, ok := r.sink.Has(f.digest); !ok {
			absent[f.digest] = true
		}
	}
	for digest, size := range blobs {
		ix.Blobs = append(ix.Blobs, bundle.Blob{Digest: digest, Size: size})
	}
	c.Absent = slices.Sorted(maps.Keys(absent))
	data, err := ix.Encode()
	if err != nil {
		return nil, err
	}
	c.ID, c.Index, c.Notes, c.Refused, c.Skipped = digests.SHA256(data), ix, r.notes, r.refused.List, r.skipped
	return c, nil
}

// attach gives manifests without a tag their repositories: children that of their index, referrers that of their
// subject.
func (r *Reader) attach() {
	members := map[string]map[string]bool{} // repository → every manifest in it
	placed := map[string]bool{}             // manifests that are in any repository
	var queue []string                      // manifests of one repository that were added and may have referrers
	tagged := map[naming]bool{}             // tag is a digest here
	var join func(repository, digest string)
	join = func(repository, digest string) {
		m := r.graph.manifests[digest]
		if m == nil || members[repository][digest] {
			return
		}
		if members[repository] == nil {
			members[repository] = map[string]bool{}
		}
		members[repository][digest] = true
		placed[digest] = true
		queue = append(queue, digest)
		for _, c := range m.Children {
			join(repository, c.Digest)
		}
	}
	for n, f := range r.names.images {
		if f.double {
			continue
		}
		tagged[naming{n.repository, f.digest}] = true
		join(n.repository, f.digest)
	}
	for repository, digests := range r.names.bare {
		for digest := range digests {
			join(repository, digest)
		}
	}
	referring := map[string][]string{} // subject → manifests without a name that refer to it
	for _, digest := range r.names.untagged {
		subject := r.graph.manifests[digest].Subject
		referring[subject] = append(referring[subject], digest)
	}
	for repository, list := range members {
		queue = slices.Collect(maps.Keys(list))
		for len(queue) > 0 { // a signature of an SBOM belongs to the SBOM's repository
			of := queue[len(queue)-1]
			queue = queue[:len(queue)-1]
			for _, digest := range referring[of] {
				join(repository, digest)
			}
		}
	}
	for _, digest := range r.names.untagged {
		if !placed[digest] {
			r.note(
				"left out %s: it belongs to %s, which has no name in the inputs",
				digest,
				r.graph.manifests[digest].Subject,
			)
		}
	}
	for repository, list := range members {
		for digest := range list {
			if !tagged[naming{repository, digest}] {
				r.names.addUntagged(repository, digest)
			} else {
				delete(r.names.bare[repository], digest)
			}
		}
	}
}

// image describes one manifest with everything that it references, which is added to blobs, or to absent if it is not
// available.
func (r *Reader) image(
	ctx context.Context,
	digest string,
	blobs map[string]int64,
	absent map[string]bool,
) (bundle.Image, error) {
	m := r.graph.manifests[digest]
	if m == nil {
		return bundle.Image{}, fmt.Errorf("%s: %w", digest, fs.ErrNotExist)
	}
	image := bundle.Image{Digest: digest, MediaType: m.MediaType}
	sizes := map[string]int64{}
	platforms := map[string]bool{}
	var walk func(m *oci.Manifest, said *oci.Platform) error
	walk = func(m *oci.Manifest, said *oci.Platform) error {
		if _, ok := sizes[m.Digest]; ok {
			return nil
		}
		sizes[m.Digest] = m.Size
		if _, ok := r.sink.Has(m.Digest); !ok {
			return fmt.Errorf("manifest %s was put and no longer exists: %w", m.Digest, fs.ErrNotExist)
		}
		for i, b := range m.Blobs {
			if n, ok := r.sink.Has(b.Digest); ok {
				sizes[b.Digest] = n
				r.noteSize(m, b, n)
			} else if !b.NonDistributable() {
				absent[b.Digest], sizes[b.Digest] = true, b.Size
				continue
			} else {
				r.note("the layer %s is only available from its own URLs, so no archive contains it", b.Digest)
				continue
			}
			if i == 0 && m.Platform == "" && b.Size <= oci.MaxDocument &&
				(b.MediaType == oci.MediaTypeConfig || b.MediaType == oci.MediaTypeDockerConfig) {
				data, err := r.readStored(ctx, b.Digest)
				if err != nil {
					return err
				}
				m.Platform = oci.ConfigPlatform(b.MediaType, data)
			}
		}
		p := said.String()
		if said == nil {
			p = m.Platform
		}
		if oci.ValidPlatform(p) {
			platforms[p] = true
		}
		for _, c := range m.Children {
			child := r.graph.manifests[c.Digest]
			if child == nil {
				if n, ok := r.sink.Has(c.Digest); ok {
					sizes[c.Digest] = n
					r.noteSize(m, c, n)
				} else {
					image.Sparse = true
				}
				continue
			}
			r.noteSize(m, c, child.Size)
			if err := walk(child, c.Platform); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(m, nil); err != nil {
		return bundle.Image{}, err
	}
	for digest, size := range sizes {
		if _, ok := blobs[digest]; !ok ||
			!absent[digest] { // of absent blobs, for which descriptors may state several sizes
			blobs[digest] = size
		}
		image.Size += size
	}
	image.Platforms = slices.Sorted(maps.Keys(platforms))
	return image, nil
}

// noteSize notes a descriptor whose size is not that of its content. It is kept as it is: a change would change
// digests.
func (r *Reader) noteSize(m *oci.Manifest, d oci.Descriptor, has int64) {
	if d.Size != has {
		r.note("%s says that %s has %d bytes, it has %d: containerd refuses it", m.Digest, d.Digest, d.Size, has)
	}
}
