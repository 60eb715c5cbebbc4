package upstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"syscall"
	"time"

	"casemate/bundle/collect/transport"
)

// refusal is an error that a client can be told.
type refusal struct {
	status int
	after  time.Duration
	text   string
	cause  error
}

func (e *refusal) Error() string                 { return e.text }
func (e *refusal) Unwrap() error                 { return e.cause }
func (e *refusal) Refusal() (int, time.Duration) { return e.status, e.after }

var errBusy = &refusal{status: http.StatusServiceUnavailable, after: 5 * time.Second,
	text: "too much is being fetched at this moment, try again"}

var errHostBusy = &refusal{status: http.StatusServiceUnavailable, after: 5 * time.Second,
	text: "too much is being fetched from this origin at this moment, try again"}

// told converts an error of a fetch from host to what a client is told: its own status where a client can use it,
// otherwise 502. 401 becomes 403: the login that is missing is the bastion's, not the client's.
func told(host string, err error) error {
	var no *refusal
	var status *transport.StatusError
	var open *openError
	switch {
	case err == nil, errors.As(err, &no):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINPROGRESS),
		errors.Is(err, context.Canceled):
		return err // of this node
	case errors.As(err, &open):
		return &refusal{http.StatusBadGateway, open.left, host + " cannot be reached: " + open.Error(), err}
	case !errors.As(err, &status):
		return &refusal{http.StatusBadGateway, 0, host + ": " + err.Error(), err}
	}
	switch status.Status {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%s does not have it either (%d): %w", host, status.Status, fs.ErrNotExist)
	case http.StatusUnauthorized, http.StatusForbidden:
		return &refusal{http.StatusForbidden, 0, fmt.Sprintf("%s gives no access (%d): it does not exist there or "+
			"needs a login, see casemate upstream login %s", host, status.Status, host), err}
	case http.StatusTooManyRequests:
		after := min(status.RetryAfter, transport.MaxRetryAfter)
		if after <= 0 {
			after = time.Minute
		}
		return &refusal{http.StatusTooManyRequests, after, fmt.Sprintf("%s limits requests (429), a login may help: "+
			"casemate upstream login %s", host, host), err}
	}
	return &refusal{http.StatusBadGateway, min(status.RetryAfter, transport.MaxRetryAfter), host + ": " + status.Error(), err}
}

// statusOf returns the status that an origin answered with, 0 if it is not known.
func statusOf(err error) int {
	var status *transport.StatusError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &status):
		return status.Status
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	}
	return 0
}
