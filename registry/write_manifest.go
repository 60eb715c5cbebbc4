package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxTags bounds the tags of one PUT by digest (distribution-spec: at least 10).
const maxTags = 64

// attempts bounds how often a write is tried again after losing a race.
const attempts = 5

// putManifest answers PUT manifests/REFERENCE.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, rt route) {
	data, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxManifest))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		writeError(w, req, errTooLarge)
		return
	}
	if err != nil {
		writeError(w, req, errShortBody)
		return
	}
	q := req.URL.Query()
	d, tags := rt.digest, q["tag"]
	if rt.digest == "" {
		tags = []string{rt.reference}
		// A tag is pushed under the digest algorithm that the client asks for; it names the whole digest, so that it is checked as well.
		if asked := q.Get("digest"); asked != "" {
			var fail *apiError
			if d, fail = parseDigest(asked); fail != nil {
				writeError(w, req, fail)
				return
			}
		}
	}
	if len(tags) > maxTags {
		writeError(w, req, &apiError{status: http.StatusRequestURITooLong, code: errTagInvalid.code, message: fmt.Sprintf("at most %d tags at once", maxTags)})
		return
	}
	d, m, err := r.writeManifest(req.Context(), rt.repo, d, tags, req.Header.Get("Content-Type"), data)
	if err != nil {
		writeError(w, req, r.answer(err, errManifestBlob))
		return
	}
	h := w.Header()
	h.Set("Location", rt.outward("/v2/"+rt.repo+"/manifests/"+d.String()))
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	if m.Subject != nil {
		h.Set("OCI-Subject", m.Subject.Digest.String())
	}
	if rt.digest != "" && len(tags) > 0 {
		h.Set("OCI-Tag", strings.Join(tags, ", "))
	}
	w.WriteHeader(http.StatusCreated)
}

var errTooLarge = &apiError{status: http.StatusRequestEntityTooLarge, code: "SIZE_INVALID", message: fmt.Sprintf("a manifest has at most %d bytes", maxManifest)}

// PutManifest stores a manifest in the canonical repository repo, all its names at one entry of the log, and returns its digest.
// reference is a tag or a digest; with "" it is named by its sha256 alone. mediaType may be "" when the manifest says its own.
// A refusal is an error whose text is for people.
func (r *Registry) PutManifest(ctx context.Context, repo, reference, mediaType string, data []byte) (digest.Digest, error) {
	var d digest.Digest
	var tags []string
	switch {
	case len(data) > maxManifest:
		return "", errTooLarge
	case strings.Contains(reference, ":"):
		var fail *apiError
		if d, fail = parseDigest(reference); fail != nil {
			return "", fail
		}
	case reference != "":
		tags = []string{reference}
	}
	if !validName(repo) {
		return "", errNameInvalid
	}
	d, _, err := r.writeManifest(ctx, repo, d, tags, mediaType, data)
	return d, err
}

// checkManifest is what every way of storing a manifest checks of it, without a look at the tree. d may be "": then it is named by sha256.
func checkManifest(d digest.Digest, tags []string, contentType string, data []byte) (digest.Digest, *manifest, error) {
	for _, t := range tags {
		if !validTag(t) {
			return "", nil, errTagInvalid.with("a tag is at most 128 characters of [A-Za-z0-9_.-] and does not begin with . or -")
		}
	}
	m, err := parseManifest(data, contentType)
	if err != nil {
		return "", nil, err
	}
	alg := digest.SHA256
	if d != "" {
		alg = d.Algorithm()
	}
	if got := alg.FromBytes(data); d == "" {
		d = got
	} else if got != d {
		return "", nil, errDigestInvalid.with("the manifest has the digest " + got.String())
	}
	return d, m, nil
}

// linkManifest adds the names that a manifest has besides its layers': the revision, its tags, its place among its subject's referrers.
func linkManifest(b Batch, repo string, d digest.Digest, tags []string, m *manifest, holds []string) {
	b.Link(revisionPath(repo, d), d.String(), holds...)
	for _, t := range tags {
		b.Link(tagPath(repo, t), d.String())
	}
	if m.Subject != nil {
		b.Link(referrerPath(repo, m.Subject.Digest, d), d.String())
	}
}

// writeManifest checks and stores a manifest. d may be "": then it is named by sha256.
func (r *Registry) writeManifest(ctx context.Context, repo string, d digest.Digest, tags []string, contentType string, data []byte) (digest.Digest, *manifest, error) {
	d, m, err := checkManifest(d, tags, contentType, data)
	if err != nil {
		return "", nil, err
	}
	bw, err := r.tree.CreateBlob("")
	if err != nil {
		return "", nil, err
	}
	defer bw.Close()
	if _, err := bw.Write(data); err != nil {
		return "", nil, err
	}
	committed := false
	for range attempts {
		needs, absent := r.needs(repo, m, nil)
		if len(absent) > 0 {
			return "", nil, errManifestBlob.with(absentDetail(absent))
		}
		if r.stands(repo, d, tags, m) {
			return d, m, nil // pushed again: nothing to write
		}
		if !committed {
			if _, err = bw.Commit(ctx, d.String()); err != nil {
				return "", nil, err
			}
			committed = true
		}
		err = r.tree.Update(ctx, func(b Batch) error {
			linkManifest(b, repo, d, tags, m, needs.holds())
			return nil
		})
		if err == nil {
			r.log.Info("manifest stored", "repository", repo, "digest", d, "tags", tags, "mediaType", m.kind())
			return d, m, nil
		}
		// What it holds was collected since it was looked up: look again, which says which blob is missing.
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
	}
	return "", nil, err
}

// stands reports whether all names of the manifest are there already, so that a repeated push costs nothing.
// An index is always written again, because children that have come since must be held.
func (r *Registry) stands(repo string, d digest.Digest, tags []string, m *manifest) bool {
	if m.index() {
		return false
	}
	names := []string{revisionPath(repo, d)}
	for _, t := range tags {
		names = append(names, tagPath(repo, t))
	}
	if m.Subject != nil {
		names = append(names, referrerPath(repo, m.Subject.Digest, d))
	}
	for _, n := range names {
		if got, _, err := r.digestOf(n); err != nil || got != d {
			return false
		}
	}
	return true
}

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
// blobs without which the image cannot be pulled. What may be absent: layers that are fetched elsewhere, the children of an index (a mirror of one
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
		if here(layerPath(repo, d.Digest), d.Digest) {
			n.blobs = append(n.blobs, d.Digest)
		} else if !foreign {
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

// foreign reports whether a layer may be fetched from elsewhere and so need not be here.
func (d descriptor) foreign() bool {
	return len(d.URLs) > 0 || strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.foreign.") ||
		strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.")
}

// parseManifest reads a manifest or index as image-spec and docker's schema 2 have them. contentType may be "".
func parseManifest(data []byte, contentType string) (*manifest, error) {
	refuse := func(why string) (*manifest, error) { return nil, errManifestInvalid.with(why) }
	if contentType != "" {
		t, _, err := mime.ParseMediaType(contentType)
		if err != nil {
			return refuse("the content type is not a media type")
		}
		contentType = t
	}
	switch {
	case strings.HasPrefix(contentType, "application/vnd.docker.distribution.manifest.v1+"):
		return refuse("docker schema 1 is not supported: push the image again with a current client")
	case contentType == "", contentType == typeDockerManifest, contentType == typeDockerList, contentType == typeOCIManifest, contentType == typeOCIIndex:
	default:
		return refuse("the content type " + contentType + " is not of a manifest")
	}
	var m manifest
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&m); err != nil {
		return refuse("the manifest is not JSON of a manifest: " + err.Error())
	}
	if _, err := dec.Token(); err != io.EOF {
		return refuse("the manifest is followed by something else")
	}
	if m.SchemaVersion == 1 {
		return refuse("docker schema 1 is not supported: push the image again with a current client")
	}
	if m.SchemaVersion != 2 {
		return refuse("schemaVersion is not 2")
	}
	if contentType != "" && m.MediaType != "" && m.MediaType != contentType {
		return refuse("mediaType is " + m.MediaType + " and the content type " + contentType)
	}
	if m.MediaType == "" && (contentType == typeDockerManifest || contentType == typeDockerList) {
		return refuse("mediaType is missing")
	}
	kind := m.kind()
	if contentType != "" && kind != contentType {
		return refuse("the fields are not those of " + contentType)
	}
	switch kind {
	case typeDockerManifest, typeOCIManifest:
		if m.Manifests != nil {
			return refuse("a manifest has no manifests")
		}
		if m.Config == nil {
			return refuse("config is missing")
		}
	case typeDockerList, typeOCIIndex:
		if m.Config != nil || m.Layers != nil {
			return refuse("an index has no config and no layers")
		}
	default:
		return refuse("mediaType " + kind + " is not of a manifest")
	}
	check := slices.Concat(m.Layers, m.Manifests)
	for _, d := range []*descriptor{m.Config, m.Subject} {
		if d != nil {
			check = append(check, *d)
		}
	}
	for _, d := range check {
		if _, fail := parseDigest(d.Digest.String()); fail != nil {
			return refuse(fmt.Sprintf("the digest %.200q is not of the form sha256:… or sha512:…", d.Digest))
		}
		if d.Size < 0 {
			return refuse("the size of " + d.Digest.String() + " is negative")
		}
	}
	return &m, nil
}

// versioned is what the tree's fs.FileInfo implements besides: the log entry that wrote the file.
type versioned interface{ Version() uint64 }

// deleteManifest answers DELETE manifests/REFERENCE: a tag goes alone, a digest with every tag that names it.
func (r *Registry) deleteManifest(w http.ResponseWriter, req *http.Request, rt route) {
	var err error
	if rt.digest != "" {
		err = r.removeRevision(req.Context(), rt.repo, rt.digest)
	} else {
		err = r.removeTag(req.Context(), rt.repo, rt.reference)
	}
	if err != nil {
		writeError(w, req, r.answer(err, errManifestUnknown))
		return
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
}

// removeTag removes a tag; fs.ErrNotExist if there is none.
func (r *Registry) removeTag(ctx context.Context, repo, tag string) error {
	if _, _, err := r.digestOf(tagPath(repo, tag)); err != nil {
		return err
	}
	err := r.tree.Update(ctx, func(b Batch) error { b.Remove(tagsDir(repo) + "/" + tag); return nil })
	if err == nil {
		r.log.Info("tag deleted", "repository", repo, "tag", tag)
	}
	return err
}

// removeRevision removes a manifest, the tags that name it and its entry among its subject's referrers; fs.ErrNotExist if there is none.
func (r *Registry) removeRevision(ctx context.Context, repo string, d digest.Digest) error {
	var err error
	for range attempts {
		name := revisionPath(repo, d)
		var fi fs.FileInfo
		if fi, err = r.tree.Stat(name); err != nil {
			return err
		}
		var data []byte
		if data, err = r.tree.ReadFile(name); err != nil {
			return err
		}
		var m manifest
		if err := json.Unmarshal(data, &m); err != nil {
			r.log.Warn("a stored manifest cannot be read", "repository", repo, "digest", d, "error", err)
		}
		err = r.tree.Update(ctx, func(b Batch) error {
			// Who tags this manifest meanwhile writes the revision again: then this is refused and looks again.
			if v, ok := fi.(versioned); ok {
				b.Expect(name, v.Version())
			}
			b.Remove(name)
			entries, err := r.tree.ReadDir(tagsDir(repo))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			for _, e := range entries {
				if got, _, err := r.digestOf(tagPath(repo, e.Name())); err == nil && got == d {
					b.Remove(tagsDir(repo) + "/" + e.Name())
				}
			}
			if m.Subject != nil && m.Subject.Digest.Validate() == nil {
				b.Remove(referrerPath(repo, m.Subject.Digest, d))
			}
			return nil
		})
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err == nil {
		r.log.Info("manifest deleted", "repository", repo, "digest", d)
	}
	return err
}

// answer is asAPI with the errors that are nobody's answer put into the log.
func (r *Registry) answer(err error, miss *apiError) *apiError {
	if errors.Is(err, errBusy) {
		e := *errTooManyRequests
		e.detail, e.retry = err.Error(), 1
		return &e
	}
	e := asAPI(err, miss)
	if e.status == http.StatusInternalServerError {
		r.log.Error("a request failed", "error", err)
	}
	return e
}
