package page

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"casemate/appliance/oidc"
)

// whoami is who has logged in: GET /v1/whoami.
type whoami struct {
	Name  string `json:"name"`
	Roles []struct {
		Role string `json:"role"`
	} `json:"roles"`
	Verbs   []string  `json:"verbs"`
	Key     string    `json:"key"` // the name of the API key that is the session
	Expires time.Time `json:"expires"`
}

// identify finds out who sends a request. A session that has ended is nobody's, and its cookie is removed.
func (p *Page) identify(w http.ResponseWriter, r *http.Request) (*call, error) {
	c := &call{p: p, w: w, r: r}
	if oidc.Session(r) == "" {
		return c, nil
	}
	var who whoami
	_, err := c.get("/v1/whoami", &who)
	switch {
	case is(err, http.StatusUnauthorized):
		clearCookie(w)
		c.expired = true
		return c, nil
	case err != nil:
		return c, err
	}
	c.who = &who
	return c, nil
}

func clearCookie(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: oidc.SessionCookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true,
		SameSite: http.SameSiteStrictMode})
}

// login is the data of the form.
type login struct {
	Name, Next, Wrong string
	OIDC, Expired     bool
}

func (p *Page) getLogin(w http.ResponseWriter, r *http.Request) {
	c, err := p.identify(w, r)
	if err != nil {
		p.fail(c, err)
		return
	}
	if c.who != nil {
		http.Redirect(w, r, oidc.Local(c.query("next")), http.StatusSeeOther)
		return
	}
	p.opened(r)
	p.showLogin(c, http.StatusOK, login{Next: oidc.Local(c.query("next")),
		Expired: c.expired || c.query("expired") != ""})
}

func (p *Page) showLogin(c *call, status int, form login) {
	form.OIDC = p.cfg.Front(c.r.Context()).OIDC
	p.render(c, status, view{Title: "Log in", Template: "login", Data: form,
		Command: "casemate login --server https://" + p.cfg.Domain})
}

const maxForm = 1 << 20 // bytes of a form's fields

// postLogin creates a session with a user's name and password. The session is new, whatever cookie the browser had.
func (p *Page) postLogin(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	c := &call{p: p, w: w, r: r}
	if err := r.ParseForm(); err != nil {
		p.fail(c, &apiError{http.StatusBadRequest, "the form could not be read"})
		return
	}
	form := login{Name: bounded(r.PostForm.Get("name")), Next: oidc.Local(bounded(r.PostForm.Get("next")))}
	in, err := request(r, http.MethodPost, "/v1/login", []byte("{}"))
	if err == nil {
		in.Header.Del("Cookie")
		in.SetBasicAuth(form.Name, r.PostForm.Get("password"))
		var a *answer
		if a, err = p.send(in); err == nil {
			var key struct {
				Key     string    `json:"key"`
				Expires time.Time `json:"expires"`
			}
			if err = json.Unmarshal(a.body.Bytes(), &key); err == nil {
				p.endSession(c) // the one that the browser had
				oidc.SetSession(w, key.Key, key.Expires)
				http.Redirect(w, r, form.Next, http.StatusSeeOther)
				return
			}
		}
	}
	if e := (*apiError)(nil); errors.As(err, &e) && e.Status != http.StatusInternalServerError {
		form.Wrong = e.Sentence
		if e.Status == http.StatusBadRequest {
			form.Wrong = "enter a user and the password; API keys are for programs"
		}
		p.showLogin(c, e.Status, form)
		return
	}
	p.fail(c, err)
}

// endSession revokes the key of the request's session, if it is a login.
func (p *Page) endSession(c *call) {
	var who whoami
	if _, err := c.get("/v1/whoami", &who); err != nil || !strings.HasPrefix(who.Key, "login-") {
		return
	}
	if _, err := c.do(http.MethodDelete, "/v1/apikeys/"+url.PathEscape(who.Key), nil); err != nil {
		p.cfg.Log.Warn("a session was not ended", "user", who.Name, "err", err)
	}
}

func (p *Page) postLogout(w http.ResponseWriter, r *http.Request) {
	c := &call{p: p, w: w, r: r}
	if oidc.Session(r) != "" {
		p.endSession(c)
	}
	clearCookie(w)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
