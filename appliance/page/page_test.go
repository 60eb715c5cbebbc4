package page

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"casemate/appliance/oidc"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { waittest.Main(m, goleak.Find) }

// fakeAPI answers requests of the admin API from a table, and fails the test for any other. A value is the JSON of the
// answer; an int is a status with an error.
type fakeAPI struct {
	t       *testing.T
	answers map[string]any // by "GET /v1/path?query"
	asked   []string
	bodies  []string
}

const sessionKey = "cmk_login-abc_0000000000000000000000000000000000000000000000000000000000000000"

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Method + " " + r.URL.RequestURI()
	body, _ := io.ReadAll(r.Body)
	f.asked, f.bodies = append(f.asked, key), append(f.bodies, string(body))
	if oidc.Session(r) == "" && r.Header.Get("Authorization") == "" {
		if _, open := f.answers["open "+key]; !open {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error": "the admin API needs an account"}`)
			return
		}
	}
	v, ok := f.answers[key]
	if !ok {
		f.t.Errorf("unexpected request %s", key)
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error": "not there"}`)
		return
	}
	switch v := v.(type) {
	case nil:
		w.WriteHeader(http.StatusNoContent)
	case int:
		w.WriteHeader(v)
		fmt.Fprintf(w, `{"error": "refused with %d"}`, v)
	case string:
		io.WriteString(w, v)
	default:
		json.NewEncoder(w).Encode(v)
	}
}

// everything are the verbs of an administrator.
var everything = []string{"administer", "approve", "delete", "import", "inspect", "list", "manage", "operate", "pull",
	"push"}

// administrator is GET /v1/whoami of an administrator.
func administrator() map[string]any {
	return map[string]any{"name": "boss", "verbs": everything, "key": "login-abc"}
}

// open returns a Page over answers; those that are missing in answers are added for an administrator.
func open(t *testing.T, answers map[string]any) (*Page, *fakeAPI) {
	t.Helper()
	api := &fakeAPI{t: t, answers: answers}
	if answers["GET /v1/whoami"] == nil {
		answers["GET /v1/whoami"] = administrator()
	}
	p := New(Config{Node: "n1", Domain: "gap.example", API: api,
		Front: func(context.Context) Front {
			return Front{Anonymous: true, Resolvers: []string{"10.0.0.11"}, Enrol: "sh -c 'enrol'",
				Roots: []Fingerprint{{Name: "Casemate root"}}}
		},
		Topics: map[string]func() uint64{"tree": func() uint64 { return 1 }},
		Now:    func() time.Time { return time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC) }})
	return p, api
}

// get asks for a page, as an administrator.
func (p *Page) ask(method, target string, form url.Values, edits ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "https://gap.example"+target, strings.NewReader(form.Encode()))
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.AddCookie(&http.Cookie{Name: oidc.SessionCookie, Value: sessionKey})
	for _, edit := range edits {
		edit(r)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

// nobody removes the session.
func nobody(r *http.Request) { r.Header.Del("Cookie") }

var hostile = "<script>alert(1)</script>\x1b[31m\u202egpj.exe\x00" + `"'onmouseover=x` + strings.Repeat("A", 4096)

// Text from clients is inert, wherever it is.
func TestHostileText(t *testing.T) {
	p, _ := open(t, map[string]any{
		"GET /v1/series?span=hour":   map[string]any{"series": []any{map[string]any{"name": hostile, "unit": hostile}}},
		"GET /v1/series?span=day":    map[string]any{},
		"GET /v1/content?wait=false": []map[string]any{{"origin": hostile}},
		"GET /v1/imports":            []map[string]any{{"name": hostile, "state": hostile, "maker": hostile}},
		"GET /v1/whoami":             map[string]any{"name": hostile, "verbs": everything},
		"GET /v1/members": []map[string]any{{"node": hostile, "role": hostile, "version": hostile,
			"up": true}},
		"GET /v1/status": map[string]any{"node": hostile, "problems": []string{hostile}, "warnings": []string{hostile},
			"leader": hostile},
	})
	checkInert(t, p.ask("GET", "/?q="+url.QueryEscape(hostile), nil))
}

// checkInert fails unless a page has nothing but text in the place of hostile text.
func checkInert(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	checkInertBody(t, w.Body.String())
}

var active = regexp.MustCompile(`\son[a-z]+\s*=\s*["']|\sstyle=|<script>|<style|https?://`)

func checkInertBody(t *testing.T, body string) {
	t.Helper()
	for _, bad := range []string{"<script>alert", "\x1b", "\u202e", "\x00", `"'onmouseover`} {
		if strings.Contains(body, bad) {
			i := strings.Index(body, bad)
			t.Errorf("the page has %q: %q", bad, body[max(0, i-80):min(len(body), i+80)])
		}
	}
	if found := active.FindString(body); found != "" {
		i := strings.Index(body, found)
		t.Errorf("the page has an inline script or style, or another host: %q", body[max(0, i-60):min(len(body), i+60)])
	}
}

// A browser without an account sees what everybody may see. One whose session has ended is led to the login, and from
// there back, once: then it is one without an account.
func TestWithoutAccount(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*http.Request)
		who  any
	}{{"without a cookie", nobody, nil}, {"session ended", func(*http.Request) {}, 401}} {
		p, _ := open(t, map[string]any{"GET /v1/whoami": c.who})
		w := p.ask("GET", "/", nil, c.edit)
		if c.who != nil {
			if to := w.Header().Get("Location"); w.Code != 303 || to != "/login?expired=1&next=%2F" ||
				!strings.Contains(w.Header().Get("Set-Cookie"), "Max-Age=0") {
				t.Errorf("%s: %d to %q, %q", c.name, w.Code, to, w.Header()["Set-Cookie"])
			}
			continue
		}
		if w.Code != 200 || !strings.Contains(w.Body.String(), "Enrol a node") ||
			strings.Contains(w.Body.String(), "Overview</a>") {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
		if got := w.Header().Get("Set-Cookie"); got != "" {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// A login leads to a path of these pages and nowhere else.
func TestLoginLeadsBack(t *testing.T) {
	for next, want := range map[string]string{
		"/missing?kind=dns": "/missing?kind=dns", "": "/", "//evil.example/": "/", "https://evil.example/": "/",
		"/\\evil.example": "/", "javascript:alert(1)": "/", "/login?next=/login": "/", "/x\r\nSet-Cookie: a=b": "/",
	} {
		p, _ := open(t, map[string]any{
			"POST /v1/login": map[string]any{"key": sessionKey, "expires": "2026-11-30T23:00:00Z"}})
		w := p.ask("POST", "/login", url.Values{"name": {"boss"}, "password": {"secret"}, "next": {next}}, nobody)
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != want {
			t.Errorf("next %q: %d to %q, want %q", next, w.Code, w.Header().Get("Location"), want)
		}
		cookie := w.Header().Get("Set-Cookie")
		for _, flag := range []string{oidc.SessionCookie + "=", "HttpOnly", "Secure", "SameSite=Strict", "Path=/"} {
			if !strings.Contains(cookie, flag) {
				t.Errorf("the cookie has no %s: %s", flag, cookie)
			}
		}
	}
}

// A login ends the session that the browser had, and a wrong password gives none.
func TestLogin(t *testing.T) {
	form := url.Values{"name": {"boss"}, "password": {"secret"}}
	p, api := open(t, map[string]any{"DELETE /v1/apikeys/login-abc": nil,
		"POST /v1/login": map[string]any{"key": "cmk_login-new_1", "expires": "2026-11-30T23:00:00Z"}})
	p.ask("POST", "/login", form)
	if !strings.Contains(strings.Join(api.asked, "\n"), "DELETE /v1/apikeys/login-abc") {
		t.Errorf("the old session goes on: %q", api.asked)
	}
	p, _ = open(t, map[string]any{"POST /v1/login": 401})
	w := p.ask("POST", "/login", form, nobody)
	if w.Code != 401 || w.Header().Get("Set-Cookie") != "" || !strings.Contains(w.Body.String(), "refused with 401") ||
		strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %q: %s", w.Code, w.Header(), w.Body)
	}
}

// Requests that another site makes a browser send change nothing.
func TestOtherSites(t *testing.T) {
	for _, header := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"}} {
		p, api := open(t, map[string]any{})
		for _, path := range []string{"/login", "/logout", "/do/any"} {
			w := p.ask("POST", path, url.Values{}, func(r *http.Request) { r.Header.Set(header[0], header[1]) })
			if w.Code != http.StatusForbidden {
				t.Errorf("%v %s: %d", header, path, w.Code)
			}
		}
		if len(api.asked) > 0 {
			t.Errorf("%v: %q", header, api.asked)
		}
	}
}

// Tables download whole as CSV and JSON, and cells are no formulas.
func TestDownloads(t *testing.T) {
	members := []map[string]any{{"node": "=cmd()", "role": "leader", "up": true, "version": "1\x1b[0m",
		"seen": "2026-11-30T11:59:00Z"}}
	p, _ := open(t, map[string]any{"GET /v1/members": members, "GET /v1/status": map[string]any{}})
	w := p.ask("GET", "/?table=members&format=csv", nil)
	if got := w.Body.String(); !strings.HasPrefix(got, "Node,State,Behind,Blobs to come,") ||
		!strings.Contains(got, "\n'=cmd(),leader,0,") ||
		strings.Contains(got, "\x1b") || w.Header().Get("Content-Type") != "text/csv; charset=utf-8" {
		t.Errorf("%q %v", got, w.Header())
	}
	w = p.ask("GET", "/?table=members&format=json", nil)
	var back []map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &back); err != nil || len(back) != 1 || back[0]["node"] != "=cmd()" {
		t.Errorf("%v %s", err, w.Body)
	}
}

// A request that the API sends elsewhere has done nothing, and the page says so.
func TestOddNames(t *testing.T) {
	p, _ := open(t, map[string]any{})
	p.cfg.API = (&filledRoutes{t}).handler()
	for _, name := range []string{"..", ".", ""} {
		w := p.ask("POST", "/do/import-reject", url.Values{"name": {name}})
		if w.Code < 400 || w.Code >= 500 {
			t.Errorf("%q: %d to %q", name, w.Code, w.Header().Get("Location"))
		}
	}
}

// filledRoutes is an API with the routes of an import, over http.ServeMux as the real one.
type filledRoutes struct{ t *testing.T }

func (f *filledRoutes) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/whoami", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(administrator())
	})
	mux.HandleFunc("POST /v1/approvals/{name}/reject", func(w http.ResponseWriter, r *http.Request) {
		f.t.Errorf("rejected %q", r.PathValue("name"))
	})
	return mux
}

// Whoever sends a form with a session that has ended is led to the login, and from there back to the page with the
// form.
func TestFormOfAnEndedSession(t *testing.T) {
	for referer, want := range map[string]string{
		"https://gap.example/do/missing-forget?name=a%2Fb": "/do/missing-forget?name=a%2Fb",
		"https://evil.example/do/missing-forget":           "/do/missing-forget", "": "/do/missing-forget",
	} {
		p, api := open(t, map[string]any{"GET /v1/whoami": 401})
		w := p.ask("POST", "/do/missing-forget", url.Values{"name": {"a/b"}},
			func(r *http.Request) { r.Header.Set("Referer", referer) })
		to := "/login?expired=1&next=" + url.QueryEscape(want)
		if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != to || len(api.asked) != 1 {
			t.Errorf("from %q: %d to %q, want %q; asked %q", referer, w.Code, got, to, api.asked)
		}
		w = p.ask("GET", to, nil, nobody)
		if body := w.Body.String(); !strings.Contains(body, "Your session has expired") ||
			!strings.Contains(body, `name="next" value="`+html.EscapeString(want)+`"`) {
			t.Errorf("the login: %s", body)
		}
	}
}

// One client cannot take the places of all browsers that wait for changes; those that end are free again.
func TestStreamsOfOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Node: "n1", Domain: "gap.example", API: http.NotFoundHandler(),
			Topics: map[string]func() uint64{"tree": func() uint64 { return 0 }}})
		ctx, cancel := context.WithCancel(t.Context())
		go p.Run(ctx)
		synctest.Wait()
		watch := func(ctx context.Context, from string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(ctx, "GET", "/live?for=tree", nil)
			r.RemoteAddr = from
			w := httptest.NewRecorder()
			p.live.serve(w, r, func() bool { return false })
			return w
		}
		some, end := context.WithCancel(t.Context())
		for i := range maxOfOne {
			go watch(some, fmt.Sprintf("[2001:db8::%x]:9", i+1)) // one network is one client
		}
		synctest.Wait()
		if w := watch(t.Context(), "[2001:db8::ffff]:9"); w.Code != http.StatusNoContent {
			t.Errorf("one more: %d", w.Code)
		}
		other, gone := context.WithCancel(t.Context())
		gone()
		if w := watch(other, "10.0.0.9:9"); w.Code != http.StatusOK {
			t.Errorf("another client: %d", w.Code)
		}
		end()
		synctest.Wait()
		if w := watch(other, "[2001:db8::1]:9"); w.Code != http.StatusOK {
			t.Errorf("after the others have ended: %d", w.Code)
		}
		cancel()
	})
}

// A stream of changes ends with its session, and neither it nor what a page fetches by itself prolongs the session.
func TestStreamEndsWithItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, attended int
		var over time.Time
		api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			if r.Header.Get(oidc.UnattendedHeader) == "" {
				attended++
			}
			if time.Now().After(over) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			json.NewEncoder(w).Encode(administrator())
		})
		var changes uint64
		p := New(Config{Node: "n1", Domain: "gap.example", API: api,
			Topics: map[string]func() uint64{"tree": func() uint64 { changes++; return changes }}})
		over = time.Now().Add(90 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		go p.Run(ctx)
		synctest.Wait()
		began := time.Now()
		w := p.ask("GET", "/live?for=tree", nil)
		if took := time.Since(began); took < 90*time.Second || took > 2*time.Minute {
			t.Errorf("the stream has ended after %s", took)
		}
		if body := w.Body.String(); !strings.HasSuffix(body, "\n\nevent: ended\ndata: \n\n") ||
			!strings.Contains(body, "event: change\ndata: tree\n\n") {
			t.Errorf("the stream: %q", body)
		}
		if attended > 0 || asked > 8 {
			t.Errorf("%d requests, of which %d count as use", asked, attended)
		}
		cancel()
	})
}
