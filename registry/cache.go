package registry

import (
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"syscall"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

const (
	// keepManifest is the largest manifest whose bytes are cached. A usual one has a few KiB; larger ones are read from
	// disk like a blob.
	keepManifest = 64 << 10
	// keepManifests bounds the cached bytes, about 4000 usual manifests: a cluster's install and its upgrades.
	keepManifests = 8 << 20
	// entryCost is the memory that an entry needs besides its bytes.
	entryCost = 512
	// loadAtOnce is how many manifests larger than keepManifest are parsed at one time.
	loadAtOnce = 4
)

// stored is what the cache knows of a manifest. It is immutable, as its bytes are.
type stored struct {
	digest    digest.Digest
	body      []byte // nil: too large to cache
	mediaType string
	children  []descriptor // of an index
}

func (s *stored) cost() int {
	cost := entryCost + len(s.body)
	for _, c := range s.children {
		cost += 256 + len(c.Platform)
	}
	return cost
}

// manifests caches the manifests that were requested last. An entry's key is its digest, which is verified when the
// manifest is read, so an entry can be unneeded but never wrong. Whether a repository has a manifest is looked up in
// the tree every time.
type manifests struct {
	tree  Tree
	large chan struct{} // a slot for each large manifest in memory

	mu    sync.Mutex
	byKey map[digest.Digest]*list.Element // of *stored
	used  list.List                       // most recently used first
	size  int
}

func newManifests(tree Tree) *manifests {
	return &manifests{tree: tree, large: make(chan struct{}, loadAtOnce), byKey: map[digest.Digest]*list.Element{}}
}

// get returns the manifest with digest d and size bytes, from memory or from the tree.
func (m *manifests) get(ctx context.Context, d digest.Digest, size int64) (*stored, error) {
	m.mu.Lock()
	if e, ok := m.byKey[d]; ok {
		m.used.MoveToFront(e)
		m.mu.Unlock()
		return e.Value.(*stored), nil
	}
	m.mu.Unlock()
	if size > maxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes, at most %d are served as a manifest: %w", d, size,
			maxManifest, fs.ErrInvalid)
	}
	release, err := m.acquireSlot(ctx, size)
	if err != nil {
		return nil, err
	}
	defer release()
	body, err := m.read(ctx, d, size)
	if err != nil {
		return nil, err
	}
	s := &stored{digest: d, body: body, mediaType: safeType(mediaTypeOf(body))}
	if s.mediaType == typeOCIIndex || s.mediaType == typeDockerList {
		s.children = childrenOf(body)
	}
	if size > keepManifest {
		s.body = nil
	}
	m.put(s)
	return s, nil
}

// acquireSlot waits for a slot for a manifest of size bytes in memory; release frees it.
func (m *manifests) acquireSlot(ctx context.Context, size int64) (release func(), err error) {
	if size <= keepManifest {
		return func() {}, nil
	}
	select {
	case m.large <- struct{}{}:
		return func() { <-m.large }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *manifests) read(ctx context.Context, d digest.Digest, size int64) ([]byte, error) {
	blob, err := m.tree.OpenBlob(ctx, d.String())
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	body := make([]byte, size)
	if _, err := io.ReadFull(blob, body); err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", d, err)
	}
	if tree.Sum(body, d.String()) != d.String() { // bit rot on the disk, which only reading reveals
		if t, ok := m.tree.(tree.Doubter); ok {
			t.DoubtBlob(ctx, d.String())
		}
		return nil, fmt.Errorf("manifest %s: the bytes on the disk differ: %w", d, syscall.EIO)
	}
	return body, nil
}

func (m *manifests) put(s *stored) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.byKey[s.digest]; ok {
		return // another request cached it meanwhile
	}
	m.byKey[s.digest] = m.used.PushFront(s)
	for m.size += s.cost(); m.size > keepManifests; {
		oldest := m.used.Remove(m.used.Back()).(*stored)
		delete(m.byKey, oldest.digest)
		m.size -= oldest.cost()
	}
}

// parent returns a cached index that lists d, and its descriptor of d.
func (m *manifests) parent(d digest.Digest) (index digest.Digest, child descriptor, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := m.used.Front(); e != nil; e = e.Next() {
		s := e.Value.(*stored)
		if c, ok := s.child(d); ok {
			return s.digest, c, true
		}
	}
	return "", descriptor{}, false
}

func (s *stored) child(d digest.Digest) (descriptor, bool) {
	for _, c := range s.children {
		if c.Digest == d {
			return c, true
		}
	}
	return descriptor{}, false
}

// maxChildren bounds what is cached of an index: no more platforms exist, and it only helps to explain a miss.
const maxChildren = 64

func childrenOf(index []byte) []descriptor {
	var m struct {
		Manifests []descriptor `json:"manifests"`
	}
	if json.Unmarshal(index, &m) != nil {
		return nil
	}
	m.Manifests = m.Manifests[:min(len(m.Manifests), maxChildren)]
	list := make([]descriptor, 0, len(m.Manifests))
	for _, c := range m.Manifests {
		if len(c.Platform) > 512 {
			c.Platform = nil
		}
		list = append(list, descriptor{Digest: c.Digest, Platform: c.Platform})
	}
	return list
}

// platform returns a descriptor's platform as "linux/arm64/v8", or "".
func (d *descriptor) platform() string {
	var p struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	}
	if json.Unmarshal(d.Platform, &p) != nil || p.OS == "" || p.OS == "unknown" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// safeType returns a stored media type in a form that is safe in a header: RFC 6838 section 4.2 allows 127 bytes on
// each side, all visible ASCII.
func safeType(t string) string {
	if len(t) > 255 {
		return "application/octet-stream"
	}
	for i := range len(t) {
		if t[i] < ' ' || t[i] > '~' {
			return "application/octet-stream"
		}
	}
	return t
}
