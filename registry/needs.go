package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
)

// needs is what a manifest names and a repository has, or is going to have by the same batch.
type needs struct {
	blobs    []digest.Digest // config and layers
	children []digest.Digest // of an index
}

// holds is what the manifest's revision must keep, sorted and each once.
func (n needs) holds() []string {
	var list []string
	for _, d := range slices.Concat(n.blobs, n.children) {
		list = append(list, d.String())
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// needs looks for what m names: in repo, and among the blobs that the tree knows if with (nil: nothing) says that they come with m. absent are the
// blobs without which the image cannot be pulled, damaged ones too. What may be absent: layers that are fetched
// elsewhere, the children of an index (a mirror of one
// platform), the subject.
func (r *Registry) needs(repo string, m *manifest, with func(digest string) bool) (n needs, absent []digest.Digest) {
	here := func(path string, d digest.Digest) bool {
		if _, _, err := r.digestOf(path); err == nil {
			return true
		}
		if with == nil || !with(d.String()) {
			return false
		}
		_, err := r.tree.StatBlob(d.String())
		return err == nil
	}
	blob := func(d descriptor, foreign bool) {
		have := here(layerPath(repo, d.Digest), d.Digest)
		if have {
			n.blobs = append(n.blobs, d.Digest)
		}
		if !have && !foreign || have && r.isLost(context.Background(), d.Digest) {
			absent = append(absent, d.Digest)
		}
	}
	if m.Config != nil {
		blob(*m.Config, false)
	}
	for _, l := range m.Layers {
		blob(l, l.foreign())
	}
	for _, c := range m.Manifests {
		if here(revisionPath(repo, c.Digest), c.Digest) {
			n.children = append(n.children, c.Digest)
		}
	}
	return n, absent
}

// maxAbsent is how many absent blobs an answer names: one is enough to know, and a manifest may list thousands.
const maxAbsent = 16

// absentDetail is the detail of MANIFEST_BLOB_UNKNOWN.
func absentDetail(absent []digest.Digest) []any {
	var list []any
	for _, d := range absent[:min(len(absent), maxAbsent)] {
		list = append(list, map[string]string{"digest": d.String()})
	}
	return list
}

// stands reports whether all names of the manifest are there already by hand, so that a repeated push costs nothing. What only an import says is written
// again: it must stay when the import is removed. An index is always written again, because children that have come since must be held.
func (r *Registry) stands(repo string, d digest.Digest, tags []string, m *manifest) bool {
	if m.index() {
		return false
	}
	if r.isLost(context.Background(), d) {
		return false // what was sent now repairs it
	}
	names := []string{revisionPath(repo, d)}
	for _, t := range tags {
		names = append(names, tagPath(repo, t))
	}
	if m.Subject != nil {
		names = append(names, referrerPath(repo, m.Subject.Digest, d))
	}
	for _, n := range names {
		if got, _, err := r.digestOf(n); err != nil || got != d || !r.byHand(n) {
			return false
		}
	}
	return true
}

// byHand reports whether what shows under a name is nobody's import.
func (r *Registry) byHand(name string) bool {
	fi, err := r.tree.Stat(name)
	if err != nil {
		return false
	}
	c, ok := fi.(interface{ Claim() string }) // as the cluster's files have it
	return !ok || c.Claim() == ""
}

// adopt adds to a pusher's batch the names of what a manifest needs and only an import has brought: who pushes is told that it is here and does not send
// it, and it must not go with the import.
func (r *Registry) adopt(b Batch, repo string, n needs) error {
	for _, d := range n.blobs {
		if name := layerPath(repo, d); !r.byHand(name) {
			b.LinkWeak(name, d.String())
		}
	}
	for _, d := range n.children {
		if r.byHand(revisionPath(repo, d)) {
			continue
		}
		m, err := r.manifestIn(repo, d)
		if err != nil {
			return err
		}
		of, _ := r.needs(repo, m, nil)
		linkManifest(b, repo, d, nil, m, of.holds())
		if err := r.adopt(b, repo, of); err != nil { // ends, since no manifest can name itself
			return err
		}
	}
	return nil
}

// holdsOf returns what the revision link of the stored manifest d must hold: of all that it names, what is in repo.
// It serves the storage driver, where distribution has checked the manifest itself.
func holdsOf(ctx context.Context, t Tree, repo string, d digest.Digest) ([]string, error) {
	f, err := t.OpenBlob(ctx, d.String())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	var holds []string
	add := func(name string, d digest.Digest) {
		if _, err := t.Stat(name); err == nil {
			holds = append(holds, d.String())
		}
	}
	if m.Config != nil && m.Config.Digest.Validate() == nil {
		add(layerPath(repo, m.Config.Digest), m.Config.Digest)
	}
	for _, l := range m.Layers {
		if l.Digest.Validate() == nil {
			add(layerPath(repo, l.Digest), l.Digest)
		}
	}
	for _, c := range m.Manifests {
		if c.Digest.Validate() == nil {
			add(revisionPath(repo, c.Digest), c.Digest)
		}
	}
	slices.Sort(holds)
	return slices.Compact(holds), nil
}
