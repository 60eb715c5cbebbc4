package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// token asks for one and returns it, failing unless it is given.
func (s *pusher) token(scope string, headers ...string) string {
	s.tb.Helper()
	res := s.ask(s.own, "GET", "/token?service=casemate.internal&scope="+url.QueryEscape(scope), headers...)
	var t struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		IssuedAt    string `json:"issued_at"`
	}
	if err := json.NewDecoder(res.Body).Decode(&t); err != nil || res.StatusCode != 200 || t.Token == "" ||
		t.Token != t.AccessToken || t.ExpiresIn < 60 {
		s.tb.Fatalf("token: %d %v %+v", res.StatusCode, err, t)
	}
	if _, err := time.Parse(time.RFC3339, t.IssuedAt); err != nil {
		s.tb.Error(err)
	}
	return t.Token
}

// TestAdmit checks permissions by view.
func TestAdmit(t *testing.T) {
	anonymous := true
	s := newPusher(t, func(c *Config) { c.Anonymous = func() bool { return anonymous } })
	d := s.push("team/app", "hello")
	s.push("docker.io/library/app", "hello")
	anon := "Bearer " + s.token("repository:team/app:pull,push")
	pull := "Bearer " + s.token("repository:team/app:pull", "Authorization", basic("ann", "secret"))
	push := "Bearer " + s.token("repository:team/app:pull,push", "Authorization", basic("ann", "secret"))
	elsewhere := "Bearer " + s.token("repository:team/other:pull,push", "Authorization", basic("ann", "secret"))
	ann, wrong := basic("ann", "secret"), basic("ann", "guess")
	blob, uploads := "/v2/team/app/blobs/"+d.String(), "/v2/team/app/blobs/uploads/"
	plain := View{Host: "registry.casemate.internal", Plain: true}
	originPlain := View{Origin: "docker.io", Host: "docker.io", Plain: true}

	for _, c := range []struct {
		anonymous bool
		view      View
		method    string
		target    string
		header    string
		status    int
		challenge string // a part of WWW-Authenticate; "" wants none
	}{
		// Own names challenge at the ping, and there alone.
		{true, s.own, "GET", "/v2/", "", 401,
			`Bearer realm="http://registry.casemate.internal/token",service="casemate.internal"`},
		{true, s.own, "GET", "/v2/", anon, 200, ""},
		{true, s.own, "GET", "/v2/", ann, 200, ""},
		{true, s.own, "GET", "/v2/", wrong, 401, "Bearer"},
		{true, s.own, "GET", "/v2/", "Bearer nonsense", 401, `error="invalid_token"`},
		{true, s.own, "GET", "/v2/", "Basic !", 401, "Bearer"},
		{true, s.own, "GET", "/v2/", "Digest x", 401, "Bearer"},
		{true, s.own, "GET", blob, "", 200, ""},
		{true, s.own, "GET", blob, anon, 200, ""},
		{true, s.own, "GET", blob, "Bearer nonsense", 200, ""},
		{true, s.own, "GET", blob, wrong, 200, ""},
		{true, s.own, "GET", "/v2/_catalog", "", 200, ""},
		// Writing needs the user, directly or by a token for just this.
		{true, s.own, "POST", uploads, "", 401, `scope="repository:team/app:pull,push"`},
		{true, s.own, "POST", uploads, anon, 401, `error="insufficient_scope"`},
		{true, s.own, "POST", uploads, pull, 401, `error="insufficient_scope"`},
		{true, s.own, "POST", uploads, elsewhere, 401, `error="insufficient_scope"`},
		{true, s.own, "POST", uploads, wrong, 401, "Bearer"},
		{true, s.own, "POST", uploads, push, 202, ""},
		{true, s.own, "POST", uploads, ann, 202, ""},
		{true, s.own, "GET", uploads + "0123", "", 401, "Bearer"}, // sessions are for pushers
		{true, s.own, "PUT", "/v2/team/app/manifests/x", "", 401, "Bearer"},
		{true, s.own, "DELETE", "/v2/team/app/manifests/x", "", 401, `scope="repository:team/app:delete"`},
		{true, s.own, "DELETE", "/v2/team/app/manifests/x", push, 404, ""},
		{true, s.own, "DELETE", blob, pull, 401, "Bearer"},
		// Pushing below a host that is no origin is denied, and the way out named.
		{true, s.own, "POST", "/v2/example.com/app/blobs/uploads/", ann, 403, ""},
		// Origins: no challenge to anonymous clients, no writes for any client. A login with a wrong password fails,
		// and does not reveal whether the user exists.
		{true, on("docker.io"), "GET", "/v2/", "", 200, ""},
		{true, on("docker.io"), "GET", "/v2/", ann, 200, ""},
		{true, on("docker.io"), "GET", "/v2/", wrong, 401, `Bearer realm="https://registry.casemate.internal/token"`},
		{true, on("docker.io"), "GET", "/v2/", basic("nobody", "secret"), 401,
			`Bearer realm="https://registry.casemate.internal/token"`},
		{true, on("docker.io"), "GET", "/v2/", "Bearer of-the-hub", 200, ""},
		{true, on("docker.io"), "GET", "/v2/", "Basic !", 200, ""},
		{true, on("docker.io"), "GET", "/v2/library/app/blobs/" + d.String(), wrong, 200, ""},
		{true, on("docker.io"), "GET", "/v2/library/app/blobs/" + d.String(), "", 200, ""},
		{true, on("docker.io"), "POST", "/v2/library/app/blobs/uploads/", "", 405, ""},
		{true, on("docker.io"), "POST", "/v2/library/app/blobs/uploads/", ann, 405, ""},
		{true, on("docker.io"), "PUT", "/v2/library/app/manifests/x", ann, 405, ""},
		{true, on("docker.io"), "DELETE", "/v2/library/app/manifests/x", ann, 405, ""},
		{true, on("docker.io"), "PATCH", "/v2/library/app/blobs/uploads/0123", ann, 405, ""},
		// Over plain http: reads, nothing secret, nothing written.
		{true, plain, "GET", "/v2/", "", 200, ""},
		{true, plain, "GET", blob, "", 200, ""},
		{true, plain, "GET", blob, ann, 403, ""},
		{true, plain, "GET", "/v2/", ann, 403, ""},
		{true, plain, "POST", uploads, "", 405, ""},
		{true, plain, "POST", uploads, ann, 403, ""},
		{true, plain, "GET", "/token", ann, 403, ""},
		{true, plain, "POST", "/token", "", 403, ""},
		{true, plain, "GET", "/token", "", 200, ""},
		{true, originPlain, "GET", "/v2/library/app/blobs/" + d.String(), "", 200, ""},
		{true, originPlain, "PUT", "/v2/library/app/manifests/x", "", 405, ""},
		// registry.anonymous none: everywhere a user.
		{false, s.own, "GET", blob, "", 401, `scope="repository:team/app:pull"`},
		{false, s.own, "GET", blob, ann, 200, ""},
		{false, s.own, "GET", blob, pull, 200, ""},
		{false, s.own, "GET", blob, "Bearer nonsense", 401, `error="invalid_token"`},
		{false, s.own, "GET", "/v2/_catalog", "", 401, `scope="registry:catalog:*"`},
		{false, s.own, "GET", "/token", "", 401, "Basic"},
		{false, on("docker.io"), "GET", "/v2/", "", 401, `Bearer realm="https://registry.casemate.internal/token"`},
		{false, on("docker.io"), "GET", "/v2/library/app/blobs/" + d.String(), ann, 200, ""},
		{false, plain, "GET", blob, "", 403, ""},
		{false, plain, "GET", "/v2/", "", 403, ""},
	} {
		anonymous = c.anonymous
		headers := []string{}
		if c.header != "" {
			headers = []string{"Authorization", c.header}
		}
		res := s.ask(c.view, c.method, c.target, headers...)
		name := fmt.Sprintf("%s %s on %s (plain %v, anonymous %v) with %.20q", c.method, c.target, c.view.Host,
			c.view.Plain, c.anonymous, c.header)
		if res.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", name, res.StatusCode, c.status)
		}
		got := res.Header.Get("WWW-Authenticate")
		if c.challenge == "" && got != "" || !strings.Contains(got, c.challenge) {
			t.Errorf("%s: challenge %q, want %q", name, got, c.challenge)
		}
		if res.StatusCode >= 400 && c.method != "HEAD" {
			want := map[int]string{401: "UNAUTHORIZED", 403: "DENIED", 405: "UNSUPPORTED"}[res.StatusCode]
			if got := code(t, res); want != "" && got != want {
				t.Errorf("%s: code %s, want %s", name, got, want)
			}
		}
	}
	anonymous = true
}

// TestPushToUnknownOrigin: a push below a host that is not enabled names the solution.
func TestPushToUnknownOrigin(t *testing.T) {
	s := newPusher(t)
	res := s.send(s.own, "PUT", "/v2/ghcr.io/a/b/manifests/v1", strings.NewReader("{}"))
	var body struct {
		Errors []struct{ Code, Detail string }
	}
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || res.StatusCode != 403 {
		t.Fatal(res.StatusCode, err)
	}
	if e := body.Errors[0]; e.Code != "DENIED" || !strings.Contains(e.Detail, "origin add ghcr.io") {
		t.Errorf("%+v", e)
	}
}

func TestTokenForms(t *testing.T) {
	s := newPusher(t)
	post := func(form url.Values, headers ...string) *http.Response {
		req := httptest.NewRequest("POST", "/token", strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		rec := httptest.NewRecorder()
		s.reg.Serve(rec, req, s.own)
		return rec.Result()
	}
	scope := "repository:team/app:pull,push"
	res := post(url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {"secret"}, "scope": {scope},
		"service": {"x"}, "client_id": {"containerd-client"}})
	var tok struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&tok); err != nil || res.StatusCode != 200 || tok.RefreshToken != "" {
		t.Fatalf("%d %v %+v", res.StatusCode, err, tok)
	}
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("cache-control %q", got)
	}
	req := httptest.NewRequest("POST", "/v2/team/app/blobs/uploads/", nil)
	req.Header.Set("Authorization", "Bearer "+tok.AccessToken)
	rec := httptest.NewRecorder()
	s.reg.Serve(rec, req, s.own)
	if rec.Code != 202 {
		t.Errorf("a push with the token: %d", rec.Code)
	}
	for _, bad := range []struct {
		form   url.Values
		status int
	}{
		{url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {"guess"}}, 401},
		{url.Values{"grant_type": {"password"}}, 401},
		{url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {strings.Repeat("x", 5000)}}, 401},
		{url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, 400},
		{url.Values{"grant_type": {"password"}, "username": {strings.Repeat("x", 100<<10)}}, 400},
	} {
		if res := post(bad.form); res.StatusCode != bad.status {
			t.Errorf("%.60v: %d, want %d", bad.form, res.StatusCode, bad.status)
		}
	}
	if res := s.ask(s.own, "DELETE", "/token"); res.StatusCode != 405 {
		t.Errorf("DELETE /token: %d", res.StatusCode)
	}
	if res := s.ask(s.own, "GET", "/token", "Authorization", basic("ann", "guess")); res.StatusCode != 401 {
		t.Errorf("a wrong password: %d", res.StatusCode)
	}

	// A user store that cannot answer now is not a wrong password.
	s.reg.cfg.Authenticate = func(context.Context, string, string) (*Account, error) { return nil, syscall.EAGAIN }
	if res := s.ask(s.own, "GET", "/token", "Authorization", basic("ann", "secret")); res.StatusCode != 503 {
		t.Errorf("no answer about users: %d", res.StatusCode)
	}
	if res := s.ask(s.own, "GET", "/v2/", "Authorization", basic("ann", "secret")); res.StatusCode != 503 {
		t.Errorf("no answer about users at the ping: %d", res.StatusCode)
	}
}

func TestTokenLife(t *testing.T) {
	s := newPusher(t)
	now := time.Unix(2e9, 0)
	s.reg.now = func() time.Time { return now }
	push := "Bearer " + s.token("repository:team/app:push", "Authorization", basic("ann", "secret"))
	status := func() int {
		return s.ask(s.own, "POST", "/v2/team/app/blobs/uploads/", "Authorization", push).StatusCode
	}
	for _, c := range []struct {
		after  time.Duration
		status int
	}{{0, 202}, {-clockSkew, 202}, {-clockSkew - time.Second, 401}, {tokenLife, 202}, {tokenLife + time.Second, 401}} {
		now = time.Unix(2e9, 0).Add(c.after)
		if got := status(); got != c.status {
			t.Errorf("after %v: %d, want %d", c.after, got, c.status)
		}
	}
}

func TestToken(t *testing.T) {
	key, now := []byte("the cluster's key"), time.Unix(2e9, 0)
	c := claims{Issuer: "d", Audience: "d", Subject: "ann", Expires: now.Add(time.Minute).Unix(),
		NotBefore: now.Unix(), Access: []access{{"repository", "a", []string{"push"}}}}
	good, err := signToken(key, c)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readToken(key, good, "d", now); err != nil || got.Subject != "ann" || !got.may("a", "push") ||
		got.may("b", "push") || got.may("a", "pull") {
		t.Fatalf("%+v, %v", got, err)
	}
	parts := strings.Split(good, ".")
	enc := base64.RawURLEncoding.EncodeToString
	forged, _ := signToken([]byte("another key"), c)
	none := enc([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."
	for name, bad := range map[string]string{
		"empty": "", "dots": "..", "another key": forged, "alg none": none,
		"another header":   enc([]byte(`{"typ":"JWT","alg":"HS256"}`)) + "." + parts[1] + "." + parts[2],
		"another body":     parts[0] + "." + enc([]byte(`{"sub":"root"}`)) + "." + parts[2],
		"no signature":     parts[0] + "." + parts[1] + ".",
		"cut signature":    good[:len(good)-1],
		"longer signature": good + "A",
		"padded":           good + "=",
		"long":             parts[0] + "." + strings.Repeat("A", maxToken) + "." + parts[2],
	} {
		if got, err := readToken(key, bad, "d", now); err == nil {
			t.Errorf("%s is taken: %+v", name, got)
		}
	}
	if _, err := readToken(key, good, "e", now); err == nil {
		t.Error("a token for another service is taken")
	}
}

func TestScopes(t *testing.T) {
	s := newPusher(t)
	many := strings.Repeat("repository:a:pull ", 100)
	for _, c := range []struct {
		in   []string
		user string
		want string
	}{
		{[]string{"repository:team/app:pull,push"}, "ann", "[{repository team/app [pull push]}]"},
		{[]string{"repository:team/app:pull,push"}, "", "[{repository team/app [pull]}]"},
		{[]string{"repository:team/app:push"}, "", "[]"},
		{[]string{"repository:a:pull repository:b:*", "repository:c:delete,delete"}, "ann",
			"[{repository a [pull]} {repository b [*]} {repository c [delete]}]"},
		{[]string{"repository(plugin):a:pull"}, "", "[{repository a [pull]}]"},
		{[]string{"repository:host:5000/a:pull"}, "", "[{repository host:5000/a [pull]}]"},
		{[]string{"registry:catalog:*"}, "", "[{registry catalog [*]}]"},
		{[]string{"", ":", "::", "repository", "repository:a", "repository:../x:pull", "repository:A:pull",
			"user:a:pull", "repository:a:fly"}, "ann", "[]"},
	} {
		var account *Account
		if c.user != "" {
			account = mayAll(c.user)
		}
		if got := fmt.Sprint(s.reg.grant(scopes(c.in), account, s.own)); got != c.want {
			t.Errorf("%q for %q: %s, want %s", c.in, c.user, got, c.want)
		}
	}
	if n := len(scopes([]string{many})); n != maxScopes {
		t.Errorf("%d scopes are taken", n)
	}
}

// FuzzToken: a token that was not signed by the key is refused, and nothing panics.
func FuzzToken(f *testing.F) {
	key, now := []byte("the cluster's key"), time.Unix(2e9, 0)
	c := claims{Issuer: "d", Audience: "d", Expires: now.Add(time.Minute).Unix()}
	good, err := signToken(key, c)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, "repository:a:pull")
	f.Add("a.b.c", "repository:a:pull,push registry:catalog:*")
	f.Add(tokenHeader+"..", ":::")
	s := newPusher(f)
	f.Fuzz(func(t *testing.T, token, scope string) {
		if got, err := readToken(key, token, "d", now); (err == nil) != (token == good) {
			t.Errorf("%q: %+v, %v", token, got, err)
		}
		for _, a := range s.reg.grant(scopes([]string{scope}), nil, s.own) {
			if a.Type == "repository" && (!validName(a.Name) || !slices.Equal(a.Actions, []string{"pull"})) {
				t.Errorf("%q gives %+v to nobody", scope, a)
			}
		}
	})
}

// FuzzManifest: a manifest that is taken names only digests that can be names in the tree.
func FuzzManifest(f *testing.F) {
	d := digest.FromString("x")
	f.Add([]byte(manifestOf(d, d)), typeOCIManifest)
	f.Add([]byte(indexOf(typeOCIIndex, d)), typeOCIIndex)
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha512:x"}}`), "")
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"`+d.String()+`"},"manifests":null}`), "")
	f.Fuzz(func(t *testing.T, data []byte, contentType string) {
		m, err := parseManifest(data, contentType)
		if err != nil {
			return
		}
		for _, d := range slices.Concat(m.Layers, m.Manifests) {
			if d.Digest.Validate() != nil {
				t.Errorf("%q is taken with the digest %q", data, d.Digest)
			}
		}
		if got := mediaTypeOf(data); got != m.kind() {
			t.Errorf("pushed as %s and served as %s", m.kind(), got)
		}
	})
}
