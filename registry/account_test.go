package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/cluster/tree"
)

// staff are accounts by name, each with what it may do below which repositories, and the questions that were asked.
type staff struct {
	mu       sync.Mutex
	rights   map[string]map[string][]string // name → action → prefixes; "" is everything
	versions map[string]string
	asked    []string
}

func (s *staff) account(name string) (*Account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rights, ok := s.rights[name]
	if !ok {
		return nil, errors.New("no such account")
	}
	may := func(action, repo string) bool {
		return slices.ContainsFunc(rights[action], func(p string) bool {
			return p == "" || repo != "" && (repo == p || strings.HasPrefix(repo, p+"/"))
		})
	}
	return &Account{
		Actor: tree.Actor{Name: name, How: "password"}, ID: name, Version: s.versions[name], May: may,
		Allow: func(action, repo string) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.asked = append(s.asked, name+" "+action+" "+repo)
			if !may(action, repo) {
				return fmt.Errorf("user %s may not %s image %s", name, action, repo)
			}
			return nil
		},
	}, nil
}

func (s *staff) set(name string, rights map[string][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rights[name] = rights
}

func (s *staff) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.asked
	s.asked = nil
	return list
}

// newStaff is a registry with the accounts ann (everything), tim (pushes and pulls below team), and ron (reads all).
func newStaff(t *testing.T, anonymous *bool) (*pusher, *staff) {
	all, team := []string{""}, []string{"team"}
	s := &staff{versions: map[string]string{"ann": "1", "tim": "1", "ron": "1"}, rights: map[string]map[string][]string{
		"ann": {"pull": all, "push": all, "delete": all},
		"tim": {"pull": team, "push": team, "delete": team},
		"ron": {"pull": all},
	}}
	p := newPusher(t, func(c *Config) {
		c.Anonymous = func() bool { return *anonymous }
		c.Authenticate = func(_ context.Context, user, password string) (*Account, error) {
			if user == "" && password == "the-key-of-tim" {
				return s.account("tim")
			}
			if password != "secret" {
				return nil, errors.New("wrong password")
			}
			return s.account(user)
		}
		c.Account = func(_ context.Context, id string) (*Account, error) { return s.account(id) }
	})
	return p, s
}

// TestRolesDecide walks account × request: what is refused is refused with Basic, with a token and with a key, and
// says why.
func TestRolesDecide(t *testing.T) {
	anonymous := true
	s, _ := newStaff(t, &anonymous)
	secret := s.push("secret/app", "hidden")
	own := s.push("team/app", "ours")
	s.push("docker.io/library/app", "public")
	d := s.expect(201, "PUT", "/v2/secret/app/manifests/v1", `{"schemaVersion":2,"mediaType":"`+typeOCIIndex+
		`","manifests":[]}`, "Content-Type", typeOCIIndex).Header.Get("Docker-Content-Digest")
	s.expect(201, "PUT", "/v2/team/app/manifests/v1", `{"schemaVersion":2,"mediaType":"`+typeOCIIndex+
		`","manifests":[]}`, "Content-Type", typeOCIIndex)
	tokenOf := func(name string) string {
		scope := ""
		for _, repo := range []string{"team", "team/app", "teams/app", "secret/app", "docker.io/library/app"} {
			scope += "repository:" + repo + ":pull,push,delete "
		}
		return "Bearer " + s.token(scope, "Authorization", basic(name, "secret"))
	}
	for _, c := range []struct {
		anonymous             bool
		method, path          string
		ann, tim, ron, nobody int
	}{
		{true, "POST", "/v2/team/app/blobs/uploads/", 202, 202, 403, 401},
		{true, "POST", "/v2/team/blobs/uploads/", 202, 202, 403, 401},
		{true, "POST", "/v2/teams/app/blobs/uploads/", 202, 403, 403, 401},
		{true, "POST", "/v2/secret/app/blobs/uploads/", 202, 403, 403, 401},
		{true, "POST", "/v2/docker.io/library/app/blobs/uploads/", 202, 403, 403, 401},
		{true, "PUT", "/v2/secret/app/manifests/v2", 400, 403, 403, 401},
		{true, "DELETE", "/v2/secret/app/manifests/none", 404, 403, 403, 401},
		{true, "DELETE", "/v2/team/app/manifests/none", 404, 404, 403, 401},
		{true, "GET", "/v2/secret/app/blobs/" + secret.String(), 200, 200, 200, 200},
		{false, "GET", "/v2/secret/app/blobs/" + secret.String(), 200, 403, 200, 401},
		{false, "HEAD", "/v2/secret/app/blobs/" + secret.String(), 200, 403, 200, 401},
		{false, "GET", "/v2/secret/app/manifests/v1", 200, 403, 200, 401},
		{false, "GET", "/v2/secret/app/tags/list", 200, 403, 200, 401},
		{false, "GET", "/v2/secret/app/referrers/" + d, 200, 403, 200, 401},
		{false, "GET", "/v2/team/app/blobs/" + own.String(), 200, 200, 200, 401},
		// A tolerance does not lead out of what may be read.
		{false, "GET", "/v2/team/app/blobs/" + secret.String(), 200, 404, 200, 401},
		{false, "GET", "/v2/app/manifests/v1", 200, 403, 200, 401},
		{false, "GET", "/v2/_catalog", 200, 200, 200, 401},
		{false, "GET", "/v2/", 200, 200, 200, 401},
	} {
		anonymous = c.anonymous
		for name, want := range map[string]int{"ann": c.ann, "tim": c.tim, "ron": c.ron, "": c.nobody} {
			headers := []string{""}
			if name != "" {
				headers = []string{basic(name, "secret"), tokenOf(name)}
			}
			if name == "tim" {
				headers = append(headers, "Bearer the-key-of-tim")
			}
			for _, h := range headers {
				res := s.ask(s.own, c.method, c.path, "Authorization", h)
				// A token without the action is answered with the scope that is missing, where the account has it.
				if res.StatusCode != want {
					t.Errorf("%s %s (anonymous %v) by %q with %.10q: %d, want %d", c.method, c.path, c.anonymous, name,
						h, res.StatusCode, want)
				}
				if res.StatusCode == 403 && c.method != "HEAD" {
					var e struct {
						Errors []struct{ Code, Message string }
					}
					if json.NewDecoder(res.Body).Decode(&e) != nil || e.Errors[0].Code != "DENIED" ||
						!strings.Contains(e.Errors[0].Message, "user "+name+" may not ") {
						t.Errorf("%s %s by %s: %+v", c.method, c.path, name, e)
					}
				}
			}
		}
	}
	// The catalog shows what may be read.
	var list struct{ Repositories []string }
	res := s.ask(s.own, "GET", "/v2/_catalog", "Authorization", basic("tim", "secret"))
	if json.NewDecoder(res.Body).Decode(&list) != nil || !slices.Equal(list.Repositories, []string{"team/app"}) {
		t.Errorf("%+v", list)
	}
}

// TestTokensCarryRoles: a token has what the role allows, and ends when the account changes.
func TestTokensCarryRoles(t *testing.T) {
	anonymous := true
	s, staff := newStaff(t, &anonymous)
	scope := "repository:team/app:pull,push,delete,* repository:secret/app:pull,push,*"
	claimsOf := func(token string) *claims {
		c, err := readToken(s.reg.cfg.TokenKey, token, s.reg.cfg.Domain, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, want := range map[string]string{
		"ann": "[{repository team/app [pull push delete *]} {repository secret/app [pull push *]}]",
		"tim": "[{repository team/app [pull push delete *]} {repository secret/app [pull]}]",
		"ron": "[{repository team/app [pull]} {repository secret/app [pull]}]",
	} {
		c := claimsOf(s.token(scope, "Authorization", basic(name, "secret")))
		if got := fmt.Sprint(c.Access); got != want {
			t.Errorf("%s gets %s, want %s", name, got, want)
		}
	}
	upload := func(token string) int {
		return s.ask(s.own, "POST", "/v2/team/app/blobs/uploads/", "Authorization", "Bearer "+token).StatusCode
	}
	token := s.token(scope, "Authorization", basic("tim", "secret"))
	if got := upload(token); got != 202 {
		t.Fatal(got)
	}
	staff.set("tim", map[string][]string{"pull": {""}}) // the role is taken; the token still says push
	if got := upload(token); got != 403 {
		t.Errorf("a token of a role that was taken: %d", got)
	}
	staff.set("tim", map[string][]string{"push": {"team"}})
	staff.versions["tim"] = "2" // the password was changed
	if got := upload(token); got != 401 {
		t.Errorf("a token of an old password: %d", got)
	}
	delete(staff.rights, "tim")
	if got := upload(token); got != 401 {
		t.Errorf("a token of a removed user: %d", got)
	}
	// A token of an account is valid no longer than the account.
	s.reg.cfg.Authenticate = func(context.Context, string, string) (*Account, error) {
		a, err := staff.account("ann")
		a.Expires = time.Now().Add(3 * time.Minute)
		return a, err
	}
	c := claimsOf(s.token(scope, "Authorization", basic("x", "y")))
	if life := time.Until(time.Unix(c.Expires, 0)); life > 3*time.Minute {
		t.Errorf("the token is valid for %s", life)
	}
	// Tokens of earlier versions of the program name no version of the account.
	old := *c
	old.Version = ""
	signed, err := signToken(s.reg.cfg.TokenKey, old)
	if err != nil || upload(signed) != 202 {
		t.Errorf("a token of an earlier version: %v", err)
	}
	// A token of another cluster with the same domain, and one whose header says that it needs no signature.
	foreign, err := signToken([]byte("the key of another cluster"), *c)
	if err != nil || upload(foreign) != 401 {
		t.Errorf("a foreign token: %v", err)
	}
	none := "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0" + strings.TrimPrefix(signed, tokenHeader)
	for _, bad := range []string{none, none[:strings.LastIndexByte(none, '.')+1]} {
		if got := upload(bad); got != 401 {
			t.Errorf("alg none: %d", got)
		}
	}
}

// TestMountNeedsReading: a layer of a repository that an account may not read cannot be taken by a mount, by a HEAD or
// by a manifest.
func TestMountNeedsReading(t *testing.T) {
	anonymous := false
	s, _ := newStaff(t, &anonymous)
	secret := s.push("secret/app", "hidden")
	shared := s.push("team/base", "shared")
	mount := func(name, from, d string) int {
		q := url.Values{"mount": {d}}
		if from != "" {
			q.Set("from", from)
		}
		return s.ask(s.own, "POST", "/v2/team/app/blobs/uploads/?"+q.Encode(), "Authorization",
			basic(name, "secret")).StatusCode
	}
	for _, c := range []struct {
		name, from, digest string
		want               int
	}{
		{"tim", "secret/app", secret.String(), 202}, // an upload begins instead, as the specification wants
		{"tim", "", secret.String(), 202},
		{"tim", "team/base", secret.String(), 202},
		{"tim", "../x", secret.String(), 202},
		{"tim", "team/base", shared.String(), 201},
		{"ann", "", secret.String(), 201},
	} {
		if got := mount(c.name, c.from, c.digest); got != c.want {
			t.Errorf("%s mounts from %q: %d, want %d", c.name, c.from, got, c.want)
		}
	}
	for _, h := range []string{basic("tim", "secret"),
		"Bearer " + s.token("repository:team/new:pull,push", "Authorization", basic("tim", "secret"))} {
		res := s.ask(s.own, "HEAD", "/v2/team/new/blobs/"+secret.String(), "Authorization", h)
		if res.StatusCode != 404 {
			t.Errorf("HEAD with %.10s: %d", h, res.StatusCode)
		}
	}
	body := `{"schemaVersion":2,"mediaType":"` + typeOCIManifest + `","config":{"mediaType":"a/b","digest":"` +
		secret.String() + `","size":6},"layers":[]}`
	req := httptest.NewRequest("PUT", "/v2/team/new/manifests/v1", strings.NewReader(body))
	req.SetBasicAuth("tim", "secret")
	rec := httptest.NewRecorder()
	s.reg.Serve(rec, req, s.own)
	if rec.Code != 400 || s.ask(s.own, "GET", "/v2/team/new/blobs/"+secret.String(), "Authorization",
		basic("tim", "secret")).StatusCode != 404 {
		t.Errorf("a manifest takes a layer of another repository: %d %s", rec.Code, rec.Body)
	}
}

// TestEveryRouteAsks walks kinds × methods × views: without credentials nothing changes, and where reading needs an
// account nothing is read.
func TestEveryRouteAsks(t *testing.T) {
	d := "sha256:" + strings.Repeat("0", 64)
	paths := map[kind]string{
		kindPing: "/v2/", kindCatalog: "/v2/_catalog", kindTags: "/v2/team/app/tags/list",
		kindManifest: "/v2/team/app/manifests/v1", kindBlob: "/v2/team/app/blobs/" + d,
		kindUploads: "/v2/team/app/blobs/uploads/", kindUpload: "/v2/team/app/blobs/uploads/0123",
		kindReferrers: "/v2/team/app/referrers/" + d, kindToken: "/token",
	}
	if len(paths) != int(kindToken)+1 {
		t.Fatal("a kind of request has no path here")
	}
	anonymous := false
	s, staff := newStaff(t, &anonymous)
	for k, path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			for _, anonymous = range []bool{true, false} {
				rt := route{kind: k}
				asks := rt.writes(method) || !anonymous
				res := s.ask(s.own, method, path)
				refused := res.StatusCode == http.StatusUnauthorized
				if k == kindToken {
					refused = refused || res.StatusCode == 405 || res.StatusCode == 400
				}
				if asks && !refused {
					t.Errorf("%s %s (anonymous %v) without credentials: %d", method, path, anonymous, res.StatusCode)
				}
				if !rt.writes(method) {
					continue
				}
				staff.taken()
				s.ask(s.own, method, path, "Authorization", basic("ron", "secret"))
				if got := staff.taken(); len(got) != 1 || !strings.HasSuffix(got[0], " team/app") {
					t.Errorf("%s %s: asked %q", method, path, got)
				}
			}
		}
	}
}
