package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	registryauth "github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"casemate/bundle/collect/diagnose"
	"casemate/bundle/collect/transport"
	"casemate/bundle/digests"
	"casemate/bundle/oci"
)

// maxPages bounds a list of referrers that does not end.
const maxPages = 50

// acceptManifests are the media types that can be collected. What else a registry sends is stored as it is.
var acceptManifests = strings.Join([]string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.oci.artifact.manifest.v1+json",
	"*/*",
}, ", ")

// registries holds the repositories of all registries, each logged in to once. Its methods are safe for concurrent use.
type registries struct {
	inner     http.RoundTripper
	overrides []override
	mu        sync.Mutex
	repos     map[string]*repository // by canonical name
	// noReferrers are the hosts that answered 404 to a request for referrers: they do not have the API (OCI
	// distribution 1.1, "Listing referrers").
	noReferrers sync.Map
	heads       sync.Map // hosts whose HEAD of a manifest succeeded once
}

// supportsHead reports whether a HEAD that finds nothing can be trusted.
func (r *registries) supportsHead(repo *repository) bool {
	_, ok := r.heads.Load(repo.host.RegistryStr())
	return ok
}

// repository is a repository of a registry. It sends the credentials that Docker's config has for its host.
type repository struct {
	name string // canonical
	from string // the mirror's repository that is used instead, "" if none is
	once sync.Mutex
	host name.Registry
	path string
	base string // "https://index.docker.io/v2/library/nginx/"
	http *http.Client
}

// repository returns the repository of a canonical name, logged in.
func (r *registries) repository(ctx context.Context, canonical string) (*repository, error) {
	r.mu.Lock()
	repo := r.repos[canonical]
	if repo == nil {
		repo = &repository{name: canonical}
		r.repos[canonical] = repo
	}
	r.mu.Unlock()
	repo.once.Lock()
	defer repo.once.Unlock()
	if repo.http != nil {
		return repo, nil
	}
	at := r.mirrorOf(canonical)
	parsed, err := name.NewRepository(at)
	if err != nil {
		return nil, fmt.Errorf("%s is not a repository: %w", at, err)
	}
	if at != canonical {
		repo.from = at
	}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, parsed)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s of Docker's config: %w", parsed.RegistryStr(), err)
	}
	guarded := tlsOnly{host: parsed.RegistryStr(), inner: r.inner}
	t, err := registryauth.NewWithContext(
		ctx,
		parsed.Registry,
		auth,
		guarded,
		[]string{parsed.Scope(registryauth.PullScope)},
	)
	if err != nil {
		return nil, loginError(parsed.RegistryStr(), err)
	}
	repo.host, repo.path = parsed.Registry, parsed.RepositoryStr()
	// The transport inserts the scheme that the registry answered on.
	repo.base = fmt.Sprintf("https://%s/v2/%s/", parsed.RegistryStr(), parsed.RepositoryStr())
	repo.http = &http.Client{Transport: t, CheckRedirect: limitRedirects}
	return repo, nil
}

// tlsOnly refuses to talk to a registry without TLS unless it is on this machine: go-containerregistry would do so with
// private addresses, and send a password.
type tlsOnly struct {
	host  string
	inner http.RoundTripper
}

func (t tlsOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" && req.URL.Host == t.host && !isLoopback(t.host) {
		return nil, transport.ErrPlainHTTP
	}
	return t.inner.RoundTrip(req)
}

func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func limitRedirects(_ *http.Request, via []*http.Request) error {
	if len(via) > mostRedirects {
		return fmt.Errorf("more than %d redirects", mostRedirects)
	}
	return nil
}

// loginError says what to do if a registry refuses access.
func loginError(host string, err error) error {
	if errors.Is(err, transport.ErrPlainHTTP) {
		return fmt.Errorf("registry %s: %w", host, transport.ErrPlainHTTP)
	}
	var e *registryauth.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("registry %w", transport.WithoutURL(err))
	}
	s := &transport.StatusError{Status: e.StatusCode}
	if len(e.Errors) > 0 {
		s.Message = diagnose.OneLine(e.Errors[0].Message)
	}
	return refusedError(host, s)
}

// refusedError says what to do about a registry's refusal.
func refusedError(host string, err error) error {
	if transport.HasStatus(err, http.StatusUnauthorized, http.StatusForbidden) {
		return fmt.Errorf(
			"%s gives no access: the repository does not exist or needs a login (docker login %s): %w",
			host,
			host,
			err,
		)
	}
	if transport.HasStatus(err, http.StatusTooManyRequests) {
		return fmt.Errorf(
			"%s limits pulls; a login (docker login %s) or a later run may help, what was fetched is kept: %w",
			host,
			host,
			err,
		)
	}
	return fmt.Errorf("%s: %w", host, err)
}

// send requests something below the repository's address.
func (r *repository) send(ctx context.Context, c *collector, method, what, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.base+what, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := r.http.Do(req)
	if transport.HasStatus(err, http.StatusTooManyRequests) {
		return nil, refusedError(r.host.RegistryStr(), errors.Unwrap(transport.WithoutURL(err)))
	}
	if err != nil {
		return nil, fmt.Errorf("registry %w", transport.WithoutURL(err))
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, refusedError(r.host.RegistryStr(), transport.ResponseError(resp))
	}
	return resp, nil
}

// digestOf requests the current digest of a tag, without fetching the manifest. "" if the registry does not tell.
func (r *repository) digestOf(ctx context.Context, c *collector, tag string) (string, error) {
	resp, err := r.send(ctx, c, http.MethodHead, "manifests/"+url.PathEscape(tag), acceptManifests)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	c.registries.heads.Store(r.host.RegistryStr(), true)
	d := resp.Header.Get("Docker-Content-Digest")
	if digests.Check(d) != nil {
		return "", nil
	}
	return d, nil
}

// manifest fetches a manifest by tag or digest, as the bytes that the registry has. A digest is verified.
func (r *repository) manifest(
	ctx context.Context,
	c *collector,
	reference string,
) (digest string, b []byte, err error) {
	err = c.retry.DoBody(ctx, func() error {
		digest, b, err = r.manifestOnce(ctx, c, reference)
		return err
	})
	return digest, b, err
}

func (r *repository) manifestOnce(ctx context.Context, c *collector, reference string) (string, []byte, error) {
	resp, err := r.send(ctx, c, http.MethodGet, "manifests/"+url.PathEscape(reference), acceptManifests)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxDocument+1))
	if err != nil {
		return "", nil, transport.BrokenError{Err: fmt.Errorf("manifest %s: %w", reference, err)}
	}
	if len(b) > oci.MaxDocument {
		return "", nil, fmt.Errorf("manifest %s is larger than %d bytes", reference, oci.MaxDocument)
	}
	// Checked before the digest, which old registries compute in their own way for schema 1.
	if _, err := oci.Parse(reference, "", b); err != nil {
		return "", nil, transport.WrongError{Err: err}
	}
	if digests.Check(reference) != nil {
		return digests.SHA256(b), b, nil
	}
	h := digests.NewHash(reference)
	h.Write(b)
	if got := digests.Encode(reference, h); got != reference {
		return "", nil, transport.WrongError{
			Err: fmt.Errorf("the registry sent a manifest with digest %s for %s", got, reference),
		}
	}
	return reference, b, nil
}

// referrers fetches the list of referrers of a manifest. ok is false if the registry does not have the API, or answers
// as if it had not: then a tag may have the list. With an error the list is what was received before it.
func (r *repository) referrers(
	ctx context.Context,
	c *collector,
	digest string,
) (list []oci.Descriptor, ok bool, err error) {
	host := r.host.RegistryStr()
	if _, no := c.registries.noReferrers.Load(host); no {
		return nil, false, nil
	}
	// The target of a Link header: a path and query on the registry. The number of pages is bounded.
	next := "referrers/" + digest
	for n := 0; next != ""; n++ {
		if n == maxPages {
			return list, true, fmt.Errorf("more than %d pages of referrers", maxPages)
		}
		var page []oci.Descriptor
		err := c.retry.DoBody(ctx, func() error {
			page, next, err = r.referrersPage(ctx, c, next)
			return err
		})
		switch {
		case err == nil:
		case n > 0:
			return list, true, err
		// Some registries answer 401 or 403 for what they do not have, although the repository itself is accessible.
		case transport.HasStatus(err, http.StatusUnauthorized, http.StatusForbidden):
			return nil, false, nil
		// The API answers with an empty list for a digest without referrers; registries without it answer 404, some 400
		// or 405, and some an HTML page.
		case transport.HasStatus(err, http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed,
			http.StatusNotAcceptable),
			errors.Is(err, errNoReferrers):
			c.registries.noReferrers.Store(host, true)
			return nil, false, nil
		case ctx.Err() != nil:
			return nil, false, nil
		default:
			// Whatever it is, it was retried often enough for the first image.
			if _, again := c.registries.noReferrers.LoadOrStore(host, true); !again {
				c.note("%s: the lists of referrers cannot be fetched, tags are used instead: %v", host, err)
			}
			return nil, false, nil
		}
		list = append(list, page...)
	}
	return list, true, nil
}

// errNoReferrers says that an answer does not come from the referrers API.
var errNoReferrers = errors.New("the answer is not a list of referrers")

// referrersPage fetches one page of a list of referrers, and returns where the next one is.
func (r *repository) referrersPage(
	ctx context.Context,
	c *collector,
	at string,
) (page []oci.Descriptor, next string, err error) {
	resp, err := r.send(ctx, c, http.MethodGet, at, "application/vnd.oci.image.index.v1+json")
	if err != nil {
		return nil, at, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxDocument+1))
	if err != nil {
		return nil, at, transport.BrokenError{Err: err}
	}
	if len(b) > oci.MaxDocument {
		return nil, at, fmt.Errorf("a list of referrers is larger than %d bytes", oci.MaxDocument)
	}
	var doc struct {
		Manifests *[]oci.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Manifests == nil && !bytes.Contains(b, []byte(`"manifests"`)) {
		return nil, at, errNoReferrers
	}
	if doc.Manifests != nil {
		page = *doc.Manifests
	}
	return page, r.nextPage(resp), nil
}

// nextPage returns the target of a Link header (RFC 8288) with rel="next", below the repository's address.
func (r *repository) nextPage(resp *http.Response) string {
	target, params, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	if !ok || !strings.Contains(params, "next") {
		return ""
	}
	u, err := resp.Request.URL.Parse(target)
	if err != nil {
		return ""
	}
	rest, ok := strings.CutPrefix(u.RequestURI(), "/v2/"+r.path+"/")
	if !ok {
		return ""
	}
	return rest
}

const mostRedirects = 10
