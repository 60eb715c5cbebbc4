package registry

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxReferrers bounds one page of referrers in bytes (distribution-spec: clients take 4 MiB); the next is behind a Link.
const maxReferrers = 3 << 20

// serveReferrers answers GET referrers/DIGEST: an index of the manifests that name the digest as their subject, those of the
// fallback tag schema included, in the order of their digests. An unknown digest has an empty list, not a 404 (distribution-spec
// "Listing referrers").
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, rt route) {
	q := req.URL.Query()
	want, last := q.Get("artifactType"), q.Get("last")
	found, err := r.referrers(rt)
	if err != nil {
		writeError(w, req, r.answer(err, errManifestUnknown))
		return
	}
	list, size, next := []descriptor{}, 0, false
	for _, d := range slices.Sorted(maps.Keys(found)) {
		if d.String() <= last {
			continue
		}
		desc, ok, err := found[d]()
		if err != nil {
			writeError(w, req, r.answer(err, errManifestUnknown))
			return
		}
		if !ok || want != "" && desc.ArtifactType != want {
			continue
		}
		b, err := json.Marshal(desc)
		if err != nil {
			writeError(w, req, r.answer(err, errManifestUnknown))
			return
		}
		if size += len(b) + 1; size > maxReferrers && len(list) > 0 {
			next = true
			break
		}
		list = append(list, desc)
	}
	body, err := json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, typeOCIIndex, list})
	if err != nil {
		writeError(w, req, r.answer(err, errManifestUnknown))
		return
	}
	h := w.Header()
	h.Set("Content-Type", typeOCIIndex)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if want != "" {
		h.Set("OCI-Filters-Applied", "artifactType")
	}
	if next {
		nq := url.Values{"last": {list[len(list)-1].Digest.String()}}
		if want != "" {
			nq.Set("artifactType", want)
		}
		h.Set("Link", "<"+rt.outward("/v2/"+rt.repo+"/referrers/"+rt.digest.String()+"?"+nq.Encode())+`>; rel="next"`)
	}
	if req.Method != http.MethodHead {
		w.Write(body)
	}
}

// referrers finds the referrers of rt's digest in every repository that may answer, and for each how to describe it; ok is false for one
// that is gone by then.
func (r *Registry) referrers(rt route) (map[digest.Digest]func() (d descriptor, ok bool, err error), error) {
	found := map[digest.Digest]func() (descriptor, bool, error){}
	for _, repo := range r.repositories(rt) {
		for name, fi := range r.tree.Walk(referrersDir(repo, rt.digest), "") {
			if l, ok := fi.(linked); ok && l.Digest() != "" {
				found[digest.Digest(l.Digest())] = func() (descriptor, bool, error) { return r.referrer(name) }
			}
		}
		// Clients that met a registry without this API keep the list under a tag themselves. What the tree knows itself comes first.
		data, err := r.tree.ReadFile(tagPath(repo, fallbackTag(rt.digest)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var m manifest
		if json.Unmarshal(data, &m) != nil || !m.index() {
			continue
		}
		for _, d := range m.Manifests {
			if _, ok := found[d.Digest]; !ok {
				found[d.Digest] = func() (descriptor, bool, error) { return d, true, nil }
			}
		}
	}
	return found, nil
}

// referrer describes the manifest that a referrer's link names.
func (r *Registry) referrer(name string) (d descriptor, ok bool, err error) {
	dg, size, err := r.digestOf(name)
	if err == nil {
		var data []byte
		if data, err = r.tree.ReadFile(name); err == nil {
			var m manifest
			if json.Unmarshal(data, &m) != nil {
				return d, false, nil
			}
			return descriptor{MediaType: m.kind(), Digest: dg, Size: size, ArtifactType: m.artifactType(), Annotations: m.Annotations}, true, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // deleted since
	}
	return d, false, err
}

// artifactType is what a referrers list says: the manifest's own, or the config's media type of an image manifest.
func (m *manifest) artifactType() string {
	if m.ArtifactType == "" && m.Config != nil {
		return m.Config.MediaType
	}
	return m.ArtifactType
}

// fallbackTag is the tag of the referrers tag schema: algorithm cut at 32, encoded part at 64 characters.
func fallbackTag(d digest.Digest) string {
	alg, enc := d.Algorithm().String(), d.Encoded()
	return strings.ReplaceAll(alg[:min(len(alg), 32)], "+", "-") + "-" + enc[:min(len(enc), 64)]
}
