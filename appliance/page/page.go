// Package page is the page for a browser: what the bastion knows, and what an operator may change.
//
// It sees the documents of the admin API and nothing else: each page asks the API in process, as whoever has logged in,
// and renders the answers. So what an account may see and do is decided there, once. No page needs JavaScript; with it,
// values that change are fetched again when the bastion says so (Live).
//
// It promises: text from clients and from content is shown inert, whatever it contains. No page refers to another host,
// and none has a script or a style inline. A page's size does not grow with the content: lists come in parts.
package page

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"casemate/appliance/oidc"
)

// Config configures a Page. API and Front are required.
type Config struct {
	Node, Domain string
	// API answers requests below /v1/ as it does over https: an account is proved by the cookie of its login.
	API http.Handler
	// Front returns what everybody may see.
	Front func(context.Context) Front
	// Topics are what pages show live, with functions that return another number when it has changed. They are called
	// once a second at most, and only while a browser waits.
	Topics map[string]func() uint64
	// Opened is called when a browser opens a page from which one can search, so that the search is prepared. It must
	// not wait. nil: it is not.
	Opened func()
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: nothing is logged
}

// Page serves the pages. It is safe for concurrent use.
type Page struct {
	cfg    Config
	routes map[string]entry // by path
	mux    http.Handler
	live   *live
}

// New returns a Page; it does no I/O.
func New(cfg Config) *Page {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Page{cfg: cfg, routes: map[string]entry{}, live: newLive(cfg.Topics)}
	mux := http.NewServeMux()
	for _, e := range entries {
		p.routes[e.path] = e
		mux.HandleFunc("GET "+exact(e.path), func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, e) })
	}
	mux.HandleFunc("GET /login", p.getLogin)
	mux.HandleFunc("POST /login", p.postLogin)
	mux.HandleFunc("POST /logout", p.postLogout)
	mux.HandleFunc("GET /do/{action}", p.getAction)
	mux.HandleFunc("POST /do/{action}", p.postAction)
	mux.HandleFunc("POST /imports/upload", p.postUpload)
	mux.HandleFunc("GET /live", p.serveLive)
	mux.HandleFunc("GET /static/{file}", serveStatic)
	// A browser sends the cookie with no request of another site (SameSite), and such a request changes nothing.
	p.mux = http.NewCrossOriginProtection().Handler(mux)
	return p
}

// exact is the pattern of http.ServeMux for a path and nothing below it.
func exact(path string) string {
	if strings.HasSuffix(path, "/") {
		return path + "{$}"
	}
	return path
}

// Has reports whether a path of the bastions' own names is one of these pages.
func (p *Page) Has(path string) bool {
	if _, ok := p.routes[path]; ok {
		return true
	}
	switch path {
	case "/login", "/logout", "/live", "/imports/upload":
		return true
	}
	return strings.HasPrefix(path, "/do/") || strings.HasPrefix(path, "/static/")
}

// Run tells browsers what has changed, until ctx is done. Then the answers that still wait end.
func (p *Page) Run(ctx context.Context) { p.live.run(ctx) }

// ServeHTTP serves the paths for which Has is true, over TLS.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "+
		"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	p.mux.ServeHTTP(w, r)
}

// An entry is a page.
type entry struct {
	path, title string
	nav         bool   // it is in the navigation
	verb        string // what an account must be allowed to do to see it; "": everybody may see it
	open        bool   // who may not is shown it nevertheless, if the API answers: registry.anonymous is pull
	view        func(*call) (view, error)
}

// view is the content of a page.
type view struct {
	Title string
	// Command is the equivalent command; "": there is none.
	Command string
	// Live are the topics whose changes make the browser fetch the page again.
	Live []string
	// Template is the template of the page's body, and Data its data; "": the parts alone.
	Template string
	Data     any
	// Parts follow: tables, forms and sentences.
	Parts []part
}

// part is a part of a page: the name of its template, and its data.
type part struct {
	Template string
	Data     any
}

// call is one request of a page.
type call struct {
	p   *Page
	w   http.ResponseWriter
	r   *http.Request
	who *whoami // nil: nobody has logged in
	// expired says that the browser has had a session, which has ended.
	expired bool
}

// query returns a parameter of the request, without what cannot be part of any name.
func (c *call) query(name string) string { return bounded(c.r.URL.Query().Get(name)) }

const maxParameter = 4096 // bytes of a parameter

func bounded(s string) string {
	if len(s) > maxParameter {
		s = s[:maxParameter]
	}
	return strings.ReplaceAll(s, "\x00", "")
}

// may reports whether the account may do something, so that it is offered. Whether it is allowed is decided by the API.
func (c *call) may(verb string) bool {
	if c.who == nil {
		return verb == ""
	}
	if verb == "" {
		return true
	}
	for _, v := range c.who.Verbs {
		if v == verb {
			return true
		}
	}
	return false
}

// errDone is returned by a view that has answered the request itself.
var errDone = errors.New("answered")

// serve serves a page.
func (p *Page) serve(w http.ResponseWriter, r *http.Request, e entry) {
	c, err := p.identify(w, r)
	if err != nil {
		p.fail(c, err)
		return
	}
	if c.expired || c.who == nil && e.verb != "" && !e.open {
		c.toLogin()
		return
	}
	if !c.may(e.verb) && !e.open {
		p.fail(c, &apiError{http.StatusForbidden, "your roles do not include this page; it needs one that may " +
			e.verb + " (casemate role list)"})
		return
	}
	p.opened(r)
	v, err := e.view(c)
	switch {
	case errors.Is(err, errDone):
	case err != nil:
		p.fail(c, err)
	default:
		if v.Title == "" {
			v.Title = e.title
		}
		p.render(c, http.StatusOK, v)
	}
}

// opened prepares the search, unless a page keeps itself new.
func (p *Page) opened(r *http.Request) {
	if p.cfg.Opened != nil && r.Header.Get(oidc.UnattendedHeader) == "" {
		p.cfg.Opened()
	}
}

// toLogin sends a browser to the login, which leads back here. After a form that nobody may send any more it leads to
// the page with the form.
func (c *call) toLogin() {
	next := c.r.URL.RequestURI()
	if c.r.Method != http.MethodGet {
		if u, err := url.Parse(c.r.Referer()); err == nil && u.Host == c.r.Host {
			next = u.RequestURI()
		}
	}
	query := url.Values{"next": {oidc.Local(next)}}
	if c.expired {
		query.Set("expired", "1")
	}
	http.Redirect(c.w, c.r, "/login?"+query.Encode(), http.StatusSeeOther)
}

// fail answers with an error's sentence as a page.
func (p *Page) fail(c *call, err error) {
	status, sentence := http.StatusInternalServerError, "this page cannot be shown, see the log of this node"
	if e := (*apiError)(nil); errors.As(err, &e) {
		status, sentence = e.Status, e.Sentence
		if status == http.StatusUnauthorized {
			if c.expired = c.expired || oidc.Session(c.r) != ""; c.expired {
				clearCookie(c.w)
			}
			c.toLogin()
			return
		}
	} else if c.r.Context().Err() == nil {
		p.cfg.Log.Warn("a page failed", "path", c.r.URL.Path, "err", err)
	}
	p.render(c, status, view{Title: http.StatusText(status), Template: "failure", Data: sentence})
}

// render writes a page.
func (p *Page) render(c *call, status int, v view) {
	var b bytes.Buffer
	f, err := p.frame(c, v)
	if err == nil {
		err = templates.ExecuteTemplate(&b, "layout", f)
	}
	if err != nil {
		p.cfg.Log.Warn("a page cannot be generated", "path", c.r.URL.Path, "err", err)
		http.Error(c.w, "the page cannot be generated, see the log of this node", http.StatusInternalServerError)
		return
	}
	c.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		c.w.Write(inert(b.Bytes()))
	}
}

// frame is the data of the layout.
type frame struct {
	view
	Node, Domain, Path string
	Who                *whoami
	Nav                []link
	Body               []template.HTML
	Query              string // of the search
	Next               string // where a login leads back to
}

type link struct {
	Href, Text string
	Current    bool
}

func (p *Page) frame(c *call, v view) (frame, error) {
	f := frame{view: v, Node: p.cfg.Node, Domain: p.cfg.Domain, Path: c.r.URL.Path, Who: c.who,
		Query: c.query("q"), Next: c.r.URL.RequestURI()}
	for _, e := range entries {
		if e.nav && c.may(e.verb) {
			here := e.path == c.r.URL.Path || e.path != "/" && strings.HasPrefix(c.r.URL.Path, e.path+"/")
			f.Nav = append(f.Nav, link{e.path, e.title, here})
		}
	}
	parts := v.Parts
	if v.Template != "" {
		parts = append([]part{{v.Template, v.Data}}, parts...)
	}
	for _, t := range parts {
		if table, ok := t.Data.(Table); ok && table.Command == v.Command {
			table.Command = "" // it is said once
			t.Data = table
		}
		var b strings.Builder
		if err := templates.ExecuteTemplate(&b, t.Template, t.Data); err != nil {
			return f, err
		}
		f.Body = append(f.Body, template.HTML(b.String())) // escaped by its own template, in the same context
	}
	return f, nil
}
