package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"syscall"

	"casemate/registry/session"
)

// apiError is an error answer of the distribution-spec: a status and one error of its JSON body (section "Error
// Codes").
type apiError struct {
	status  int
	code    string
	message string
	detail  any
	retry   int // seconds for Retry-After, 0: none
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// with returns the same error with why in its message, because most clients print only the message, and as its detail.
func (e *apiError) with(why string) *apiError {
	c := *e
	c.message += ": " + why
	c.detail = why
	return &c
}

// withoutCode returns the error as fs.ErrInvalid for internal callers: the text without the code of the API.
func (e *apiError) withoutCode() error {
	why := e.message
	if detail, ok := e.detail.(string); ok {
		why = detail
	}
	return fmt.Errorf("%s: %w", why, fs.ErrInvalid)
}

var (
	errBlobUnknown   = &apiError{status: 404, code: "BLOB_UNKNOWN", message: "blob unknown to registry"}
	errUploadInvalid = &apiError{status: 400, code: "BLOB_UPLOAD_INVALID", message: "blob upload invalid"}
	errUploadUnknown = &apiError{status: 404, code: "BLOB_UPLOAD_UNKNOWN", message: "blob upload unknown to registry"}
	errDigestInvalid = &apiError{status: 400, code: "DIGEST_INVALID", message: "invalid digest"}
	errManifestBlob  = &apiError{status: 400, code: "MANIFEST_BLOB_UNKNOWN",
		message: "manifest references a blob unknown to the repository"}
	errManifestInvalid = &apiError{status: 400, code: "MANIFEST_INVALID", message: "manifest invalid"}
	errManifestUnknown = &apiError{status: 404, code: "MANIFEST_UNKNOWN", message: "manifest unknown to registry"}
	errNameInvalid     = &apiError{status: 400, code: "NAME_INVALID", message: "invalid repository name"}
	errNameUnknown     = &apiError{status: 404, code: "NAME_UNKNOWN", message: "repository name not known to registry"}
	errSizeInvalid     = &apiError{status: 400, code: "SIZE_INVALID",
		message: "provided length did not match content length"}
	errShortBody       = errSizeInvalid.with("the body ended early")
	errTagInvalid      = &apiError{status: 400, code: "TAG_INVALID", message: "invalid tag"}
	errUnauthorized    = &apiError{status: 401, code: "UNAUTHORIZED", message: "authentication required"}
	errDenied          = &apiError{status: 403, code: "DENIED", message: "requested access to the resource is denied"}
	errUnsupported     = &apiError{status: 405, code: "UNSUPPORTED", message: "the operation is unsupported"}
	errTooManyRequests = &apiError{status: 429, code: "TOOMANYREQUESTS", message: "too many requests"}
	errRangeInvalid    = &apiError{status: 416, code: "BLOB_UPLOAD_INVALID",
		message: "the range does not continue the upload"}
	errUnavailable = &apiError{status: 503, code: "UNAVAILABLE", retry: 5,
		message: "no majority of the cluster is reachable now, try again"}
	errOutcomeUnknown = &apiError{status: 503, code: "UNAVAILABLE", retry: 5,
		message: "it is not known whether this was done: send the same request again"}
	errLost = &apiError{status: 503, code: "UNAVAILABLE", message: lostMessage}
	errFull = &apiError{status: 507, code: "UNAVAILABLE",
		message: "the disk's reserve is reached: delete something and run casemate gc --now"}
)

const lostMessage = "its bytes on this bastion are damaged or lost, import or push it again"

// asAPI converts an error of the tree to an answer; miss is the answer where something does not exist. The end of ctx
// needs no answer: the client is gone.
func asAPI(err error, miss *apiError) *apiError {
	var api *apiError
	var refusal *session.Refusal
	var tooMany *session.TooManyError
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &refusal):
		return asRefused(refusal)
	case errors.As(err, &tooMany):
		return errTooManyRequests.with(tooMany.Error())
	case errors.Is(err, session.ErrBusy):
		e := errTooManyRequests.with(err.Error())
		e.retry = 1
		return e
	case errors.Is(err, session.ErrBody):
		return errShortBody
	case errors.Is(err, fs.ErrNotExist):
		return miss
	case errors.Is(err, syscall.EBADMSG):
		e := errDigestInvalid.with("the bytes that came do not have the digest that was asked for")
		e.detail = err.Error()
		return e
	case errors.Is(err, syscall.EIO):
		return errLost.with(err.Error())
	case errors.Is(err, syscall.EINPROGRESS):
		return errOutcomeUnknown
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errUnavailable
	case errors.Is(err, syscall.ENOSPC):
		return errFull
	}
	return &apiError{status: 500, code: "UNKNOWN", message: "internal error"}
}

// asRefused converts a refusal of the session to an answer. The reason goes where clients print it: into the message.
func asRefused(refusal *session.Refusal) *apiError {
	const stale = "send each request to the Location of the answer before"
	e := &apiError{status: refusal.Status, code: errUploadInvalid.code, message: errUploadInvalid.message}
	if refusal.Code != "" {
		e.code, e.message = refusal.Code, refusal.Message
		if refusal.Reason != "" {
			e = e.with(refusal.Reason)
		}
	}
	switch {
	case e.code == errUploadInvalid.code:
		return e.with("_state is not what the registry gave for this upload: " + stale)
	case e.status == http.StatusRequestedRangeNotSatisfiable:
		return errRangeInvalid.with("the upload has grown since: " + stale)
	}
	return e
}

// writeError answers with the error body of the distribution-spec. A HEAD gets the status alone.
func writeError(w http.ResponseWriter, req *http.Request, e *apiError) {
	if e.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.retry))
	}
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	body, err := json.Marshal(struct {
		Errors []item `json:"errors"`
	}{[]item{{e.code, e.message, e.detail}}})
	if err != nil {
		body = []byte(`{"errors":[]}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.status)
	if req.Method != http.MethodHead {
		w.Write(body)
	}
}
