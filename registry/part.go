package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// part is one descriptor by which a manifest refers to content.
type part struct {
	descriptor
	// optional means that the rest can be pulled without it: an entry of an index, a layer that is fetched from another
	// server.
	optional bool
}

// parts returns what m refers to and must hold. The media type does not decide whether an entry of an index is a
// manifest or a blob (image-spec image-index.md: unknown media types are no error): build caches list layers there. The
// subject is not a part: its own name holds it.
func (m *manifest) parts() []part {
	list := make([]part, 0, 1+len(m.Layers)+len(m.Manifests))
	if m.Config != nil {
		list = append(list, part{*m.Config, false})
	}
	for _, l := range m.Layers {
		list = append(list, part{l, l.foreign()})
	}
	for _, c := range m.Manifests {
		list = append(list, part{c, true})
	}
	return list
}

// saysManifest reports whether clients request the descriptor's content as a manifest. They look at its media type
// alone.
func (d descriptor) saysManifest() bool {
	switch d.MediaType {
	case typeDockerManifest, typeDockerList, typeOCIManifest, typeOCIIndex, typeArtifact, "":
		return true
	}
	return false
}

// embedded reports whether the descriptor contains its content (image-spec descriptor.md, "Embedded Content").
func (d descriptor) embedded() bool {
	var data []byte
	return d.Data != nil && json.Unmarshal(d.Data, &data) == nil && int64(len(data)) == d.Size &&
		d.Digest.Validate() == nil &&
		d.Digest.Algorithm().FromBytes(data) == d.Digest
}

// kindsIn reports how a repository has the content with digest d: as a manifest, as a blob, as both, or not at all.
func kindsIn(t fs.StatFS, repo string, d digest.Digest) (manifest, blob bool) {
	return hasLink(t, revisionPath(repo, d)), hasLink(t, layerPath(repo, d))
}

// wrongSize is a descriptor whose size differs from that of its content. Bytes stay as they were pushed, but clients
// that compare sizes (containerd) refuse it.
type wrongSize struct {
	digest    digest.Digest
	says, has int64
}

func (w wrongSize) String() string {
	return fmt.Sprintf("%s has %d bytes and its descriptor says %d", w.digest, w.has, w.says)
}

// wrongSizes returns those of the parts whose bytes are known, each once.
func (r *Registry) wrongSizes(m *manifest) []wrongSize {
	var list []wrongSize
	seen := map[wrongSize]bool{}
	for _, p := range m.parts() {
		has, err := r.tree.StatBlob(p.Digest.String())
		if w := (wrongSize{p.Digest, p.Size, has}); err == nil && has != p.Size && !seen[w] {
			seen[w] = true
			list = append(list, w)
		}
	}
	return list
}

// warnSizes writes one line to the log if sizes are wrong.
func (r *Registry) warnSizes(repo string, d digest.Digest, m *manifest) {
	if wrong := r.wrongSizes(m); len(wrong) > 0 {
		r.log.Warn("a manifest states wrong sizes, containerd refuses the content", "repository", repo, "manifest",
			d, "wrong", len(wrong), "first", wrong[0].String())
	}
}

// readManifest reads the manifest with digest d as it is stored.
func readManifest(ctx context.Context, t Tree, d digest.Digest) (*manifest, error) {
	f, err := t.OpenBlob(ctx, d.String())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, err
	}
	return decodeManifest(d, data)
}

// decodeManifest accepts stored bytes as they are. Parts without a valid digest are omitted: they cannot have a name in
// the tree.
func decodeManifest(d digest.Digest, data []byte) (*manifest, error) {
	var m manifest
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	keep := func(list []descriptor) []descriptor {
		var kept []descriptor
		for _, c := range list {
			if tree.ValidDigest(c.Digest.String()) {
				kept = append(kept, c)
			}
		}
		return kept
	}
	if m.kind() == typeArtifact {
		if err := m.readBlobs(data); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
	}
	m.Layers = keep(m.Layers)
	if entries := keep(m.Manifests); entries != nil || m.Manifests == nil {
		m.Manifests = entries
	} else {
		m.Manifests = []descriptor{} // it remains an index
	}
	if m.Config != nil && !tree.ValidDigest(m.Config.Digest.String()) {
		m.Config = nil
	}
	if m.Subject != nil && !tree.ValidDigest(m.Subject.Digest.String()) {
		m.Subject = nil
	}
	m.size = int64(len(data))
	return &m, nil
}

// manifestIn reads a manifest of a repository.
func (r *Registry) manifestIn(repo string, d digest.Digest) (*manifest, error) {
	data, err := r.tree.ReadFile(revisionPath(repo, d))
	if err != nil {
		return nil, err
	}
	return decodeManifest(d, data)
}

// arrived makes the manifests of repo that await d hold it, now that repo has it as a blob. A manifest needs no
// holding: its own name is strong. It must be called after the name of d exists: whichever of d and an awaiting
// manifest comes later in the log then sees the other.
func (r *Registry) arrived(ctx context.Context, repo string, d digest.Digest) error {
	for name, fi := range r.tree.Walk(awaitedDir(repo, d), "") {
		waiting := tree.DigestOf(fi)
		if waiting == "" {
			continue
		}
		if err := r.holdAgain(ctx, repo, digest.Digest(waiting)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// holdAgain makes the manifest d of repo hold everything that it refers to and repo has by now. A manifest that was
// deleted meanwhile stays deleted.
func (r *Registry) holdAgain(ctx context.Context, repo string, d digest.Digest) error {
	name := revisionPath(repo, d)
	for {
		fi, err := r.tree.Stat(name)
		if err != nil {
			return ignoreNotExist(err)
		}
		m, err := r.manifestIn(repo, d)
		if err != nil {
			return ignoreNotExist(err)
		}
		n, _ := r.referencesOf(repo, m, nil, nil)
		if err := n.tooMany(); err != nil {
			return err
		}
		err = r.tree.Update(ctx, func(b Batch) error {
			b.Expect(name, tree.VersionOf(fi))
			linkManifest(b, repo, d, nil, m, n)
			return r.adopt(b, repo, n)
		})
		if err == nil {
			r.warnSizes(repo, d, m)
			return nil
		}
		// Refused because another writer changed it since, or because something that it refers to was collected: read
		// again. One of the writers succeeds each time.
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			return err
		}
	}
}

// maxWarned is how many manifests warnAwaiting reads.
const maxWarned = 16

// warnAwaiting is warnSizes for manifests that were stored before d, a manifest, arrived. It reads only the first few
// of usual size, so that content stored by others does not make a push of d expensive.
func (r *Registry) warnAwaiting(repo string, d digest.Digest) {
	n := 0
	for _, fi := range r.tree.Walk(awaitedDir(repo, d), "") {
		waiting := digest.Digest(tree.DigestOf(fi))
		if waiting == "" || fi.Size() > keepManifest {
			continue
		}
		if n++; n > maxWarned {
			return
		}
		if m, err := r.manifestIn(repo, waiting); err == nil {
			r.warnSizes(repo, waiting, m)
		}
	}
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
