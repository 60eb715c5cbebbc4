package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/oauth2"
)

// A Device is a login that was begun: the user opens URL in a browser somewhere, and types Code there.
type Device struct {
	URL  string `json:"url"`
	Code string `json:"code"`
	// Direct is URL with the code in it; "" if the provider has none.
	Direct  string    `json:"direct,omitempty"`
	Expires time.Time `json:"expires"`
	// Handle is for Finish.
	Handle string `json:"handle"`
}

// step is what a client keeps between two steps of a login, sealed.
type step struct {
	For      string    `json:"for"` // which step
	Issuer   string    `json:"issuer"`
	Expires  time.Time `json:"expires"`
	Code     string    `json:"code,omitempty"`     // of a device
	Interval int64     `json:"interval,omitempty"` // seconds between two questions about a device
	State    string    `json:"state,omitempty"`    // of a browser's login
	Nonce    string    `json:"nonce,omitempty"`
	Verifier string    `json:"verifier,omitempty"` // RFC 7636
	Next     string    `json:"next,omitempty"`     // where the browser goes on, see Local
}

// The steps.
const (
	forDevice  = "oidc device"
	forBrowser = "oidc browser"
)

const (
	maxHandle = 4 << 10          // bytes
	maxLife   = 30 * time.Minute // of a login that was begun
	waitTime  = 20 * time.Second // how long Finish waits for the user
	maxPoll   = 15               // seconds between two questions about a device, at most
)

func (p *Provider) seal(s step) (string, error) {
	plain, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	sealed, err := p.cfg.Sealer.Seal(plain)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(sealed)
	if len(text) > maxHandle {
		return "", fmt.Errorf("%w: the provider's code is too long", ErrRefused)
	}
	return text, nil
}

var errStep = fmt.Errorf("%w: it was begun elsewhere, or too long ago: begin again", ErrRefused)

// unseal returns what was sealed for a step; errStep for anything else.
func (p *Provider) unseal(text, what string) (s step, err error) {
	if len(text) > maxHandle {
		return s, errStep
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return s, errStep
	}
	plain, err := p.cfg.Sealer.Unseal(sealed)
	if err != nil || json.Unmarshal(plain, &s) != nil || s.For != what || s.Issuer != p.cfg.Settings().Issuer ||
		!p.cfg.Now().Before(s.Expires) {
		return step{}, errStep
	}
	return s, nil
}

// Begin begins a login from a command line.
func (p *Provider) Begin(ctx context.Context) (Device, error) {
	free, err := take(p.asks)
	if err != nil {
		return Device{}, err
	}
	defer free()
	s, err := p.open(ctx)
	if err != nil {
		return Device{}, err
	}
	if s.oauth.Endpoint.DeviceAuthURL == "" {
		return Device{}, fmt.Errorf("%w: the provider has no device authorization endpoint (RFC 8628)", ErrRefused)
	}
	var options []oauth2.AuthCodeOption
	if s.oauth.ClientSecret != "" { // the library does not authenticate the client here
		options = append(options, oauth2.SetAuthURLParam("client_secret", s.oauth.ClientSecret))
	}
	answer, err := s.oauth.DeviceAuth(s.context(ctx), options...)
	if err != nil {
		return Device{}, explain(err)
	}
	now := p.cfg.Now()
	d := Device{URL: answer.VerificationURI, Code: answer.UserCode, Direct: answer.VerificationURIComplete,
		Expires: now.Add(maxLife).UTC().Truncate(time.Second)}
	if !answer.Expiry.IsZero() && answer.Expiry.Before(d.Expires) {
		d.Expires = answer.Expiry.UTC().Truncate(time.Second)
	}
	if !isName(d.Code) || d.URL == "" || len(d.URL)+len(d.Direct) > maxHandle {
		return Device{}, fmt.Errorf("%w: the provider has sent no code for the user", ErrRefused)
	}
	d.Handle, err = p.seal(step{For: forDevice, Issuer: s.Issuer, Expires: d.Expires, Code: answer.DeviceCode,
		Interval: min(answer.Interval, maxPoll)})
	return d, err
}

// Finish waits a short time for the user to finish a login, and returns who it is. ErrPending: not yet, call it again.
func (p *Provider) Finish(ctx context.Context, handle string) (User, error) {
	begun, err := p.unseal(handle, forDevice)
	if err != nil {
		return User{}, err
	}
	free, err := take(p.waits)
	if err != nil {
		return User{}, err
	}
	defer free()
	s, err := p.open(ctx)
	if err != nil {
		return User{}, err
	}
	wait, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	token, err := s.oauth.DeviceAccessToken(s.context(wait),
		&oauth2.DeviceAuthResponse{DeviceCode: begun.Code, Interval: begun.Interval, Expiry: begun.Expires})
	switch {
	case err == nil:
		return s.user(ctx, token, "")
	case ctx.Err() != nil:
		return User{}, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded) && wait.Err() != nil:
		return User{}, ErrPending
	case errors.Is(err, context.DeadlineExceeded):
		return User{}, errStep
	}
	return User{}, explain(err)
}
