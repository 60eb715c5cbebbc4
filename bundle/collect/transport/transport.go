package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"casemate/bundle/collect/diagnose"
)

const (
	// MaxRetryAfter is the longest Retry-After that is respected.
	MaxRetryAfter = 5 * time.Minute

	// Slowest is how many bytes a server sends at least in the time after which it counts as stalled.
	Slowest = 8 << 10

	stallTimeout = 60 * time.Second
)

// errStalled ends a response that sends no more bytes, or hardly any. It counts as a broken connection.
var errStalled = errors.New("the server stopped sending, or sends hardly anything")

// New returns the transport for upstream servers: proxies from the current environment (HTTPS_PROXY, HTTP_PROXY,
// NO_PROXY), the system's roots, and bodies as they are sent. Nothing is decompressed, because checksums are those of
// the bytes on the server.
func New() *http.Transport {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return &http.Transport{
		Proxy:                 func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   30 * time.Second,
		ResponseHeaderTimeout: stallTimeout,
		ExpectContinueTimeout: time.Second,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, connect *http.Request, resp *http.Response) error {
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			return &proxyError{host: connect.Host, status: resp.StatusCode}
		},
	}
}

// proxyError is the answer of a proxy that does not connect (RFC 9110, 9.3.6).
type proxyError struct {
	host   string // with port
	status int
}

func (e *proxyError) Error() string {
	s := fmt.Sprintf("the proxy refuses the connection to %s: %d %s", e.host, e.status, http.StatusText(e.status))
	if e.status == http.StatusProxyAuthRequired {
		s += " (HTTPS_PROXY takes a login as http://USER:PASSWORD@HOST:PORT)"
	}
	return s
}

// Retrying is a RoundTripper that retries what may succeed the next time: broken connections, 5xx, 408, and 429 with
// respect to Retry-After and to the answers that other workers got. If the status is still bad after the last attempt,
// the response is returned. Bodies that stall, or that arrive more slowly than Slowest, fail (Stalled).
type Retrying struct {
	Inner http.RoundTripper
	Stall time.Duration    // the longest wait for Slowest bytes; 0: stallTimeout
	Clock func() time.Time // nil: time.Now
	Retry Retry
	// Once returns a bad answer, or an error, at once: somebody waits for it.
	Once   bool
	limits rateLimits
}

func (p *Retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	// Only requests that can be sent twice are retried: those without a body, and those that can create their body
	// again.
	again := req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
	for try := 1; ; try++ {
		if try > 1 && req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req.Body = body
		}
		kind := limitKey(req)
		if pause, err := p.limits.before(kind, p.now()); err != nil {
			return nil, err
		} else if pause > 0 && p.Once {
			return nil, &StatusError{Status: http.StatusTooManyRequests, RetryAfter: pause,
				Message: "it limits requests and was not asked again"}
		} else if pause > 0 {
			if err := p.Retry.wait(req.Context(), pause); err != nil {
				return nil, err
			}
		}
		sent := p.now()
		resp, err := p.roundTrip(req)
		if err == nil && resp.StatusCode == http.StatusTooManyRequests {
			asked, _ := retryAfter(resp.Header.Get("Retry-After"), p.now())
			if p.Once { // what lives on asks again, whatever the server wants
				asked = min(asked, MaxRetryAfter)
			}
			if !p.limits.refused(kind, sent, p.now(), asked) || p.Once || !again || try >= MaxTooManyRequests {
				return resp, nil
			}
			p.Retry.Log.Warn("retrying", "host", req.URL.Host, "path", req.URL.Path,
				"err", &StatusError{Status: resp.StatusCode})
			discard(resp)
			continue
		}
		if err == nil {
			p.limits.accepted(kind)
		}
		if p.Once || err == nil && !isRetryableStatus(resp.StatusCode) {
			return resp, err
		}
		if err != nil && (req.Context().Err() != nil || isPermanent(err)) || !again || try >= MaxAttempts {
			return resp, err
		}
		reason, asked := err, time.Duration(0)
		if err == nil {
			reason = &StatusError{Status: resp.StatusCode}
			if asked, _ = retryAfter(resp.Header.Get("Retry-After"), p.now()); asked > MaxRetryAfter {
				return resp, nil
			}
			discard(resp)
		}
		if err := p.Retry.Pause(req.Context(), try, asked, reason, "host", req.URL.Host, "path",
			req.URL.Path); err != nil {
			return nil, err
		}
	}
}

func (p *Retrying) now() time.Time {
	if p.Clock == nil {
		return time.Now()
	}
	return p.Clock()
}

// discard ends a response after reading a little of the body, so that the connection can be reused.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

// roundTrip sends the request under a context that stallBody can cancel.
func (p *Retrying) roundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	// A clone, because transports above and below write into the headers.
	resp, err := p.Inner.RoundTrip(req.Clone(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Request = req
	stall := cmp.Or(p.Stall, stallTimeout)
	resp.Body = &stallBody{body: resp.Body, ctx: ctx, cancel: cancel, stall: stall, left: stall}
	return resp, nil
}

// stallBody fails a read if the server has sent less than Slowest bytes in stall, which is the time that reads have
// waited: what the reader does in between does not count. A deadline of the connection would not do: it may carry other
// responses, over HTTP/2.
type stallBody struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration
	left   time.Duration // for the rest of the bytes
	got    int           // of Slowest
}

func (b *stallBody) Read(p []byte) (int, error) {
	begun := time.Now()
	t := time.AfterFunc(b.left, func() { b.cancel(errStalled) })
	n, err := b.body.Read(p)
	t.Stop()
	b.left -= time.Since(begun)
	if b.got += n; b.got >= Slowest {
		b.left, b.got = b.stall, 0
	}
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errStalled {
		err = errStalled
	}
	return n, err
}

func (b *stallBody) Close() error {
	err := b.body.Close()
	b.cancel(nil)
	return err
}

// isRetryableStatus reports whether a status may change with the next attempt.
func isRetryableStatus(status int) bool {
	switch status {
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	case http.StatusRequestTimeout, 499: // 499: nginx, when its upstream disconnected
		return true
	}
	return status >= 500
}

// isPermanent reports whether an error of a round trip will occur again.
func isPermanent(err error) bool {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		dns      *net.DNSError
		proxy    *proxyError
	)
	switch {
	case errors.As(err, &unknown),
		errors.As(err, &hostname),
		errors.As(err, &invalid),
		errors.As(err, &verify),
		errors.As(err, &record):
		return true
	case errors.As(err, &dns):
		return dns.IsNotFound
	case errors.As(err, &proxy):
		return !isRetryableStatus(proxy.status) && proxy.status != http.StatusTooManyRequests
	case errors.Is(err, http.ErrSchemeMismatch), errors.Is(err, ErrPlainHTTP):
		return true
	}
	return strings.Contains(err.Error(), "unsupported protocol scheme") // net/http has no error value for it
}

// retryAfter reads a Retry-After header (RFC 9110, 10.2.3): seconds or a date.
func retryAfter(h string, now time.Time) (time.Duration, bool) {
	if h = strings.TrimSpace(h); h == "" {
		return 0, false
	}
	if s, err := strconv.ParseUint(h, 10, 32); err == nil {
		return time.Duration(s) * time.Second, true
	}
	if t, err := http.ParseTime(h); err == nil {
		return max(0, t.Sub(now)), true
	}
	return 0, false
}

// StatusError is an answer that is not a success.
type StatusError struct {
	Status     int
	Message    string        // the server's message, shortened
	RetryAfter time.Duration // 0: the server did not say
	Location   string        // the target of a redirect that was not followed
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(" (it asks to come back in %s)", e.RetryAfter.Round(time.Second))
	}
	return s
}

// ResponseError makes an error from a response whose status is bad. It reads a bounded part of the body.
func ResponseError(resp *http.Response) error {
	e := &StatusError{Status: resp.StatusCode}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e.Message = diagnose.ServerMessage(resp.Header.Get("Content-Type"), b)
	if d, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
		e.RetryAfter = d
	}
	if to, err := resp.Location(); err == nil {
		e.Location = to.String()
	}
	return e
}

// HasStatus reports whether err is an answer with one of the statuses.
func HasStatus(err error, statuses ...int) bool {
	var e *StatusError
	if !errors.As(err, &e) {
		return false
	}
	for _, s := range statuses {
		if e.Status == s {
			return true
		}
	}
	return false
}

// WithoutURL removes the address from an error of net/http: after a redirect it may contain a signature in its query,
// and the message names the requested URL anyway.
func WithoutURL(err error) error {
	var u *url.Error
	if !errors.As(err, &u) {
		return err
	}
	if at, perr := url.Parse(u.URL); perr == nil && at.Host != "" {
		return fmt.Errorf("%s: %w", at.Host, u.Err)
	}
	return u.Err
}

// ErrPlainHTTP is the error for a registry without TLS.
var ErrPlainHTTP = errors.New("it answers without TLS, which is allowed only for registries on this machine")
