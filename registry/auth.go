package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
)

// writes reports whether a request changes something, or reads something that only a pusher may see (an upload
// session).
func (rt route) writes(method string) bool {
	switch rt.kind {
	case kindUploads, kindUpload:
		return true
	case kindManifest, kindBlob:
		return method != http.MethodGet && method != http.MethodHead
	}
	return false
}

// authorize decides whether a request may continue, by its view and its credentials. A refusal has its challenge set.
//
// Clients choose how to authenticate from the answer to GET /v2/. On the appliance's own names it is a challenge:
// otherwise skopeo and docker would never send credentials, and any docker login would succeed. Reads without a token
// are answered nevertheless. Origins' names never ask for credentials, and plain HTTP accepts no credentials and no
// writes. A password that a client sends to an origin's GET /v2/ is treated as a login, which fails if it is wrong. On
// other paths of an origin credentials are ignored, since they may be those of the real origin.
//
// It sets the route's account where credentials were needed, and returns the token's claims; permit then decides about
// the repository.
func (r *Registry) authorize(w http.ResponseWriter, req *http.Request, rt *route) (*claims, *apiError) {
	write := rt.writes(req.Method)
	if rt.view.Plain {
		switch {
		case req.Header.Get("Authorization") != "" || rt.kind == kindToken && req.Method == http.MethodPost:
			return nil, errDenied.with("credentials are refused over plain http: use https")
		case write:
			return nil, errUnsupported.with("the plain http port only reads: use https")
		}
	}
	switch {
	case rt.kind == kindToken:
		return nil, nil // checks the credentials itself
	case write && rt.view.Origin != "":
		return nil, nil // the name is refused for every user
	case !write && r.cfg.Anonymous():
		_, _, login := req.BasicAuth()
		if rt.kind != kindPing || rt.view.Origin != "" && !login || rt.view.Plain {
			return nil, nil
		}
	case rt.view.Plain:
		return nil, errDenied.with("reading needs a user here, and credentials are refused over plain http: use https")
	}
	account, c, code, fail := r.credentials(req)
	switch {
	case fail != nil && fail.status != http.StatusUnauthorized:
		return nil, fail
	case fail != nil:
		return nil, r.challenge(w, req, *rt, code, fail)
	case account == nil && write, account == nil && !r.cfg.Anonymous():
		return nil, r.challenge(w, req, *rt, "insufficient_scope", errScope)
	}
	rt.account = account
	return c, nil
}

// Reader returns the account whose credentials a read carries, "" if no credentials were checked: where anonymous reads
// are allowed, passwords are not checked.
func (r *Registry) Reader(req *http.Request) string {
	scheme, _, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if scheme == "" || strings.EqualFold(scheme, "Basic") && r.cfg.Anonymous() {
		return ""
	}
	if account, _, _, _ := r.credentials(req); account != nil {
		return account.Name
	}
	return ""
}

// action lists the actions of which a token must allow one. A user who pushes may also delete; some clients ask for
// "delete", some for "*", some for "push" alone.
func (rt route) action(method string) []string {
	if method == http.MethodDelete {
		return []string{"delete", "push", "*"}
	}
	return []string{"push", "*"}
}

// challenge sets WWW-Authenticate (RFC 6750 section 3): where to get a token, and its scope.
func (r *Registry) challenge(w http.ResponseWriter, req *http.Request, rt route, code string, e *apiError) *apiError {
	host := rt.view.Host
	if rt.view.Origin != "" {
		host = "registry." + r.cfg.Domain // /token on the origin's own host belongs to the origin
	}
	if strings.ContainsAny(host, "\"\\ \r\n") {
		host = "registry." + r.cfg.Domain
	}
	scheme := "http"
	if req.TLS != nil || rt.view.Origin != "" {
		scheme = "https"
	}
	c := fmt.Sprintf(`Bearer realm="%s://%s/token",service="%s"`, scheme, host, r.cfg.Domain)
	switch {
	case rt.asked != "" && req.Method == http.MethodDelete:
		c += fmt.Sprintf(`,scope="repository:%s:delete"`, rt.asked)
	case rt.asked != "" && rt.writes(req.Method):
		c += fmt.Sprintf(`,scope="repository:%s:pull,push"`, rt.asked)
	case rt.asked != "":
		c += fmt.Sprintf(`,scope="repository:%s:pull"`, rt.asked)
	case rt.kind == kindCatalog:
		c += `,scope="registry:catalog:*"`
	}
	if code != "" {
		c += fmt.Sprintf(`,error="%s"`, code)
	}
	w.Header().Set("WWW-Authenticate", c)
	return e
}

// authenticate checks user and password, or a key without a user: UNAUTHORIZED if they are wrong, the tree's errors if
// they could not be checked.
func (r *Registry) authenticate(req *http.Request, user, password string) (*Account, *apiError) {
	if len(user) > 255 || len(password) > 1024 {
		return nil, errUnauthorized.with(wrongPassword)
	}
	account, err := r.cfg.Authenticate(req.Context(), user, password)
	switch {
	case err == nil:
		return account, nil
	case errors.Is(err, syscall.EAGAIN), req.Context().Err() != nil:
		return nil, errUnavailable
	}
	return nil, errUnauthorized.with(wrongPassword)
}

var errScope = errUnauthorized.with("the token does not allow this")

const wrongPassword = "wrong user or password"
