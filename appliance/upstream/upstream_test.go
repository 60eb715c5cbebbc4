package upstream_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"casemate/appliance/upstream"
	"casemate/cluster/treetest"
	"casemate/fileserver"
	"casemate/registry"
)

// world is an internet of one server, which answers for every name, and a bastion that fetches from it.
type world struct {
	ofPath, queries atomic.Int64 // files that have a query in their URL
	t               *testing.T
	serve           atomic.Pointer[http.HandlerFunc]
	tls             *httptest.Server
	down            atomic.Bool
	plain           atomic.Pointer[string]     // where port 80 leads to; nil: nowhere; otherwise nobody listens at 443
	addr            atomic.Pointer[netip.Addr] // what the resolver says
	names           sync.Map                   // netip.Addr, of hosts that have another address
	proxy           atomic.Pointer[string]     // may be connected to besides
	plainToo        atomic.Pointer[string]     // where port 80 leads to, besides 443
	own             string                     // the address of a bastion; "": 192.0.2.99
	asked           sync.Map                   // *atomic.Int64 by "METHOD host/path"
	total           atomic.Int64

	set    atomic.Pointer[upstream.Settings]
	mu     sync.Mutex
	now    time.Time
	events []upstream.Event
	misses []string
	moved  map[string]string // redirects
	others atomic.Int64      // redirects of other URLs
	free   atomic.Int64

	up    *upstream.Upstream
	reg   *registry.Registry
	files *fileserver.Server
	tree  *treetest.Mem // of files
	store *treetest.Mem // of images
}

const (
	site     = "registry.example.com"
	fileHost = "dl.example.com"
	cdn      = "cdn.example.com"
	foreign  = "storage.example.com" // no origin
)

// certificate is one for the names of tests.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		DNSNames: []string{"*.example.com", "*.example.net", "notexample.com", "docker.io", "*.docker.io"}}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

type plainSealer struct{}

func (plainSealer) Seal(p []byte) ([]byte, error) { return append([]byte("sealed "), p...), nil }
func (plainSealer) Unseal(p []byte) ([]byte, error) {
	return bytes.TrimPrefix(p, []byte("sealed ")), nil
}

func newWorld(t *testing.T) *world { return newWorldOn(t, treetest.New(t)) }

// newWorldOn is another bastion of the cluster that has a tree of files.
func newWorldOn(t *testing.T, tree *treetest.Mem) *world {
	w := &world{t: t, now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), moved: map[string]string{}}
	w.free.Store(1 << 40)
	w.tls = httptest.NewUnstartedServer(http.HandlerFunc(w.answer))
	w.tls.EnableHTTP2 = true
	w.tls.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	w.tls.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	w.tls.StartTLS()
	t.Cleanup(w.tls.Close)
	at := netip.MustParseAddr("192.0.2.1")
	w.addr.Store(&at)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.tls.Certificate().Raw})
	w.set.Store(&upstream.Settings{On: true, Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		CA: string(ca), Fresh: time.Hour})
	w.tree, w.store = tree, treetest.New(t)
	canonical := func(host string) (string, bool) {
		if host == "alias.example.com" {
			return site, true
		}
		return host, host == site || host == fileHost || host == cdn || host == "docker.io"
	}
	w.up = upstream.New(upstream.Config{
		Settings: w.set.Load, Canonical: canonical,
		Own: func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr(cmp.Or(w.own, "192.0.2.99"))}
		},
		Images: func() upstream.Images { return w.reg }, Files: func() upstream.Files { return w.files },
		Held: func(url string) string {
			info, _ := w.files.Stat(url)
			return info.Digest
		},
		Redirect: func(_ context.Context, from, to string) error {
			if to != "" {
				if err := fileserver.CheckRedirect(from, to); err != nil {
					return err
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			next := map[string]string{}
			for k, v := range w.moved {
				next[k] = v
			}
			if next[from] = to; to == "" {
				delete(next, from)
			}
			w.moved = next
			return nil
		},
		Queries: func(string) (path, all int) { return int(w.ofPath.Load()), int(w.queries.Load()) },
		Redirects: func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.moved) + int(w.others.Load())
		},
		Tree: treetest.New(t), Sealer: plainSealer{}, Free: w.free.Load, MaxUnsized: 1 << 20,
		Observe: func(e upstream.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
		Now: w.clock,
		Resolve: func(_ context.Context, r netip.AddrPort, host string) ([]netip.Addr, error) {
			if r != w.set.Load().Resolvers[0] {
				t.Errorf("asked the resolver %s", r)
			}
			if at, ok := w.names.Load(host); ok {
				return []netip.Addr{at.(netip.Addr)}, nil
			}
			return []netip.Addr{*w.addr.Load()}, nil
		},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if w.down.Load() {
				return nil, errors.New("no route to host")
			}
			if proxy := w.proxy.Load(); proxy != nil && addr == *proxy {
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			} else if proxy != nil {
				t.Errorf("connected to %s, not to the proxy", addr)
			}
			if strings.HasPrefix(addr, "10.1.1.") {
				return (&net.Dialer{}).DialContext(ctx, network, w.tls.Listener.Addr().String())
			}
			if plain := w.plainToo.Load(); plain != nil && addr == "192.0.2.1:80" {
				return (&net.Dialer{}).DialContext(ctx, network, *plain)
			}
			if plain := w.plain.Load(); plain != nil && addr == "192.0.2.1:80" {
				return (&net.Dialer{}).DialContext(ctx, network, *plain)
			} else if plain != nil || addr != "192.0.2.1:443" {
				return nil, fmt.Errorf("nobody listens at %s", addr)
			}
			return (&net.Dialer{}).DialContext(ctx, network, w.tls.Listener.Addr().String())
		},
		Pause: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Log:   slog.New(slog.NewTextHandler(logger{t}, nil)),
	})
	t.Cleanup(func() { w.up.Close() })
	miss := func(_ *http.Request, kind, name, detail string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.misses = append(w.misses, kind+" "+name+" "+detail)
	}
	origins := func() []string { return []string{site, fileHost, cdn} }
	var err error
	if w.reg, err = registry.Open(registry.Config{Tree: w.store, Canonical: canonical, Origins: origins,
		Upstream: w.up.Registry(), Miss: miss}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.reg.Close() })
	w.files = fileserver.New(fileserver.Config{Tree: w.tree, Canonical: canonical, Upstream: w.up.FileServer(),
		Miss: miss, Now: w.clock, Log: slog.New(slog.DiscardHandler), Redirects: func() map[string]string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.moved
		}})
	return w
}

type logger struct{ t *testing.T }

func (l logger) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) later(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// internet sets what the server answers.
func (w *world) internet(h http.HandlerFunc) { w.serve.Store(&h) }

func (w *world) answer(rw http.ResponseWriter, r *http.Request) {
	w.total.Add(1)
	n, _ := w.asked.LoadOrStore(r.Method+" "+r.Host+r.URL.Path, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	if r.TLS != nil && r.TLS.ServerName != strings.Split(r.Host, ":")[0] {
		w.t.Errorf("SNI %q and Host %q", r.TLS.ServerName, r.Host)
	}
	if r.Header.Get("X-Client") != "" || strings.Contains(r.Header.Get("Authorization"), "client") {
		w.t.Errorf("a client's header was sent on: %v", r.Header)
	}
	(*w.serve.Load())(rw, r)
}

func (w *world) count(what string) int64 {
	n, ok := w.asked.Load(what)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

// get asks the bastion as a client of an origin does.
func (w *world) get(host, path string, header ...string) *httptest.ResponseRecorder {
	return w.do(w.t.Context(), http.MethodGet, host, path, header...)
}

func (w *world) do(ctx context.Context, method, host, path string, header ...string) *httptest.ResponseRecorder {
	return w.doAs(ctx, "192.0.2.1:1234", method, host, path, header...)
}

// doAs asks from an address.
func (w *world) doAs(ctx context.Context, client, method, host, path string,
	header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequestWithContext(ctx, method, "https://"+host+path, nil)
	req.RemoteAddr = client
	req.TLS = &tls.ConnectionState{}
	req.Header.Set("X-Client", "yes")
	req.SetBasicAuth("client", "client-secret")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	if strings.HasPrefix(path, "/v2/") {
		w.reg.Serve(rec, req, registry.View{Origin: host})
	} else {
		w.files.Serve(rec, req, fileserver.View{Origin: host})
	}
	return rec
}

func (w *world) want(rec *httptest.ResponseRecorder, status int, body string) {
	w.t.Helper()
	if rec.Code != status || body != "" && rec.Body.String() != body {
		w.t.Errorf("got %d %.200q, want %d %.200q", rec.Code, rec.Body, status, body)
	}
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
}

// TestClosed: with the setting off, nothing is sent, whatever is asked.
func TestClosed(t *testing.T) {
	w := newWorld(t)
	w.internet(text("x"))
	w.set.Store(&upstream.Settings{Fresh: time.Hour})
	w.want(w.get(fileHost, "/a"), 404, "")
	w.want(w.get(site, "/v2/app/manifests/v1"), 404, "")
	w.up.Probe(t.Context(), site)
	w.set.Store(&upstream.Settings{On: true, Hosts: []string{site}, Fresh: time.Hour}) // another origin
	w.want(w.get(fileHost, "/a"), 404, "")
	if n := w.up.Dials(); n != 0 || w.total.Load() != 0 {
		t.Errorf("%d connections and %d requests", n, w.total.Load())
	}
}

// TestOneFetch: many clients that ask for one file cause one fetch, also if the first of them goes away, and a range
// is answered before the rest has arrived.
func TestOneFetch(t *testing.T) {
	w := newWorld(t)
	part := strings.Repeat("0123456789abcdef", 4096)
	release := make(chan struct{})
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", fmt.Sprint(2*len(part)))
		io.WriteString(rw, part)
		rw.(http.Flusher).Flush()
		<-release
		io.WriteString(rw, part)
	})
	// Half of it is there, so its beginning is answered.
	rec := w.get(fileHost, "/big", "Range", "bytes=0-9")
	w.want(rec, 206, "0123456789")
	gone, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.do(gone, http.MethodGet, fileHost, "/big") })
	for range 50 {
		wg.Go(func() { w.want(w.get(fileHost, "/big"), 200, part+part) })
	}
	leave()
	if _, err := w.tree.Stat(fileHost); err == nil {
		t.Error("it is visible before it is complete")
	}
	close(release)
	wg.Wait()
	w.want(w.get(fileHost, "/big"), 200, part+part)
	if n := w.count("GET " + fileHost + "/big"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// TestRefusals: a client gets the origin's own status where it can use it, otherwise 502 with a sentence; what an
// origin does not have, and what it refuses, is not asked again for a while.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		says   string
		after  string // Retry-After
		asked  int64  // by two clients in a row
	}{
		{"404", status(404), 404, "not kept here", "", 1},
		{"410", status(410), 404, "not kept here", "", 1},
		{"401", status(401), 403, "casemate upstream login " + fileHost, "", 1},
		{"403", status(403), 403, "gives no access", "", 1},
		{"429", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "77")
			w.WriteHeader(429)
		}, 429, "limits requests", "77", 1},
		{"500", status(500), 502, fileHost + ": the server answered 500", "", 2},
		{"418", status(418), 502, "418", "", 2},
		{"loop", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+foreign+"/loop", http.StatusFound)
		}, 502, "redirects", "", 22},
		{"to http", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+foreign+"/x", http.StatusFound)
		}, 502, "plain http", "", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.internet(c.answer)
			for range 2 {
				rec := w.get(fileHost, "/x")
				w.want(rec, c.status, "")
				if !strings.Contains(rec.Body.String(), c.says) || rec.Header().Get("Retry-After") != c.after {
					t.Errorf("got %q, Retry-After %q", rec.Body, rec.Header().Get("Retry-After"))
				}
			}
			if n := w.total.Load(); n != c.asked {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
			if len(w.misses) != 2 {
				t.Errorf("misses: %q", w.misses)
			}
			// It is asked again later, and nothing is left of the failure.
			w.later(6 * time.Minute)
			w.internet(text("now it is there"))
			w.want(w.get(fileHost, "/x"), 200, "now it is there")
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// TestWrongContent: what breaks off, and what is a login page, never arrives whole and is not kept.
func TestWrongContent(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	cut := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "200000")
		io.WriteString(w, long)
		panic(http.ErrAbortHandler)
	}
	for _, c := range []struct {
		name, path string
		answer     http.HandlerFunc
		status     int
	}{
		{"login page", "/a.tar.gz", text("<!doctype html><title>Log in</title>" + long), 502},
		{"short login page", "/a.zip", text("<html>Log in"), 502},
		{"truncated", "/a.bin", cut, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.internet(c.answer)
			rec := w.get(fileHost, c.path)
			if rec.Code != c.status || c.status == 200 && rec.Body.Len() >= 200_000 {
				t.Errorf("got %d with %d bytes", rec.Code, rec.Body.Len())
			}
			if _, err := w.tree.Stat(fileHost + c.path + "?"); err == nil {
				t.Error("it was kept")
			}
		})
	}
}

// TestResume: a body that breaks off is continued where it did, and clients notice nothing.
func TestResume(t *testing.T) {
	w := newWorld(t)
	content := strings.Repeat("0123456789", 20_000)
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("ETag", `"v1"`)
		if r.Header.Get("Range") == "" {
			rw.Header().Set("Content-Length", fmt.Sprint(len(content)))
			io.WriteString(rw, content[:70_000])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(content))
	})
	w.want(w.get(fileHost, "/a.bin"), 200, content)
}

// TestFilesAreComparedWithTheirOrigin: a file is compared after a while, once for all, and the held one is served if
// its origin cannot be asked. What a person has put stays.
func TestFilesAreComparedWithTheirOrigin(t *testing.T) {
	w := newWorld(t)
	version := atomic.Int64{}
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		etag := fmt.Sprintf(`"v%d"`, version.Load())
		rw.Header().Set("ETag", etag)
		http.ServeContent(rw, r, "", time.Time{}, strings.NewReader("version "+etag))
	})
	const asked = "GET " + fileHost + "/stable.txt"
	for _, step := range []struct {
		what string
		do   func()
		body string
		n    int64
		ends int // fetches that have ended by then
	}{
		{"cold", func() {}, `version "v0"`, 1, 1},
		{"warm", func() {}, `version "v0"`, 1, 1},
		{"an hour later, the same", func() { w.later(61 * time.Minute) }, `version "v0"`, 2, 2},
		{"warm again", func() {}, `version "v0"`, 2, 2},
		{"changed", func() { version.Store(1); w.later(61 * time.Minute) }, `version "v1"`, 3, 3},
		{"unreachable", func() { w.later(3 * time.Hour); w.down.Store(true); w.tls.CloseClientConnections() },
			`version "v1"`, 3, 4},
		{"not asked again at once", func() { w.down.Store(false) }, `version "v1"`, 3, 4},
	} {
		step.do()
		rec := w.get(fileHost, "/stable.txt")
		if rec.Code != 200 || rec.Body.String() != step.body || w.count(asked) != step.n {
			t.Fatalf("%s: got %d %q after %d requests, want %q after %d", step.what, rec.Code, rec.Body, w.count(asked),
				step.body, step.n)
		}
		w.ended(step.ends)
	}
	if list := strings.Join(w.up.Warnings(), "\n"); !strings.Contains(list, "https://"+fileHost+
		"/stable.txt is served as it was 3h0m0s ago") {
		t.Errorf("warnings: %s", list)
	}
	_, err := w.files.Put(t.Context(), "https://"+fileHost+"/stable.txt", strings.NewReader("mine"), "")
	if err != nil {
		t.Fatal(err)
	}
	w.later(2 * time.Hour)
	w.want(w.get(fileHost, "/stable.txt"), 200, "mine")
}

// TestRedirects: a redirect to an origin is recorded as one, another one is followed; one whose query is signed anew
// leads to what is held.
func TestRedirects(t *testing.T) {
	w := newWorld(t)
	var signature atomic.Int64
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		switch r.Host + r.URL.Path {
		case fileHost + "/asset":
			http.Redirect(rw, r, fmt.Sprintf("https://%s/blob?sig=%d", cdn, signature.Add(1)), http.StatusFound)
		case fileHost + "/elsewhere":
			http.Redirect(rw, r, "https://"+foreign+"/content", http.StatusTemporaryRedirect)
		default:
			io.WriteString(rw, "content of "+r.Host+r.URL.RequestURI())
		}
	})
	for _, to := range []string{"https://" + cdn + "/blob?sig=1", "https://" + cdn + "/blob"} { // the second is held
		rec := w.get(fileHost, "/asset")
		w.want(rec, 302, "")
		if got := rec.Header().Get("Location"); got != to {
			t.Errorf("leads to %s", got)
		}
		w.want(w.get(cdn, "/blob?sig=1"), 200, "content of "+cdn+"/blob?sig=1")
		w.ended(2) // the client has it before it is stored
		w.want(w.get(cdn, "/blob?sig=another&se=1"), 200, "content of "+cdn+"/blob?sig=1")
		w.later(2 * time.Hour)
	}
	w.mu.Lock()
	for from, to := range w.moved {
		if strings.Contains(from+to, "sig=") {
			t.Errorf("a signature is stored: %s to %s", from, to)
		}
	}
	w.mu.Unlock()
	for name := range w.tree.Walk(".", "") {
		if data, err := w.tree.ReadFile(name); strings.Contains(name, "sig=") ||
			err == nil && strings.Contains(string(data), `"name":"`) && strings.Contains(string(data), "sig=") {
			t.Errorf("a signature is stored: %s: %s", name, data)
		}
	}
	if n := w.count("GET " + fileHost + "/asset"); n != 2 {
		t.Errorf("asked %d times", n)
	}
	w.want(w.get(fileHost, "/elsewhere"), 200, "content of "+foreign+"/content")
	w.want(w.do(t.Context(), http.MethodHead, fileHost, "/other"), 200, "")
}

// TestAddresses: nothing is sent to a bastion or to this machine, whatever a resolver says, and status says so.
func TestAddresses(t *testing.T) {
	w := newWorld(t)
	w.internet(text("x"))
	for _, text := range []string{"192.0.2.99", "::ffff:192.0.2.99", "127.0.0.1", "::1", "0.0.0.0", "169.254.169.254",
		"fe80::1", "224.0.0.1"} {
		at := netip.MustParseAddr(text)
		w.addr.Store(&at)
		w.later(10 * time.Minute)
		w.want(w.get(fileHost, "/a"), 502, "")
		w.up.Probe(t.Context(), fileHost)
		if len(w.up.Problems()) != 1 {
			t.Errorf("%s: problems are %q", text, w.up.Problems())
		}
	}
	if w.up.Dials() != 0 {
		t.Errorf("%d connections", w.up.Dials())
	}
}

// TestCircuit: an origin that does not answer is not tried for each client.
func TestCircuit(t *testing.T) {
	w := newWorld(t)
	w.internet(text("x"))
	w.down.Store(true)
	for i := range 20 {
		w.want(w.get(fileHost, fmt.Sprint("/", i)), 502, "")
	}
	if n := w.up.Dials(); n != 3 {
		t.Errorf("tried %d times", n)
	}
	if list := w.up.Warnings(); len(list) != 1 || !strings.Contains(list[0], fileHost+" has not answered since") {
		t.Errorf("warnings: %q", list)
	}
	w.down.Store(false)
	w.want(w.get(fileHost, "/a"), 502, "")
	w.later(6 * time.Second)
	w.want(w.get(fileHost, "/a"), 200, "x")
	w.want(w.get(fileHost, "/b"), 200, "x")
}

// TestBounds: what does not fit on the disk is not begun.
func TestBounds(t *testing.T) {
	w := newWorld(t)
	w.free.Store(10)
	w.internet(text("eleven bytes"))
	w.want(w.get(fileHost, "/a"), 507, "")
	w.free.Store(100)
	w.want(w.get(fileHost, "/a"), 200, "eleven bytes")
}

// picture is an image at the origin, with token authentication and blobs at another host.
type picture struct {
	layer, config, manifest string
	user                    string // who may pull; "": everybody
}

func (p *picture) serve(rw http.ResponseWriter, r *http.Request) {
	d := func(s string) string { return treetest.DigestOf([]byte(s), "") }
	if r.Host == cdn || r.Host == foreign {
		if r.Header.Get("Authorization") != "" {
			rw.WriteHeader(400)
			return
		}
		http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(p.layer))
		return
	}
	user, _, _ := r.BasicAuth()
	switch {
	case r.URL.Path == "/token" && (p.user == "" || user == p.user):
		io.WriteString(rw, `{"token":"right"}`)
	case r.URL.Path == "/token":
		rw.WriteHeader(401)
	case r.Header.Get("Authorization") != "Bearer right":
		rw.Header().Set("WWW-Authenticate", `Bearer realm="https://`+site+`/token",service="x"`)
		rw.WriteHeader(401)
	case strings.HasSuffix(r.URL.Path, "/manifests/v1"), strings.HasSuffix(r.URL.Path, "/manifests/"+d(p.manifest)):
		rw.Header().Set("Docker-Content-Digest", d(p.manifest))
		rw.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(p.manifest))
	case strings.HasSuffix(r.URL.Path, "/blobs/"+d(p.layer)):
		http.Redirect(rw, r, "https://"+foreign+"/signed?x=1", http.StatusTemporaryRedirect)
	case strings.HasSuffix(r.URL.Path, "/blobs/"+d(p.config)):
		http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(p.config))
	case r.URL.Path == "/v2/":
	default:
		rw.WriteHeader(404)
	}
}

func newPicture(layer string) *picture {
	p := &picture{layer: layer, config: `{"os":"linux","architecture":"amd64"}`}
	part := func(kind, s string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, kind, treetest.DigestOf([]byte(s), ""), len(s))
	}
	p.manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":` +
		part("application/vnd.oci.image.config.v1+json", p.config) + `,"layers":[` +
		part("application/vnd.oci.image.layer.v1.tar", p.layer) + `]}`
	return p
}

// TestImages: an image is pulled through, with the bastion's login alone; then it is here, and a tag is compared with
// its origin once in a while.
func TestImages(t *testing.T) {
	w := newWorld(t)
	p := newPicture(strings.Repeat("layer ", 10_000))
	p.user = "ci"
	w.internet(p.serve)
	rec := w.get(site, "/v2/app/manifests/v1")
	w.want(rec, 403, "")
	if !strings.Contains(rec.Body.String(), "casemate upstream login") {
		t.Errorf("got %s", rec.Body)
	}
	if err := w.up.SetLogin(t.Context(), "alias.example.com", "ci", "secret"); err != nil {
		t.Fatal(err)
	}
	d := func(s string) string { return treetest.DigestOf([]byte(s), "") }
	pull := func(p *picture) {
		t.Helper()
		w.want(w.get(site, "/v2/app/manifests/v1"), 200, p.manifest)
		w.want(w.get(site, "/v2/app/manifests/"+d(p.manifest)), 200, p.manifest)
		w.want(w.get(site, "/v2/app/blobs/"+d(p.config)), 200, p.config)
		w.want(w.do(t.Context(), http.MethodHead, site, "/v2/app/blobs/"+d(p.layer)), 200, "")
		w.want(w.get(site, "/v2/app/blobs/"+d(p.layer), "Range", "bytes=6-10"), 206, p.layer[6:11])
		w.want(w.get(site, "/v2/app/blobs/"+d(p.layer)), 200, p.layer)
		w.kept(d(p.config))
		w.kept(d(p.layer))
	}
	pull(p)
	w.want(w.get(site, "/v2/app/manifests/absent"), 404, "")
	n := w.total.Load()
	w.down.Store(true)
	w.tls.CloseClientConnections()
	pull(p)
	w.later(2 * time.Hour)
	pull(p) // its origin cannot be asked
	list := strings.Join(w.up.Warnings(), "\n")
	if !strings.Contains(list, site+"/app:v1 is served as it was 2h0m0s ago") {
		t.Errorf("warnings: %s", list)
	}
	if w.total.Load() != n {
		t.Error("something was asked while nothing could be")
	}
	w.down.Store(false)
	w.later(2 * time.Hour)
	moved := newPicture("another layer")
	moved.user = "ci"
	w.internet(moved.serve)
	pull(moved)
	w.want(w.get(site, "/v2/app/manifests/"+d(p.manifest)), 200, p.manifest) // by digest it stays
	for _, e := range w.events {
		if e.Client == "" || e.Name == "" || e.Host != site || e.Kind == "" {
			t.Errorf("event %+v", e)
		}
	}
}

// TestTagNow: an origin is asked which digest a tag has, and what is held remains.
func TestTagNow(t *testing.T) {
	w := newWorld(t)
	first, moved := newPicture("a layer"), newPicture("another layer")
	w.internet(first.serve)
	w.want(w.get(site, "/v2/app/manifests/v1"), 200, first.manifest)
	want := treetest.DigestOf([]byte(moved.manifest), "")
	for name, serve := range map[string]http.HandlerFunc{
		"by HEAD": moved.serve,
		"without a digest": func(rw http.ResponseWriter, r *http.Request) {
			moved.serve(withoutDigest{rw}, r)
		},
		"without HEAD": func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				rw.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			moved.serve(rw, r)
		},
	} {
		w.internet(serve)
		if got, err := w.up.TagNow(t.Context(), "alias.example.com/app", "v1"); got != want || err != nil {
			t.Errorf("%s: got %s, %v", name, got, err)
		}
	}
	w.want(w.get(site, "/v2/app/manifests/v1"), 200, first.manifest)
	for _, repo := range []string{site + "/absent", foreign + "/app"} {
		w.internet(status(http.StatusNotFound))
		if _, err := w.up.TagNow(t.Context(), repo, "v1"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", repo, err)
		}
	}
}

// withoutDigest is an answer that does not tell the digest of its content.
type withoutDigest struct{ http.ResponseWriter }

func (w withoutDigest) WriteHeader(code int) {
	w.Header().Del("Docker-Content-Digest")
	w.ResponseWriter.WriteHeader(code)
}

func (w withoutDigest) Write(p []byte) (int, error) {
	w.Header().Del("Docker-Content-Digest")
	return w.ResponseWriter.Write(p)
}

// TestWrongBlob: bytes that do not have the digest are refused, and no client gets all of them.
func TestWrongBlob(t *testing.T) {
	w := newWorld(t)
	p := newPicture("right")
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		if r.Host == foreign {
			io.WriteString(rw, "wrong")
			return
		}
		p.serve(rw, r)
	})
	rec := w.get(site, "/v2/app/blobs/"+treetest.DigestOf([]byte("right"), ""))
	if rec.Code != 502 || !strings.Contains(rec.Body.String(), "its checksum is wrong") {
		t.Errorf("got %d %q", rec.Code, rec.Body)
	}
	w.internet(p.serve)
	w.later(10 * time.Minute)
	w.want(w.get(site, "/v2/app/blobs/"+treetest.DigestOf([]byte("right"), "")), 200, "right")
}

// TestPlain: a file is fetched without TLS only for a client that asked without it, and only where TLS is not answered.
// A client of TLS never gets it.
func TestPlain(t *testing.T) {
	w := newWorld(t)
	w.internet(text("a package"))
	s := httptest.NewServer(http.HandlerFunc(w.answer))
	defer s.Close()
	addr := s.Listener.Addr().String()
	ask := func(path string, plain bool) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+fileHost+path, nil)
		w.files.Serve(rec, req, fileserver.View{Origin: fileHost, Plain: plain})
		return rec
	}
	w.want(ask("/by-tls", true), 200, "a package")
	w.tls.CloseClientConnections()
	w.plain.Store(&addr)
	w.want(ask("/a", false), 502, "")
	w.want(ask("/a", true), 200, "a package")
	w.ended(3)
	w.want(ask("/a", false), 502, "")
	w.want(ask("/a", true), 200, "a package")
	w.plain.Store(nil)
	w.later(10 * time.Minute)
	w.internet(text("of its origin"))
	w.want(ask("/a", false), 200, "of its origin")
	w.kept(treetest.DigestOf([]byte("of its origin"), ""))
	w.want(ask("/a", true), 200, "of its origin")
	w.tls.CloseClientConnections()
	w.plain.Store(&addr)
	w.later(2 * time.Hour)
	w.internet(text("of somebody else"))
	w.want(ask("/a", true), 200, "of its origin")
}

// TestQueries: a client cannot store any number of files under one path by asking for it with other queries.
func TestQueries(t *testing.T) {
	w := newWorld(t)
	w.internet(text("content"))
	w.ofPath.Store(999)
	w.want(w.get(fileHost, "/f?page=1"), 200, "content")
	w.ended(1)
	w.ofPath.Store(1000)
	rec := w.get(fileHost, "/f?page=2")
	w.want(rec, 507, "")
	want := "1000 files at https://" + fileHost + "/f differ in the query"
	if !strings.Contains(rec.Body.String(), want) {
		t.Errorf("got %q", rec.Body)
	}
	w.want(w.get(fileHost, "/f?page=1"), 200, "content")
	w.want(w.get(fileHost, "/f"), 200, "content")
	w.ofPath.Store(0)
	w.queries.Store(50_000)
	w.want(w.get(fileHost, "/g?page=2"), 507, "")
}

// TestNoMajority: a client gets what it waits for although there is no majority, and it is stored when there is one.
func TestNoMajority(t *testing.T) {
	w := newWorld(t)
	w.internet(text("content"))
	var failures atomic.Int64
	w.tree.Fail = func(what string) (error, bool) {
		if what == "blob" && failures.Add(1) <= 3 {
			return syscall.EAGAIN, false
		}
		return nil, false
	}
	w.want(w.get(fileHost, "/a"), 200, "content")
	for { // until it is stored, the fetch answers
		if _, err := w.tree.Stat(fileHost + "/a?"); err == nil {
			break
		}
		w.want(w.get(fileHost, "/a"), 200, "content")
	}
	if n := w.count("GET " + fileHost + "/a"); n != 1 || failures.Load() != 4 {
		t.Errorf("fetched %d times, stored at attempt %d", n, failures.Load())
	}
	w.want(w.get(fileHost, "/a"), 200, "content")
}

// TestFairness: one client cannot take all places for fetches.
func TestFairness(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.internet(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/other" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		io.WriteString(rw, "x")
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var busy atomic.Int64
	refused := make(chan struct{}, 1)
	for i := range 300 { // all from one address
		wg.Go(func() {
			if rec := w.do(ctx, http.MethodGet, fileHost, fmt.Sprint("/", i)); rec.Code == 503 {
				busy.Add(1)
				select {
				case refused <- struct{}{}:
				default:
				}
			}
		})
	}
	<-refused
	close(release)
	wg.Wait()
	cancel()
	if n := busy.Load(); n == 0 || n > 44 {
		t.Errorf("%d of 300 were refused", n)
	}
}
