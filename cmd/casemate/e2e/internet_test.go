//go:build e2e || bench

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// internet is a host that answers, over TLS with its own CA, as every registry and web server of the connected side.
type internet struct {
	*host
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	pem   string
	files map[string][]byte       // by host and path
	moved map[string]string       // redirects, by host and path
	sites map[string]http.Handler // by host; they answer for everything but registries
	cut   map[string]bool         // by host and path: the first answer breaks off
	login string                  // "USER:PASSWORD" that registries want (strict)

	distribution http.Handler // a registry of that make

	mu         sync.Mutex
	registries map[string]http.Handler
	certs      map[string]*tls.Certificate
}

// listenOn listens on an address of the host's, from this process.
func (h *host) listenOn(t testing.TB, addr string) (l net.Listener) {
	t.Helper()
	h.inside(t, func() (err error) { l, err = net.Listen("tcp", addr); return err })
	return l
}

// inside runs f in the host's network: sockets that it opens stay there.
func (h *host) inside(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread stays in that namespace and ends with this goroutine
		ns, err := os.Open("/run/netns/" + h.ns)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func newInternet(t testing.TB, l *lab) *internet {
	t.Helper()
	n := newInternetWithout(t, l)
	n.distribution = newDistribution(t)
	return n
}

// newInternetWithout is newInternet without the registry of another make.
func newInternetWithout(t testing.TB, l *lab) *internet {
	t.Helper()
	n := &internet{host: l.host("internet", ""), files: map[string][]byte{}, moved: map[string]string{},
		sites: map[string]http.Handler{}, cut: map[string]bool{},
		registries: map[string]http.Handler{}, certs: map[string]*tls.Certificate{}}
	var err error
	if n.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the internet"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, n.key.Public(), n.key)
	if err != nil {
		t.Fatal(err)
	}
	if n.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	n.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s := &http.Server{Handler: n, TLSConfig: &tls.Config{GetCertificate: n.certificate},
		ErrorLog: log.New(io.Discard, "", 0)}
	listener := n.listenOn(t, n.ip+":443")
	done := make(chan struct{})
	go func() { s.ServeTLS(listener, "", ""); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	return n
}

// newDistribution runs distribution's own binary. It listens at a socket in the file system: a free port that is looked
// up for it could be another process's by the time it starts.
func newDistribution(t testing.TB) http.Handler {
	t.Helper()
	dir := t.TempDir()
	conf, socket := filepath.Join(dir, "config.yml"), filepath.Join(dir, "s")
	text := "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: " +
		dir + "/data}}\nhttp: {net: unix, addr: " + socket + ", secret: x}\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(client(t, "registry"), "serve", conf)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	until(t, "distribution answers", func() error {
		resp, err := (&http.Client{Transport: transport}).Get("http://distribution/v2/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: "distribution"})
		r.Out.Host = r.In.Host
	}}
}

func (n *internet) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.certs[hello.ServerName]; c != nil {
		return c, nil
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(len(n.certs) + 2)), DNSNames: []string{hello.ServerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, n.ca, n.key.Public(), n.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: n.key}
	n.certs[hello.ServerName] = c
	return c, nil
}

func (n *internet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/v2/") {
		n.registry(r.Host).ServeHTTP(w, r)
		return
	}
	at := r.Host + r.URL.Path
	n.mu.Lock()
	to, site, cut := n.moved[at], n.sites[r.Host], n.cut[at]
	body, ok := n.files[at]
	delete(n.cut, at)
	n.mu.Unlock()
	switch {
	case to != "":
		http.Redirect(w, r, to, http.StatusFound)
		return
	case site != nil:
		site.ServeHTTP(w, r)
		return
	case !ok:
		http.NotFound(w, r)
		return
	case cut:
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Unix(1700000000, 0), bytes.NewReader(body))
}

func (n *internet) registry(host string) http.Handler {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.registries[host] != nil {
		return n.registries[host]
	}
	if host == "quay.io" { // one of another make
		n.registries[host] = n.distribution
	} else {
		n.registries[host] = registry.New(registry.Logger(log.New(io.Discard, "", 0)),
			registry.WithReferrersSupport(true))
	}
	return n.registries[host]
}

// put puts an image or an index into one of its registries.
func (n *internet) put(t testing.TB, ref string, taggable remote.Taggable) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	rt := roundTripper(func(req *http.Request) (*http.Response, error) {
		w := newRecorder()
		req.Host = req.URL.Host
		if req.Body == nil {
			req.Body = http.NoBody // as a server gives it
		}
		n.registry(req.URL.Host).ServeHTTP(w, req)
		return w.response(req), nil
	})
	opts := []remote.Option{remote.WithTransport(rt)}
	switch v := taggable.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(r, v, opts...)
	case v1.Image:
		err = remote.Write(r, v, opts...)
	default:
		t.Fatalf("neither image nor index: %T", v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// recorder answers a request without a socket.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newRecorder() *recorder                    { return &recorder{header: http.Header{}, status: 200} }
func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(p []byte) (int, error) { return w.body.Write(p) }
func (w *recorder) response(r *http.Request) *http.Response {
	return &http.Response{StatusCode: w.status, Status: http.StatusText(w.status), Proto: "HTTP/1.1", ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r}
}

// resolver answers every name with the internet's address, from inside it.
func (n *internet) resolver(t *testing.T) string {
	t.Helper()
	var conn net.PacketConn
	n.inside(t, func() (err error) { conn, err = net.ListenPacket("udp", net.JoinHostPort(n.ip, "53")); return err })
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{A: net.ParseIP(n.ip), Hdr: dns.RR_Header{Name: q.Question[0].Name,
				Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}}}
		}
		w.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() { s.ActivateAndServe(); close(done) }()
	t.Cleanup(func() { s.Shutdown(); <-done })
	return n.ip
}
