package edge

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/appliance/clientconn"
	"casemate/appliance/origin"
	"casemate/appliance/routing"
	"casemate/cluster/share"
	"casemate/cluster/waittest"
	"casemate/fileserver"
	"casemate/registry"
)

// testEdge returns an edge whose services record the requests.
func testEdge(t *testing.T) (*Edge, *[]string) {
	off := origin.Origin{Host: "off.example.org", Disabled: origin.Removed}
	h := &routing.Hosts{
		Domain: "gap.example", Nodes: map[string]bool{"n1": true},
		Origins: origin.NewSet(append(origin.Builtin(), off)),
	}
	var missed []string
	e := &Edge{
		Hosts: func() *routing.Hosts { return h },
		Registry: func(w http.ResponseWriter, r *http.Request, v registry.View) {
			fmt.Fprintf(w, "registry origin=%s plain=%v host=%s path=%s", v.Origin, v.Plain, v.Host,
				r.URL.EscapedPath())
		},
		Files: func(w http.ResponseWriter, r *http.Request, v fileserver.View) {
			fmt.Fprintf(w, "files origin=%s plain=%v path=%s", v.Origin, v.Plain, r.URL.EscapedPath())
		},
		Pages: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "pages %s", r.URL.Path)
		}),
		Page: pageAt{"/missing"}, HTTPS: func() uint16 { return 8443 },
		Miss:    func(kind, name, detail string, _ netip.Addr) { missed = append(missed, kind+" "+name) },
		Observe: func(string, *http.Request, int, int64, time.Duration) {},
		Stall:   time.Minute, Log: testLog(t),
	}
	return e, &missed
}

// pageAt is a page for browsers with one path.
type pageAt struct{ path string }

func (p pageAt) Has(path string) bool { return path == p.path }

func (p pageAt) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "page %s", r.URL.Path)
}

// The page is served over TLS, at the bastions' own names and addresses only; without TLS the browser is sent there.
func TestPageOverTLS(t *testing.T) {
	e, _ := testEdge(t)
	for _, c := range []struct{ host, url, want string }{
		{"gap.example", "/missing?kind=dns&q=%2F%2Fx", "https://gap.example:8443/missing?kind=dns&q=%2F%2Fx"},
		{"n1.gap.example:8080", "/missing", "https://n1.gap.example:8443/missing"},
		{"gap.example", "/ca.crt", ""},
		{"dl.k8s.io", "/missing", ""},
	} {
		r := httptest.NewRequest("GET", c.url, nil)
		r.Host = c.host
		w := httptest.NewRecorder()
		e.handler(true).ServeHTTP(w, r)
		if got := w.Header().Get("Location"); got != c.want || c.want != "" && w.Code != http.StatusFound {
			t.Errorf("%s%s: %d %q, want %q", c.host, c.url, w.Code, got, c.want)
		}
	}
}

func TestTheEdgeRoutesByHost(t *testing.T) {
	e, missed := testEdge(t)
	for _, c := range []struct{ host, path, want string }{
		{"registry.k8s.io", "/v2/pause/manifests/3.10",
			"registry origin=registry.k8s.io plain=false host=registry.k8s.io path=/v2/pause/manifests/3.10"},
		{"registry-1.docker.io", "/v2/", "registry origin=docker.io plain=false host=registry-1.docker.io path=/v2/"},
		{"INDEX.docker.io:443", "/v2", "registry origin=docker.io plain=false host=INDEX.docker.io:443 path=/v2"},
		{"docker.io.", "/v2x", "files origin=docker.io plain=false path=/v2x"},
		{"auth.docker.io", "/token?service=registry.docker.io",
			"registry origin= plain=false host=auth.docker.io path=/token"},
		{"auth.docker.io", "/other", "files origin=docker.io plain=false path=/other"},
		{"dl.k8s.io", "/release/stable.txt", "files origin=dl.k8s.io plain=false path=/release/stable.txt"},
		{"dl.k8s.io", "/token", "files origin=dl.k8s.io plain=false path=/token"},
		{"dl.k8s.io", "/ca.crt", "files origin=dl.k8s.io plain=false path=/ca.crt"},
		{"registry.gap.example", "/v2/a/b/tags/list", "registry origin= plain=false host=registry.gap.example " +
			"path=/v2/a/b/tags/list"},
		{"registry.gap.example", "/token", "registry origin= plain=false host=registry.gap.example path=/token"},
		{"registry.gap.example", "/", "404"},
		{"files.gap.example", "/dl.k8s.io/x%2Fy", "files origin= plain=false path=/dl.k8s.io/x%2Fy"},
		{"files.gap.example", "/v2/", "files origin= plain=false path=/v2/"},
		{"gap.example", "/files/dl.k8s.io/x%2Fy", "files origin= plain=false path=/dl.k8s.io/x%2Fy"},
		{"gap.example", "/files", "301"},
		{"gap.example", "/v2/", "registry origin= plain=false host=gap.example path=/v2/"},
		{"gap.example", "/ca.crt", "pages /ca.crt"},
		{"n1.gap.example:8443", "/healthz", "pages /healthz"},
		{"10.0.0.1", "/", "pages /"},
		{"[fd00::1]:443", "/v2/", "registry origin= plain=false host=[fd00::1]:443 path=/v2/"},
		{"localhost:8080", "/", "pages /"},
		{"n2.gap.example", "/", "421"},
		{"off.example.org", "/", "421"},
		{"registry.bank.example", "/v2/", "421"},
		{"x.registry.k8s.io", "/v2/", "421"},
		{"dl.k8s.io", "/" + strings.Repeat("x", maxURI), "414"},
	} {
		r := httptest.NewRequest("GET", "https://"+"x"+c.path, nil)
		r.Host, r.TLS = c.host, &tls.ConnectionState{}
		w := httptest.NewRecorder()
		e.handler(false).ServeHTTP(w, r)
		got := w.Body.String()
		if w.Code != 200 {
			got = fmt.Sprint(w.Code)
		}
		if got != c.want {
			t.Errorf("%s%.40s: got %s (%s), want %s", c.host, c.path, got, w.Body, c.want)
		}
	}
	if got := strings.Join(*missed, ","); got != "host n2.gap.example,host off.example.org,host "+
		"registry.bank.example,host x.registry.k8s.io" {
		t.Errorf("missed: %s", got)
	}
}

func TestHostAndSNIMustMeanTheSame(t *testing.T) {
	e, _ := testEdge(t)
	for _, c := range []struct {
		sni, host string
		want      int
	}{
		{"", "registry.k8s.io", 200},
		{"registry.k8s.io", "registry.k8s.io:443", 200},
		{"registry-1.docker.io", "docker.io", 200}, // one origin
		{"gap.example", "n1.gap.example", 200},     // one thing
		{"registry.k8s.io", "docker.io", 421},
		{"registry.k8s.io", "gap.example", 421},
		{"gap.example", "files.gap.example", 421},
		{"unknown.example", "gap.example", 421},
	} {
		r := httptest.NewRequest("GET", "https://x/v2/", nil)
		r.Host, r.TLS = c.host, &tls.ConnectionState{ServerName: c.sni}
		w := httptest.NewRecorder()
		e.handler(false).ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("SNI %q, Host %q: %d %s, want %d", c.sni, c.host, w.Code, w.Body, c.want)
		}
	}
}

func TestWhatProxiesSayIsNotBelieved(t *testing.T) {
	e, _ := testEdge(t)
	var got http.Header
	e.Registry = func(_ http.ResponseWriter, r *http.Request, _ registry.View) { got = r.Header }
	r := httptest.NewRequest("GET", "http://gap.example/v2/", nil)
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host",
		"X-Forwarded-Port", "X-Real-Ip"} {
		r.Header.Set(h, "evil.example")
	}
	r.Header.Set("Accept", "x/y")
	e.handler(true).ServeHTTP(httptest.NewRecorder(), r)
	if len(got) != 1 || got.Get("Accept") != "x/y" {
		t.Errorf("the room sees %v", got)
	}
}

// The registry verifies a bearer token over plain http: anonymous ones are used to read mirrors on port 80.
func TestTokensOverPlainHTTPReachTheRegistry(t *testing.T) {
	e, _ := testEdge(t)
	r := httptest.NewRequest("GET", "http://gap.example/v2/a/manifests/1", nil)
	r.Header.Set("Authorization", "Bearer abc")
	w := httptest.NewRecorder()
	e.handler(true).ServeHTTP(w, r)
	if !strings.HasPrefix(w.Body.String(), "registry origin= plain=true") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// rawServer serves a handler over the connections that the appliance uses.
func rawServer(t *testing.T, stall time.Duration, max int, h http.Handler) (addr string, p *share.Places) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p = clientconn.NewPlaces(max, nil)
	srv := &http.Server{Handler: h, ConnContext: clientconn.WithConn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(&clientconn.Listener{Listener: l, Places: p, Stall: stall, Log: testLog(t)})
	}()
	t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String(), p
}

// A client that stops reading is disconnected, and one that reads slowly but steadily is not.
func TestAClientThatStopsReadingIsCutOff(t *testing.T) {
	ended := make(chan error, 1)
	addr, _ := rawServer(t, 200*time.Millisecond, 10, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 1<<20)
		for {
			if _, err := w.Write(buf); err != nil {
				ended <- err
				return
			}
		}
	}))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := waittest.Next(t, ended, "the client is cut off"); !strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v", err)
	}
}

func TestAClientThatStopsSendingIsCutOff(t *testing.T) {
	e, _ := testEdge(t)
	e.Stall = 100 * time.Millisecond
	ended := make(chan error, 1)
	e.Registry = func(_ http.ResponseWriter, r *http.Request, _ registry.View) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}
	addr, _ := rawServer(t, time.Minute, 10, e.handler(false))
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PUT /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: gap.example\r\nContent-Length: 100\r\n\r\nhello")
	err = waittest.Next(t, ended, "the client is cut off")
	if err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v", err)
	}
}

// TestAnswered: the header of each answer is reported, with the service that gave it.
func TestAnswered(t *testing.T) {
	e, _ := testEdge(t)
	e.Files = func(w http.ResponseWriter, r *http.Request, _ fileserver.View) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	}
	var got []string
	e.Answered = func(service string, r *http.Request, status int, header http.Header) {
		got = append(got, fmt.Sprint(service, " ", r.Host, r.URL.Path, " ", status, " ", header.Get("Location")))
	}
	for _, url := range []string{"http://dl.k8s.io/x", "http://nobody.example/y"} {
		e.handler(true).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", url, nil))
	}
	want := []string{"files dl.k8s.io/x 302 /elsewhere", "none nobody.example/y 421 "}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
