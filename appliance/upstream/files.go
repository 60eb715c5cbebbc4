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
	"casemate/bundle/credentials"
	"casemate/cluster/share"
	"casemate/cluster/tree"
	"casemate/fileserver"
)

// FileServer returns what the file server fetches by.
func (u *Upstream) FileServer() fileserver.Upstream { return files{u} }

type files struct{ *Upstream }

// fileAsked is a request for a file.
type fileAsked struct {
	known   record
	address string // of the file, with the credentials that the client has sent in its query
	plain   bool   // it may be fetched without TLS
}

// addressOf returns the address that a client asked for, whose name is rawURL: with its credentials, as it wrote them,
// because a signature is one of exactly these bytes.
func addressOf(req *http.Request, rawURL string) string {
	query := req.URL.RawQuery
	if credentials.StripQuery(query) == query {
		return rawURL
	}
	return withoutQuery(rawURL) + "?" + query
}

// keyOf is that of the fetch for a request: what may come without TLS is not given to a client of TLS.
func keyOf(rawURL string, plain bool) string {
	if plain {
		return "plain file " + rawURL
	}
	return "file " + rawURL
}

// File implements fileserver.Upstream.
func (u files) File(req *http.Request, rawURL string, plain, here bool) (fileserver.Incoming, error) {
	known, ours := u.ofHeld(rawURL)
	untrusted := false // anybody may have changed what is here, and the client asks by TLS
	if here {
		untrusted = known.Plain && !plain
		switch {
		case !ours,
			!untrusted && u.fresh(known) && (known.Redirect == "" || u.cfg.Held(known.Redirect) != ""):
			return nil, nil
		}
		plain = plain && known.Plain // content that came by TLS is not replaced by other
	} else {
		known = record{Name: rawURL}
	}
	in, err := u.begin(req, fileAsked{known, addressOf(req, rawURL), plain}, here, untrusted)
	switch {
	case err == nil:
		return in, nil
	case untrusted:
		return nil, &refusal{http.StatusBadGateway, 0, rawURL + " was fetched without TLS, for a client without it, " +
			"and cannot be fetched by TLS: " + err.Error(), err}
	case here:
		return nil, nil
	}
	return nil, err
}

// ofHeld returns what is known of what is here for a URL; false if it is not what an origin has given.
func (u *Upstream) ofHeld(rawURL string) (record, bool) {
	r, ours := u.record(rawURL)
	if !ours || r.Redirect != "" {
		return r, ours
	}
	return r.of(u.cfg.Held(rawURL))
}

// begin joins the fetch that was asked for, or begins it.
func (u files) begin(req *http.Request, q fileAsked, here, untrusted bool) (fileserver.Incoming, error) {
	rawURL := q.known.Name
	key := keyOf(rawURL, q.plain)
	if !here || untrusted {
		if err := u.known(key); err != nil {
			return nil, err
		}
	}
	if !here {
		if err := u.roomFor(rawURL); err != nil {
			return nil, err
		}
	}
	kept := func() bool {
		r, ours := u.ofHeld(rawURL)
		return (!here || untrusted) && u.cfg.Held(rawURL) != "" && (q.plain || !ours || !r.Plain)
	}
	at, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	of := Event{Kind: "file", Name: rawURL, Host: at.Hostname()}
	f, err := u.fly(key, share.OfText(req.RemoteAddr), of, kept, func(ctx context.Context, f *flight) error {
		ctx = from(ctx, f.event.Host)
		defer u.take(f.event.Host, f.client)()
		err := told(f.event.Host, u.file(ctx, f, q))
		switch {
		case err == nil:
		case here && !untrusted:
			u.cannotCompare(q.known, err)
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

// roomFor refuses a file whose name differs from those that are here in its query alone, if there are too many.
func (u files) roomFor(rawURL string) error {
	at, query, _ := strings.Cut(rawURL, "?")
	if query == "" {
		return nil
	}
	path, all := u.cfg.Queries(at)
	what, most := "here", maxQueries
	switch {
	case path >= maxOfPath:
		what, most = "at "+at, maxOfPath
	case all < maxQueries:
		return nil
	}
	return &refusal{status: http.StatusInsufficientStorage, text: fmt.Sprintf("%d files %s differ in the query of "+
		"their address alone, which is the limit: import the ones that are needed, or delete others", most, what)}
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

func (u files) file(ctx context.Context, f *flight, q fileAsked) (err error) {
	for _, scheme := range schemes(q.plain) {
		f.mu.Lock()
		received := f.n
		f.mu.Unlock()
		if received > 0 {
			break // it is reachable, and broke off
		}
		err = u.fileBy(ctx, f, q.known, scheme+"://"+strings.TrimPrefix(q.address, "https://"))
		if !unreachable(err) {
			break
		}
	}
	return err
}

func (u files) fileBy(ctx context.Context, f *flight, known record, at string) error {
	plain := strings.HasPrefix(at, "http:")
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
		known.Plain = plain
		u.note(ctx, known)
		return nil
	case isRedirect(status):
		return u.redirected(ctx, f, known, status, plain)
	default:
		return err
	}
	made := record{Name: known.Name, Digest: got.Digest, ETag: got.ETag, LastModified: got.LastModified, Plain: plain}
	if known.Digest != got.Digest {
		made.Before, made.BeforePlain = known.Digest, known.Plain
	}
	recorded := false
	err = f.keep(ctx, func(ctx context.Context, w tree.BlobWriter) (err error) {
		if !recorded {
			if err := u.put(ctx, made); err != nil {
				return err
			}
			recorded = true
		}
		_, err = u.cfg.Files().KeepFile(ctx, w, known.Name)
		return err
	})
	if err == nil && known.Redirect != "" {
		err = u.cfg.Redirect(ctx, known.Name, "")
	}
	if err != nil {
		return err
	}
	f.event.Digest = made.Digest
	if made.Before != "" || known.Digest == made.Digest {
		made.Before, made.BeforePlain = "", false
		u.note(ctx, made)
	}
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

// redirected records a redirect, without the credentials in its target: object stores sign addresses anew for each
// answer. The client that waits is sent to the signed one, see Target.
func (u files) redirected(ctx context.Context, f *flight, known record, status *transport.StatusError,
	plain bool) error {
	to := credentials.Strip(status.Location)
	// What is held is the same content, whatever else differs in the query.
	if withoutQuery(to) == withoutQuery(known.Redirect) && u.cfg.Held(known.Redirect) != "" {
		to = known.Redirect
	}
	if to != known.Redirect {
		if err := u.cfg.Redirect(ctx, known.Name, to); err != nil {
			return fmt.Errorf("it leads to %.300s: %w", withoutQuery(to), err)
		}
	}
	u.mu.Lock()
	u.signed.Forget(to)
	if to != status.Location {
		u.signed.Add(to, status.Location)
	}
	u.mu.Unlock()
	f.event.Status, f.event.Target = status.Status, to
	u.note(ctx, record{Name: known.Name, Redirect: to, Plain: plain})
	return nil
}

// Target implements fileserver.Upstream.
func (u files) Target(address string) string {
	u.mu.Lock()
	signed, ok := u.signed.See(address)
	u.mu.Unlock()
	if !ok || u.cfg.Held(address) != "" {
		return address
	}
	return signed
}

func withoutQuery(rawURL string) string {
	at, _, _ := strings.Cut(rawURL, "?")
	return at
}

// FileSize implements fileserver.Upstream.
func (u files) FileSize(req *http.Request, rawURL string, plain bool) (size int64, here bool, err error) {
	key := keyOf(rawURL, plain)
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
		size, here, err = u.sizeBy(ctx, f, known, scheme+"://"+strings.TrimPrefix(addressOf(req, rawURL), "https://"))
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
		return 0, true, u.redirected(ctx, f, known, status, strings.HasPrefix(at, "http:"))
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
