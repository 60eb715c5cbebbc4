// Package oidc logs users of an OpenID provider in: with a browser (authorization code with PKCE), and from a command
// line that has no browser (device authorization grant, RFC 8628).
//
// It promises: who somebody is, is what a signed ID token says that this provider has issued for this client, now, and
// for the browser that has asked (OpenID Connect Core 1.0 section 3.1.3.7). The provider is reached over TLS only.
// Between the steps of a login nothing is stored here: what a step needs of the one before comes back from the client,
// sealed with the cluster's key, so that any node can take the next one. Every request to the provider ends within a
// few seconds, reads a bounded answer, and is one of few at a time.
package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	patience  = 10 * time.Second // of one request to the provider
	maxAnswer = 1 << 20          // bytes of one answer of the provider
	maxName   = 128              // bytes of a user's or a group's name
	maxGroups = 2000             // of one user
	maxWaits  = 32               // logins that wait for their users at the same time
	maxAsks   = 8                // other requests to the provider at the same time
	discovery = time.Hour        // how long what the provider says of itself is not asked for again
)

// Errors of a Provider.
var (
	// ErrNone: no provider is configured.
	ErrNone = fmt.Errorf("no OpenID provider is configured, see the settings oidc.issuer and oidc.client: %w",
		fs.ErrNotExist)
	// ErrRefused: the provider does not vouch for the user, or what it says is not accepted.
	ErrRefused = fmt.Errorf("the login at the OpenID provider has failed: %w", fs.ErrPermission)
	// ErrPending: the user has not finished the login yet.
	ErrPending = fmt.Errorf("the login is not finished: %w", syscall.EINPROGRESS)

	errBusy = fmt.Errorf("too many logins are in progress: %w", syscall.EAGAIN)
)

// Sealer encrypts what a client keeps between two steps. *cluster.Cluster implements it.
type Sealer interface {
	Seal(plain []byte) ([]byte, error)
	Unseal(sealed []byte) ([]byte, error)
}

// A Login is what a user gets who has logged in: a key, which is valid until Expires.
type Login struct {
	Key     string
	Expires time.Time
}

// Config configures a Provider.
type Config struct {
	// Settings returns the settings as they are now.
	Settings func() Settings
	// Secret returns the client's secret; "": the client has none, it is public.
	Secret func() (string, error)
	Sealer Sealer
	// Domain is the bastions' own name, to which browsers come back from the provider.
	Domain string
	// Enter is called with who has logged in with a browser.
	Enter func(ctx context.Context, u User) (Login, error)
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: nothing is logged
}

// A User is somebody whom the provider vouches for.
type User struct {
	Name   string
	Groups []string
}

// Provider asks the OpenID provider. It is safe for concurrent use. It has no goroutine of its own, but what go-oidc
// starts for the provider's keys ends with its request, within a few seconds.
type Provider struct {
	cfg   Config
	waits chan struct{} // one element for each login that waits for its user
	asks  chan struct{} // one for each other request

	mu    sync.Mutex
	found *found // what the provider has said of itself; owned by mu
}

// found is a provider that was discovered.
type found struct {
	settings string
	at       time.Time
	provider *oidc.Provider
	client   *http.Client
	style    oauth2.AuthStyle
}

// New returns a Provider; it does no I/O.
func New(cfg Config) *Provider {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Provider{cfg: cfg, waits: make(chan struct{}, maxWaits), asks: make(chan struct{}, maxAsks)}
}

// Configured reports whether there is a provider.
func (p *Provider) Configured() bool {
	s := p.cfg.Settings()
	return s.configured()
}

// Ping asks the provider about itself: nil if logins are possible.
func (p *Provider) Ping(ctx context.Context) error {
	p.mu.Lock()
	p.found = nil
	p.mu.Unlock()
	_, err := p.open(ctx)
	return err
}

// take takes one of a few places; free gives it back.
func take(places chan struct{}) (free func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, errBusy
	}
}

// session is one login's view of the provider.
type session struct {
	Settings
	*found
	oauth oauth2.Config
	now   func() time.Time
}

// open asks the provider for its endpoints, unless it was asked a short time ago.
func (p *Provider) open(ctx context.Context) (*session, error) {
	s := p.cfg.Settings()
	if !s.configured() {
		return nil, ErrNone
	}
	secret, err := p.cfg.Secret()
	if err != nil {
		return nil, fmt.Errorf("the client secret: %w", err)
	}
	id := fmt.Sprintf("%q", []string{s.Issuer, s.CA})
	p.mu.Lock()
	f := p.found
	p.mu.Unlock()
	if f == nil || f.settings != id || p.cfg.Now().Sub(f.at) > discovery {
		if f, err = discover(ctx, s); err != nil {
			return nil, fmt.Errorf("the OpenID provider %s does not say how to log in: %w: %w", s.Issuer, err,
				syscall.EAGAIN)
		}
		f.settings, f.at = id, p.cfg.Now()
		p.mu.Lock()
		p.found = f
		p.mu.Unlock()
	}
	endpoint := f.provider.Endpoint()
	endpoint.AuthStyle = f.style
	if secret == "" {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &session{s, f, oauth2.Config{
		ClientID: s.Client, ClientSecret: secret, Endpoint: endpoint, Scopes: s.Scopes,
	}, p.cfg.Now}, nil
}

// discover reads the provider's configuration (OpenID Connect Discovery 1.0 section 4).
func discover(ctx context.Context, s Settings) (*found, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if strings.TrimSpace(s.CA) != "" {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM([]byte(s.CA))
	}
	client := &http.Client{
		Transport: secureOnly{&http.Transport{TLSClientConfig: config, DisableKeepAlives: true}},
		// A redirect could lead the client's secret elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), s.Issuer)
	if err != nil {
		return nil, err
	}
	var says struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := provider.Claims(&says); err != nil {
		return nil, err
	}
	f := &found{provider: provider, client: client, style: oauth2.AuthStyleInHeader}
	if len(says.Methods) > 0 && !slices.Contains(says.Methods, "client_secret_basic") {
		f.style = oauth2.AuthStyleInParams
	}
	return f, nil
}

// secureOnly sends requests over TLS only, whatever the provider says where they go, and bounds the time and the bytes
// of the answers.
type secureOnly struct{ to http.RoundTripper }

func (t secureOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("the provider names an address without TLS, %.200s", r.URL.Redacted())
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	resp, err := t.to.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, cancel, maxAnswer}
	return resp, nil
}

// boundedBody is an answer, which is closed when it has been read: oauth2 does not close all.
type boundedBody struct {
	body   io.ReadCloser
	cancel context.CancelFunc
	left   int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the provider's answer is longer than %d bytes", maxAnswer)
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); err != nil {
		b.Close()
	}
	return n, err
}

func (b *boundedBody) Close() error {
	b.cancel()
	return b.body.Close()
}

// context returns ctx with the client that the libraries use.
func (s *session) context(ctx context.Context) context.Context {
	return oidc.ClientContext(ctx, s.client)
}

// user verifies the ID token that came with a token and returns who it is about; nonce is "" where the login has none.
func (s *session) user(ctx context.Context, token *oauth2.Token, nonce string) (User, error) {
	ctx = s.context(ctx)
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return User{}, fmt.Errorf("%w: the provider has sent no ID token", ErrRefused)
	}
	// The algorithms are the asymmetric ones of those that the provider has announced; none and HMAC are never accepted
	// (RFC 8725 section 3.1).
	id, err := s.provider.Verifier(&oidc.Config{ClientID: s.Client, Now: s.now}).Verify(ctx, raw)
	if err != nil {
		return User{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if id.Nonce != nonce && nonce != "" {
		return User{}, fmt.Errorf("%w: the ID token is for another login", ErrRefused)
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			return User{}, fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	claims := map[string]json.RawMessage{}
	if err := id.Claims(&claims); err != nil {
		return User{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if claims[s.UserClaim] == nil || claims[s.GroupsClaim] == nil {
		// Some providers say it only at their endpoint for this.
		info, err := s.provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
		if err == nil && info.Subject == id.Subject {
			more := map[string]json.RawMessage{}
			if info.Claims(&more) == nil {
				for name, value := range more {
					if claims[name] == nil {
						claims[name] = value
					}
				}
			}
		}
	}
	return s.read(claims)
}

// read returns what the claims say of a user.
func (s *session) read(claims map[string]json.RawMessage) (User, error) {
	var u User
	if err := json.Unmarshal(claims[s.UserClaim], &u.Name); err != nil || !isName(u.Name) {
		return User{}, fmt.Errorf("%w: the claim %s has no name of 1 to %d bytes, see the setting oidc.user_claim",
			ErrRefused, s.UserClaim, maxName)
	}
	var verified any
	if s.UserClaim == "email" {
		json.Unmarshal(claims["email_verified"], &verified)
		if verified != true && verified != "true" {
			return User{}, fmt.Errorf("%w: the provider has not verified the user's email address", ErrRefused)
		}
	}
	text := claims[s.GroupsClaim]
	var one string
	switch {
	case text == nil:
	case json.Unmarshal(text, &one) == nil:
		u.Groups = []string{one}
	default:
		if err := json.Unmarshal(text, &u.Groups); err != nil {
			return User{}, fmt.Errorf("%w: the claim %s is not a list of names, see the setting oidc.groups_claim",
				ErrRefused, s.GroupsClaim)
		}
	}
	u.Groups = slices.DeleteFunc(u.Groups, func(g string) bool { return !isName(g) })
	if len(u.Groups) > maxGroups {
		u.Groups = u.Groups[:maxGroups]
	}
	return u, nil
}

func isName(s string) bool {
	return len(s) >= 1 && len(s) <= maxName && utf8.ValidString(s) && strings.TrimSpace(s) == s &&
		// With invisible characters two names would look like one.
		!strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) })
}

// explain turns an error of the token or device endpoint into one sentence (RFC 6749 section 5.2).
func explain(err error) error {
	var answer *oauth2.RetrieveError
	if !errors.As(err, &answer) {
		return fmt.Errorf("the OpenID provider cannot be asked: %w: %w", err, syscall.EAGAIN)
	}
	switch answer.ErrorCode {
	case "access_denied":
		return fmt.Errorf("%w: the user or the provider has refused it", ErrRefused)
	case "expired_token":
		return fmt.Errorf("%w: it was not finished in time", ErrRefused)
	case "":
		return fmt.Errorf("%w: the provider answers %s", ErrRefused, answer.Response.Status)
	}
	return fmt.Errorf("%w: the provider says %.64q %.200q", ErrRefused, answer.ErrorCode, answer.ErrorDescription)
}
