package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"syscall"
	"time"

	"casemate/cluster/byterange"
	"casemate/cluster/tree"

	"github.com/opencontainers/go-digest"
)

// serveManifest answers GET and HEAD of a manifest, by tag or digest, whatever the Accept header says: bytes are never
// converted, and a client that cannot read them reports that better than a 404 would.
func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, rt route) {
	h, ok, several := r.resolveFor(req, &rt)
	asked, err := r.fetchManifest(req, &rt, h, ok)
	if asked {
		h, ok, several = r.resolveFor(req, &rt)
	}
	if !ok && err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.refused(w, req, &rt, errManifestUnknown, err)
		return
	}
	if !ok && r.pushing(req, &rt) {
		writeError(w, req, errManifestUnknown)
		return
	}
	if !ok {
		detail := ambiguity(several)
		if detail == "" && rt.digest != "" {
			detail = r.unstagedPlatform(req.Context(), &rt)
		}
		r.miss(w, req, &rt, errManifestUnknown, detail)
		return
	}
	r.countTolerance(w, req, &rt, h)
	if r.pushing(req, &rt) && !r.pushable(req.Context(), rt, h) {
		writeError(w, req, errManifestUnknown)
		return
	}
	m, err := r.read.manifests.get(req.Context(), h.digest, h.size)
	if err != nil {
		r.readFailed(w, req, &rt, errManifestUnknown, err)
		return
	}
	r.cfg.Pulled(h.repo, h.digest.String())
	header := w.Header()
	header["Content-Type"] = []string{m.mediaType}
	if rt.digest == "" {
		h.mod = time.Time{} // a tag moves, perhaps twice in a second: its ETag identifies the content, a time could not
	}
	identify(header, h.digest)
	var body io.ReadSeeker
	switch {
	case m.body != nil:
		body = bytes.NewReader(m.body)
	case req.Method == http.MethodHead:
		body = sized{size: h.size}
	default:
		blob, err := r.tree.OpenBlob(req.Context(), h.digest.String())
		if err != nil {
			r.readFailed(w, req, &rt, errManifestUnknown, err)
			return
		}
		defer blob.Close()
		body = blob
	}
	serveContent(w, req, h, body)
}

// serveBlob answers GET and HEAD of a blob. The file that the tree opened is passed to http.ServeContent unwrapped: an
// *os.File is sent to a plain socket by sendfile.
func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, rt route) {
	h, ok, _ := r.resolveFor(req, &rt)
	if !ok && r.fetchBlob(w, req, &rt) {
		return
	}
	if !ok {
		if req.Method == http.MethodHead {
			// A pusher first asks for each layer; that is no miss. A client that pulls repeats with GET, or was told
			// about the manifest.
			writeError(w, req, errBlobUnknown)
			return
		}
		r.miss(w, req, &rt, errBlobUnknown, "")
		return
	}
	r.sendBlob(w, req, &rt, h)
}

// sendBlob answers with the bytes of a blob. It reports true: the request has an answer.
func (r *Registry) sendBlob(w http.ResponseWriter, req *http.Request, rt *route, h hit) bool {
	var body io.ReadSeeker = sized{size: h.size}
	if req.Method == http.MethodHead {
		_, err := r.tree.HasBlob(req.Context(), h.digest.String())
		if errors.Is(err, syscall.EIO) && r.pushing(req, rt) {
			err = fs.ErrNotExist // a pusher then sends it, which repairs it
		}
		if err != nil {
			r.readFailed(w, req, rt, errBlobUnknown, err)
			return true
		}
	} else {
		blob, err := r.tree.OpenBlob(req.Context(), h.digest.String())
		if err != nil {
			r.readFailed(w, req, rt, errBlobUnknown, err)
			return true
		}
		defer blob.Close()
		body = blob
	}
	blobHeader(w.Header(), h.digest)
	serveContent(w, req, h, body)
	return true
}

func blobHeader(header http.Header, d digest.Digest) {
	header["Content-Type"] = []string{"application/octet-stream"}
	header["Cache-Control"] = []string{"max-age=31536000"}
	identify(header, d)
}

// resolveFor resolves rt for a request. The HEAD of a client that is about to push is resolved only in the repository
// that it pushes to: told of another repository's blobs it would not upload them, and told of another's manifest it
// would not tag it.
func (r *Registry) resolveFor(req *http.Request, rt *route) (h hit, ok bool, ambiguous []string) {
	if r.pushing(req, rt) {
		h, ok = r.hitIn(rt.repo, rt)
		return h, ok, nil
	}
	return r.resolve(rt)
}

// pushing reports whether a request is the HEAD of a client that has a token for pushing to the name. Clients request
// such a token when they push, not when they pull.
func (r *Registry) pushing(req *http.Request, rt *route) bool {
	if req.Method != http.MethodHead || rt.view.Origin != "" {
		return false
	}
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if strings.EqualFold(scheme, "Basic") || strings.EqualFold(scheme, "Bearer") && isKey(token) {
		// Basic credentials do not tell a push from a pull; but a client that pulls gets blobs and does not ask whether
		// they exist.
		return rt.kind == kindBlob
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	c, err := readToken(r.cfg.TokenKey, token, r.cfg.Domain, r.now())
	return err == nil && c.Subject != "" && c.may(rt.asked, "push", "*")
}

// identify sets the headers that identify the bytes.
func identify(header http.Header, d digest.Digest) {
	header["Docker-Content-Digest"] = []string{d.String()}
	header["Etag"] = []string{`"` + d.String() + `"`}
	header["X-Content-Type-Options"] = []string{"nosniff"}
}

func serveContent(w http.ResponseWriter, req *http.Request, h hit, body io.ReadSeeker) {
	if req.Header.Get("If-None-Match") == h.digest.String() {
		// Clients of distribution send the digest without the quotes of RFC 9110 section 8.8.3.
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if asked := req.Header.Get("Range"); asked != "" {
		w = &ranged{ResponseWriter: w, req: req}
		if strings.HasPrefix(asked, "bytes=") { // another unit is a client's mistake, and is refused
			req = byterange.Bound(req, h.size)
		}
	}
	http.ServeContent(w, req, "", h.mod, body)
}

var errRange = &apiError{status: http.StatusRequestedRangeNotSatisfiable, code: "RANGE_INVALID",
	message: "the range cannot be satisfied"}

// ranged answers an unsatisfiable range with an error of the API; http.ServeContent would answer in plain text.
type ranged struct {
	http.ResponseWriter
	req     *http.Request
	refused bool
}

func (w *ranged) WriteHeader(status int) {
	if status == http.StatusRequestedRangeNotSatisfiable {
		w.refused = true
		w.Header().Del("Docker-Content-Digest")
		writeError(w.ResponseWriter, w.req,
			errRange.with(fmt.Sprintf("Range is bytes=FIRST-LAST within the content, got %.100q",
				w.req.Header.Get("Range"))))
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *ranged) Write(p []byte) (int, error) {
	if w.refused {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom lets the socket read a file directly, as it does without a range.
func (w *ranged) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// sized is content of which only the size is used: the answer to a HEAD.
type sized struct{ size int64 }

func (s sized) Read([]byte) (int, error) { return 0, io.EOF }

func (s sized) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		return s.size + offset, nil
	}
	return offset, nil
}

// readFailed answers a read whose link exists but whose bytes could not be read. If they were collected in between,
// that is a miss; every other error is logged.
func (r *Registry) readFailed(w http.ResponseWriter, req *http.Request, rt *route, miss *apiError, err error) {
	if !errors.Is(err, fs.ErrNotExist) && req.Context().Err() == nil {
		r.log.Error("registry read", "client", req.RemoteAddr, "name", rt.nameIn(rt.place.canonical()), "err", err)
	}
	writeError(w, req, asAPI(err, miss))
}

const (
	maxIndexes  = 64  // manifests that are searched for an index
	maxTagsSeen = 256 // links of tags that are searched for the name of an index
)

// unstagedPlatform explains why a manifest requested by digest is missing, if an index that is here lists it: the
// import left that platform out. It returns "" if it finds no index that lists it. Its cost is bounded.
func (r *Registry) unstagedPlatform(ctx context.Context, rt *route) string {
	if rt.reads != nil {
		return "" // the index may be one that the account may not read
	}
	index, child, ok := r.read.manifests.parent(rt.digest)
	repo := rt.place.canonical()
	if !ok {
		repo, index, child, ok = r.listingIndex(ctx, rt)
	}
	if !ok {
		return ""
	}
	platform := child.platform()
	if platform == "" {
		platform = "one entry"
	}
	name := repo + "@" + index.String()
	if tag := r.tagOf(repo, index); tag != "" {
		name = repo + ":" + tag
	}
	return fmt.Sprintf("%s of %s is not staged for this platform", platform, name)
}

// listingIndex searches the first manifests of the exact repositories for an index that lists the digest of rt.
func (r *Registry) listingIndex(
	ctx context.Context, rt *route,
) (repo string, index digest.Digest, child descriptor, ok bool) {
	left := maxIndexes
	for _, repo := range r.exactRepositories(rt.place) {
		for _, fi := range r.tree.Walk(revisionsDir(repo), "") {
			if left--; left < 0 {
				return "", "", descriptor{}, false
			}
			d := digest.Digest(tree.DigestOf(fi))
			if d == "" || fi.Size() > keepManifest {
				continue
			}
			m, err := r.read.manifests.get(ctx, d, fi.Size())
			if err != nil {
				continue
			}
			if child, ok := m.child(rt.digest); ok {
				return repo, m.digest, child, true
			}
		}
	}
	return "", "", descriptor{}, false
}

// tagOf returns a tag of repo that refers to the manifest d, "" if none of the first ones does.
func (r *Registry) tagOf(repo string, d digest.Digest) string {
	left := maxTagsSeen
	for name, fi := range r.tree.Walk(tagsDir(repo), "") {
		if left--; left < 0 {
			break
		}
		tag, ok := strings.CutSuffix(strings.TrimPrefix(name, tagsDir(repo)+"/"), "/current/link")
		if ok && tree.DigestOf(fi) == d.String() {
			return tag
		}
	}
	return ""
}
