package fileserver

import (
	"errors"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"net/url"
	"reflect"
	"strings"
)

// maxText bounds the literal text of a redirect setting, in bytes; a record of the tree has at most 4096.
const maxText = 3072

// CheckRedirect reports whether an entry of the setting files.redirects is valid. A key is a URL
// ("https://update.k3s.io/v1-release/channels/stable"), or the beginning of URLs if it ends in "/*". A value is one of
//
//	https://host/path   answered with 302 and exactly this Location (also http:// and a path at the same host, /…);
//	                    if the key ends in "/*", a "*" at the end of the value means the rest of the URL
//	text:v1.32.0        answered with 200 and exactly this text
//
// A key for one URL takes precedence over a file of that URL, a key for the beginning of URLs does not; the longest key
// wins. A key with a query matches this query only. A key without one matches the URL with any query, which is dropped;
// a file that is stored with exactly the query of the request takes precedence. The rest of a URL that "*" means
// includes the query.
//
// fs.ErrInvalid: the key or the value is malformed, or would do something else than it seems to: two pairs that are
// joined, a "*" without meaning, an address that leads to itself.
func CheckRedirect(key, value string) error {
	_, _, err := parseRedirect(key, value)
	return err
}

// target is the value of one redirect setting.
type target struct {
	text string // if literal
	url  string // otherwise
	// literal means that text is the answer, even if it is empty.
	literal bool
}

// redirects are the setting files.redirects and the defaults, compiled for look-ups. They are immutable.
type redirects struct {
	source   map[string]string // retained so that its address cannot be reused by another map
	fallback map[string]string // the same of Config.Defaults
	exact    map[string]target // by key in the tree
	late     map[string]target // the defaults, by key in the tree
	wild     map[string]target // by the beginning of the key, a directory with its slash
	leads    map[string]bool   // keys that an exact setting leads to
}

func parseRedirect(key, value string) (address, target, error) {
	refuse := func(why error) (address, target, error) {
		return address{}, target{}, fmt.Errorf("redirect of %q: %w: %w", clip(key), why, fs.ErrInvalid)
	}
	begin, wild := strings.CutSuffix(key, "/*")
	if wild {
		begin += "/"
	}
	from, err := parseURL(begin)
	if err != nil {
		return address{}, target{}, fmt.Errorf("redirect of %w", err)
	}
	switch {
	case wild && from.query != "":
		return refuse(errors.New("the beginning of URLs has no query"))
	case strings.Contains(begin, "*"):
		return refuse(errors.New("a * is allowed only after the last slash, as in https://host/path/*; " +
			"write %2A for the character"))
	case strings.Contains(begin, "#"):
		return refuse(errors.New("a fragment (#…) is not sent to servers"))
	case joined(value):
		return refuse(fmt.Errorf("the target %q is several targets: separate pairs by spaces, without commas",
			clip(value)))
	}
	if text, ok := strings.CutPrefix(value, "text:"); ok {
		if len(text) > maxText {
			return refuse(fmt.Errorf("the text has at most %d bytes, got %d", maxText, len(text)))
		}
		return from, target{text: text, literal: true}, nil
	}
	for i := range len(value) {
		if value[i] <= ' ' || value[i] >= 0x7f {
			return refuse(errors.New("the target has only visible ASCII characters, others percent-encoded"))
		}
	}
	switch u, err := url.Parse(value); {
	case len(value) > maxKey:
		return refuse(fmt.Errorf("the target has at most %d bytes", maxKey))
	case err != nil:
		return refuse(fmt.Errorf("the target %q is not a URL", clip(value)))
	case (u.Scheme == "https" || u.Scheme == "http") && u.Host != "":
	case u.Scheme == "" && u.Host == "" && strings.HasPrefix(value, "/"):
	default:
		return refuse(fmt.Errorf(`the target must be https://…, http://…, /path or text:…, got %q`, clip(value)))
	}
	to := target{url: value}
	u, _ := url.Parse(value) // was parsed above
	at, err := to.address(from)
	switch begin := strings.TrimSuffix(value, "*"); {
	case u.User != nil:
		return refuse(errors.New("the target has a user or a password, which every client would see"))
	case strings.Contains(begin, "*"), begin != value && !wild:
		return refuse(errors.New("a * is allowed only at the end of a target, and only if the address ends in /*; " +
			"write %2A for the character"))
	case !wild && err == nil && u.Port() == "" && at.key(at.query) == from.key(from.query):
		return refuse(errors.New("it leads to itself"))
	}
	return from, to, nil
}

// joined reports whether a value is more than one target: pairs that were joined by a comma, a semicolon or nothing
// would otherwise become one address that leads to the wrong place.
func joined(value string) bool {
	if strings.Contains(value, "=>") {
		return true
	}
	for _, sep := range []string{",", ";"} {
		for _, begin := range []string{"https://", "http://", "text:"} {
			if strings.Contains(value, sep+begin) {
				return true
			}
		}
		if strings.HasSuffix(value, sep) {
			return true
		}
	}
	return false
}

// address is where the target leads from an address.
func (to target) address(from address) (address, error) {
	if strings.HasPrefix(to.url, "/") {
		return parseURL(from.host + to.url)
	}
	return parseURL(to.url)
}

// rules returns the current redirects. Invalid settings were refused when they were made; here they are omitted.
func (s *Server) rules() *redirects {
	source, fallback := s.cfg.Redirects(), s.cfg.Defaults()
	old := s.redirects.Load()
	if old != nil && sameMap(source, old.source) && sameMap(fallback, old.fallback) {
		return old
	}
	made := &redirects{source: source, fallback: fallback, exact: map[string]target{}, late: map[string]target{},
		wild: map[string]target{}, leads: map[string]bool{}}
	for key, value := range fallback {
		from, to, err := parseRedirect(key, value)
		if err != nil {
			s.cfg.Log.Warn("default left out", "err", err)
			continue
		}
		from, _ = s.canonical(from)
		made.late[from.key(from.query)] = to
	}
	for key, value := range source {
		from, to, err := parseRedirect(key, value)
		if err != nil {
			s.cfg.Log.Warn("redirect left out", "err", err)
			continue
		}
		from, _ = s.canonical(from)
		if strings.HasSuffix(key, "/*") {
			made.wild[from.dir()+"/"] = to
			continue
		}
		made.exact[from.key(from.query)] = to
		if at, err := parseURL(to.url); err == nil && !to.literal && !strings.HasPrefix(to.url, "/") {
			at, _ = s.canonical(at)
			made.leads[at.key(at.query)] = true
		}
	}
	s.redirects.Store(made)
	return made
}

// sameMap reports whether a and b are one map, which is never changed.
func sameMap(a, b map[string]string) bool {
	return len(a) == len(b) && reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// wildcard finds the longest beginning of the address that has a setting.
func (rd *redirects) wildcard(a address) (target, bool) {
	if len(rd.wild) == 0 {
		return target{}, false
	}
	key := a.key(a.query)
	for end := len(a.dir()); end >= 0; end = strings.LastIndexByte(key[:end], '/') {
		begin := key[:end] + "/"
		to, ok := rd.wild[begin]
		if !ok || !strings.HasPrefix(key, begin) {
			continue
		}
		if base, open := strings.CutSuffix(to.url, "*"); open && !to.literal {
			to.url = base + strings.TrimSuffix(key[len(begin):], "?")
		}
		return to, true
	}
	return target{}, false
}

// landing reports whether the address is the page of a release to which a setting leads. k3s's and RKE2's installers
// follow the redirect of a channel only to learn the last element of its target; there is no such file, and none is
// missing.
func (rd *redirects) landing(a address) bool {
	return rd.leads[a.key(a.query)] && strings.Contains(a.dir(), "/releases/tag/")
}

// follow answers as a setting says.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, to target, own bool) {
	if to.literal {
		body(w, http.StatusOK, "text/plain; charset=utf-8", to.text)
		return
	}
	signed := ""
	if s.cfg.Upstream != nil && !strings.HasPrefix(to.url, "/") {
		to.url = s.cfg.Upstream.Target(to.url)
		if a, err := parseURL(to.url); err == nil && a.signed != "" {
			_, signed, _ = strings.Cut(to.url, "?")
		}
	}
	if own {
		// A client of our own name may be unable to reach origins by theirs.
		if strings.HasPrefix(to.url, "/") {
			first, _ := parsePath(r.URL.EscapedPath(), "")
			to.url = climb(r) + first.elems[0] + to.url
		} else if a, err := parseURL(to.url); err == nil {
			if a, ok := s.canonical(a); ok {
				to.url = climb(r) + strings.TrimPrefix(a.url(), "https://")
				if signed != "" {
					to.url, _, _ = strings.Cut(to.url, "?")
					to.url += "?" + signed
				}
			}
		}
	}
	redirect(w, to.url)
}

// climb returns the relative path from the request's directory to the root of the view; the stripped prefix is unknown.
func climb(r *http.Request) string {
	return "./" + strings.Repeat("../", max(0, strings.Count(r.URL.EscapedPath(), "/")-1))
}

// redirect answers 302; Location may be relative (RFC 9110, section 10.2.2). Some scripts read the link in the body.
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	body(w, http.StatusFound, "text/html; charset=utf-8", "<a href=\""+html.EscapeString(to)+"\">Found</a>.\n")
}
