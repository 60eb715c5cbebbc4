package upstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path"
	"strings"

	"casemate/bundle/collect/download"
	"casemate/bundle/collect/remote"
	"casemate/bundle/collect/transport"
	"casemate/cluster/share"
	"casemate/cluster/tree"
	"casemate/fileserver"
)

// FileServer returns what the file server fetches by.
func (u *Upstream) FileServer() fileserver.Upstream { return files{u} }

type files struct{ *Upstream }

// File implements fileserver.Upstream.
func (u files) File(req *http.Request, rawURL string, plain, here bool) (fileserver.Incoming, error) {
	known, ours := u.record(rawURL)
	if here {
		switch {
		case !ours, known.Redirect == "" && known.Digest != u.cfg.Held(rawURL),
			u.fresh(known) && (known.Redirect == "" || u.cfg.Held(known.Redirect) != ""):
			return nil, nil
		}
	} else {
		known = record{Name: rawURL}
	}
	key := "file " + rawURL
	if !here {
		if err := u.known(key); err != nil {
			return nil, err
		}
	}
	kept := func() bool { return !here && u.cfg.Held(rawURL) != "" }
	f, err := u.fly(key, share.OfText(req.RemoteAddr), kept, func(ctx context.Context, f *flight) error {
		at, err := url.Parse(rawURL)
		if err != nil {
			return err
		}
		f.event = Event{Kind: "file", Name: rawURL, Host: at.Hostname()}
		ctx = from(ctx, f.event.Host)
		defer u.take(f.event.Host, f.client)()
		err = told(f.event.Host, u.file(ctx, f, known, plain))
		switch {
		case err == nil:
		case here:
			u.cannotCompare(known, err)
		default:
			u.remember(key, err)
		}
		return err
	})
	if f == nil || err != nil {
		return nil, err
	}
	return incoming[fileserver.Incoming](f, req)
}

// schemes are those that a URL is asked by. TLS is tried first whatever the client used; without it a file is only
// fetched for a client that asked without it.
func schemes(plain bool) []string {
	if plain {
		return []string{"https", "http"}
	}
	return []string{"https"}
}

// unreachable reports whether an error says that a host does not speak TLS, as opposed to an answer.
func unreachable(err error) bool {
	var status *transport.StatusError
	return err != nil && !errors.As(err, &status) && !errors.Is(err, context.Canceled)
}

func (u files) file(ctx context.Context, f *flight, known record, plain bool) (err error) {
	for _, scheme := range schemes(plain) {
		f.mu.Lock()
		received := f.n
		f.mu.Unlock()
		if received > 0 {
			break // it is reachable, and broke off
		}
		err = u.fileBy(ctx, f, known, scheme+"://"+strings.TrimPrefix(known.Name, "https://"))
		if !unreachable(err) {
			break
		}
	}
	return err
}

func (u files) fileBy(ctx context.Context, f *flight, known record, at string) error {
	link, err := u.current()
	if err != nil {
		return err
	}
	if name := path.Base(strings.SplitN(at, "?", 2)[0]); !strings.HasSuffix(at, "/") {
		f.name = name
	}
	f.create = u.cfg.Files().NewFile
	header := http.Header{}
	if known.Digest != "" {
		header = known.conditions()
	}
	client := &http.Client{Transport: authorized{u.Upstream, link.once}, CheckRedirect: u.redirects}
	got, err := download.Stream(ctx, download.Request{
		Client: client, URL: at, Name: known.Name, Size: -1, Header: header,
	}, u.retry(), f)
	var status *transport.StatusError
	switch {
	case err == nil:
	case !errors.As(err, &status):
		return err
	case status.Status == http.StatusNotModified && known.Digest != "":
		f.event.Status = status.Status
		u.note(ctx, known)
		return nil
	case isRedirect(status):
		return u.redirected(ctx, f, known, status)
	default:
		return err
	}
	made := record{Name: known.Name, ETag: got.ETag, LastModified: got.LastModified}
	err = f.keep(ctx, func(ctx context.Context, w tree.BlobWriter) (err error) {
		made.Digest, err = u.cfg.Files().KeepFile(ctx, w, known.Name)
		return err
	})
	if err == nil && known.Redirect != "" {
		err = u.cfg.Redirect(ctx, known.Name, "")
	}
	if err != nil {
		return err
	}
	f.event.Digest = made.Digest
	u.note(ctx, made)
	return nil
}

// conditions are the headers that ask for content only if it has changed (RFC 9110, 13.1).
func (r record) conditions() http.Header {
	h := http.Header{}
	if r.ETag != "" {
		h.Set("If-None-Match", r.ETag)
	}
	if r.LastModified != "" {
		h.Set("If-Modified-Since", r.LastModified)
	}
	return h
}

// redirects follows a redirect to a host that is no origin, or to the same URL by TLS. A redirect to an origin is an
// answer of its own: the client follows it, and its target is fetched as what it is. When too many are recorded all are
// followed here, and the content is kept under the name that was asked for.
func (u files) redirects(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	if req.URL.Scheme == "http" && via[0].URL.Scheme == "https" {
		return errors.New("it is redirected to plain http, where anybody can change the content")
	}
	same := *req.URL
	same.Scheme = from.Scheme
	if same.String() != from.String() && req.URL.Port() == "" && u.For(req.URL.Hostname()) &&
		u.cfg.Redirects() < maxMoved {
		return http.ErrUseLastResponse
	}
	return remote.LimitRedirects(req, via)
}

func isRedirect(e *transport.StatusError) bool {
	return e.Status >= 300 && e.Status < 400 && e.Status != http.StatusNotModified && e.Location != ""
}

// redirected records a redirect.
func (u files) redirected(ctx context.Context, f *flight, known record, status *transport.StatusError) error {
	to := status.Location
	// Object stores sign addresses anew for each answer. What is held is the same content.
	if withoutQuery(to) == withoutQuery(known.Redirect) && u.cfg.Held(known.Redirect) != "" {
		to = known.Redirect
	}
	if to != known.Redirect {
		if err := u.cfg.Redirect(ctx, known.Name, to); err != nil {
			return fmt.Errorf("it leads to %.300s: %w", withoutQuery(to), err)
		}
	}
	f.event.Status, f.event.Target = status.Status, to
	u.note(ctx, record{Name: known.Name, Redirect: to})
	return nil
}

func withoutQuery(rawURL string) string {
	at, _, _ := strings.Cut(rawURL, "?")
	return at
}

// FileSize implements fileserver.Upstream.
func (u files) FileSize(req *http.Request, rawURL string, plain bool) (size int64, here bool, err error) {
	key := "file " + rawURL
	if err := u.known(key); err != nil {
		return 0, false, err
	}
	at, err := url.Parse(rawURL)
	if err != nil {
		return 0, false, fmt.Errorf("%w: %w", err, fs.ErrInvalid)
	}
	defer u.take("sizes of "+at.Hostname(), share.OfText(req.RemoteAddr))()
	f := &flight{u: u.Upstream, event: Event{Kind: "file", Name: rawURL, Host: at.Hostname()}}
	ctx := from(req.Context(), at.Hostname())
	known, ours := u.record(rawURL)
	if !ours {
		known = record{Name: rawURL}
	}
	for _, scheme := range schemes(plain) {
		size, here, err = u.sizeBy(ctx, f, known, scheme+"://"+strings.TrimPrefix(rawURL, "https://"))
		if !unreachable(err) {
			break
		}
	}
	err = told(at.Hostname(), err)
	u.remember(key, err)
	return size, here, err
}

func (u files) sizeBy(ctx context.Context, f *flight, known record, at string) (size int64, here bool, err error) {
	link, err := u.current()
	if err != nil {
		return 0, false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, at, nil)
	if err != nil {
		return 0, false, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	client := &http.Client{Transport: authorized{u.Upstream, link.once}, CheckRedirect: u.redirects}
	resp, err := client.Do(req)
	if err != nil {
		return 0, false, transport.WithoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return resp.ContentLength, false, nil
	}
	err = transport.ResponseError(resp)
	var status *transport.StatusError
	if errors.As(err, &status) && isRedirect(status) {
		return 0, true, u.redirected(ctx, f, known, status)
	}
	return 0, false, err
}

// authorized adds the credentials for a host, by TLS alone.
type authorized struct {
	u     *Upstream
	inner http.RoundTripper
}

func (a authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	if user, password, ok := a.u.login(req.URL.Hostname()); ok && req.URL.Scheme == "https" && req.URL.Port() == "" {
		sent := req.Clone(req.Context())
		sent.Header = maps.Clone(req.Header)
		sent.SetBasicAuth(user, password)
		req = sent
	}
	return a.inner.RoundTrip(req)
}
