package admin

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"syscall"

	"casemate/appliance/access"
	"casemate/appliance/content"
	"casemate/appliance/oidc"
	"casemate/appliance/parts"
	"casemate/appliance/reply"
	"casemate/appliance/usage"
	"casemate/cluster"
	"casemate/pki"
)

// maxAdminBody limits a JSON request body; files are streamed and not limited by it.
const maxAdminBody = 1 << 20

// read decodes a JSON request, strictly, into the type that bodies has for its route.
func read(r *http.Request, into any) error { return readUpTo(r, into, maxAdminBody) }

// readUpTo is read with a limit for the body in bytes.
func readUpTo(r *http.Request, into any, most int64) error {
	if err := declared(r, into); err != nil {
		return err
	}
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return usage.Errorf("the request cannot be read: %w", err)
	}
	return nil
}

// adminError answers with the status of the error's class, and the error as one sentence.
func (a *API) adminError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="casemate", charset="UTF-8"`)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusInternalServerError:
		a.Log.Warn("admin request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": reply.Sentence(err)})
}

// statusOf returns the HTTP status for the error's class.
func statusOf(err error) int {
	var mistake *usage.Error
	var other *answered
	switch {
	case errors.As(err, &other):
		return other.status
	case errors.Is(err, unauthenticated{}), errors.Is(err, access.ErrCredentials):
		return http.StatusUnauthorized
	case errors.Is(err, access.ErrRefused), errors.Is(err, oidc.ErrRefused), errors.Is(err, cluster.ErrApproval),
		errors.Is(err, content.ErrOtherMaker),
		errors.As(err, new(forbidden)):
		return http.StatusForbidden
	case errors.As(err, &mistake),
		errors.Is(err, fs.ErrInvalid),
		errors.Is(err, pki.ErrNotPermitted),
		errors.Is(err, fs.ErrPermission),
		errors.Is(err, syscall.EBADMSG):
		return http.StatusBadRequest
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, parts.ErrEnded):
		return http.StatusGone
	case errors.Is(err, fs.ErrExist), errors.Is(err, pki.ErrRotating):
		return http.StatusConflict
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINPROGRESS):
		return http.StatusServiceUnavailable
	case errors.Is(err, syscall.ENOSPC):
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}
