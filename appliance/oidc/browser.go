package oidc

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"html"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// Paths of the bastions' own name.
const (
	LoginPath    = "/login/oidc"
	CallbackPath = "/callback"
)

// SessionCookie is the cookie with the key of a login. A name with this prefix is accepted by browsers only from the
// host itself, over TLS, for all paths (RFC 6265bis section 4.1.3.2).
const SessionCookie = "__Host-casemate"

// UnattendedHeader is a header of requests that a page sends by itself, while its user may be away: the session does
// not count as used. Its value does not matter.
const UnattendedHeader = "X-Unattended"

const (
	stateCookie = "__Host-casemate-login"
	stateLife   = 10 * time.Minute
)

// Session returns the key of the login in a request's cookie, "" if it has none.
func Session(r *http.Request) string {
	c, err := r.Cookie(SessionCookie)
	if err != nil {
		return ""
	}
	return c.Value
}

// cookieAfter is how much longer than its login a browser keeps the cookie, so that the page can tell a session that
// has ended from one that there never was. The bastion decides when the session ends.
const cookieAfter = 24 * time.Hour

// SetSession gives the browser a session: the key of a login that ends at expires.
func SetSession(w http.ResponseWriter, key string, expires time.Time) {
	http.SetCookie(w, &http.Cookie{Name: SessionCookie, Value: key, Path: "/", Expires: expires.Add(cookieAfter),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

const maxNext = 1024 // bytes: it is kept in a cookie

// Local returns where a login leads to: a path of the bastion's pages, else the first page.
func Local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(next, "/") ||
		strings.HasPrefix(next, "//") || strings.HasPrefix(u.Path, "/login") ||
		strings.ContainsFunc(next, func(r rune) bool { return r == '\\' || r < ' ' || r == 0x7f }) {
		return "/"
	}
	return next
}

// ServeHTTP answers LoginPath and CallbackPath, over TLS.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		p.fail(w, http.StatusMethodNotAllowed, "a login needs GET")
		return
	}
	free, err := take(p.asks)
	if err == nil {
		defer free()
		if r.URL.Path == LoginPath {
			err = p.login(w, r)
		} else {
			err = p.callback(w, r)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrNone):
		p.fail(w, http.StatusNotFound, err.Error())
	case errors.Is(err, syscall.EAGAIN):
		p.cfg.Log.Warn("a login at the OpenID provider was not possible", "err", err)
		w.Header().Set("Retry-After", "5")
		p.fail(w, http.StatusServiceUnavailable, "the OpenID provider cannot be asked now, try again later")
	case errors.Is(err, fs.ErrPermission):
		p.cfg.Log.Info("a login at the OpenID provider was refused", "err", err)
		p.fail(w, http.StatusForbidden, err.Error())
	default:
		p.cfg.Log.Warn("a login at the OpenID provider has failed", "err", err)
		p.fail(w, http.StatusInternalServerError, "the login has failed, see the log of this node")
	}
}

// fail answers with a sentence for people.
func (p *Provider) fail(w http.ResponseWriter, status int, sentence string) {
	p.page(w, status, "", html.EscapeString(sentence))
}

// page answers with a page of one line; next is where the browser goes on.
func (p *Provider) page(w http.ResponseWriter, status int, next, line string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	refresh := ""
	if next != "" {
		refresh = `<meta http-equiv="refresh" content="0; url=` + next + `">`
	}
	fmt.Fprintf(w, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">%s<title>Casemate</title></head>"+
		"<body><p>%s</p></body></html>\n", refresh, line)
}

// login sends the browser to the provider.
func (p *Provider) login(w http.ResponseWriter, r *http.Request) error {
	next := Local(r.URL.Query().Get("next"))
	if len(next) > maxNext {
		next = "/"
	}
	name, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		name = r.Host
	}
	if !strings.EqualFold(name, p.cfg.Domain) {
		// Browsers come back to the one name that the provider knows, and cookies are for one host.
		host := p.cfg.Domain
		if port != "" {
			host = net.JoinHostPort(host, port)
		}
		http.Redirect(w, r, "https://"+host+LoginPath+"?next="+url.QueryEscape(next), http.StatusFound)
		return nil
	}
	s, err := p.open(r.Context())
	if err != nil {
		return err
	}
	begun := step{For: forBrowser, Issuer: s.Issuer, Expires: p.cfg.Now().Add(stateLife), State: rand.Text(),
		Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Next: next}
	sealed, err := p.seal(begun)
	if err != nil {
		return err
	}
	// Lax: the browser comes back from the provider's site.
	http.SetCookie(w, &http.Cookie{Name: stateCookie, Value: sealed, Path: "/", MaxAge: int(stateLife.Seconds()),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	s.oauth.RedirectURL = "https://" + r.Host + CallbackPath
	http.Redirect(w, r, s.oauth.AuthCodeURL(begun.State, oidc.Nonce(begun.Nonce),
		oauth2.S256ChallengeOption(begun.Verifier)), http.StatusFound)
	return nil
}

// callback takes the code that the browser brings from the provider, and gives the browser a session.
func (p *Provider) callback(w http.ResponseWriter, r *http.Request) error {
	c, err := r.Cookie(stateCookie)
	if err != nil {
		return errStep
	}
	// A login is finished once.
	http.SetCookie(w, &http.Cookie{Name: stateCookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode})
	begun, err := p.unseal(c.Value, forBrowser)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(begun.State)) != 1 {
		return errStep
	}
	s, err := p.open(r.Context())
	if err != nil {
		return err
	}
	if iss := q.Get("iss"); iss != "" && iss != s.Issuer { // RFC 9207
		return errStep
	}
	if code := q.Get("error"); code != "" {
		return fmt.Errorf("%w: the provider says %.64q %.200q", ErrRefused, code, q.Get("error_description"))
	}
	s.oauth.RedirectURL = "https://" + r.Host + CallbackPath
	token, err := s.oauth.Exchange(s.context(r.Context()), q.Get("code"), oauth2.VerifierOption(begun.Verifier))
	if err != nil {
		return explain(err)
	}
	u, err := s.user(r.Context(), token, begun.Nonce)
	if err != nil {
		return err
	}
	login, err := p.cfg.Enter(r.Context(), u)
	if err != nil {
		return err
	}
	SetSession(w, login.Key, login.Expires)
	// Not a redirect: the browser comes from another site, and would not send the cookie with it.
	next := html.EscapeString(Local(begun.Next))
	p.page(w, http.StatusOK, next, `You are logged in. <a href="`+next+`">Continue</a>.`)
	return nil
}
