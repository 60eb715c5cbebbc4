package admin

import (
	"context"
	"fmt"
	"net/http"

	"casemate/appliance/access"
	"casemate/appliance/oidc"
	"casemate/cluster/tree"
)

// asks is what a route asks for before it is answered.
type asks struct {
	verb   access.Verb // "": any account
	object func(*http.Request) access.Object
	local  string // why the route is for the admin socket only; "": it is not
	public string // why the route needs no account; "": it needs one
	// open says that the route needs no account where whoever has none may do this: registry.anonymous is pull.
	open bool
}

// anyAccount asks only for an account, or the admin socket.
var anyAccount = asks{}

// nobody asks for nothing, not even an account.
func nobody(why string) asks { return asks{public: why} }

// to asks for a verb on everything.
func to(v access.Verb) asks { return asks{verb: v} }

// on asks for the verb on one object.
func (a asks) on(object func(*http.Request) access.Object) asks {
	a.object = object
	return a
}

// named asks for the verb on the object that a parameter of the path, or of the query, names.
func (a asks) named(kind, parameter string) asks {
	return a.on(func(r *http.Request) access.Object {
		name := r.PathValue(parameter)
		if name == "" {
			name = r.URL.Query().Get(parameter)
		}
		return access.Object{Kind: kind, Name: fmt.Sprintf("%.255s", name)}
	})
}

// here keeps the route for the admin socket.
func (a asks) here(why string) asks {
	a.local = why
	return a
}

// toAnyone lets requests without an account read, where the setting registry.anonymous allows them to read images. It
// is for what clients could find out by pulling: no audit data, no accounts, no addresses.
func (a asks) toAnyone() asks {
	a.open = true
	return a
}

// Unauthenticated is the error for a request without an account.
type unauthenticated struct{}

func (unauthenticated) Error() string {
	return "the admin API needs an account: log in with casemate login"
}

// forbidden is the error for a request that only the admin socket answers.
type forbidden struct{ why string }

func (f forbidden) Error() string {
	return "this is done on the bastion itself, not with --server: " + f.why
}

// allow decides about a request whose subject is in its context.
func (a asks) allow(decide *access.Access, r *http.Request) error {
	s, ok := subjectIn(r.Context())
	switch {
	case a.public != "":
		return nil
	case a.open && decide.Anyone(r.Context()).May(a.verb, a.objectOf(r)):
		return nil // and so every account may
	case !ok, s.Name == "":
		return unauthenticated{}
	case a.local != "" && s.How != socket:
		return forbidden{a.local}
	case a.verb == "":
		return nil
	}
	return decide.Allow(s, a.verb, a.objectOf(r))
}

// objectOf returns what a request is about.
func (a asks) objectOf(r *http.Request) (o access.Object) {
	if a.object != nil {
		o = a.object(r)
	}
	return o
}

// socket is how who uses the admin socket has proved its name.
const socket = "socket"

// Remote returns the handler of all routes for https, where an account is needed: a user and the password or an API
// key, as in access.Identify, or the cookie of a login with a browser. Requests that a browser sends for another site
// are refused (http.CrossOriginProtection), and the cookie does not come with them.
func (a *API) Remote() http.Handler {
	h := a.Handler()
	identified := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		s, err := a.identify(r)
		if err != nil {
			a.adminError(w, r, err)
			return
		}
		h.ServeHTTP(w, r.WithContext(WithSubject(r.Context(), s)))
	})
	return http.NewCrossOriginProtection().Handler(identified)
}

// identify returns who sends a request over https.
func (a *API) identify(r *http.Request) (access.Subject, error) {
	if r.Header.Get(oidc.UnattendedHeader) != "" {
		r = r.WithContext(access.Unattended(r.Context()))
	}
	if key := oidc.Session(r); key != "" && r.Header.Get("Authorization") == "" {
		return a.Access.Bearer(r.Context(), key)
	}
	return a.Access.Identify(r)
}

type subjectKey struct{}

// WithSubject returns the context of a request of s, whose changes s makes.
func WithSubject(ctx context.Context, s access.Subject) context.Context {
	return context.WithValue(tree.WithActor(ctx, s.Actor), subjectKey{}, s)
}

func subjectIn(ctx context.Context) (access.Subject, bool) {
	s, ok := ctx.Value(subjectKey{}).(access.Subject)
	return s, ok
}

// subject returns who sends a request that was allowed.
func subject(r *http.Request) access.Subject {
	s, _ := subjectIn(r.Context())
	return s
}
