package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
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
	"strings"
	"testing"
	"time"
)

// A verifier says whether a client that trusts roots accepts chain (leaf first) for name.
type verifier struct {
	name   string
	binary string // "" for Go's own
	verify func(t testing.TB, roots, chain []*x509.Certificate, key crypto.Signer, name string) error
}

var verifiers = []verifier{
	{"go", "", verifyGo},
	{"openssl", "openssl", verifyOpenSSL},
	{"gnutls", "certtool", verifyGnuTLS},
	{"curl", "curl", verifyCurl},
}

// eachVerifier runs f once for each of the four; those that are not installed are skipped and said so.
func eachVerifier(t *testing.T, f func(t *testing.T, v verifier)) {
	for _, v := range verifiers {
		t.Run(v.name, func(t *testing.T) {
			if v.binary != "" {
				if _, err := exec.LookPath(v.binary); err != nil {
					t.Skipf("needs %s (Debian: openssl, gnutls-bin, curl): this verifier was not asked", v.binary)
				}
			}
			f(t, v)
		})
	}
}

func pemOf(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
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

func verifyGo(_ testing.TB, roots, chain []*x509.Certificate, _ crypto.Signer, name string) error {
	opts := x509.VerifyOptions{DNSName: hostInCert(name), Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
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

func verifyOpenSSL(t testing.TB, roots, chain []*x509.Certificate, _ crypto.Signer, name string) error {
	what := "-verify_hostname"
	if _, err := netip.ParseAddr(name); err == nil {
		what = "-verify_ip"
	}
	return run("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore", "-CAfile", write(t, "roots.pem", pemOf(roots...)),
		"-untrusted", write(t, "chain.pem", pemOf(chain[1:]...)), what, name, write(t, "leaf.pem", pemOf(chain[0])))
}

func verifyGnuTLS(t testing.TB, roots, chain []*x509.Certificate, _ crypto.Signer, name string) error {
	return run("certtool", "--verify", "--verify-purpose", "1.3.6.1.5.5.7.3.1", "--verify-hostname", name,
		"--load-ca-certificate", write(t, "roots.pem", pemOf(roots...)), "--infile", write(t, "chain.pem", pemOf(chain...)))
}

// verifyCurl lets curl fetch a page from a server that has the chain.
func verifyCurl(t testing.TB, roots, chain []*x509.Certificate, key crypto.Signer, name string) error {
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	defer s.Close()
	host := name
	if strings.Contains(name, ":") {
		host = "[" + name + "]"
	}
	return run("curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", write(t, "roots.pem", pemOf(roots...)),
		"--connect-to", host+":443:"+s.Listener.Addr().String(), "https://"+host+"/")
}

// forge signs a leaf for names as a thief of the intermediate's key can: without asking signLeaf.
func forge(t testing.TB, parent *x509.Certificate, key crypto.Signer, edit func(*x509.Certificate), names ...string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	own, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		Subject: pkix.Name{Organization: []string{"thief"}},
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

// fortress is a CA with everything in its Spec, for the constraints.
func fortress(t *testing.T) (*house, *snapshot, crypto.Signer) {
	h := build(t, func(s *Spec, c *Config) {
		s.Addrs = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("fd00::11")}
		s.Permit = []string{"corp.example", "192.0.2.0/24"}
		s.Exclude = []string{"vault.corp.example", "10.66.0.0/16"}
		c.Addrs = s.Addrs
	})
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
	for _, name := range []string{"registry.k8s.io", "docker.io", "registry-1.docker.io", "casemate.internal", "n1.casemate.internal", "10.0.0.11", "198.51.100.7", "fd00::11", "127.0.0.1"} {
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
		// The thief does get what is enabled now: this also shows that the forgery itself is sound.
		{"registry.k8s.io", true},
		{"below.casemate.internal", true},
		{"10.0.0.11", true},
		{"fd00::11", true},
		// The bank's own names, and those of others.
		{"ebanking.bank.example", false},
		{"www.google.com", false},
		// What the root permits but is not enabled.
		{"ghcr.io", false},
		{"k8s.io", false},
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
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.Subject = true, x509.KeyUsageCertSign, nil, pkix.Name{CommonName: "thief's intermediate"}
	}
	mid, midKey := forge(t, s.root.anchor, rootKey, ca)
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
				if err := v.verify(t, s.anchors(), []*x509.Certificate{leaf, mid}, key, c.name); (err == nil) != c.good {
					t.Errorf("accepted: %v, want %v (%v)", err == nil, c.good, err)
				}
			})
		})
	}
}

// An intermediate's thief cannot make a CA of his own, nor go around the constraints by the common name.
func TestIntermediateCannotGrow(t *testing.T) {
	_, s, _ := fortress(t)
	sub, subKey := forge(t, s.issuer.cert, s.issuer.key, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.Subject = true, x509.KeyUsageCertSign, nil, pkix.Name{CommonName: "thief's CA"}
	})
	below, belowKey := forge(t, sub, subKey, nil, "registry.k8s.io")
	common, commonKey := forge(t, s.issuer.cert, s.issuer.key, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "ebanking.bank.example"} })
	eachVerifier(t, func(t *testing.T, v verifier) {
		if err := v.verify(t, s.anchors(), append([]*x509.Certificate{below, sub}, s.issuer.chain...), belowKey, "registry.k8s.io"); err == nil {
			t.Error("a CA below the intermediate was accepted")
		}
		if err := v.verify(t, s.anchors(), append([]*x509.Certificate{common}, s.issuer.chain...), commonKey, "ebanking.bank.example"); err == nil {
			t.Error("a name outside the constraints was accepted as common name")
		}
	})
}

// In an overlap every verifier accepts the chain that is sent, whichever root it trusts; after it, only the new one.
func TestRotationVerifies(t *testing.T) {
	h, s, _ := fortress(t)
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
	if n := len(fresh.cert.Certificate); n != 2 {
		t.Errorf("after the overlap %d certificates are sent, want 2", n)
	}
	for _, c := range []struct {
		what  string
		roots []*x509.Certificate
		chain []*x509.Certificate
		key   crypto.Signer
		good  bool
	}{
		{"leaf of before, both trusted", both, before, beforeKey, true},
		{"old trusted", oldRoot, during, duringKey, true},
		{"new trusted", newRoot, during, duringKey, true},
		{"both trusted", both, during, duringKey, true},
		{"both trusted, old first", append(append([]*x509.Certificate{}, oldRoot...), newRoot...), during, duringKey, true},
		{"after, new trusted", newRoot, after, afterKey, true},
		{"leaf of before, new trusted", newRoot, before, beforeKey, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			eachVerifier(t, func(t *testing.T, v verifier) {
				if err := v.verify(t, c.roots, c.chain, c.key, "registry.k8s.io"); (err == nil) != c.good {
					t.Errorf("accepted: %v, want %v (%v)", err == nil, c.good, err)
				}
			})
		})
	}
}
