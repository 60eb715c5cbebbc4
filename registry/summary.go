package registry

import (
	"bytes"
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// A manifest has up to 4 MiB, and any client may ask for lists. So the part of a manifest that lists report is computed
// once, when the manifest is stored, and stored beside its link as a record of at most 4 KiB (summaryPath). Manifests
// stored by an earlier version have no record: their summary is computed when a list needs it, for a bounded number of
// bytes a page, and cached in memory.

const (
	// summaryVersion is that of the record. A record of another version is ignored.
	summaryVersion = 1
	// maxSummary is the size of the largest record that the tree accepts, in bytes.
	maxSummary = 4096
	// summarizeFrom is the size in bytes from which every manifest has a record. Reading a smaller one that refers to
	// nothing costs a list less than the record would permanently cost in memory on each node.
	summarizeFrom = 16 << 10
	// maxAnnotations bounds the annotations of a manifest in a list, in bytes of JSON: with more, only those that fit
	// cutAnnotations are listed, in the order of their keys. Clients accept 4 MiB for one page of a list, so that
	// larger ones would spoil the list for all; the manifest itself has them all.
	maxAnnotations = 2 << 20
	cutAnnotations = 2 << 10
	// maxMediaType is the length of the longest media type, in bytes (RFC 6838, section 4.2: 127 on each side). A
	// longer one is ignored.
	maxMediaType = 255
)

// summary is the part of a manifest that lists report. It is immutable, as the manifest's bytes are.
type summary struct {
	Version   int    `json:"v"`
	MediaType string `json:"type"`
	// ArtifactType is the manifest's own, ConfigType the media type of its config.
	ArtifactType string        `json:"artifact,omitempty"`
	ConfigType   string        `json:"config,omitempty"`
	Subject      digest.Digest `json:"subject,omitempty"`
	Size         int64         `json:"size"` // of the manifest, in bytes
	// Annotations are those that lists report: all of them, or those that fit cutAnnotations.
	Annotations map[string]string `json:"annotations,omitempty"`
	Parts       []summaryPart     `json:"parts,omitempty"`
	// MoreAnnotations and MoreParts mean that the record had no room for them: the manifest has to be read.
	MoreAnnotations bool `json:"more_annotations,omitempty"`
	MoreParts       bool `json:"more_parts,omitempty"`
}

// summaryPart is one descriptor of a manifest, see part.
type summaryPart struct {
	Digest   digest.Digest `json:"d"`
	Platform string        `json:"p,omitempty"` // in the form of descriptor.platform
	Embedded bool          `json:"e,omitempty"`
}

func (s *summary) index() bool { return s.MediaType == typeOCIIndex || s.MediaType == typeDockerList }

// artifactType is the type in a list of referrers (distribution-spec, "Listing Referrers"): the manifest's own, or the
// config's media type.
func (s *summary) artifactType() string {
	if s.ArtifactType == "" {
		return s.ConfigType
	}
	return s.ArtifactType
}

// cost returns the approximate size of s in memory, in bytes.
func (s *summary) cost() int {
	n := entryCost + sizeOfAnnotations(s.Annotations)
	for _, p := range s.Parts {
		n += 96 + len(p.Digest) + len(p.Platform)
	}
	return n
}

func sizeOfAnnotations(m map[string]string) (n int) {
	for k, v := range m {
		n += len(k) + len(v)
	}
	return n
}

// summarize makes the summary of a manifest.
func summarize(m *manifest) *summary {
	s := &summary{Version: summaryVersion, MediaType: boundType(m.kind()), ArtifactType: boundType(m.ArtifactType),
		Size: m.size}
	if m.Config != nil {
		s.ConfigType = boundType(m.Config.MediaType)
	}
	if m.Subject != nil {
		s.Subject = m.Subject.Digest
	}
	s.Annotations = m.Annotations
	if m.overAnnotated() {
		s.Annotations = map[string]string{}
		room := cutAnnotations
		for _, k := range slices.Sorted(func(yield func(string) bool) {
			for k, v := range m.Annotations {
				if len(k)+len(v) <= cutAnnotations && !yield(k) {
					return
				}
			}
		}) {
			if n := len(k) + len(m.Annotations[k]); n <= room {
				// A copy, so that the manifest's bytes can be freed.
				s.Annotations[strings.Clone(k)], room = strings.Clone(m.Annotations[k]), room-n
			}
		}
	}
	seen := map[summaryPart]bool{}
	for _, p := range m.parts() {
		q := summaryPart{p.Digest, p.platform(), p.embedded()}
		if !seen[q] {
			seen[q] = true
			s.Parts = append(s.Parts, q)
		}
	}
	return s
}

// overAnnotated reports whether lists omit annotations of m.
func (m *manifest) overAnnotated() bool {
	return sizeOfAnnotations(m.Annotations) > maxAnnotations || len(plainJSON(m.Annotations)) > maxAnnotations
}

// plainJSON is JSON without the escapes for HTML. v consists of strings and numbers only.
func plainJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil // strings and numbers can always be encoded
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func boundType(t string) string {
	if len(t) > maxMediaType {
		return ""
	}
	return t
}

// encode returns the record, at most maxSummary bytes. Parts that do not fit are omitted and flagged.
func (s *summary) encode() []byte {
	short := *s
	for _, leave := range []func(){
		func() {},
		func() { short.Parts, short.MoreParts = nil, true },
		func() {
			short.Annotations, short.MoreAnnotations = nil, true
			short.Parts, short.MoreParts = s.Parts, false
		},
		func() { short.Parts, short.MoreParts = nil, true },
	} {
		leave()
		if len(short.Parts) > maxSummary/16 || sizeOfAnnotations(short.Annotations) > maxSummary {
			continue // it does not fit
		}
		if data := plainJSON(short); len(data) <= maxSummary {
			return data
		}
	}
	return nil // unreachable: types and a digest have a few hundred bytes
}

// summaryPath is the path of a manifest's record. It is outside of _manifests, so that a repository whose last manifest
// an earlier version deleted does not exist.
func summaryPath(repo string, d digest.Digest) string {
	return repoDir(repo) + "/_summaries/" + d.Algorithm().String() + "/" + d.Encoded()
}

// summarized reports whether a manifest has a record.
func (m *manifest) summarized() bool { return m.Subject != nil || m.size >= summarizeFrom }

// putSummary adds the record of a manifest's summary to a batch, if it has one.
func putSummary(b Batch, repo string, d digest.Digest, m *manifest) {
	if !m.summarized() {
		return
	}
	if data := summarize(m).encode(); data != nil {
		b.Put(summaryPath(repo, d), data)
	}
}

// recordOf reads a manifest's record; nil if there is none that this version understands.
func (r *Registry) recordOf(repo string, d digest.Digest) *summary {
	data, err := r.tree.ReadFile(summaryPath(repo, d))
	if err != nil {
		return nil
	}
	var s summary
	if json.Unmarshal(data, &s) != nil || s.Version != summaryVersion {
		return nil
	}
	return &s
}

const (
	// keepSummaries bounds the cached summaries, in bytes: some ten thousand usual ones.
	keepSummaries = 8 << 20
	// keepSummary is the size of the largest cached one.
	keepSummary = 1 << 20
)

// summaries caches the summaries of manifests without a record. As in manifests, the key is the digest, so an entry can
// be unneeded but never wrong.
type summaries struct {
	mu    sync.Mutex
	byKey map[digest.Digest]*list.Element // of *keptSummary
	used  list.List                       // the last used first
	size  int
}

type keptSummary struct {
	digest digest.Digest
	*summary
}

func (k *summaries) get(d digest.Digest) *summary {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.byKey[d]
	if !ok {
		return nil
	}
	k.used.MoveToFront(e)
	return e.Value.(*keptSummary).summary
}

func (k *summaries) put(d digest.Digest, s *summary) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.byKey[d]; ok || s.cost() > keepSummary {
		return
	}
	if k.byKey == nil {
		k.byKey = map[digest.Digest]*list.Element{}
	}
	k.byKey[d] = k.used.PushFront(&keptSummary{d, s})
	for k.size += s.cost(); k.size > keepSummaries; {
		oldest := k.used.Remove(k.used.Back()).(*keptSummary)
		delete(k.byKey, oldest.digest)
		k.size -= oldest.summary.cost()
	}
}

// what selects the parts of a summary that a list needs besides its types and its subject.
type what int

const (
	needTypes       what = 0
	needAnnotations what = 1 << (iota - 1)
	needParts
)

func (s *summary) has(need what) bool {
	return (need&needAnnotations == 0 || !s.MoreAnnotations) && (need&needParts == 0 || !s.MoreParts)
}

// known returns the summary of the manifest d of repo without reading the manifest, nil if that is impossible.
func (r *Registry) known(repo string, d digest.Digest, need what) *summary {
	if s := r.read.summaries.get(d); s != nil {
		return s
	}
	if s := r.recordOf(repo, d); s != nil && s.has(need) {
		return s
	}
	return nil
}

// errUnreadable means that the bytes stored as a manifest are not one: an earlier version accepted what this one would
// refuse.
var errUnreadable = errors.New("it is not JSON of a manifest")

// summaryOf reads a manifest of size bytes and makes its summary. keep caches it. At most a few large manifests are in
// memory at one time: others wait.
func (r *Registry) summaryOf(ctx context.Context, d digest.Digest, size int64, keep bool) (*summary, error) {
	if size > maxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes: %w: %w", d, size, errUnreadable, fs.ErrInvalid)
	}
	ms := r.read.manifests
	release, err := ms.acquireSlot(ctx, size)
	if err != nil {
		return nil, err
	}
	defer release()
	data, err := ms.read(ctx, d, size)
	if err != nil {
		return nil, err
	}
	m, err := decodeManifest(d, data)
	if err != nil {
		return nil, errors.Join(err, errUnreadable)
	}
	s := summarize(m)
	if keep {
		r.read.summaries.put(d, s)
	}
	return s, nil
}
