package registry

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// PROVISIONAL, thinnest version: the views' engineer owns this file.
func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, rt route) {
	path := tagPath(rt.repo, rt.reference)
	if rt.digest != "" {
		path = revisionPath(rt.repo, rt.digest)
	}
	d, _, err := r.digestOf(path)
	if err != nil {
		writeError(w, req, asAPI(err, errManifestUnknown))
		return
	}
	if rt.digest != "" {
		d = rt.digest
	}
	r.serveBytes(w, req, path, d, func(b []byte) string { return mediaTypeOf(b) })
}

func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, rt route) {
	if _, _, err := r.digestOf(layerPath(rt.repo, rt.digest)); err != nil {
		writeError(w, req, asAPI(err, errBlobUnknown))
		return
	}
	b, err := r.tree.OpenBlob(req.Context(), rt.digest.String())
	if err != nil {
		writeError(w, req, asAPI(err, errBlobUnknown))
		return
	}
	defer b.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", rt.digest.String())
	w.Header().Set("ETag", strconv.Quote(rt.digest.String()))
	http.ServeContent(w, req, "", time.Time{}, b)
}

func (r *Registry) serveBytes(w http.ResponseWriter, req *http.Request, path string, d digest.Digest, mt func([]byte) string) {
	b, err := r.tree.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errManifestUnknown
		}
		writeError(w, req, asAPI(err, errManifestUnknown))
		return
	}
	h := w.Header()
	h.Set("Content-Type", mt(b))
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", strconv.Quote(d.String()))
	if req.Method != http.MethodHead {
		w.Write(b)
	}
}

var _ = io.EOF
