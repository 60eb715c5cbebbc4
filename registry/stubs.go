package registry

import (
	"log/slog"
	"net/http"
)

type uploads struct{ tree Tree }

func newUploads(t Tree, _ *slog.Logger) *uploads { return &uploads{t} }
func (*uploads) close()                          {}

func embed(*uploads, []byte, *slog.Logger) (http.Handler, func() error, error) {
	return http.NotFoundHandler(), func() error { return nil }, nil
}

func (r *Registry) admit(http.ResponseWriter, *http.Request, route) *apiError { return nil }

func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request, rt route)     {}
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, rt route) {}
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, rt route)    {}
func (r *Registry) deleteManifest(w http.ResponseWriter, req *http.Request, rt route) {}
func (r *Registry) deleteBlob(w http.ResponseWriter, req *http.Request, rt route)     {}
func (r *Registry) startUpload(w http.ResponseWriter, req *http.Request, rt route)    {}
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, rt route)    {}
