package pki

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A use is the purpose for which a certificate is accepted.
type use int

const (
	asServer use = iota
	asClient
	asMail
)

func (u use) String() string { return [...]string{"server", "client", "mail"}[u] }

// A verifier says whether one that trusts roots accepts chain (leaf first) for a use, of a server for name.
type verifier struct {
	name     string
	binaries []string // each one or more of which one is needed, separated by |
	uses     []use
	check    func(t testing.TB, u use, roots, chain []*x509.Certificate, key crypto.Signer, name string) error
}

// verify asks as a client of a server.
func (v verifier) verify(t testing.TB, roots, chain []*x509.Certificate, key crypto.Signer, name string) error {
	return v.check(t, asServer, roots, chain, key, name)
}

var verifiers = []verifier{
	{"go", nil, []use{asServer, asClient, asMail}, checkGo},
	{"openssl", []string{"openssl"}, []use{asServer, asClient, asMail}, checkOpenSSL},
	{"gnutls", []string{"certtool"}, []use{asServer, asClient, asMail}, checkGnuTLS},
	{"nss", []string{"certutil", "vfychain"}, []use{asServer, asClient, asMail}, checkNSS},
	{"curl", []string{"curl"}, []use{asServer}, checkCurl},
	{"java", []string{"java", "javac|ecj"}, []use{asServer, asClient}, checkJava},
}

// eachVerifier runs f once for each of the six; those that are not installed are skipped and said so.
func eachVerifier(t *testing.T, f func(t *testing.T, v verifier)) {
	for _, v := range verifiers {
		t.Run(v.name, func(t *testing.T) {
			for _, b := range v.binaries {
				if find(b) == "" {
					t.Skipf("needs %s (Debian: openssl, gnutls-bin, libnss3-tools, curl, default-jre-headless, ecj): "+
						"this verifier was not asked", b)
				}
			}
			f(t, v)
		})
	}
}

// find returns the first of the programs in list, separated by |, that is installed.
func find(list string) string {
	for _, b := range strings.Split(list, "|") {
		if path, err := exec.LookPath(b); err == nil {
			return path
		}
	}
	return ""
}

func certsOf(t testing.TB, data []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func verifyGo(t testing.TB, roots, chain []*x509.Certificate, key crypto.Signer, name string) error {
	return checkGo(t, asServer, roots, chain, key, name)
}

func checkGo(_ testing.TB, u use, roots, chain []*x509.Certificate, _ crypto.Signer, name string) error {
	usage := map[use]x509.ExtKeyUsage{
		asServer: x509.ExtKeyUsageServerAuth, asClient: x509.ExtKeyUsageClientAuth,
		asMail: x509.ExtKeyUsageEmailProtection,
	}[u]
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage},
	}
	if name != "" {
		opts.DNSName = hostInCert(name)
	}
	for _, c := range roots {
		opts.Roots.AddCert(c)
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err
}

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func checkOpenSSL(t testing.TB, u use, roots, chain []*x509.Certificate, _ crypto.Signer, name string) error {
	purpose := map[use]string{asServer: "sslserver", asClient: "sslclient", asMail: "smimesign"}[u]
	args := []string{
		"verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-no-CAstore",
		"-CAfile", write(t, "roots.pem", pemOf(roots...)), "-untrusted", write(t, "chain.pem", pemOf(chain[1:]...)),
	}
	if _, err := netip.ParseAddr(name); err == nil {
		args = append(args, "-verify_ip", name)
	} else if name != "" {
		args = append(args, "-verify_hostname", name)
	}
	return run("openssl", append(args, write(t, "leaf.pem", pemOf(chain[0])))...)
}

func checkGnuTLS(t testing.TB, u use, roots, chain []*x509.Certificate, _ crypto.Signer, name string) error {
	purpose := map[use]string{asServer: "1.3.6.1.5.5.7.3.1", asClient: "1.3.6.1.5.5.7.3.2",
		asMail: "1.3.6.1.5.5.7.3.4"}[u]
	args := []string{
		"--verify", "--verify-purpose", purpose,
		"--load-ca-certificate", write(t, "roots.pem", pemOf(roots...)), "--infile", write(t, "chain.pem",
			pemOf(chain...)),
	}
	if name != "" {
		args = append(args, "--verify-hostname", name)
	}
	return run("certtool", args...)
}

// checkNSS asks NSS about the chain; its tool does not compare the name.
func checkNSS(t testing.TB, u use, roots, chain []*x509.Certificate, _ crypto.Signer, _ string) error {
	args := []string{"-d", "sql:" + nssStore(t, roots), "-u", map[use]string{asServer: "1", asClient: "0",
		asMail: "4"}[u]}
	for i, c := range chain {
		args = append(args, write(t, fmt.Sprint(i, ".der"), c.Raw))
	}
	return run("vfychain", args...)
}

// nssStores are databases in which roots are trusted, by the roots; making one takes longer than all questions to it.
var nssStores = struct {
	sync.Mutex
	dirs map[string]string
}{dirs: map[string]string{}}

func nssStore(t testing.TB, roots []*x509.Certificate) string {
	nssStores.Lock()
	defer nssStores.Unlock()
	key := string(concat(roots))
	if dir, ok := nssStores.dirs[key]; ok {
		return dir
	}
	dir, err := os.MkdirTemp("", "casemate-nss-") // TestMain removes it
	if err != nil {
		t.Fatal(err)
	}
	nssStores.dirs[key] = dir
	if err := run("certutil", "-N", "-d", "sql:"+dir, "--empty-password"); err != nil {
		t.Fatal(err)
	}
	for i, c := range roots {
		// Trusted for servers, clients and mail alike: the widest trust.
		err := run("certutil", "-A", "-d", "sql:"+dir, "-n", fmt.Sprint("root", i), "-t", "CT,C,", "-i", write(t,
			"root.der", c.Raw))
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// javaVerifier is testdata/Verify.java, running: one machine for all questions.
type javaVerifier struct {
	mu  sync.Mutex
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	dir string
}

var startJava = sync.OnceValues(func() (*javaVerifier, error) {
	dir, err := os.MkdirTemp("", "casemate-java-")
	if err != nil {
		return nil, err
	}
	j := &javaVerifier{dir: dir}
	if err := run(find("javac|ecj"), "-source", "11", "-target", "11", "-proc:none", "-d", dir,
		"testdata/Verify.java"); err != nil {
		return j, err
	}
	j.cmd = exec.Command("java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", dir, "Verify")
	if j.in, err = j.cmd.StdinPipe(); err != nil {
		return j, err
	}
	out, err := j.cmd.StdoutPipe()
	if err != nil {
		return j, err
	}
	j.out = bufio.NewReader(out)
	javaRuns.Store(j)
	return j, j.cmd.Start()
})

// javaRuns is what TestMain ends.
var javaRuns atomic.Pointer[javaVerifier]

func (j *javaVerifier) stop() {
	j.in.Close()
	j.cmd.Wait()
	os.RemoveAll(j.dir)
}

// checkJava asks Java's trust manager about the chain; the name is compared elsewhere in Java.
func checkJava(t testing.TB, u use, roots, chain []*x509.Certificate, _ crypto.Signer, _ string) error {
	j, err := startJava()
	if err != nil {
		t.Fatal(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := fmt.Fprintf(j.in, "%s\t%s\t%s\n", u, write(t, "roots.pem", pemOf(roots...)), write(t, "chain.pem",
		pemOf(chain...))); err != nil {
		t.Fatal(err)
	}
	answer, err := j.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return errors.New(answer)
	}
	return nil
}

// checkCurl lets curl fetch a page from a server that has the chain.
func checkCurl(t testing.TB, _ use, roots, chain []*x509.Certificate, key crypto.Signer, name string) error {
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "ok")
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	defer s.Close()
	host := name
	if strings.Contains(name, ":") {
		host = "[" + name + "]"
	}
	return run("curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert",
		write(t, "roots.pem", pemOf(roots...)),
		"--connect-to", host+":443:"+s.Listener.Addr().String(), "https://"+host+"/")
}

// forge signs a leaf for names as a thief of the intermediate's key can: without asking signLeaf.
func forge(t testing.TB, parent *x509.Certificate, key crypto.Signer, edit func(*x509.Certificate),
	names ...string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	own, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		Subject: pkix.Name{Organization: []string{"casemate.internal"}}, // what is permitted
	}
	for _, n := range names {
		if a, err := netip.ParseAddr(n); err == nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(a.AsSlice()))
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	if edit != nil {
		edit(tmpl)
	}
	cert, err := sign(tmpl, own.Public(), parent, key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, own
}

// fortified is a Spec with everything in it, for the constraints.
func fortified(s *Spec, c *Config) {
	s.Addrs = addrs("10.0.0.11", "127.0.0.1", "198.51.100.7", "fd00::11")
	s.Permit = []string{"corp.example", "192.0.2.0/24"}
	s.Exclude = []string{"vault.corp.example", "10.66.0.0/16"}
	c.Addrs = s.Addrs
}

// fortress is a CA of a fortified Spec.
func fortress(t *testing.T) (*house, *snapshot, crypto.Signer) {
	h := build(t, fortified)
	s, err := h.ca.current()
	if err != nil {
		t.Fatal(err)
	}
	rootKey, err := s.root.readKey(h.tree, h.cfg.Sealer)
	if err != nil {
		t.Fatal(err)
	}
	return h, s, rootKey
}

func TestChainsVerify(t *testing.T) {
	h, s, _ := fortress(t)
	for _, name := range []string{"registry.k8s.io", "docker.io", "registry-1.docker.io", "casemate.internal",
		"n1.casemate.internal", "10.0.0.11", "198.51.100.7", "fd00::11", "127.0.0.1"} {
		h.know(name)
		f, err := h.ca.leaves.obtain(name)
		if err != nil {
			t.Fatal(err)
		}
		chain := append([]*x509.Certificate{f.cert.Leaf}, s.issuer.chain...)
		t.Run(name, func(t *testing.T) {
			eachVerifier(t, func(t *testing.T, v verifier) {
				if err := v.verify(t, s.anchors(), chain, f.cert.PrivateKey.(crypto.Signer), name); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What a thief of the intermediate's key can and cannot do.
func TestIntermediateConstraintsBite(t *testing.T) {
	_, s, _ := fortress(t)
	for _, c := range []struct {
		name string
		good bool
	}{
		// The thief can impersonate enabled names: this also shows that the forgery itself is sound.
		{"registry.k8s.io", true},
		{"below.casemate.internal", true},
		{"10.0.0.11", true},
		{"fd00::11", true},
		// The bank's own names, and those of others.
		{"ebanking.bank.example", false},
		{"www.google.com", false},
		// What the root permits but is not enabled.
		{"ghcr.io", false},
		{"hub.docker.com", false},
		// Of a public zone with several enabled names, what covers them is permitted (constraints.mergeable).
		{"k8s.io", true},
		{"app.corp.example", false},
		{"vault.corp.example", false},
		// Addresses of both families, private ones of others among them.
		{"203.0.113.9", false},
		{"10.0.0.12", false},
		{"192.168.1.1", false},
		{"2001:db8::1", false},
		{"fd00::12", false},
	} {
		leaf, key := forge(t, s.issuer.cert, s.issuer.key, nil, c.name)
		chain := append([]*x509.Certificate{leaf}, s.issuer.chain...)
		t.Run(c.name, func(t *testing.T) {
			eachVerifier(t, func(t *testing.T, v verifier) {
				if err := v.verify(t, s.anchors(), chain, key, c.name); (err == nil) != c.good {
					t.Errorf("accepted: %v, want %v (%v)", err == nil, c.good, err)
				}
			})
		})
	}
}

// What a thief of the root's key can and cannot do: its intermediate is constrained by nothing but the root.
func TestRootConstraintsBite(t *testing.T) {
	_, s, rootKey := fortress(t)
	ca := func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.Subject = true, x509.KeyUsageCertSign, nil,
			pkix.Name{Organization: c.Subject.Organization, CommonName: "thief's intermediate"}
	}
	mid, midKey := forge(t, s.root.signer, rootKey, ca)
	for _, c := range []struct {
		name string
		good bool
	}{
		{"ghcr.io", true},
		{"app.corp.example", true},
		{"x.casemate.internal", true},
		{"10.9.9.9", true},
		{"192.0.2.200", true},
		{"198.51.100.7", true},
		{"fd12::1", true},
		{"ebanking.bank.example", false},
		{"www.google.com", false},
		{"vault.corp.example", false},
		{"deep.vault.corp.example", false},
		{"10.66.1.1", false},
		{"203.0.113.9", false},
		{"198.51.100.8", false},
		{"2001:db8::1", false},
		{"8.8.8.8", false},
	} {
		leaf, key := forge(t, mid, midKey, nil, c.name)
		t.Run(c.name, func(t *testing.T) {
			eachVerifier(t, func(t *testing.T, v verifier) {
				if err := v.verify(t, s.anchors(), append([]*x509.Certificate{leaf, mid}, s.root.above...), key,
					c.name); (err == nil) != c.good {
					t.Errorf("accepted: %v, want %v (%v)", err == nil, c.good, err)
				}
			})
		})
	}
}

// A thief of the intermediate's key cannot make a CA, nor evade the constraints by the common name.
func TestIntermediateCannotGrow(t *testing.T) {
	_, s, _ := fortress(t)
	sub, subKey := forge(t, s.issuer.cert, s.issuer.key, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.Subject = true, x509.KeyUsageCertSign, nil,
			pkix.Name{Organization: c.Subject.Organization, CommonName: "thief's CA"}
	})
	below, belowKey := forge(t, sub, subKey, nil, "registry.k8s.io")
	common, commonKey := forge(t, s.issuer.cert, s.issuer.key,
		func(c *x509.Certificate) { c.Subject.CommonName = "ebanking.bank.example" })
	eachVerifier(t, func(t *testing.T, v verifier) {
		if err := v.verify(t, s.anchors(), append([]*x509.Certificate{below, sub}, s.issuer.chain...), belowKey,
			"registry.k8s.io"); err == nil {
			t.Error("a CA below the intermediate was accepted")
		}
		if err := v.verify(t, s.anchors(), append([]*x509.Certificate{common}, s.issuer.chain...), commonKey,
			"ebanking.bank.example"); err == nil {
			t.Error("a name outside the constraints was accepted as common name")
		}
	})
}

// In an overlap every verifier accepts the chain that is sent, whichever root it trusts; after it, only the new one.
func TestRotationVerifies(t *testing.T) {
	t.Run("present", func(t *testing.T) { testRotation(t, Init) })
	t.Run("from the earlier shape", func(t *testing.T) { testRotation(t, initBefore) })
}

func testRotation(t *testing.T, found func(context.Context, Tree, Sealer, Spec, []string) error) {
	h := raise(t, fortified, found)
	s := h.snapshot()
	legacy := !s.root.ref.Below
	oldRoot := s.anchors()
	chainOf := func() ([]*x509.Certificate, crypto.Signer) {
		f, err := h.ca.leaves.obtain("registry.k8s.io")
		if err != nil {
			t.Fatal(err)
		}
		var chain []*x509.Certificate
		for _, der := range f.cert.Certificate {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, c)
		}
		return chain, f.cert.PrivateKey.(crypto.Signer)
	}
	before, beforeKey := chainOf()
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	both := certsOf(t, h.ca.Roots())
	if len(both) != 2 {
		t.Fatalf("%d roots in the overlap", len(both))
	}
	newRoot := both[:1]
	during, duringKey := chainOf()
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.reopen()
	after, afterKey := chainOf()
	fresh, err := h.ca.leaves.renew("registry.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(fresh.cert.Certificate); n != 4 {
		t.Errorf("after the overlap %d certificates are sent, want 4", n)
	}
	for _, c := range []struct {
		what  string
		roots []*x509.Certificate
		chain []*x509.Certificate
		key   crypto.Signer
		good  bool
		but   string // verifiers that refuse it nevertheless
	}{
		{"leaf from before, both trusted", both, before, beforeKey, true, ""},
		{"old trusted", oldRoot, during, duringKey, true, ""},
		// In an overlap both are handed out. These stop neither where they trust nor try a second way.
		{"new trusted", newRoot, during, duringKey, true, map[bool]string{false: "gnutls",
			true: "gnutls openssl curl nss"}[legacy]},
		{"both trusted", both, during, duringKey, true, ""},
		{"both trusted, old first", slices.Concat(oldRoot, newRoot), during, duringKey, true, ""},
		{"after, new trusted", newRoot, after, afterKey, true, ""},
		{"leaf from before, new trusted", newRoot, before, beforeKey, false, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			eachVerifier(t, func(t *testing.T, v verifier) {
				good := c.good && !slices.Contains(strings.Fields(c.but), v.name)
				if err := v.verify(t, c.roots, c.chain, c.key, "registry.k8s.io"); (err == nil) != good {
					t.Errorf("accepted: %v, want %v (%v)", err == nil, good, err)
				}
			})
		})
	}
}

// Java intersects the lists of root and intermediate by its own rules: every set of enabled names must pass them, for
// any domain and any addresses of nodes that the root permits.
func TestJavaIntersects(t *testing.T) {
	if find("java") == "" || find("javac|ecj") == "" {
		t.Skip("needs java, and javac or ecj (Debian: default-jre-headless, ecj)")
	}
	for what, c := range map[string]struct {
		edit  func(*Spec, *Config)
		names []string
	}{
		"as made":  {nil, enabled},
		"one name": {nil, []string{"registry.k8s.io"}},
		"nothing":  {nil, nil},
		"many of a zone": {nil, []string{"registry.k8s.io", "dl.k8s.io", "a.b.c.k8s.io",
			"raw.githubusercontent.com", "objects.githubusercontent.com"}},
		"a zone as a whole": {nil, []string{"k8s.io", "registry.k8s.io"}},
		"all public zones":  {nil, PublicZones()},
		"domain in a permit": {func(s *Spec, c *Config) {
			s.Domain, c.Domain, s.Permit = "gap.corp.example", "gap.corp.example", []string{"corp.example"}
		}, []string{"git.corp.example", "docker.io"}},
		"three nodes": {func(s *Spec, c *Config) {
			s.Addrs = addrs("10.0.0.11", "10.0.0.12", "10.200.0.13")
			c.Addrs = s.Addrs
		}, enabled},
		"IPv6 alone": {func(s *Spec, c *Config) {
			s.Addrs = addrs("fd00::11", "2001:db8::5")
			c.Addrs = s.Addrs
		}, enabled},
		"something excluded": {func(s *Spec, _ *Config) {
			s.Permit, s.Exclude = []string{"corp.example", "192.0.2.0/24"}, []string{"vault.corp.example",
				"10.66.0.0/16"}
		}, []string{"git.corp.example", "wiki.corp.example"}},
	} {
		t.Run(what, func(t *testing.T) {
			h := build(t, c.edit)
			h.constrain(c.names...)
			ask := append([]string{h.cfg.Domain, "x." + h.cfg.Domain}, c.names[:min(len(c.names), 5)]...)
			for _, a := range h.cfg.Addrs {
				ask = append(ask, a.String())
			}
			verify := func() {
				t.Helper()
				for _, name := range ask {
					chain, _ := h.sent(name)
					if err := checkJava(t, asServer, h.snapshot().anchors(), chain, nil, name); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			h.know(ask...)
			verify()
			old := h.snapshot().anchors()
			if err := h.ca.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
			verify()
			chain, _ := h.sent(h.cfg.Domain)
			if err := checkJava(t, asServer, old, chain, nil, ""); err != nil {
				t.Errorf("in an overlap, the old root trusted: %v", err)
			}
		})
	}
}
