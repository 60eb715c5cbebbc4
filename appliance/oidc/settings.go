package oidc

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Settings say which provider vouches for users, and how it says who they are.
type Settings struct {
	// Issuer is the provider's issuer identifier, an https URL; "": there is none.
	Issuer string
	// Client is the client ID there.
	Client string
	// CA are the roots that the provider's certificate is verified with, PEM; "": those of the host.
	CA string
	// Scopes are asked for; openid is among them.
	Scopes []string
	// UserClaim is the claim with the user's name, GroupsClaim that with the groups' names.
	UserClaim, GroupsClaim string
}

func (s *Settings) configured() bool { return s.Issuer != "" && s.Client != "" }

// CheckIssuer returns what is wrong with an issuer (OpenID Connect Discovery 1.0 section 4); "" is none.
func CheckIssuer(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" ||
		u.Fragment != "" {
		return fmt.Errorf("must be an https URL like https://login.example.com/realm, got %.200q", text)
	}
	return nil
}

// CheckText returns what is wrong with a client ID.
func CheckText(text string) error {
	if len(text) > 512 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("must have at most 512 printable characters and no spaces, got %.200q", text)
	}
	return nil
}

// CheckClaim returns what is wrong with the name of a claim.
func CheckClaim(text string) error {
	if text == "" || len(text) > 255 || CheckText(text) != nil {
		return fmt.Errorf("must be the name of a claim, got %.200q", text)
	}
	return nil
}

// ParseScopes parses scopes, separated by spaces (RFC 6749 section 3.3).
func ParseScopes(text string) ([]string, error) {
	list := strings.Fields(text)
	switch {
	case !slices.Contains(list, "openid"):
		return nil, errors.New("must have openid among the scopes")
	case len(list) > 16:
		return nil, fmt.Errorf("must have at most 16 scopes, got %d", len(list))
	}
	for _, s := range list {
		if CheckText(s) != nil || strings.ContainsAny(s, `"\`) {
			return nil, fmt.Errorf("must be scopes separated by spaces, got %.200q", s)
		}
	}
	return list, nil
}
