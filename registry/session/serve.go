package session

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
)

// Request describes a request and its user.
type Request struct {
	// ID is the session; its Upload is "" for a POST, which begins one.
	ID
	// User is who sends it; sessions are bounded for each.
	User string
	// Location converts a path of distribution's ("/v2/REPOSITORY/blobs/uploads/UPLOAD?_state=…") to the address that
	// the client must use.
	Location func(path string) string
}

// Serve lets distribution answer a POST, GET, HEAD, PATCH or DELETE of a session. If it returns an error, nothing was
// written to w but headers: *Refusal, ErrBody, ErrBusy, *TooManyError, or an error of the tree.
//
// The caller has checked user, Content-Range and Content-Type.
func (s *Sessions) Serve(w http.ResponseWriter, req *http.Request, at Request) error {
	call := &call{user: at.User, body: req.Body}
	in := req.Clone(context.WithValue(req.Context(), callKey{}, call))
	in.URL.Path, in.URL.RawPath = "/v2/"+at.Repository+"/blobs/uploads/"+at.Upload, ""
	q := url.Values{}
	if state := req.URL.Query().Get("_state"); state != "" {
		q.Set("_state", state)
	}
	in.URL.RawQuery = q.Encode()
	in.RequestURI = in.URL.RequestURI()
	in.Body = call
	// With the type of a form, distribution would parse the body as one.
	in.Header.Set("Content-Type", "application/octet-stream")
	for _, h := range []string{"Content-Range", "Authorization", "Forwarded", "X-Forwarded-Proto", "X-Forwarded-Host",
		"X-Forwarded-Port", "X-Forwarded-Prefix"} {
		in.Header.Del(h)
	}
	answer := &answer{ResponseWriter: w, location: at.Location}
	s.app.ServeHTTP(answer, in)
	if err := call.release(); err != nil {
		s.cfg.Log.Warn("releasing an upload", "upload", at.Upload, "err", err)
	}
	return answer.end(call)
}

// call is one request while distribution serves it, and its body. It travels with the request's context through
// distribution to the driver.
type call struct {
	user string

	body    io.ReadCloser
	bodyErr error // of reading the body: an error of the client, not of the tree

	mu sync.Mutex
	// err is the first error of the tree. distribution answers all of them with 500 and the internal text.
	err error
	// writers are the uploads that were opened. distribution does not close an upload whose state is out of date, and
	// then no other request could write it.
	writers []*uploadWriter
}

type callKey struct{}

// callOf returns the call of a context; nil where the driver is used without Serve.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// recordError records an error of the tree.
func recordError(ctx context.Context, err error) {
	if c := callOf(ctx); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err == nil {
			c.err = err
		}
	}
}

// userOf returns the user of a context's request, "" if unknown.
func userOf(ctx context.Context) string {
	if c := callOf(ctx); c != nil {
		return c.user
	}
	return ""
}

// recordWriter records an upload that was opened.
func recordWriter(ctx context.Context, w *uploadWriter) {
	if c := callOf(ctx); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.writers = append(c.writers, w)
	}
}

// writer returns the upload that the request has open, nil if it has none.
func (c *call) writer() *uploadWriter {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.writers {
		if w.w != nil {
			return w
		}
	}
	return nil
}

// release closes what distribution left open.
func (c *call) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, w := range c.writers {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

func (c *call) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if err != nil && err != io.EOF {
		c.bodyErr = err
	}
	return n, err
}

func (c *call) Close() error { return c.body.Close() }

// WriteTo is called by io.Copy instead of reading the body. distribution copies a body into its own writer, which
// hashes it before the driver gets it. The tree hashes it as well, and only the tree's digest is ever used. So the
// bytes go directly to the scratch file here, and distribution's writer gets none.
func (c *call) WriteTo(to io.Writer) (int64, error) {
	body := struct{ io.Reader }{c} // without WriteTo, which io.Copy would call again
	w := c.writer()
	if w == nil {
		return io.Copy(to, body)
	}
	n, err := io.Copy(w.w, body)
	if err != nil && c.bodyErr == nil {
		recordError(w.ctx, err)
	}
	return n, err
}

// maxRefusal bounds the bytes that are read of a refusal of distribution's.
const maxRefusal = 16 << 10

// answer passes on the answer of distribution, unless that is an error.
type answer struct {
	http.ResponseWriter
	location func(string) string
	wrote    bool
	status   int    // of an error, which is withheld
	body     []byte // of an error
}

func (a *answer) WriteHeader(status int) {
	if a.wrote {
		return
	}
	a.wrote = true
	h := a.Header()
	h.Set("Docker-Distribution-Api-Version", "registry/2.0") // once: distribution adds its own
	if path := h.Get("Location"); path != "" {
		h.Set("Location", a.location(path))
	}
	if status >= 400 {
		a.status = status
		h.Del("Content-Length")
		return
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	if a.status == 0 {
		return a.ResponseWriter.Write(p)
	}
	a.body = append(a.body, p[:min(len(p), maxRefusal-len(a.body))]...)
	return len(p), nil
}

// end completes the answer, or returns the error that was withheld.
func (a *answer) end(c *call) error {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	switch {
	case a.status == 0:
		return nil
	case a.status < 500:
		return a.refusal()
	case c.bodyErr != nil:
		return ErrBody
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return errors.New("distribution answered an upload with an internal error")
}

func (a *answer) refusal() *Refusal {
	e := &Refusal{Status: a.status}
	var body struct {
		Errors []struct {
			Code, Message string
			Detail        any
		}
	}
	if json.Unmarshal(a.body, &body) == nil && len(body.Errors) > 0 {
		e.Code, e.Message = body.Errors[0].Code, body.Errors[0].Message
		e.Reason, _ = body.Errors[0].Detail.(string)
	}
	return e
}
