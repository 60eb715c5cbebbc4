package main

import (
	"bytes"
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
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// upstream is the internet of a test: behind a proxy every host leads to it, and it is every registry and web server,
// over TLS with its own CA. So a collector requests the usual names, through the usual path.
type upstream struct {
	proxy string // its URL
	roots string // file with its CA, PEM
	pool  *x509.CertPool

	tls net.Listener

	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	mu    sync.Mutex
	certs map[string]*tls.Certificate
	hosts map[string]http.Handler  // registries
	files map[string][]byte        // by host and path
	moved map[string]string        // redirects, by host and path
	stall map[string]chan struct{} // files that are not sent to their end, by host and path; closed when a client waits
	asked []string                 // "METHOD host/path" of each request
}

// newUpstream starts it; stop ends it.
func newUpstream(dir string) (u *upstream, stop func(), err error) {
	u = &upstream{certs: map[string]*tls.Certificate{}, hosts: map[string]http.Handler{}, files: map[string][]byte{},
		moved: map[string]string{}, stall: map[string]chan struct{}{}, pool: x509.NewCertPool()}
	if u.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the internet"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, u.key.Public(), u.key)
	if err != nil {
		return nil, nil, err
	}
	if u.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, err
	}
	u.pool.AddCert(u.ca)
	u.roots = filepath.Join(dir, "internet.pem")
	if err := os.WriteFile(u.roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		0o644); err != nil {
		return nil, nil, err
	}
	if u.tls, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		u.tls.Close()
		return nil, nil, err
	}
	u.proxy = "http://" + l.Addr().String()
	site := &http.Server{Handler: u, TLSConfig: &tls.Config{GetCertificate: u.certificate},
		ErrorLog: log.New(io.Discard, "", 0)}
	proxy := &http.Server{Handler: http.HandlerFunc(u.connect)}
	var wg sync.WaitGroup
	wg.Go(func() { site.ServeTLS(u.tls, "", "") })
	wg.Go(func() { proxy.Serve(l) })
	return u, func() { site.Close(); proxy.Close(); wg.Wait() }, nil
}

// connect is a proxy that leads every host to us (RFC 9110, 9.3.6).
func (u *upstream) connect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "this proxy takes CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	to, err := net.Dial("tcp", u.tls.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	from, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		to.Close()
		return
	}
	go func() {
		defer from.Close()
		defer to.Close()
		io.Copy(from, to)
	}()
	go func() {
		defer from.Close()
		defer to.Close()
		io.Copy(to, buffered)
	}()
}

func (u *upstream) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.certs[hello.ServerName]; c != nil {
		return c, nil
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(len(u.certs) + 2)), DNSNames: []string{hello.ServerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, u.ca, u.key.Public(), u.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: u.key}
	u.certs[hello.ServerName] = c
	return c, nil
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := r.Host + r.URL.Path
	u.mu.Lock()
	u.asked = append(u.asked, r.Method+" "+at)
	file, isFile := u.files[at]
	to := u.moved[at]
	stall := u.stall[at]
	reg := u.hosts[r.Host]
	if reg == nil {
		reg = registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
		u.hosts[r.Host] = reg
	}
	u.mu.Unlock()
	switch {
	case len(r.URL.Path) >= 4 && r.URL.Path[:4] == "/v2/":
		reg.ServeHTTP(w, r)
	case to != "":
		http.Redirect(w, r, to, http.StatusFound)
	case isFile && stall != nil && r.Method == http.MethodGet:
		w.Header().Set("Content-Length", strconv.Itoa(len(file)))
		w.Write(file[:len(file)/2])
		http.NewResponseController(w).Flush()
		close(stall)
		<-r.Context().Done()
	case isFile:
		http.ServeContent(w, r, "", time.Unix(1700000000, 0), bytes.NewReader(file))
	default:
		http.NotFound(w, r)
	}
}

// serve answers for a URL.
func (u *upstream) serve(address string, data []byte) error {
	to, err := url.Parse(address)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[to.Host+to.Path] = data
	delete(u.stall, to.Host+to.Path)
	return nil
}

// stallAt sends only one half of a file; waiting is closed when a client has it.
func (u *upstream) stallAt(address string) (waiting <-chan struct{}, err error) {
	to, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	c := make(chan struct{})
	u.stall[to.Host+to.Path] = c
	return c, nil
}

// redirect redirects one URL to another.
func (u *upstream) redirect(address, target string) error {
	from, err := url.Parse(address)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.moved[from.Host+from.Path] = target
	return nil
}

// forget resets the counters.
func (u *upstream) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = nil
}

// count is how many requests matched since the last forget.
func (u *upstream) count(form *regexp.Regexp) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range u.asked {
		if form.MatchString(a) {
			n++
		}
	}
	return n
}

// transport reaches it from this process.
func (u *upstream) transport() http.RoundTripper {
	proxy, err := url.Parse(u.proxy)
	if err != nil {
		panic(err) // we made it
	}
	return &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: u.pool},
		DisableKeepAlives: true}
}

// put puts an image or an index into the registry that ref names.
func (u *upstream) put(ref string, t remote.Taggable) error {
	r, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	opt := remote.WithTransport(u.transport())
	if idx, ok := t.(v1.ImageIndex); ok {
		return remote.WriteIndex(r, idx, opt)
	}
	return remote.Write(r, t.(v1.Image), opt)
}

// get reads an image back.
func (u *upstream) get(ref string) (v1.Image, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	return remote.Image(r, remote.WithTransport(u.transport()))
}

// noise is that many bytes which nothing compresses, the same for the same seed.
func noise(size int64, seed uint64) []byte {
	data := make([]byte, size)
	mathrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(data)
	return data
}

// layered is base with layers of such sizes on top, the same for the same seed.
func layered(base v1.Image, platform string, seed uint64, sizes ...int64) (v1.Image, error) {
	for i, n := range sizes {
		var err error
		if base, err = mutate.AppendLayers(base, static.NewLayer(noise(n, seed+uint64(i)),
			types.OCIUncompressedLayer)); err != nil {
			return nil, err
		}
	}
	config, err := base.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
	return mutate.ConfigFile(base, config)
}

// platforms is an index with an image for each platform.
func platforms(seed uint64, size int64, list ...string) (v1.ImageIndex, error) {
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, p := range list {
		img, err := layered(empty.Image, p, seed+uint64(i)*100, size)
		if err != nil {
			return nil, err
		}
		to, err := v1.ParsePlatform(p)
		if err != nil {
			return nil, err
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: to}})
	}
	return idx, nil
}

// TestUpstream checks the basis of the scripts: the test answers the usual names, and counts requests.
func TestUpstream(t *testing.T) {
	u, stop, err := newUpstream(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	img, err := layered(empty.Image, "linux/amd64", 1, 1000, 2000)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.put("registry.k8s.io/pause:3.10", img); err != nil {
		t.Fatal(err)
	}
	u.forget()
	got, err := u.get("registry.k8s.io/pause:3.10")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := img.Digest()
	if b, _ := got.Digest(); a != b {
		t.Errorf("put %s, got %s", a, b)
	}
	if n := u.count(regexp.MustCompile(`GET registry\.k8s\.io/v2/pause/manifests/`)); n != 1 {
		t.Errorf("%d requests for the manifest: %q", n, u.asked)
	}
}
