package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"casemate/cluster/tree"
	"casemate/registry/session"

	"github.com/opencontainers/go-digest"
)

// startUpload answers POST blobs/uploads/: a mount, a whole blob in one request, or a new session (distribution-spec
// "Pushing blobs").
func (r *Registry) startUpload(w http.ResponseWriter, req *http.Request, rt route) {
	q := req.URL.Query()
	if alg := q.Get("digest-algorithm"); alg != "" && alg != string(digest.SHA256) && alg != string(digest.SHA512) {
		writeError(w, req, errDigestInvalid.with(fmt.Sprintf("digest-algorithm is sha256 or sha512, got %.100q", alg)))
		return
	}
	if q.Has("mount") {
		d, fail := parseDigest(q.Get("mount"))
		if fail != nil {
			writeError(w, req, fail)
			return
		}
		switch err := r.mount(req.Context(), rt, d, q.Get("from")); {
		case err == nil:
			blobCreated(w, rt, d)
			return
		case !errors.Is(err, fs.ErrNotExist):
			writeError(w, req, r.answer(err, errBlobUnknown))
			return
		}
	} else if q.Has("digest") {
		r.postBlob(w, req, rt, q.Get("digest"))
		return
	}
	r.serveSession(w, req, rt)
}

// mount names the blob d in the request's repository if any repository (or any other holder on this cluster) has it:
// an account that may read everything need not say where, so that from is ignored. Any other account must name a
// repository that has it and that it may read. Otherwise, and where its bytes are damaged or lost, it returns
// fs.ErrNotExist.
func (r *Registry) mount(ctx context.Context, rt route, d digest.Digest, from string) error {
	if rt.reads != nil && !r.readsBlob(rt, d, from) {
		return fs.ErrNotExist // the client then sends it
	}
	if _, err := r.tree.HasBlob(ctx, d.String()); errors.Is(err, syscall.EIO) {
		return fs.ErrNotExist // the client then sends it, which repairs it
	} else if err != nil {
		return err
	}
	return r.nameBlob(ctx, rt.repo, d)
}

// readsBlob reports whether the repository that a client calls from has the blob d, and the request's account may read
// it.
func (r *Registry) readsBlob(rt route, d digest.Digest, from string) bool {
	if !validName(from) {
		return false
	}
	p, fail := r.locate(from, rt.ns, rt.view)
	if fail != nil {
		return false
	}
	repo := p.canonical()
	return rt.readable(repo) && hasLink(r.tree, layerPath(repo, d))
}

// nameBlob gives a blob of the tree its name in repo, and makes the manifests that await it hold it.
func (r *Registry) nameBlob(ctx context.Context, repo string, d digest.Digest) error {
	if err := r.tree.Update(ctx, func(b Batch) error {
		b.LinkWeak(layerPath(repo, d), d.String())
		return nil
	}); err != nil {
		return err
	}
	return r.arrived(ctx, repo, d)
}

// postBlob stores the body of a POST as a whole blob.
func (r *Registry) postBlob(w http.ResponseWriter, req *http.Request, rt route, asked string) {
	d, fail := parseDigest(asked)
	if fail != nil {
		writeError(w, req, fail)
		return
	}
	body := &bodyReader{ReadCloser: req.Body}
	if err := r.PutBlob(req.Context(), rt.repo, d, body); err != nil {
		if body.err != nil {
			err = errShortBody
		}
		writeError(w, req, r.answer(err, errBlobUnknown))
		return
	}
	blobCreated(w, rt, d)
}

// PutBlob stores the bytes of content as a blob of the canonical repository repo. Bytes that do not have the digest d
// are syscall.EBADMSG; the tree's other errors are returned as they are.
func (r *Registry) PutBlob(ctx context.Context, repo string, d digest.Digest, content io.Reader) error {
	bw, err := r.tree.CreateBlob("")
	if err != nil {
		return err
	}
	defer bw.Close()
	if _, err := io.Copy(bw, content); err != nil {
		return err
	}
	return r.finish(ctx, bw, repo, d)
}

// finish commits the bytes written to bw as the blob d and names it in repo.
func (r *Registry) finish(ctx context.Context, bw BlobWriter, repo string, d digest.Digest) error {
	_, err := tree.CommitNamed(ctx, r.tree, bw, d.String(), func(b Batch, _ string) error {
		b.LinkWeak(layerPath(repo, d), d.String())
		return nil
	})
	if err != nil {
		return err
	}
	return r.arrived(ctx, repo, d)
}

func blobCreated(w http.ResponseWriter, rt route, d digest.Digest) {
	h := w.Header()
	h.Set("Location", rt.outward("/v2/"+rt.repo+"/blobs/"+d.String()))
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}

// serveUpload answers the requests of one session: state, chunk, end, cancellation.
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, rt route) {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodPatch, http.MethodPut, http.MethodDelete:
	default:
		w.Header().Set("Allow", "GET, HEAD, PATCH, PUT, DELETE")
		writeError(w, req, errUnsupported.with(wrongMethod))
		return
	}
	size, err := r.sessions.Size(rt.session())
	if err != nil {
		writeError(w, req, r.answer(err, errUploadUnknown))
		return
	}
	if err := r.sessions.Own(rt.session(), rt.user()); err != nil {
		writeError(w, req, r.answer(err, errUploadUnknown))
		return
	}
	if req.Method == http.MethodPatch || req.Method == http.MethodPut {
		fail := checkRange(req, size)
		if fail == nil && req.Method == http.MethodPatch {
			fail = checkChunkType(req)
		}
		if fail != nil {
			w.Header().Set("Range", fmt.Sprintf("0-%d", max(size-1, 0)))
			w.Header().Set("Docker-Upload-UUID", rt.upload)
			writeError(w, req, fail)
			return
		}
	}
	if req.Method == http.MethodPut {
		r.finishUpload(w, req, rt)
		return
	}
	r.serveSession(w, req, rt)
}

// serveSession lets the session answer a request under the canonical name. Location is translated to the name that the
// client used.
func (r *Registry) serveSession(w http.ResponseWriter, req *http.Request, rt route) {
	err := r.sessions.Serve(w, req, session.Request{ID: rt.session(), User: rt.user(),
		Location: func(path string) string { return r.onNode(rt.outward(path)) }})
	if err != nil {
		writeError(w, req, r.answer(err, errUploadUnknown))
	}
}

// session is the upload session of a request.
func (rt route) session() session.ID { return session.ID{Repository: rt.repo, Upload: rt.upload} }

// nodeParam is the query parameter that carries the node's name in the address of an upload session.
const nodeParam = "_node"

// onNode adds this node's name to the address of an upload session.
func (r *Registry) onNode(address string) string {
	if r.cfg.Node == "" || !strings.Contains(address, "/blobs/uploads/") {
		return address
	}
	return withQuery(address, nodeParam, r.cfg.Node)
}

// outward translates a path below the canonical repository to the client's path.
func (rt route) outward(path string) string {
	rest, ok := strings.CutPrefix(path, "/v2/"+rt.repo+"/")
	if !ok {
		return path
	}
	path = "/v2/" + rt.asked + "/" + rest
	if rt.ns != "" {
		path = withQuery(path, "ns", rt.ns)
	}
	return path
}

// withQuery adds a query parameter to an address.
func withQuery(address, name, value string) string {
	sep := "?"
	if strings.Contains(address, "?") {
		sep = "&"
	}
	return address + sep + name + "=" + url.QueryEscape(value)
}

// bodyReader records that reading a request's body failed, which is an error of the client and not of the tree.
type bodyReader struct {
	io.ReadCloser
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// Uploads are the unfinished uploads of this node, and UserUploads those of one user.
type (
	Uploads     = session.Usage
	UserUploads = session.UserUsage
)

// Uploads reports the unfinished uploads of this node.
func (r *Registry) Uploads() Uploads { return r.sessions.Usage() }

// checkRange requires a chunk to begin at the end of the upload: 416 otherwise (distribution-spec "Pushing a blob in
// chunks").
func checkRange(req *http.Request, size int64) *apiError {
	cr := req.Header.Get("Content-Range")
	if cr == "" {
		return nil
	}
	// The distribution-spec writes "0-99", unlike RFC 9110 ("bytes 0-99/100").
	from, to, ok := strings.Cut(cr, "-")
	start, err1 := strconv.ParseInt(from, 10, 64)
	end, err2 := strconv.ParseInt(to, 10, 64)
	switch {
	case !ok || err1 != nil || err2 != nil || start < 0:
		return errUploadInvalid.with(fmt.Sprintf("Content-Range is START-END, like 0-99, got %.100q", cr))
	case start != size:
		return errRangeInvalid.with(fmt.Sprintf("the upload has %d bytes, the chunk begins at %d", size, start))
	case end < start:
		return errUploadInvalid.with(fmt.Sprintf("Content-Range %.100q ends before it begins", cr))
	case req.ContentLength >= 0 && end-start+1 != req.ContentLength:
		return errSizeInvalid.with(fmt.Sprintf("Content-Range has %d bytes and Content-Length %d", end-start+1,
			req.ContentLength))
	}
	return nil
}

// checkChunkType requires the one type that a chunk may have. With the type of a form, the body would be parsed as one.
func checkChunkType(req *http.Request) *apiError {
	said := req.Header.Get("Content-Type")
	if said == "" {
		return nil
	}
	if t, _, err := mime.ParseMediaType(said); err != nil || t != "application/octet-stream" {
		return errUploadInvalid.with(fmt.Sprintf("the Content-Type of a chunk is application/octet-stream, got %.100q",
			said))
	}
	return nil
}

// finishUpload is the PUT that ends a session, with the last bytes or none.
func (r *Registry) finishUpload(w http.ResponseWriter, req *http.Request, rt route) {
	d, fail := parseDigest(req.URL.Query().Get("digest"))
	if fail != nil {
		writeError(w, req, fail)
		return
	}
	bw, err := r.sessions.Acquire(rt.session())
	if err != nil {
		writeError(w, req, r.answer(err, errUploadUnknown))
		return
	}
	body := &bodyReader{ReadCloser: req.Body}
	_, err = io.Copy(bw, body)
	if err == nil {
		err = r.finish(req.Context(), bw, rt.repo, d)
	}
	if err == nil {
		if err := bw.Close(); err != nil {
			r.log.Warn("closing a finished upload", "upload", rt.upload, "err", err)
		}
		r.sessions.End(rt.session())
		blobCreated(w, rt, d)
		return
	}
	if body.err != nil {
		err = errShortBody
	}
	fail = r.answer(err, errUploadUnknown)
	if fail.status == http.StatusBadRequest && fail.code == errDigestInvalid.code {
		// Wrong bytes cannot be corrected: the session ends, as in distribution.
		err = bw.Cancel()
		r.sessions.End(rt.session())
	} else {
		// The client may ask for the offset and continue, or send the PUT again.
		err = r.sessions.Release(rt.session(), bw)
	}
	if err != nil {
		r.log.Warn("releasing an upload", "upload", rt.upload, "err", err)
	}
	writeError(w, req, fail)
}

// deleteBlob removes the blob's name from the repository. The bytes stay while another name refers to them.
func (r *Registry) deleteBlob(w http.ResponseWriter, req *http.Request, rt route) {
	name := layerPath(rt.repo, rt.digest)
	if _, err := statLink(r.tree, name); err != nil {
		writeError(w, req, r.answer(err, errBlobUnknown))
		return
	}
	if err := r.tree.Update(req.Context(), func(b Batch) error { b.Remove(name); return nil }); err != nil {
		writeError(w, req, r.answer(err, errBlobUnknown))
		return
	}
	r.pins.drop(name, r.now())
	r.log.Info("blob deleted", "repository", rt.repo, "digest", rt.digest)
	w.Header().Set("Docker-Content-Digest", rt.digest.String())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
}

// parseDigest accepts the two algorithms that the tree uses for blobs.
func parseDigest(s string) (digest.Digest, *apiError) {
	if !tree.ValidDigest(s) {
		return "", errDigestInvalid.with(fmt.Sprintf("a digest has the form %s, got %.200q", tree.DigestForm, s))
	}
	return digest.Digest(s), nil
}
