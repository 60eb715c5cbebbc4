package registry

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"casemate/cluster/tree"
)

// The actions of Account.May, which are also those of tokens.
const (
	actionPull   = "pull"
	actionPush   = "push"
	actionDelete = "delete"
)

// An Account is somebody whose credentials were right, and what it may do now.
type Account struct {
	// Actor is who changes what the account's requests change.
	tree.Actor
	// ID is the subject of tokens: Config.Account finds the account by it.
	ID string
	// Version changes with the account's rights and credentials: a token that was issued for another one is void.
	Version string
	// Expires is when the account ends; zero: it does not.
	Expires time.Time
	// May reports whether the account may do something ("pull", "push", "delete") in a canonical repository; ""
	// means in every repository.
	May func(action, repository string) bool
	// Allow is May, with a refusal in one sentence.
	Allow func(action, repository string) error
}

// credentials returns whose credentials a request carries: a user's or a key's with Basic, a key or a token with
// Bearer, and then what the token says. The account is nil for a token without a user. code is that of RFC 6750
// section 3.1 for a refusal.
func (r *Registry) credentials(req *http.Request) (account *Account, c *claims, code string, fail *apiError) {
	scheme, value, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	value = strings.TrimSpace(value)
	switch {
	case strings.EqualFold(scheme, "Basic"):
		user, password, ok := req.BasicAuth()
		if !ok || user == "" {
			return nil, nil, "", errUnauthorized.with("the credentials cannot be read")
		}
		account, fail = r.authenticate(req, user, password)
		return account, nil, "", fail
	case strings.EqualFold(scheme, "Bearer") && isKey(value):
		account, fail = r.authenticate(req, "", value)
		if fail != nil && fail.status == http.StatusUnauthorized {
			fail = errUnauthorized.with("the key or token is wrong or has ended")
		}
		return account, nil, "invalid_token", fail
	case strings.EqualFold(scheme, "Bearer"):
		c, err := readToken(r.cfg.TokenKey, value, r.cfg.Domain, r.now())
		if err == nil && c.Subject != "" {
			account, err = r.accountOf(req.Context(), c)
		}
		if errors.Is(err, syscall.EAGAIN) { // the token may be right
			return nil, nil, "", errUnavailable
		}
		if err != nil {
			return nil, nil, "invalid_token", errUnauthorized.with(err.Error())
		}
		return account, c, "", nil
	}
	return nil, nil, "", errUnauthorized
}

// isKey reports whether a Bearer's value may be a key: tokens have dots.
func isKey(value string) bool { return value != "" && !strings.Contains(value, ".") }

// accountOf returns the account that a token was issued to, as it is now; errToken if it has changed since, and
// syscall.EAGAIN if that cannot be found out now. Tokens of
// earlier versions of this program do not name the account's version.
func (r *Registry) accountOf(ctx context.Context, c *claims) (*Account, error) {
	a, err := r.cfg.Account(ctx, c.Subject)
	if errors.Is(err, syscall.EAGAIN) {
		return nil, err
	}
	if err != nil || c.Version != "" && c.Version != a.Version {
		return nil, errToken
	}
	return a, nil
}

// permit decides whether the account of a request may do what the request asks, in the repository that its name
// denotes. Where reading needs an account, it also limits the repositories that answer to those that the account may
// read.
func (r *Registry) permit(w http.ResponseWriter, req *http.Request, rt *route, c *claims) *apiError {
	a := rt.account
	if a == nil {
		return nil // authorize has decided
	}
	if !r.cfg.Anonymous() && !a.May(actionPull, "") {
		rt.reads = func(repo string) bool { return a.May(actionPull, repo) }
	}
	if rt.asked == "" {
		return nil
	}
	if !rt.writes(req.Method) {
		if rt.reads != nil && !slices.ContainsFunc(r.exactRepositories(rt.place), rt.reads) {
			return errDenied.with(sentence(a.Allow(actionPull, rt.repo)))
		}
		return nil
	}
	if err := a.Allow(rt.does(req.Method), rt.repo); err != nil {
		return errDenied.with(sentence(err))
	}
	if c != nil && !c.may(rt.asked, rt.action(req.Method)...) {
		return r.challenge(w, req, *rt, "insufficient_scope", errScope)
	}
	return nil
}

func sentence(err error) string {
	if err == nil {
		return "the account was changed at this moment" // between May and Allow
	}
	return err.Error()
}

// does returns the action of a write. Cancelling an upload is a part of pushing.
func (rt *route) does(method string) string {
	if method == http.MethodDelete && rt.kind != kindUpload {
		return actionDelete
	}
	return actionPush
}

// readable reports whether the request's account may read a repository.
func (rt *route) readable(repo string) bool { return rt.reads == nil || rt.reads(repo) }

// readableOf returns those of repos that the request's account may read.
func (rt *route) readableOf(repos []string) []string {
	if rt.reads == nil {
		return repos
	}
	return slices.DeleteFunc(slices.Clone(repos), func(repo string) bool { return !rt.reads(repo) })
}

// user returns the name of the request's account, "" if there is none.
func (rt *route) user() string {
	if rt.account == nil {
		return ""
	}
	return rt.account.Name
}
