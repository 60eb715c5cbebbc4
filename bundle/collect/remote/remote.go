package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// mostRedirects is the number of redirects that are followed.
const mostRedirects = 10

// acceptManifests are the media types that can be collected. What else a registry sends is stored as it is.
var acceptManifests = strings.Join([]string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.oci.artifact.manifest.v1+json",
	"*/*",
}, ", ")

// Registries holds the repositories of all registries, each logged in to once. Its methods are safe for concurrent use.
type Registries struct {
	// Transport sends requests.
	Transport http.RoundTripper
	// At returns where a canonical repository is requested; nil: under its own name.
	At func(canonical string) string
	// Login returns the credentials for a registry; ok is false if it has none, and then Docker's config counts. Nil:
	// it has none.
	Login func(host string) (user, password string, ok bool)
	// Trusted reports whether a host may get the credentials of registries, besides those themselves and hosts of their
	// domains; nil: none may. A host that Docker's config has a login for may, too.
	Trusted func(host string) bool
	// Retry repeats bodies that break off.
	Retry transport.Retry
	// Most is how many repositories stay logged in; 0: all.
	Most int

	mu    sync.Mutex
	repos map[string]*Repository // by canonical name
	heads sync.Map               // hosts whose HEAD of a manifest succeeded once
}

// SupportsHead reports whether a HEAD that finds nothing can be trusted.
func (r *Registries) SupportsHead(repo *Repository) bool {
	_, ok := r.heads.Load(repo.Host)
	return ok
}

// Forget forgets all logins: credentials have changed.
func (r *Registries) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repos = nil
}

// Repository is a repository of a registry. It sends the credentials that Registries has for its host.
type Repository struct {
	Name string // canonical
	From string // the mirror's repository that is used instead, "" if none is
	Host string // the registry's, as in URLs
	Path string // below the registry
	Base string // "https://index.docker.io/v2/library/nginx/"
	// Client sends requests with the repository's token. Redirects are followed without it.
	Client *http.Client

	all  *Registries
	once sync.Mutex
}

// Repository returns the repository of a canonical name, logged in.
func (r *Registries) Repository(ctx context.Context, canonical string) (*Repository, error) {
	r.mu.Lock()
	repo := r.repos[canonical]
	if repo == nil {
		if r.repos == nil || r.Most > 0 && len(r.repos) >= r.Most {
			r.repos = map[string]*Repository{}
		}
		repo = &Repository{Name: canonical, all: r}
		r.repos[canonical] = repo
	}
	r.mu.Unlock()
	repo.once.Lock()
	defer repo.once.Unlock()
	if repo.Client != nil {
		return repo, nil
	}
	at := canonical
	if r.At != nil {
		at = r.At(canonical)
	}
	parsed, err := name.NewRepository(at)
	if err != nil {
		return nil, fmt.Errorf("%s is not a repository: %w", at, err)
	}
	if at != canonical {
		repo.From = at
	}
	auth, err := r.credentials(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s of Docker's config: %w", parsed.RegistryStr(), err)
	}
	guarded := &guard{all: r, host: parsed.RegistryStr(), inner: r.Transport}
	t, err := registryauth.NewWithContext(
		context.WithValue(ctx, loginKey{}, true),
		parsed.Registry,
		auth,
		guarded,
		[]string{parsed.Scope(registryauth.PullScope)},
	)
	if err != nil {
		return nil, loginError(parsed.RegistryStr(), err)
	}
	repo.Host, repo.Path = parsed.RegistryStr(), parsed.RepositoryStr()
	// The transport inserts the scheme that the registry answered on.
	repo.Base = fmt.Sprintf("https://%s/v2/%s/", parsed.RegistryStr(), parsed.RepositoryStr())
	repo.Client = &http.Client{Transport: t, CheckRedirect: checkRedirect}
	return repo, nil
}

// credentials returns what a registry is logged in to with.
func (r *Registries) credentials(ctx context.Context, repo name.Repository) (authn.Authenticator, error) {
	if r.Login != nil {
		if user, password, ok := r.Login(repo.RegistryStr()); ok {
			return &authn.Basic{Username: user, Password: password}, nil
		}
	}
	return authn.Resolve(ctx, authn.DefaultKeychain, repo)
}

// LimitRedirects follows a bounded number of redirects.
func LimitRedirects(_ *http.Request, via []*http.Request) error {
	if len(via) > mostRedirects {
		return fmt.Errorf("more than %d redirects", mostRedirects)
	}
	return nil
}

// checkRedirect is LimitRedirects for requests to a registry. Only what has a digest in its address may come from where
// anybody can change it.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if req.URL.Scheme == "http" && via[0].URL.Scheme == "https" && !strings.Contains(via[0].URL.Path, "/blobs/") {
		return errors.New("it is redirected to plain http, where anybody can change the content")
	}
	return LimitRedirects(req, via)
}

// loginError says what to do if a registry refuses access.
func loginError(host string, err error) error {
	var refused *loginRefused
	if errors.As(err, &refused) {
		return refused
	}
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
	return RefusedError(host, s)
}

// RefusedError says what to do about a registry's refusal.
func RefusedError(host string, err error) error {
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

// Send requests something below the repository's address.
func (r *Repository) Send(ctx context.Context, method, what, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.Base+what, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := r.Client.Do(req)
	if transport.HasStatus(err, http.StatusTooManyRequests) {
		return nil, RefusedError(r.Host, errors.Unwrap(transport.WithoutURL(err)))
	}
	if err != nil {
		return nil, fmt.Errorf("registry %w", transport.WithoutURL(err))
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, RefusedError(r.Host, transport.ResponseError(resp))
	}
	return resp, nil
}

// DigestOf requests the current digest of a tag, without fetching the manifest. "" if the registry does not tell.
func (r *Repository) DigestOf(ctx context.Context, tag string) (string, error) {
	resp, err := r.Send(ctx, http.MethodHead, "manifests/"+url.PathEscape(tag), acceptManifests)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	r.all.heads.Store(r.Host, true)
	d := resp.Header.Get("Docker-Content-Digest")
	if digests.Check(d) != nil {
		return "", nil
	}
	return d, nil
}

// Manifest fetches a manifest by tag or digest, as the bytes that the registry has. A digest is verified.
func (r *Repository) Manifest(ctx context.Context, reference string) (digest string, b []byte, err error) {
	err = r.all.Retry.DoBody(ctx, func() error {
		digest, b, err = r.manifestOnce(ctx, reference)
		return err
	})
	return digest, b, err
}

func (r *Repository) manifestOnce(ctx context.Context, reference string) (string, []byte, error) {
	resp, err := r.Send(ctx, http.MethodGet, "manifests/"+url.PathEscape(reference), acceptManifests)
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
