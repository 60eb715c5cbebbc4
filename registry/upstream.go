package registry

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"time"

	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// Upstream brings what an origin has and this registry does not. Repositories are canonical. An error may be a Refusal;
// fs.ErrNotExist means that the origin does not have it either.
type Upstream interface {
	// For reports whether content of this origin is fetched.
	For(origin string) bool
	// Manifest makes sure that a manifest is here (KeepManifest): by digest, or what a tag refers to now, as far as
	// that is known. held is the digest that is here for a tag, or "". asked is false if nothing had to be done.
	Manifest(req *http.Request, repo, reference, held string) (asked bool, err error)
	// Blob fetches a blob, which is kept (KeepBlob). The content can be read while it arrives; nil: it is here by now.
	Blob(req *http.Request, repo, digest string) (Incoming, error)
	// BlobSize returns the number of bytes of a blob.
	BlobSize(req *http.Request, repo, digest string) (int64, error)
	// Referrers makes sure that the manifests are here that refer to a digest, as far as that is known.
	Referrers(req *http.Request, repo, digest string) error
	// Tags returns the tags of a repository, as they were a short time ago, in any order.
	Tags(req *http.Request, repo string) ([]string, error)
}

// Incoming is content that is being fetched. A read waits until its bytes are there.
type Incoming interface {
	io.ReadSeekCloser
	// Size is the number of bytes, -1 if it is not known and the request has no range.
	Size() int64
}

// Refusal is an error of an upstream that a client can be told: an HTTP status, and the time after which it should ask
// again (0: unknown).
type Refusal interface {
	error
	Refusal() (status int, retryAfter time.Duration)
}

// NewBlob opens a scratch file for KeepBlob. It is removed when it is closed.
func (r *Registry) NewBlob() (BlobWriter, error) { return r.tree.CreateBlob("") }

// KeepBlob stores what was written to a scratch file as the blob d of the canonical repository repo. It may be called
// again after syscall.EAGAIN or syscall.EINPROGRESS.
func (r *Registry) KeepBlob(ctx context.Context, bw BlobWriter, repo, d string) error {
	err := r.finish(ctx, bw, repo, digest.Digest(d))
	if errors.Is(err, fs.ErrClosed) {
		// An earlier call has stored the blob, but not made the manifests hold it that await it.
		if _, missing := r.tree.Stat(layerPath(repo, digest.Digest(d))); missing == nil {
			return r.arrived(ctx, repo, digest.Digest(d))
		}
	}
	return err
}

// KeepManifest is PutManifest for a manifest whose config and layers may arrive later.
func (r *Registry) KeepManifest(ctx context.Context, repo, reference, mediaType string, data []byte) error {
	var d digest.Digest
	var tags []string
	if tree.ValidDigest(reference) {
		d = digest.Digest(reference)
	} else {
		tags = []string{reference}
	}
	ctx = tree.WithEvent(ctx, tree.Event{Verb: "image.fetch"})
	_, _, err := r.storeManifest(ctx, repo, d, tags, mediaType, data, true)
	var fail *apiError
	if errors.As(err, &fail) {
		return fail.withoutCode()
	}
	return err
}

// HasManifest reports whether the canonical repository repo has the manifest d.
func (r *Registry) HasManifest(repo, d string) bool {
	return hasLink(r.tree, revisionPath(repo, digest.Digest(d)))
}

// fetches reports whether what rt names may be fetched from its origin.
func (r *Registry) fetches(rt *route) bool {
	return r.cfg.Upstream != nil && rt.readable(rt.place.canonical()) && rt.place.origin != "" && rt.place.known &&
		r.cfg.Upstream.For(rt.place.origin)
}

// fetchManifest brings the manifest that rt names here, if it is not here or a tag may have moved. h is what is here
// for it, if ok. It reports whether rt must be resolved again, and returns the error of the origin where nothing is
// here that could be served instead.
func (r *Registry) fetchManifest(req *http.Request, rt *route, h hit, ok bool) (asked bool, err error) {
	if !r.fetches(rt) || r.pushing(req, rt) {
		return false, nil
	}
	repo, held := rt.place.canonical(), ""
	if ok && h.repo == repo {
		if rt.digest != "" {
			return false, nil
		}
		held = h.digest.String()
	}
	if asked, err = r.cfg.Upstream.Manifest(req, repo, rt.reference, held); ok {
		err = nil // what is here is served, and the upstream's room says how old it is
	}
	return asked, err
}

// fetchReferrers brings the manifests here that refer to the digest of rt. It returns the error of the origin where
// none is here: an empty list would say that there are no signatures.
func (r *Registry) fetchReferrers(req *http.Request, rt *route) error {
	if !r.fetches(rt) {
		return nil
	}
	err := r.cfg.Upstream.Referrers(req, rt.place.canonical(), rt.digest.String())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		for range r.referrers(*rt, "") {
			return nil
		}
	}
	return err
}

// fetchTags returns the tags that the origin has after last, sorted by bytes.
func (r *Registry) fetchTags(req *http.Request, rt *route, last string) ([]string, error) {
	if !r.fetches(rt) {
		return nil, nil
	}
	all, err := r.cfg.Upstream.Tags(req, rt.place.canonical())
	if err != nil {
		return nil, err
	}
	var list []string
	for _, t := range all {
		if t > last && validTag(t) {
			list = append(list, t)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// fetchBlob answers a request for a blob that is not here with that of its origin, and reports whether it has answered.
func (r *Registry) fetchBlob(w http.ResponseWriter, req *http.Request, rt *route) bool {
	if !r.fetches(rt) || r.pushing(req, rt) {
		return false
	}
	repo := rt.place.canonical()
	if _, err := r.tree.HasBlob(req.Context(), rt.digest.String()); err == nil && rt.reads == nil {
		// Another repository has it: it gets its name here too.
		if err := r.nameBlob(req.Context(), repo, rt.digest); err == nil {
			h, ok := r.hitIn(repo, rt)
			return ok && r.sendBlob(w, req, rt, h)
		}
	}
	h := hit{link: link{digest: rt.digest}, repo: repo}
	var body io.ReadSeeker
	var err error
	if req.Method == http.MethodHead {
		h.size, err = r.cfg.Upstream.BlobSize(req, repo, rt.digest.String())
		body = sized{size: h.size}
	} else {
		var in Incoming
		if in, err = r.cfg.Upstream.Blob(req, repo, rt.digest.String()); in != nil {
			defer in.Close()
			h.size, body = in.Size(), in
		} else if err == nil {
			h, ok := r.hitIn(repo, rt)
			return ok && r.sendBlob(w, req, rt, h)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		r.refused(w, req, rt, errBlobUnknown, err)
		return true
	}
	blobHeader(w.Header(), rt.digest)
	if h.size >= 0 {
		serveContent(w, req, h, body)
		return true
	}
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, body); err != nil {
		panic(http.ErrAbortHandler) // the client must not take it for complete
	}
	return true
}

// refused answers with what an upstream said, and records that the content was not delivered.
func (r *Registry) refused(w http.ResponseWriter, req *http.Request, rt *route, miss *apiError, err error) {
	if req.Context().Err() != nil {
		return // the client is gone
	}
	kind := "image"
	if rt.kind == kindBlob {
		kind = "blob"
	}
	r.cfg.Miss(req, kind, rt.nameIn(rt.place.canonical()), err.Error())
	var no Refusal
	if !errors.As(err, &no) {
		writeError(w, req, asAPI(err, miss))
		return
	}
	status, after := no.Refusal()
	e := &apiError{status: status, code: "UNKNOWN", message: no.Error()}
	switch status {
	case http.StatusForbidden:
		e.code = errDenied.code
	case http.StatusTooManyRequests:
		e.code = errTooManyRequests.code
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		e.code = errUnavailable.code
	}
	if after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	writeError(w, req, e)
}
