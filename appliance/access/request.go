package access

import (
	"context"
	"net/http"
	"strings"

	"casemate/cluster/tree"
)

// Identify returns who sends a request, by its header Authorization: a user and the password, or any name and an API
// key (Basic, RFC 7617), or an API key (Bearer, RFC 6750). Without the header it is Anyone. Errors are those of
// Authenticate.
func (a *Access) Identify(r *http.Request) (Subject, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return a.Anyone(r.Context()), nil
	}
	if name, password, ok := r.BasicAuth(); ok {
		return a.Authenticate(r.Context(), name, password)
	}
	if scheme, value, _ := strings.Cut(header, " "); strings.EqualFold(scheme, "Bearer") {
		return a.Bearer(r.Context(), strings.TrimSpace(value))
	}
	return Subject{}, ErrCredentials
}

// AllowRequest identifies who sends a request that changes something, and allows it or not. Changes are made with the
// context that it returns, which names the actor. Besides the errors of Allow and Authenticate, it returns
// ErrCredentials where there are none.
func (a *Access) AllowRequest(r *http.Request, v Verb, o Object) (context.Context, error) {
	s, err := a.Identify(r)
	if err != nil {
		return nil, err
	}
	if s.ID == "" {
		return nil, ErrCredentials
	}
	if err := a.Allow(s, v, o); err != nil {
		return nil, err
	}
	return tree.WithActor(r.Context(), s.Actor), nil
}
