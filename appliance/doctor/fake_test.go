package doctor

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"casemate/appliance/nodeconf"
	"casemate/cluster/waittest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// So that a busy machine is not reported as a broken bastion.
	second, siteTime, stallTime = 20*second, 20*siteTime, 60*stallTime
	waittest.Main(m, goleak.Find)
}

// authority is a CA of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, _ = x509.ParseCertificate(der)
	return &authority{c, key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) leaf(name string, until time.Time) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		panic(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// fakes are bastions on 127.0.0.1, .2, .3 with the same ports, and a node that is a directory.
type fakes struct {
	t     testing.TB
	ca    *authority
	site  nodeconf.Site
	ports Ports
	root  string
	blobs map[string][]byte // by digest
	tags  map[string]string // "registry.k8s.io/pause:3.10" → digest
	files map[string][]byte // by host/path

	// Faults that a test injects; nil: none.
	leaf   func(name string) (*tls.Certificate, error)
	answer func(at netip.Addr, q dnsmessage.Question) (dnsmessage.RCode, []netip.Addr, bool) // false: as usual
	serve  func(w http.ResponseWriter, r *http.Request) bool                                 // false: as usual
	plain  func(w http.ResponseWriter, r *http.Request) bool
	mu     sync.Mutex
	leaves map[string]*tls.Certificate
	starts []func() // starts the servers, at the first run, after the test has injected its faults
}

const (
	smallImage = "registry.k8s.io/pause:3.10"
	largeImage = "quay.io/team/large:1"
	fileURL    = "https://dl.k8s.io/kubeadm"
)

func newFakes(t testing.TB, n int, without ...string) *fakes {
	if runtime.GOOS != "linux" {
		t.Skip("needs all of 127.0.0.0/8")
	}
	f := &fakes{t: t, ca: newAuthority(t, "casemate"), root: t.TempDir(), blobs: map[string][]byte{},
		tags: map[string]string{}, files: map[string][]byte{}, leaves: map[string]*tls.Certificate{}}
	f.site = nodeconf.Site{Domain: "casemate.internal", Roots: f.ca.pem(), Origins: []nodeconf.Origin{
		{Host: "dl.k8s.io"}, {Host: "docker.io", Aliases: []string{"registry-1.docker.io"}, Registry: true}, {
			Host: "quay.io", Registry: true}, {Host: "registry.k8s.io", Registry: true}}}
	f.image(smallImage, 1000)
	f.image(largeImage, minLarge+1)
	f.files["dl.k8s.io/kubeadm"] = noise(100 << 10)
	var resolv strings.Builder
	for i := range n {
		addr := netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)})
		f.site.Nodes = append(f.site.Nodes, nodeconf.Node{Name: fmt.Sprintf("n%d", i+1), Addrs: []netip.Addr{addr}})
		fmt.Fprintf(&resolv, "nameserver %s\n", addr)
	}
	// Ports where nobody listens are held until all are chosen, so that they are nobody else's either.
	for i, node := range f.site.Nodes {
		if slices.Contains(without, fmt.Sprintf("n%d", i+1)) {
			for _, port := range []*uint16{&f.ports.HTTP, &f.ports.HTTPS, &f.ports.DNS} {
				defer f.listen(node.Addrs[0], port).Close()
			}
		} else {
			f.bastion(node.Addrs[0], without)
		}
	}
	f.write("/etc/resolv.conf", resolv.String())
	f.write("/etc/os-release", "ID=debian\n")
	f.write("/etc/hosts", "127.0.0.1 localhost\n")
	f.write("/etc/nsswitch.conf", "hosts: files dns\n")
	f.write("/etc/ssl/certs/ca-certificates.crt", f.ca.pem())
	f.write(containerdConf, "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = "+
		"'/etc/containerd/certs.d:/etc/docker/certs.d'\n")
	return f
}

// mirrored makes it a node in mirror mode, with the files of the enrol script and of casemate mirrors for containerd,
// podman and k3s.
func (f *fakes) mirrored() {
	f.t.Helper()
	f.write(EnrolledFile, "# by enroll\nmode mirror\n127.0.0.1\n")
	f.write("/etc/casemate/ca.crt", f.ca.pem())
	for _, runtime := range []string{"containerd", "podman", "k3s"} {
		c, err := nodeconf.Mirrors(&f.site, runtime)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, file := range c.Files {
			f.write(strings.Replace(file.Path, nodeconf.HostsFile, hostsFile, 1), file.Content)
		}
	}
	own := "registry." + f.site.Domain
	f.write("/etc/containerd/certs.d/"+own+"/hosts.toml", "server = \"https://"+own+"\"\n[host.\"https://n1."+
		f.site.Domain+"\"]\n  ca = [\"/etc/casemate/ca.crt\"]\n")
}

// noise is bytes that differ from place to place; nobody may change them.
func noise(n int) []byte { return manyBytes()[:n] }

var manyBytes = sync.OnceValue(func() []byte {
	b := make([]byte, minLarge+1)
	rand.Read(b)
	return b
})

func (f *fakes) blob(b []byte) string {
	sum := sha256.Sum256(b)
	d := "sha256:" + hex.EncodeToString(sum[:])
	f.blobs[d] = b
	return d
}

func (f *fakes) image(ref string, size int) {
	config, layer := []byte(`{"ref":"`+ref+`"}`), noise(size)
	m := fmt.Sprintf(`{"schemaVersion":2,"config":{"digest":%q,"size":%d},"layers":[{"digest":%q,"size":%d}]}`,
		f.blob(config), len(config), f.blob(layer), size)
	f.tags[ref] = f.blob(
		fmt.Appendf(nil,
			`{"manifests":[{"digest":%q,"platform":{"os":"linux","architecture":"vax"}},{"digest":%q,"platform":{"os":"linux","architecture":%q}}]}`,
			f.blob([]byte("{}")), f.blob([]byte(m)), runtime.GOARCH))
}

// write puts a file into the node.
func (f *fakes) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// changed gives a file a time of change.
func (f *fakes) changed(name string, at time.Time) {
	f.t.Helper()
	if err := os.Chtimes(filepath.Join(f.root, name), at, at); err != nil {
		f.t.Fatal(err)
	}
}

// running adds a process of the node with that start time.
func (f *fakes) running(name string, start time.Time) {
	f.write("/proc/stat", "cpu 1\nbtime 1000000000\n")
	f.write("/proc/77/comm", name+"\n")
	f.write("/proc/77/stat", fmt.Sprintf("77 (%s) S %s%d 0", name, strings.Repeat("0 ", 18),
		(start.Unix()-1000000000)*hertz))
}

// listen takes the same port at every bastion; 0 in *port is any.
func (f *fakes) listen(addr netip.Addr, port *uint16) net.Listener {
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, *port).String())
	if err != nil {
		f.t.Fatal(err)
	}
	*port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	f.t.Cleanup(func() { l.Close() })
	return l
}

// bastion starts one; "http", "https", "tcp", "udp" in without are left out.
func (f *fakes) bastion(addr netip.Addr, without []string) {
	var wg sync.WaitGroup
	f.t.Cleanup(wg.Wait)
	start := func(serve func()) { f.starts = append(f.starts, func() { wg.Go(serve) }) }
	quiet := log.New(io.Discard, "", 0)
	web := func(port *uint16, s *http.Server, secure bool) {
		l := f.listen(addr, port)
		s.ErrorLog = quiet
		f.t.Cleanup(func() { s.Close() })
		start(func() {
			if secure {
				s.ServeTLS(l, "", "")
			} else {
				s.Serve(l)
			}
		})
	}
	if !slices.Contains(without, "http") {
		web(&f.ports.HTTP, &http.Server{Handler: http.HandlerFunc(f.page)}, false)
	} else {
		defer f.listen(addr, &f.ports.HTTP).Close() // not before the other ports are chosen
	}
	if !slices.Contains(without, "https") {
		web(&f.ports.HTTPS, &http.Server{Handler: http.HandlerFunc(f.content),
			TLSConfig: &tls.Config{GetCertificate: f.certificate}}, true)
	} else {
		defer f.listen(addr, &f.ports.HTTPS).Close() // not before the other ports are chosen
	}
	l := f.listen(addr, &f.ports.DNS)
	if slices.Contains(without, "tcp") {
		l.Close()
	} else {
		start(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { f.talk(addr, c) })
			}
		})
	}
	if slices.Contains(without, "udp") {
		return
	}
	p, err := net.ListenPacket("udp", netip.AddrPortFrom(addr, f.ports.DNS).String())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { p.Close() })
	start(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo(f.resolve(addr, buf[:n]), from)
		}
	})
}

func (f *fakes) talk(at netip.Addr, c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, msg); err != nil {
			return
		}
		out := f.resolve(at, msg)
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	}
}

func (f *fakes) resolve(at netip.Addr, msg []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		f.t.Errorf("dns: %v", err)
		return nil
	}
	q, err := p.Question()
	if err != nil {
		f.t.Errorf("dns: %v", err)
		return nil
	}
	name := strings.TrimSuffix(q.Name.String(), ".")
	rcode, addrs := dnsmessage.RCodeNameError, []netip.Addr(nil)
	for _, o := range f.site.Origins {
		if slices.Contains(append([]string{o.Host}, o.Aliases...), name) {
			rcode, addrs = dnsmessage.RCodeSuccess, f.site.Addrs()
		}
	}
	if f.answer != nil {
		if r, a, ok := f.answer(at, q); ok {
			rcode, addrs = r, a
		}
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, RCode: rcode, RecursionAvailable: true})
	b.StartQuestions()
	b.Question(q)
	b.StartAnswers()
	for _, a := range addrs {
		if a.Is4() && q.Type == dnsmessage.TypeA {
			b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
				dnsmessage.AResource{A: a.As4()})
		}
		if a.Is6() && q.Type == dnsmessage.TypeAAAA {
			b.AAAAResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
				dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	out, err := b.Finish()
	if err != nil {
		f.t.Errorf("dns: %v", err)
	}
	return out
}

func (f *fakes) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leaf != nil {
		if c, err := f.leaf(hello.ServerName); c != nil || err != nil {
			return c, err
		}
	}
	if f.leaves[hello.ServerName] == nil {
		f.leaves[hello.ServerName] = f.ca.leaf(hello.ServerName, time.Now().Add(time.Hour))
	}
	return f.leaves[hello.ServerName], nil
}

// page is what port 80 answers; a path that doctor has no business with fails the test.
func (f *fakes) page(w http.ResponseWriter, r *http.Request) {
	switch {
	case f.plain != nil && f.plain(w, r):
	case r.URL.Path == "/site.json":
		json.NewEncoder(w).Encode(f.site)
	case r.URL.Path == "/doctor.json":
		json.NewEncoder(w).Encode(Sample{Image: smallImage, File: fileURL, Large: largeImage})
	default:
		f.t.Errorf("port 80 is asked for %s", r.URL)
		http.NotFound(w, r)
	}
}

// content is what port 443 answers.
func (f *fakes) content(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		f.t.Errorf("doctor writes: %s %s", r.Method, r.URL)
	}
	if f.serve != nil && f.serve(w, r) || f.own(w, r) {
		return
	}
	path, images := strings.CutPrefix(r.URL.Path, "/v2/")
	switch repo, ref, _ := strings.Cut(path, "/manifests/"); {
	case images && path == "":
		w.Write([]byte("{}"))
	case images && strings.Contains(path, "/blobs/"):
		f.send(w, r, path[strings.LastIndexByte(path, '/')+1:])
	case images:
		if !strings.Contains(r.Header.Get("Accept"), "application/vnd.oci.image.index.v1+json") {
			f.t.Errorf("a manifest is asked for with Accept %q", r.Header.Get("Accept"))
		}
		if d, ok := f.tags[r.Host+"/"+repo+":"+ref]; ok {
			ref = d
		}
		w.Header().Set("Docker-Content-Digest", ref)
		f.send(w, r, ref)
	default:
		data, ok := f.files[r.Host+r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// own is what the bastions' own names answer; false is that the request is now one for an origin. The registry there
// gives everybody a token.
func (f *fakes) own(w http.ResponseWriter, r *http.Request) bool {
	kind, domain, _ := strings.Cut(r.Host, ".")
	if domain != f.site.Domain {
		if r.Header.Get("Authorization") != "" {
			f.t.Errorf("doctor sends a token to %s", r.Host)
		}
		return false
	}
	path := r.URL.Path
	if kind == "registry" {
		var scope string
		if path, _ = strings.CutPrefix(path, "/v2/"); path != "" {
			scope = "repository:" + regexp.MustCompile("/(manifests|blobs)/.*").ReplaceAllString(path, "") + ":pull"
		}
		switch {
		case r.URL.Path == "/token" && r.URL.Query().Get("service") == domain:
			fmt.Fprintf(w, `{"token":"t-%s"}`, r.URL.Query().Get("scope"))
			return true
		case r.Header.Get("Authorization") != "Bearer t-"+scope:
			challenge := fmt.Sprintf(`Bearer realm="https://%s/token",service="%s"`, r.Host, domain)
			if scope != "" {
				challenge += `,scope="` + scope + `"`
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		case path == "":
			return false
		}
	}
	var rest string
	r.Host, rest, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if r.URL.Path = "/" + rest; kind == "registry" {
		r.URL.Path = "/v2/" + rest
	}
	return false
}

func (f *fakes) send(w http.ResponseWriter, r *http.Request, digest string) {
	data, ok := f.blobs[digest]
	if !ok {
		w.Header().Del("Docker-Content-Digest")
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (f *fakes) config() Config { return Config{Root: f.root, Ports: f.ports, Env: []string{}} }

func (f *fakes) run(cfg Config) *Report {
	f.t.Helper()
	for _, start := range f.starts {
		start()
	}
	f.starts = nil
	r, err := Run(context.Background(), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// found are the troubles, "id" for a failure and "id?" for a warning.
func found(r *Report) (list []string) {
	for _, c := range r.Checks {
		for _, t := range c.Troubles {
			id := t.ID
			if t.Warning {
				id += "?"
			}
			if !slices.Contains(list, id) {
				list = append(list, id)
			}
		}
	}
	slices.Sort(list)
	return list
}

func text(r *Report) string {
	var b strings.Builder
	r.Write(&b)
	return b.String()
}
