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
func (r *Registry) authorize(w http.ResponseWriter, req *http.Request, rt route) *apiError {
	header := req.Header.Get("Authorization")
	write := rt.writes(req.Method)
	if rt.view.Plain {
		switch {
		case header != "" || rt.kind == kindToken && req.Method == http.MethodPost:
			return errDenied.with("credentials are refused over plain http: use https")
		case write:
			return errUnsupported.with("the plain http port only reads: use https")
		}
	}
	switch {
	case rt.kind == kindToken:
		return nil // checks the credentials itself
	case write && rt.view.Origin != "":
		return nil // the name is refused for every user
	case !write && r.cfg.Anonymous():
		_, _, login := req.BasicAuth()
		if rt.kind != kindPing || rt.view.Origin != "" && !login || rt.view.Plain {
			return nil
		}
	case rt.view.Plain:
		return errDenied.with("reading needs a user here, and credentials are refused over plain http: use https")
	}
	scheme, value, _ := strings.Cut(header, " ")
	switch {
	case strings.EqualFold(scheme, "Basic"):
		user, password, ok := req.BasicAuth()
		if !ok {
			return r.challenge(w, req, rt, "", errUnauthorized.with("the credentials cannot be read"))
		}
		if err := r.authenticate(req, user, password); err != nil {
			if err.status != http.StatusUnauthorized {
				return err
			}
			return r.challenge(w, req, rt, "", err)
		}
		return nil
	case strings.EqualFold(scheme, "Bearer"):
		c, err := readToken(r.cfg.TokenKey, strings.TrimSpace(value), r.cfg.Domain, r.now())
		if err != nil {
			return r.challenge(w, req, rt, "invalid_token", errUnauthorized.with(err.Error()))
		}
		switch {
		case rt.kind == kindPing:
			return nil
		case write && c.Subject != "" && c.may(rt.asked, rt.action(req.Method)...):
			return nil
		case !write && (c.Subject != "" || c.may(rt.asked, "pull")):
			return nil
		}
		return r.challenge(w, req, rt, "insufficient_scope", errUnauthorized.with("the token does not allow this"))
	}
	return r.challenge(w, req, rt, "", errUnauthorized)
}

// Reader returns the user whose credentials a read carries, "" if no credentials were checked: where anonymous reads
// are allowed, passwords are not checked.
func (r *Registry) Reader(req *http.Request) string {
	scheme, _, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if scheme == "" || strings.EqualFold(scheme, "Basic") && r.cfg.Anonymous() {
		return ""
	}
	return r.userOf(req)
}

// userOf returns the user whose credentials a request carries; admit has checked them.
func (r *Registry) userOf(req *http.Request) string {
	scheme, value, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Basic") {
		user, _, _ := req.BasicAuth()
		return user
	}
	c, err := readToken(r.cfg.TokenKey, strings.TrimSpace(value), r.cfg.Domain, r.now())
	if err != nil {
		return ""
	}
	return c.Subject
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

// authenticate checks user and password: UNAUTHORIZED if they are wrong, the tree's errors if they could not be
// checked.
func (r *Registry) authenticate(req *http.Request, user, password string) *apiError {
	if user == "" || len(user) > 255 || len(password) > 1024 {
		return errUnauthorized.with("wrong user or password")
	}
	err := r.cfg.Authenticate(req.Context(), user, password)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EAGAIN), req.Context().Err() != nil:
		return errUnavailable
	}
	return errUnauthorized.with("wrong user or password")
}
