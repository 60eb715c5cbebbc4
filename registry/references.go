package registry

import (
	"context"
	"fmt"
	"slices"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// references is what a manifest refers to, as far as a repository has it, or will have it by the same batch. Content
// that is both a manifest and a blob is in both lists.
type references struct {
	manifests, blobs []digest.Digest
	// awaited are those that may arrive later and are held then.
	awaited []digest.Digest
}

// await adds content that may arrive later.
func (n *references) await(list []digest.Digest) {
	for _, d := range list {
		if !slices.Contains(n.blobs, d) && !slices.Contains(n.awaited, d) {
			n.awaited = append(n.awaited, d)
		}
	}
}

// holds returns what the manifest's revision must hold, sorted and each once.
func (n references) holds() []string {
	var list []string
	for _, d := range slices.Concat(n.blobs, n.manifests) {
		list = append(list, d.String())
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// referencesOf collects what m refers to: in repo, and among the blobs of the tree if with reports that they come with
// m, and asManifest that they come as manifests of repo (nil: none). missing are the blobs without which the image
// cannot be pulled, including damaged ones. Layers that are fetched from another server, entries of an index (a mirror
// of one platform), and the subject may be missing.
func (r *Registry) referencesOf(repo string, m *manifest, with, asManifest func(digest string) bool) (n references,
	missing []digest.Digest) {
	seen := map[digest.Digest]bool{}
	for _, p := range m.parts() {
		manifest, blob := kindsIn(r.tree, repo, p.Digest)
		if with != nil && with(p.Digest.String()) {
			if _, err := r.tree.StatBlob(p.Digest.String()); err == nil {
				manifest = manifest || asManifest != nil && asManifest(p.Digest.String())
				// Content without a manifest's media type is requested as a blob, however it was stored.
				blob = blob || !manifest || !p.saysManifest()
			}
		}
		switch {
		case manifest || blob:
			if seen[p.Digest] {
				continue
			}
			if manifest {
				n.manifests = append(n.manifests, p.Digest)
			}
			if blob {
				n.blobs = append(n.blobs, p.Digest)
			}
			if blob && r.isLost(context.Background(), p.Digest) {
				missing = append(missing, p.Digest)
			}
		case p.optional:
			if seen[p.Digest] {
				continue
			}
			n.awaited = append(n.awaited, p.Digest)
		default:
			missing = append(missing, p.Digest)
			continue
		}
		seen[p.Digest] = true
	}
	return n, missing
}

// maxHolds is the largest number of blobs that one link of the tree can hold.
const maxHolds = 16384

// tooMany refuses a manifest that refers to more than can be held; otherwise it returns nil.
func (n references) tooMany() error {
	if len(n.holds()) <= maxHolds {
		return nil
	}
	return errManifestInvalid.with(fmt.Sprintf("it names more than %d manifests and blobs that are here", maxHolds))
}

// anyArrived reports whether repo has by now any of the content that a manifest awaits.
func (r *Registry) anyArrived(repo string, awaited []digest.Digest) bool {
	return slices.ContainsFunc(awaited, func(d digest.Digest) bool {
		manifest, blob := kindsIn(r.tree, repo, d)
		return manifest || blob
	})
}

// maxMissing is how many absent blobs an answer lists: one is enough to know, and a manifest may list thousands.
const maxMissing = 16

// errMissing refuses a manifest because the repository lacks blobs that it refers to.
func errMissing(missing []digest.Digest) *apiError {
	e := errManifestBlob.with(joinDigests(missing))
	var list []any
	for _, d := range missing[:min(len(missing), maxMissing)] {
		list = append(list, map[string]string{"digest": d.String()})
	}
	e.detail = list
	return e
}

// alreadyStored reports whether all names of the manifest were stored by a push, so that a repeated push writes
// nothing. Names that only an import brought are written again: they must stay when the import is removed. An index is
// always written again, because it must hold those of its entries that have arrived since.
func (r *Registry) alreadyStored(repo string, d digest.Digest, tags []string, m *manifest) bool {
	if m.index() {
		return false
	}
	if r.isLost(context.Background(), d) {
		return false // the bytes sent now repair it
	}
	names := []string{revisionPath(repo, d)}
	for _, t := range tags {
		names = append(names, tagPath(repo, t))
	}
	if m.Subject != nil {
		names = append(names, referrerPath(repo, m.Subject.Digest, d))
	}
	if m.summarized() && !r.byHand(summaryPath(repo, d)) {
		return false // stored by an earlier version
	}
	for _, n := range names {
		if got, err := statLink(r.tree, n); err != nil || got.digest != d || !r.byHand(n) {
			return false
		}
	}
	return true
}

// byHand reports whether the visible entry of a name does not come from an import.
func (r *Registry) byHand(name string) bool {
	fi, err := r.tree.Stat(name)
	if err != nil {
		return false
	}
	return tree.ClaimOf(fi) == ""
}

// adopt adds to a pusher's batch the names of what a manifest needs and only an import has brought: the pusher is told
// that it exists and does not send it, and it must not disappear with the import.
func (r *Registry) adopt(b Batch, repo string, n references) error {
	return r.adoptAll(b, repo, n, map[digest.Digest]bool{}, 0)
}

// adoptAll is adopt for what is depth indexes deep. Each manifest is visited once, however many indexes list it.
func (r *Registry) adoptAll(b Batch, repo string, n references, taken map[digest.Digest]bool, depth int) error {
	for _, d := range n.blobs {
		if name := layerPath(repo, d); !r.byHand(name) {
			b.LinkWeak(name, d.String())
		}
	}
	for _, d := range n.manifests {
		if taken[d] || r.byHand(revisionPath(repo, d)) {
			continue
		}
		if taken[d] = true; depth >= maxNested {
			return errTooDeep
		}
		m, err := r.manifestIn(repo, d)
		if err != nil {
			return err
		}
		of, _ := r.referencesOf(repo, m, nil, nil)
		linkManifest(b, repo, d, nil, m, of)
		if err := r.adoptAll(b, repo, of, taken, depth+1); err != nil {
			return err
		}
	}
	return nil
}

var errTooDeep = errManifestInvalid.with(fmt.Sprintf("it leads to indexes in indexes that are more than %d deep",
	maxNested))

// holdsOf returns what the revision link of the stored manifest d must hold: all that it refers to and that is in repo.
// The storage driver calls it, where distribution has checked the manifest itself.
func (r *Registry) holdsOf(ctx context.Context, repo, d string) ([]string, error) {
	m, err := readManifest(ctx, r.tree, digest.Digest(d))
	if err != nil {
		return nil, err
	}
	var holds []string
	for _, p := range m.parts() {
		if manifest, blob := kindsIn(r.tree, repo, p.Digest); manifest || blob {
			holds = append(holds, p.Digest.String())
		}
	}
	slices.Sort(holds)
	return slices.Compact(holds), nil
}
