package registry

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxReferrers bounds one page of referrers in bytes (distribution-spec: clients take 4 MiB); the next is behind a Link.
const maxReferrers = 3 << 20

// serveReferrers answers GET referrers/DIGEST: an index of the manifests that name the digest as their subject, those of the
// fallback tag schema included. An unknown digest has an empty list, not a 404 (distribution-spec "Listing referrers").
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, rt route) {
	q := req.URL.Query()
	want, filtered := q.Get("artifactType"), q.Has("artifactType")
	last := q.Get("last")
	list := []descriptor{}
	seen := map[digest.Digest]bool{}
	next := false
	bytes := 0
	err := r.referrers(rt, func(d descriptor) bool {
		if seen[d.Digest] || filtered && d.ArtifactType != want {
			return true
		}
		seen[d.Digest] = true
		if last != "" {
			if d.Digest.String() == last {
				last = ""
			}
			return true
		}
		b, err := json.Marshal(d)
		if err != nil {
			return true
		}
		if bytes += len(b) + 1; bytes > maxReferrers && len(list) > 0 {
			next = true
			return false
		}
		list = append(list, d)
		return true
	})
	if err != nil {
		writeError(w, req, r.answer(err, errManifestUnknown))
		return
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
	if filtered {
		h.Set("OCI-Filters-Applied", "artifactType")
	}
	if next {
		nq := url.Values{"last": {list[len(list)-1].Digest.String()}}
		if filtered {
			nq.Set("artifactType", want)
		}
		h.Set("Link", "<"+rt.outward("/v2/"+rt.repo+"/referrers/"+rt.digest.String()+"?"+nq.Encode())+`>; rel="next"`)
	}
	if req.Method != http.MethodHead {
		w.Write(body)
	}
}

// referrers yields the referrers of rt's digest in every repository that may answer, in an order that is the same each time.
func (r *Registry) referrers(rt route, yield func(descriptor) bool) error {
	for _, repo := range r.repositories(rt) {
		for name := range r.tree.Walk(referrersDir(repo, rt.digest), "") {
			d, ok := r.referrer(name)
			if ok && !yield(d) {
				return nil
			}
		}
		// Clients that met a registry without this API keep the list under a tag themselves.
		data, err := r.tree.ReadFile(tagPath(repo, fallbackTag(rt.digest)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var m manifest
		if json.Unmarshal(data, &m) != nil || !m.index() {
			continue
		}
		for _, d := range m.Manifests {
			if !yield(d) {
				return nil
			}
		}
	}
	return nil
}

// referrer describes the manifest that a referrer's link names.
func (r *Registry) referrer(name string) (descriptor, bool) {
	d, size, err := r.digestOf(name)
	if err != nil {
		return descriptor{}, false
	}
	data, err := r.tree.ReadFile(name)
	if err != nil {
		return descriptor{}, false // deleted since
	}
	var m manifest
	if json.Unmarshal(data, &m) != nil {
		return descriptor{}, false
	}
	return descriptor{MediaType: m.kind(), Digest: d, Size: size, ArtifactType: m.artifactType(), Annotations: m.Annotations}, true
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
