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

	"github.com/opencontainers/go-digest"
)

// maxReferrers bounds one page of referrers in bytes (distribution-spec: clients take 4 MiB); the next is behind a Link.
const maxReferrers = 3 << 20

// serveReferrers answers GET referrers/DIGEST: an index of the manifests that are here and name the digest as their
// subject, as they are, in the order of their digests. An unknown digest has an empty list, not a 404
// (distribution-spec "Listing referrers").
//
// Clients that met a registry without this API keep such a list under a tag themselves. What it says is not believed:
// its entries may be gone, or be of another type. Those that are here stand in the list by what they say themselves.
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, rt route) {
	q := req.URL.Query()
	want, last := q.Get("artifactType"), q.Get("last")
	found := r.referrers(rt)
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
func (r *Registry) referrers(rt route) map[digest.Digest]func() (d descriptor, ok bool, err error) {
	found := map[digest.Digest]func() (descriptor, bool, error){}
	for _, repo := range r.repositories(rt) {
		for _, fi := range r.tree.Walk(referrersDir(repo, rt.digest), "") {
			if l, ok := fi.(linked); ok && l.Digest() != "" {
				d := digest.Digest(l.Digest())
				found[d] = func() (descriptor, bool, error) { return r.referrer(repo, rt.digest, d) }
			}
		}
	}
	return found
}

// referrer describes the manifest d of repo if it is there and names subject.
func (r *Registry) referrer(repo string, subject, d digest.Digest) (descriptor, bool, error) {
	data, err := r.tree.ReadFile(revisionPath(repo, d))
	if errors.Is(err, fs.ErrNotExist) { // deleted since
		return descriptor{}, false, nil
	}
	if err != nil {
		return descriptor{}, false, err
	}
	m, err := decodeManifest(d, data)
	if err != nil || m.Subject == nil || m.Subject.Digest != subject {
		return descriptor{}, false, nil
	}
	return descriptor{MediaType: m.kind(), Digest: d, Size: int64(len(data)), ArtifactType: m.artifactType(),
		Annotations: m.Annotations}, true, nil
}

// artifactType is what a referrers list says: the manifest's own, or the config's media type of an image manifest.
func (m *manifest) artifactType() string {
	if m.ArtifactType == "" && m.Config != nil {
		return m.Config.MediaType
	}
	return m.ArtifactType
}
