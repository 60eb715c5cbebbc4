package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/storage"
	zitadel "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// store is the provider's storage, with groups.
type store struct{ *storage.Storage }

func (s store) SetUserinfoFromToken(ctx context.Context, info *zitadel.UserInfo, token, subject, origin string) error {
	err := s.Storage.SetUserinfoFromToken(ctx, info, token, subject, origin)
	info.AppendClaims("groups", []string{"/site/builders", "others"})
	return err
}

// issuer is a real OpenID provider over TLS. Its page for users is answered at once by the user id1.
func issuer(t *testing.T) (s store, url, ca string) {
	server := httptest.NewUnstartedServer(nil)
	url = "https://" + server.Listener.Addr().String()
	s = store{storage.NewStorageWithClients(storage.NewUserStore(url), map[string]*storage.Client{
		"web":    storage.WebClient("web", "web secret", "https://example.com/callback"),
		"device": storage.DeviceClient("device", "device secret"),
	})}
	provider, err := op.NewProvider(&op.Config{
		CodeMethodS256: true, AuthMethodPost: true, CryptoKey: [32]byte{1}, CryptoKeyId: "1",
		DeviceAuthorization: op.DeviceAuthorizationConfig{Lifetime: 5 * time.Minute, PollInterval: time.Second,
			UserFormPath: "/device", UserCode: op.UserCodeBase20},
	}, s, op.StaticIssuer(url), op.WithLogger(slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/login/username" {
			provider.ServeHTTP(w, r)
			return
		}
		id := r.URL.Query().Get("authRequestID")
		if err := s.CheckUsernamePassword("test-user@127.0.0.1", "verysecure", id); err != nil {
			t.Error(err)
		}
		http.Redirect(w, r, op.AuthCallbackURL(provider)(op.ContextWithIssuer(r.Context(), url), id), http.StatusFound)
	})
	server.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(t.Output(), nil), slog.LevelDebug)
	server.StartTLS()
	t.Cleanup(server.Close)
	return s, url, pemOf(server)
}

func pemOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// sealer seals with a prefix, and remembers what it has sealed: it unseals nothing else.
type sealer struct {
	mu     sync.Mutex
	sealed map[string]bool
}

func (s *sealer) Seal(plain []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed["sealed"+string(plain)] = true
	return append([]byte("sealed"), plain...), nil
}

func (s *sealer) Unseal(sealed []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sealed[string(sealed)] {
		return nil, errors.New("not sealed here")
	}
	return sealed[len("sealed"):], nil
}

// bastion is a Provider that asks an issuer, the settings and the secret, which tests change, and who has come in.
type bastion struct {
	*Provider
	settings Settings
	secret   string
	now      time.Time
	entered  []User
}

func open(t *testing.T, issuer, ca, client, secret string) *bastion {
	b := &bastion{settings: Settings{Issuer: issuer, CA: ca, Client: client, Scopes: []string{"openid", "profile"},
		UserClaim: "preferred_username", GroupsClaim: "groups"}, secret: secret, now: time.Now()}
	b.Provider = New(Config{
		Settings: func() Settings { return b.settings },
		Secret:   func() (string, error) { return b.secret, nil },
		Sealer:   &sealer{sealed: map[string]bool{}}, Domain: "example.com",
		Enter: func(_ context.Context, u User) (Login, error) {
			if len(u.Groups) == 0 {
				return Login{}, fmt.Errorf("%w: no group", ErrRefused)
			}
			b.entered = append(b.entered, u)
			return Login{Key: "cmk_login-1_00", Expires: b.now.Add(time.Hour)}, nil
		},
		Now: func() time.Time { return b.now },
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	return b
}

// browser is a client with cookies, for which example.com and its nodes are the bastion.
func (b *bastion) browser(t *testing.T, ca string) *http.Client {
	server := httptest.NewTLSServer(b.Provider)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	roots.AddCert(server.Certificate())
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.Contains(addr, "example.com") {
				addr = server.Listener.Addr().String()
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport}
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// A browser goes to the provider and comes back with a session, whichever node's name it begins at.
func TestBrowser(t *testing.T) {
	_, url, ca := issuer(t)
	b := open(t, url, ca, "web", "web secret")
	c := b.browser(t, ca)
	resp, body := get(t, c, "https://www.example.com/login/oidc")
	if resp.StatusCode != 200 || resp.Request.URL.Host != "example.com" ||
		!strings.Contains(body, "You are logged in") {
		t.Fatalf("%d at %s: %s", resp.StatusCode, resp.Request.URL, body)
	}
	if len(b.entered) != 1 || b.entered[0].Name != "test-user@127.0.0.1" || b.entered[0].Groups[0] != "/site/builders" {
		t.Errorf("%+v", b.entered)
	}
	set := strings.Join(resp.Header.Values("Set-Cookie"), "\n")
	for _, want := range []string{SessionCookie + "=cmk_login-1_00; Path=/;", "; HttpOnly; Secure; SameSite=Strict",
		stateCookie + "=; Path=/; Max-Age=0;"} {
		if !strings.Contains(set, want) {
			t.Errorf("no %q in\n%s", want, set)
		}
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Error(csp)
	}
	// The way back is for the browser that has begun it, once, for a short time.
	back := resp.Request.URL.String()
	if resp, _ := get(t, c, back); resp.StatusCode != 403 {
		t.Errorf("a second time: %d", resp.StatusCode)
	}
	if resp, _ := get(t, b.browser(t, ca), back); resp.StatusCode != 403 {
		t.Errorf("in another browser: %d", resp.StatusCode)
	}
	stopped := func(change func(callback string) string) int {
		t.Helper()
		c := b.browser(t, ca)
		c.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
			if r.URL.Path == CallbackPath {
				return http.ErrUseLastResponse
			}
			return nil
		}
		resp, _ := get(t, c, "https://example.com/login/oidc")
		resp, _ = get(t, c, change(resp.Header.Get("Location")))
		return resp.StatusCode
	}
	same := func(s string) string { return s }
	if code := stopped(same); code != 200 {
		t.Errorf("step by step: %d", code)
	}
	if code := stopped(func(s string) string { return strings.Replace(s, "state=", "state=x", 1) }); code != 403 {
		t.Errorf("with another state: %d", code)
	}
	if code := stopped(func(s string) string { return strings.Replace(s, "code=", "code=x", 1) }); code != 403 {
		t.Errorf("with another code: %d", code)
	}
	if code := stopped(func(s string) string { return s + "&iss=https://evil.example" }); code != 403 {
		t.Errorf("from another issuer: %d", code)
	}
	if code := stopped(func(s string) string { b.now = b.now.Add(stateLife); return s }); code != 403 {
		t.Errorf("too late: %d", code)
	}
	b.now = time.Now()
	b.settings.GroupsClaim = "no_such"
	if code := stopped(same); code != 403 {
		t.Errorf("without groups: %d", code)
	}
	b.secret = "wrong"
	if code := stopped(same); code != 403 {
		t.Errorf("with a wrong client secret: %d", code)
	}
	b.settings.Client = ""
	if resp, body := get(t, b.browser(t, ca), "https://example.com/login/oidc"); resp.StatusCode != 404 ||
		!strings.Contains(body, "oidc.issuer") {
		t.Errorf("without a provider: %d %s", resp.StatusCode, body)
	}
	resp, err := b.browser(t, ca).Post("https://example.com/login/oidc", "", nil)
	if err != nil || resp.StatusCode != 405 {
		t.Errorf("%v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
}

// A command line begins a login, and a user finishes it somewhere else.
func TestDevice(t *testing.T) {
	s, url, ca := issuer(t)
	b := open(t, url, ca, "device", "device secret")
	if err := b.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	begin := func() Device {
		t.Helper()
		d, err := b.Begin(t.Context())
		if err != nil || !strings.HasPrefix(d.URL, url) || d.Code == "" || !strings.Contains(d.Direct, d.Code) {
			t.Fatalf("%+v, %v", d, err)
		}
		return d
	}
	d := begin()
	if err := s.CompleteDeviceAuthorization(t.Context(), d.Code, "id1"); err != nil {
		t.Fatal(err)
	}
	if u, err := b.Finish(t.Context(), d.Handle); err != nil || u.Name != "test-user@127.0.0.1" || len(u.Groups) != 2 {
		t.Errorf("%+v, %v", u, err)
	}
	d = begin()
	if err := s.DenyDeviceAuthorization(t.Context(), d.Code); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(t.Context(), d.Handle); !errors.Is(err, ErrRefused) {
		t.Errorf("denied: %v", err)
	}
	// A handle is what this cluster has sealed for this, for its time and its issuer.
	browser, err := b.seal(step{For: forBrowser, Issuer: url, Expires: b.now.Add(time.Hour), Code: "x"})
	if err != nil {
		t.Fatal(err)
	}
	d = begin()
	forged := base64.RawURLEncoding.EncodeToString([]byte(`sealed{"for":"oidc device","code":"x"}`))
	for _, handle := range []string{"", "x", "%", forged, browser, strings.Repeat("A", maxHandle+1)} {
		if _, err := b.Finish(t.Context(), handle); !errors.Is(err, ErrRefused) {
			t.Errorf("%.30q: %v", handle, err)
		}
	}
	b.now = b.now.Add(maxLife)
	if _, err := b.Finish(t.Context(), d.Handle); !errors.Is(err, ErrRefused) {
		t.Errorf("too late: %v", err)
	}
	b.now = time.Now()
	b.settings.Issuer = "https://127.0.0.1:1"
	if _, err := b.Finish(t.Context(), d.Handle); !errors.Is(err, ErrRefused) {
		t.Errorf("another issuer: %v", err)
	}
	if _, err := b.Begin(t.Context()); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a provider that is down: %v", err)
	}
	b.settings.Issuer = url
	for range maxWaits {
		b.waits <- struct{}{}
	}
	if _, err := b.Finish(t.Context(), d.Handle); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("too many: %v", err)
	}
}

func FuzzHandles(f *testing.F) {
	f.Add("")
	f.Add("c2VhbGVke30")
	p := New(Config{Settings: func() Settings { return Settings{} }, Sealer: &sealer{sealed: map[string]bool{}}})
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := p.unseal(text, forDevice); !errors.Is(err, ErrRefused) {
			t.Error(err)
		}
	})
}

func TestSettings(t *testing.T) {
	for text, ok := range map[string]bool{"": true, "https://a.example/b": true, "http://a.example": false,
		"https://": false, "a.example": false, "https://u@a.example": false, "https://a.example?x": false} {
		if err := CheckIssuer(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, ok := range map[string]bool{"openid": true, "openid groups": true, "profile": false, "": false,
		"openid \"": false, "openid" + strings.Repeat(" a", 16): false} {
		if _, err := ParseScopes(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	if CheckClaim("groups") != nil || CheckClaim("") == nil || CheckClaim("a b") == nil ||
		CheckText("client-1") != nil || CheckText("a b") == nil {
		t.Error("claims and clients")
	}
}
