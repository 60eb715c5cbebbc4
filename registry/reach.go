package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"
)

const (
	// maxNested is how deep nested indexes are followed; what is deeper counts as absent.
	maxNested = 32
	// maxBelow bounds the names that an index collects from the indexes below it: these multiply.
	maxBelow = 4096
	// maxWrong bounds the wrong sizes, and the absent parts, that one answer lists.
	maxWrong = 64
)

// WrongSize is a descriptor whose size differs from that of its content. The bytes are right, by their digest, but
// clients that compare sizes, such as containerd, refuse them.
type WrongSize struct {
	Of     string // the manifest that has the descriptor
	Digest string
	Says   int64
	Has    int64
	// Platform is the platform that is affected ("linux/arm64/v8"), "" for all.
	Platform string
}

// reach describes what a client can pull of a manifest and of everything below it. It is computed once for each
// manifest, however many indexes list it.
type reach struct {
	platforms, absent []string // as in Resolution
	missing           []string // digests without which a manifest cannot be pulled, some with their upstream location
	lost              []string // digests whose names are here but whose bytes are damaged or lost
	wrong             []WrongSize
	index             bool
	here, gone        map[string]bool // of platforms and absent, those from indexes below
}

// usable reports whether anything of it can be pulled: all of an image, some entry of an index that is not empty.
func (e *reach) usable() bool {
	if e.index {
		return len(e.platforms) > 0 || len(e.absent)+len(e.lost) == 0
	}
	return len(e.missing)+len(e.lost) == 0
}

// traversal visits a manifest and everything below it, by the names that a client would use.
type traversal struct {
	r    *Registry
	rt   route
	done map[digest.Digest]*reach
	lost map[digest.Digest]bool // blobs that were checked
}

// traverse returns a traversal that starts at a name.
func (r *Registry) traverse(rt route) *traversal {
	return &traversal{r, rt, map[digest.Digest]*reach{}, map[digest.Digest]bool{}}
}

// isLost reports whether the bytes of a blob whose name is here are damaged or lost.
func (l *traversal) isLost(ctx context.Context, d digest.Digest) bool {
	lost, known := l.lost[d]
	if !known {
		lost = l.r.isLost(ctx, d)
		l.lost[d] = lost
	}
	return lost
}

// resolve resolves the digest d under the name of the traversal: to a manifest or, where there is none, to a blob.
func (l *traversal) resolve(d digest.Digest) (manifest, blob hit, isManifest, isBlob bool) {
	rt := l.rt
	rt.digest, rt.reference = d, d.String()
	rt.kind = kindManifest
	manifest, isManifest, _ = l.r.resolve(&rt)
	if !isManifest {
		rt.kind = kindBlob
		blob, isBlob, _ = l.r.resolve(&rt)
	}
	return manifest, blob, isManifest, isBlob
}

// at describes the manifest of a hit. depth counts the indexes above it.
func (l *traversal) at(ctx context.Context, h hit, depth int) (*manifest, *reach, error) {
	if l.isLost(ctx, h.digest) { // even if it is still in memory
		return nil, nil, fmt.Errorf("manifest %s: its bytes are damaged or lost here: %w", h.digest, syscall.EIO)
	}
	m, err := l.r.load(ctx, h)
	if err != nil {
		return nil, nil, err
	}
	if e := l.done[h.digest]; e != nil {
		return m, e, nil
	}
	e := &reach{index: m.index(), here: map[string]bool{}, gone: map[string]bool{}}
	if m.index() {
		err = l.entries(ctx, h.digest, m, e, depth)
	} else {
		err = l.image(ctx, h.digest, m, e)
	}
	if err != nil {
		return nil, nil, err
	}
	l.done[h.digest] = e
	return m, e, nil
}

// image describes a manifest that is not an index.
func (l *traversal) image(ctx context.Context, d digest.Digest, m *manifest, e *reach) error {
	for _, p := range m.parts() {
		manifest, blob, isManifest, isBlob := l.resolve(p.Digest)
		switch {
		case isManifest:
			e.size(d, p, manifest.size, "")
		case isBlob && l.isLost(ctx, p.Digest):
			e.addLost(p.Digest.String())
		case isBlob:
			e.size(d, p, blob.size, "")
		case p.optional && len(p.URLs) > 0:
			// The registry accepts such an image; without internet no client can pull it.
			const form = "%s (a layer that may not be distributed, it is at %.200q)"
			e.addMissing(fmt.Sprintf(form, p.Digest, p.URLs[0]))
		default:
			e.addMissing(p.Digest.String())
		}
	}
	if len(e.lost) > 0 { // no client can pull it, and the config may be lost, too
		return nil
	}
	platform, err := l.r.platformOf(ctx, m)
	if platform != "" {
		e.platforms = []string{platform}
	}
	return err
}

// entries describes an index. A descriptor's platform takes precedence over the one in its content, as clients choose
// by it.
func (l *traversal) entries(ctx context.Context, d digest.Digest, m *manifest, e *reach, depth int) error {
	for _, p := range m.parts() {
		if err := ctx.Err(); err != nil {
			return err
		}
		said := p.platform()
		name := said
		if name == "" {
			name = p.Digest.String()
		}
		h, blob, isManifest, isBlob := l.resolve(p.Digest)
		var below *reach
		var err error
		if isManifest && depth < maxNested {
			_, below, err = l.at(ctx, h, depth+1)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) &&
			!errors.Is(err, syscall.EIO) {
			return err
		}
		switch {
		case errors.Is(err, syscall.EIO), isBlob && l.isLost(ctx, p.Digest):
			e.addLost(p.Digest.String())
		case isManifest && below == nil: // too deep or unreadable
			e.absent = append(e.absent, name)
		case isManifest:
			e.size(d, p, h.size, said)
			e.take(below, said, name)
		case isBlob:
			e.size(d, p, blob.size, said)
			e.platforms = append(e.platforms, name)
		case p.embedded():
			e.platforms = append(e.platforms, name)
		default:
			e.absent = append(e.absent, name)
		}
	}
	return nil
}

// take adds what can be reached through an entry of an index. said is the platform of the entry, name how it is listed.
func (e *reach) take(below *reach, said, name string) {
	switch {
	case !below.usable() && len(below.lost) > 0:
	case !below.usable():
		e.absent = append(e.absent, name)
	case said != "" || len(below.platforms) == 0:
		e.platforms = append(e.platforms, name)
	default:
		e.platforms = merge(e.platforms, below.platforms, e.here)
		e.absent = merge(e.absent, below.absent, e.gone)
	}
	for _, d := range below.missing {
		e.addMissing(d)
	}
	for _, d := range below.lost {
		e.addLost(d)
	}
	for _, w := range below.wrong {
		if said != "" {
			w.Platform = said
		} else if w.Platform == "" && !below.index && len(below.platforms) == 1 {
			w.Platform = below.platforms[0]
		}
		if len(e.wrong) < maxWrong {
			e.wrong = append(e.wrong, w)
		}
	}
}

// merge adds to list those of from that seen does not have yet.
func merge(list, from []string, seen map[string]bool) []string {
	for _, name := range from {
		if len(list) >= maxBelow {
			break
		}
		if !seen[name] {
			seen[name] = true
			list = append(list, name)
		}
	}
	return list
}

func (e *reach) size(of digest.Digest, p part, has int64, platform string) {
	if p.Size != has && len(e.wrong) < maxWrong {
		e.wrong = append(e.wrong, WrongSize{of.String(), p.Digest.String(), p.Size, has, platform})
	}
}

func (e *reach) addMissing(d string) {
	if len(e.missing) < maxWrong {
		e.missing = append(e.missing, d)
	}
}

func (e *reach) addLost(d string) {
	if len(e.lost) < maxWrong && !slices.Contains(e.lost, d) {
		e.lost = append(e.lost, d)
	}
}

// load reads the manifest of a hit, from memory if it is cached.
func (r *Registry) load(ctx context.Context, h hit) (*manifest, error) {
	s, err := r.read.manifests.get(ctx, h.digest, h.size)
	if err != nil {
		return nil, err
	}
	if s.body != nil {
		return decodeManifest(h.digest, s.body)
	}
	return readManifest(ctx, r.tree, h.digest)
}

// maxConfig is the largest config that is read, in bytes; usual ones have a few KiB.
const maxConfig = 1 << 20

// platformOf returns the platform in an image's config (image-spec config.md), "" if the config is not that of an
// image.
func (r *Registry) platformOf(ctx context.Context, m *manifest) (string, error) {
	if m.Config == nil {
		return "", nil
	}
	size, err := r.tree.StatBlob(m.Config.Digest.String())
	if err != nil || size > maxConfig {
		return "", nil // the manifest is available nevertheless
	}
	data, err := r.read.manifests.read(ctx, m.Config.Digest, size)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	d := descriptor{Platform: data}
	return d.platform(), err
}
