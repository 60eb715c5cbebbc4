package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"syscall"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// maxTags bounds the tags of one PUT by digest (distribution-spec: at least 10).
const maxTags = 64

// attempts bounds how often a write is repeated after losing a race.
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
		// A tag is pushed with the digest algorithm that the client requests; the parameter is the whole digest, so
		// that it is checked as well.
		if asked := q.Get("digest"); asked != "" {
			var fail *apiError
			if d, fail = parseDigest(asked); fail != nil {
				writeError(w, req, fail)
				return
			}
		}
	}
	if len(tags) > maxTags {
		writeError(w, req, &apiError{status: http.StatusRequestURITooLong, code: errTagInvalid.code,
			message: fmt.Sprintf("at most %d tags at once", maxTags)})
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

var errTooLarge = &apiError{status: http.StatusRequestEntityTooLarge, code: "SIZE_INVALID",
	message: fmt.Sprintf("a manifest has at most %d bytes", maxManifest)}

// PutManifest stores a manifest in the canonical repository repo, all its names at one entry of the log, and returns
// its digest. reference is a tag or a digest; with "" the manifest has only its sha256. mediaType may be "" if the
// manifest states its own. The text of a refusal is fit for users.
func (r *Registry) PutManifest(
	ctx context.Context, repo, reference, mediaType string, data []byte,
) (digest.Digest, error) {
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

// linkManifest adds the names that a manifest has besides its layers': the revision, its tags, its entry among its
// subject's referrers, the entries by which awaited content finds it, and its summary.
func linkManifest(b Batch, repo string, d digest.Digest, tags []string, m *manifest, n references) {
	b.Link(revisionPath(repo, d), d.String(), n.holds()...)
	for _, t := range tags {
		b.Link(tagPath(repo, t), d.String())
	}
	if m.Subject != nil {
		b.Link(referrerPath(repo, m.Subject.Digest, d), d.String())
	}
	for _, w := range n.awaited {
		b.Link(awaitedPath(repo, w, d), d.String())
	}
	putSummary(b, repo, d, m)
}

// catchUp brings this node's tree up to everything that was acknowledged before the call, on any node: it commits an
// empty update on the condition that name does not exist. Otherwise a layer that was pushed to another node a moment
// ago could be called unknown, which clients treat as final.
func (r *Registry) catchUp(ctx context.Context, name string) error {
	err := r.tree.Update(ctx, func(b Batch) error { b.Expect(name, 0); return nil })
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// writeManifest checks and stores a manifest. d may be "": then it is the sha256 of the bytes.
func (r *Registry) writeManifest(
	ctx context.Context, repo string, d digest.Digest, tags []string, contentType string, data []byte,
) (digest.Digest, *manifest, error) {
	return r.storeManifest(ctx, repo, d, tags, contentType, data, false)
}

// storeManifest is writeManifest. If sparse is set, everything that the manifest refers to may arrive later.
func (r *Registry) storeManifest(
	ctx context.Context, repo string, d digest.Digest, tags []string, contentType string, data []byte, sparse bool,
) (digest.Digest, *manifest, error) {
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
	ctx = r.told(ctx, repo, d, tags)
	committed, newest := false, false
	for range attempts {
		refs, missing := r.referencesOf(repo, m, nil, nil)
		if sparse {
			refs.await(missing)
			missing = nil
		}
		switch {
		case len(missing) > 0 && newest:
			return "", nil, errMissing(missing)
		case len(missing) > 0:
			if err := r.catchUp(ctx, layerPath(repo, missing[0])); err != nil {
				return "", nil, err
			}
			newest = true
			continue
		}
		if err := refs.tooMany(); err != nil {
			return "", nil, err
		}
		if r.alreadyStored(repo, d, tags, m) {
			return d, m, nil // pushed again: nothing to write
		}
		names := func(b Batch) error {
			linkManifest(b, repo, d, tags, m, refs)
			return r.adopt(b, repo, refs)
		}
		if n, ok := bw.(tree.NamedCommitter); ok {
			_, err = n.CommitNamed(ctx, d.String(), func(b Batch, _ string) error { return names(b) })
		} else {
			if !committed {
				if _, err = bw.Commit(ctx, d.String()); err != nil {
					return "", nil, err
				}
				committed = true
			}
			err = r.tree.Update(ctx, names)
		}
		// Content that arrived while this was written could not see the manifest.
		if err == nil && r.anyArrived(repo, refs.awaited) {
			err = r.holdAgain(ctx, repo, d)
		}
		if err == nil {
			r.warnSizes(repo, d, m)
			r.warnAwaiting(repo, d)
			if m.Subject != nil && m.overAnnotated() {
				r.log.Warn("a manifest has more annotations than a list of referrers shows, the large ones are omitted",
					"repository", repo, "manifest", d, "most", maxAnnotations)
			}
			r.log.Info("manifest stored", "repository", repo, "digest", d, "tags", tags, "mediaType", m.kind())
			return d, m, nil
		}
		// Something that it holds was collected since it was looked up: repeat, which finds the missing blob.
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
	}
	return "", nil, err
}

// told tells the change of the tree that stores a manifest: as a push, if nothing else was told.
func (r *Registry) told(ctx context.Context, repo string, d digest.Digest, tags []string) context.Context {
	e, ok := tree.EventIn(ctx)
	if !ok {
		e.Verb = "image.push"
	}
	e.Object, e.New = repo+"@"+d.String(), d.String()
	if len(tags) > 0 {
		e.Object = repo + ":" + strings.Join(tags, ",")
		if old, err := statLink(r.tree, tagPath(repo, tags[0])); err == nil {
			e.Old = old.digest.String()
		}
	}
	return tree.WithEvent(ctx, e)
}

// deleteManifest answers DELETE manifests/REFERENCE: a tag is deleted alone, a digest with every tag that refers to it.
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
	old, err := statLink(r.tree, tagPath(repo, tag))
	if err != nil {
		return err
	}
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "image.delete", Object: repo + ":" + tag, Old: old.digest.String()})
	err = r.tree.Update(ctx, func(b Batch) error { b.Remove(tagsDir(repo) + "/" + tag); return nil })
	if err == nil {
		r.log.Info("tag deleted", "repository", repo, "tag", tag)
	}
	return err
}

// removeRevision removes a manifest, the tags that refer to it and its entry among its subject's referrers;
// fs.ErrNotExist if there is none.
func (r *Registry) removeRevision(ctx context.Context, repo string, d digest.Digest) error {
	var err error
	for range attempts {
		name := revisionPath(repo, d)
		var fi fs.FileInfo
		if fi, err = r.tree.Stat(name); err != nil {
			return err
		}
		var data []byte
		if data, err = r.tree.ReadFile(name); errors.Is(err, syscall.EIO) {
			data = []byte("{}") // a damaged one can be deleted, too; its subject is unknown then
		} else if err != nil {
			return err
		}
		m, unread := decodeManifest(d, data)
		if unread != nil {
			m = &manifest{}
			r.log.Warn("a stored manifest cannot be read", "repository", repo, "digest", d, "err", unread)
		}
		err = r.tree.Update(ctx, func(b Batch) error {
			// A client that tags this manifest meanwhile writes the revision again: then this is refused and repeated.
			b.Expect(name, tree.VersionOf(fi))
			b.Remove(name)
			b.Remove(summaryPath(repo, d))
			entries, err := r.tree.ReadDir(tagsDir(repo))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			for _, e := range entries {
				if got, err := statLink(r.tree, tagPath(repo, e.Name())); err == nil && got.digest == d {
					b.Remove(tagsDir(repo) + "/" + e.Name())
				}
			}
			if m.Subject != nil {
				b.Remove(referrerPath(repo, m.Subject.Digest, d))
			}
			for _, p := range m.parts() {
				if name := awaitedPath(repo, p.Digest, d); p.optional && hasLink(r.tree, name) {
					b.Remove(name)
				}
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

// answer is asAPI that also logs internal errors.
func (r *Registry) answer(err error, miss *apiError) *apiError {
	e := asAPI(err, miss)
	if e.status == http.StatusInternalServerError {
		r.log.Error("a request failed", "err", err)
	}
	return e
}
