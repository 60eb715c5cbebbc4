package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"casemate/appliance/oidc"
)

// apiError is an error that the admin API answered with.
type apiError struct {
	Status   int
	Sentence string
}

func (e *apiError) Error() string { return e.Sentence }

// is reports whether err is an answer of the API with the status.
func is(err error, status int) bool {
	e := (*apiError)(nil)
	return errors.As(err, &e) && e.Status == status
}

// maxAnswer bounds an answer of the API that a page decodes whole, in bytes. Lists are asked for in parts.
const maxAnswer = 16 << 20

// answer collects an answer of the API.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

var errLarge = errors.New("the answer of the admin API is too large for a page")

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.body.Len()+len(p) > maxAnswer {
		return 0, errLarge
	}
	return a.body.Write(p)
}

// request makes a request of the API for whoever sends r: with the session of the browser, and from its address.
func request(r *http.Request, method, path string, body []byte) (*http.Request, error) {
	in, err := http.NewRequestWithContext(r.Context(), method, "https://"+r.Host+path, bytes.NewReader(body))
	if err != nil {
		return nil, &apiError{http.StatusBadRequest, fmt.Sprintf("this is not a valid request: %.200q", path)}
	}
	in.RemoteAddr, in.TLS = r.RemoteAddr, r.TLS
	if key := oidc.Session(r); key != "" {
		in.AddCookie(&http.Cookie{Name: oidc.SessionCookie, Value: key})
	}
	if v := r.Header.Get(oidc.UnattendedHeader); v != "" {
		in.Header.Set(oidc.UnattendedHeader, v)
	}
	if body != nil {
		in.Header.Set("Content-Type", "application/json")
	}
	return in, nil
}

// send sends a request to the API, and returns the answer of a success.
func (p *Page) send(in *http.Request) (a *answer, err error) {
	a = &answer{header: http.Header{}}
	defer func() {
		// An answer that is aborted after its beginning ends like this.
		if v := recover(); v == http.ErrAbortHandler {
			err = &apiError{http.StatusServiceUnavailable, "the answer was cut off, load the page again"}
		} else if v != nil {
			panic(v)
		}
	}()
	p.cfg.API.ServeHTTP(a, in)
	switch {
	case a.status >= 400:
		return nil, failure(a.status, a.body.Bytes())
	case a.status >= 300: // http.ServeMux sends names like .. elsewhere
		return nil, &apiError{http.StatusBadRequest, "a name in this request is empty or is no name, such as ..: " +
			"nothing was changed"}
	}
	return a, nil
}

// failure returns the error in an answer of the API.
func failure(status int, body []byte) error {
	var e struct{ Error string }
	if err := json.Unmarshal(body, &e); err != nil || e.Error == "" {
		e.Error = "the admin API answered: " + http.StatusText(status)
	}
	return &apiError{status, e.Error}
}

// get asks the API for a document. next is the cursor of the next part of a list, "" if there is none.
func (c *call) get(path string, into any) (next string, err error) {
	in, err := request(c.r, http.MethodGet, path, nil)
	if err != nil {
		return "", err
	}
	a, err := c.p.send(in)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(a.body.Bytes(), into); err != nil {
		return "", fmt.Errorf("GET %s: %w", path, err)
	}
	return nextOf(a.header), nil
}

// do sends a request that changes something; body nil sends none. The answer's body is returned.
func (c *call) do(method, path string, body any) ([]byte, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	in, err := request(c.r, method, path, data)
	if err != nil {
		return nil, err
	}
	a, err := c.p.send(in)
	if err != nil {
		return nil, err
	}
	return a.body.Bytes(), nil
}

// nextOf returns the cursor in a header Link (RFC 8288): </v1/names?after=CURSOR&limit=N>; rel="next".
func nextOf(h http.Header) string {
	target, rel, _ := strings.Cut(h.Get("Link"), ">;")
	if !strings.Contains(rel, `rel="next"`) {
		return ""
	}
	u, err := url.Parse(strings.TrimPrefix(target, "<"))
	if err != nil {
		return ""
	}
	return u.Query().Get("after")
}

// stream sends a request to the API and returns the body while it arrives. It must be closed.
func (c *call) stream(path string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(c.r.Context())
	in, err := request(c.r.WithContext(ctx), http.MethodGet, path, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	r, w := io.Pipe()
	s := &streaming{pipe: w, header: http.Header{}, begun: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			v := recover()
			err := io.EOF
			if v != nil {
				err = errors.New("the answer was cut off")
			}
			s.WriteHeader(http.StatusOK)
			w.CloseWithError(err)
			if v != nil && v != http.ErrAbortHandler {
				c.p.cfg.Log.Error("an answer of the admin API panicked", "path", path, "panic", fmt.Sprint(v))
			}
		}()
		c.p.cfg.API.ServeHTTP(s, in)
	}()
	end := func() {
		cancel()
		r.Close()
		<-ended
	}
	select {
	case <-s.begun:
	case <-ctx.Done():
		end()
		return nil, context.Cause(ctx)
	}
	if s.status >= 400 {
		body, _ := io.ReadAll(io.LimitReader(r, maxAnswer))
		end()
		return nil, failure(s.status, body)
	}
	return streamBody{r, end}, nil
}

// streaming is an answer of the API that is read while it is written.
type streaming struct {
	pipe   *io.PipeWriter
	header http.Header
	status int
	begun  chan struct{} // closed when status is set
}

func (s *streaming) Header() http.Header { return s.header }

func (s *streaming) WriteHeader(status int) {
	if s.status == 0 {
		s.status = status
		close(s.begun)
	}
}

func (s *streaming) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return s.pipe.Write(p)
}

type streamBody struct {
	io.Reader
	end func()
}

func (b streamBody) Close() error {
	b.end()
	return nil
}
