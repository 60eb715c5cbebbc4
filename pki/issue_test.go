package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIssue(t *testing.T) {
	h := build(t, func(s *Spec, _ *Config) { s.Permit = []string{"corp.example"} })
	got, err := h.ca.Issue(t.Context(), Request{Names: []string{"Harbor.casemate.internal.", "*.apps.casemate.internal",
		"harbor.casemate.internal"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(append(got.Cert, got.Chain...), got.Key); err != nil {
		t.Error(err)
	}
	leaf, chain := certsOf(t, got.Cert)[0], certsOf(t, got.Chain)
	if want := []string{"*.apps.casemate.internal", "harbor.casemate.internal"}; !slices.Equal(leaf.DNSNames, want) ||
		!slices.Equal(got.Names, want) {
		t.Errorf("names %v and %v, want %v", leaf.DNSNames, got.Names, want)
	}
	if !leaf.NotBefore.Equal(h.clock.now().Add(-day)) || !leaf.NotAfter.Equal(h.clock.now().Add(90*day)) ||
		!got.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if leaf.IsCA || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("a CA: %v, usages %v", leaf.IsCA, leaf.ExtKeyUsage)
	}
	for _, name := range []string{"harbor.casemate.internal", "x.apps.casemate.internal"} {
		eachVerifier(t, func(t *testing.T, v verifier) {
			key, err := tls.X509KeyPair(got.Cert, got.Key)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.verify(t, certsOf(t, h.ca.Roots()), append([]*x509.Certificate{leaf}, chain...),
				key.PrivateKey.(crypto.Signer), name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	list, err := h.ca.List()
	if err != nil || len(list) != 1 || list[0].Serial != got.Serial || !slices.Equal(list[0].Names, got.Names) ||
		!list[0].NotAfter.Equal(leaf.NotAfter) || !list[0].Revoked.IsZero() {
		t.Errorf("list %+v (%v)", list, err)
	}
	short, err := h.ca.Issue(t.Context(), Request{Names: []string{"etcd.casemate.internal"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if leaf := certsOf(t, short.Cert)[0]; !slices.Equal(leaf.ExtKeyUsage, serversOnly()) ||
		!leaf.NotAfter.Equal(h.clock.now().Add(time.Hour)) {
		t.Errorf("usages %v until %v", leaf.ExtKeyUsage, leaf.NotAfter)
	}
}

func TestIssueRefuses(t *testing.T) {
	h := build(t, func(s *Spec, _ *Config) {
		s.Permit, s.Exclude = []string{"corp.example"}, []string{"vault.corp.example"}
	})
	long := make([]string, 200)
	for i := range long {
		long[i] = strings.Repeat("x", 40) + string(rune('a'+i%26)) + string(rune('a'+i/26)) + ".casemate.internal"
	}
	for _, c := range []struct {
		what string
		req  Request
		want string
	}{
		{"no name", Request{}, "a certificate needs a name"},
		{"rubbish", Request{Names: []string{"a b"}}, `"a b" is not a host name`},
		{"the bank's name", Request{Names: []string{"ok.casemate.internal", "ebanking.bank.example"}},
			"name ebanking.bank.example: not permitted by the root certificate"},
		{"excluded", Request{Names: []string{"vault.corp.example"}}, "is in the excluded zone"},
		{"a wildcard over what is excluded", Request{Names: []string{"*.corp.example"}}, "is in the excluded zone"},
		{"public address", Request{Names: []string{"8.8.8.8"}}, "address 8.8.8.8: not permitted"},
		{"too short", Request{Names: []string{"a.casemate.internal"}, Life: time.Minute},
			"lifetime must be between 1h and 365 days, got 1m0s"},
		{"too long", Request{Names: []string{"a.casemate.internal"}, Life: 400 * day}, "lifetime must be between"},
		{"too many names", Request{Names: long}, "use fewer names"},
	} {
		t.Run(c.what, func(t *testing.T) {
			if _, err := h.ca.Issue(t.Context(), c.req); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			} else if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, ErrNotPermitted) {
				t.Errorf("%v is not told from trouble of ours", err)
			}
		})
	}
	if list, err := h.ca.List(); err != nil || len(list) != 0 {
		t.Errorf("listed %v (%v)", list, err)
	}
}

// What the root permits and the intermediate does not is certified by one for exactly these names. The one in use,
// whose key every node has in memory, does not permit them.
func TestIssueOutsideTheIntermediate(t *testing.T) {
	h := build(t, func(s *Spec, _ *Config) { s.Permit = []string{"corp.example"} })
	first := h.snapshot().issuer
	got, err := h.ca.Issue(t.Context(), Request{Names: []string{"git.corp.example", "10.7.7.7"}})
	if err != nil {
		t.Fatal(err)
	}
	if h.snapshot().issuer.id != first.id || first.allows("git.corp.example") == nil ||
		first.allows("10.7.7.7") == nil {
		t.Error("the intermediate in use permits other people's names")
	}
	now := (&issuer{cert: certsOf(t, got.Chain)[0]}).under(h.snapshot().root)
	for name, want := range map[string]bool{
		"git.corp.example": true, "10.7.7.7": true, "wiki.corp.example": false, "10.7.7.8": false, "docker.io": false,
		"casemate.internal": false, "127.0.0.1": false,
	} {
		if good := now.allows(name) == nil; good != want {
			t.Errorf("the certificate's own intermediate permits %s: %v", name, good)
		}
	}
	now.id = h.only("issuer", first.id)
	other, err := h.ca.Issue(t.Context(), Request{Names: []string{"wiki.corp.example"}})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(other.Chain[:200], got.Chain[:200]) {
		t.Error("one intermediate for two certificates")
	}
	sent := append(certsOf(t, got.Cert), certsOf(t, got.Chain)...)
	if err := h.checkAll(h.snapshot().anchors(), sent, h.download(sent)); err != nil {
		t.Error(err)
	}
	block, _ := pem.Decode(got.Key)
	key, err := parseKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range got.Names {
		eachVerifier(t, func(t *testing.T, v verifier) {
			if err := v.verify(t, h.snapshot().anchors(), sent, key, name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	if err := h.ca.Revoke(t.Context(), got.Serial); err != nil {
		t.Fatal(err)
	}
	if err := h.checkAll(h.snapshot().anchors(), sent, h.download(sent)); err == nil || !strings.Contains(err.Error(),
		"certificate revoked") {
		t.Errorf("revoked: %v", err)
	}
	h.constrain("docker.io")
	h.maintain()
	// Its key is kept, because it may have to revoke. It never signs another leaf.
	if _, err := h.tree.Stat("issuer/" + now.id + "/key"); err != nil {
		t.Error(err)
	}
	h.clock.add(100 * day)
	h.maintain()
	if _, err := h.tree.Stat("issuer/" + now.id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v: the key of an intermediate with nothing left to revoke is kept", err)
	}
	h.clock.add(30 * day)
	h.maintain()
	if list, err := h.ca.List(); err != nil || len(list) != 0 {
		t.Errorf("expired certificates are still listed: %v (%v)", list, err)
	}
}

// A year is the most that can be asked for, and is had at any time: a new intermediate is made if the present one ends
// too early.
func TestIssueForAYear(t *testing.T) {
	h := build(t, nil)
	h.clock.add(100 * day)
	got, err := h.ca.Issue(t.Context(), Request{Names: []string{"a.casemate.internal"}, Life: 365 * day})
	if err != nil {
		t.Fatal(err)
	}
	if want := h.clock.now().Add(365 * day); !got.NotAfter.Equal(want) {
		t.Errorf("until %v, want %v", got.NotAfter, want)
	}
	h.clock.add(h.snapshot().root.anchor.NotAfter.Sub(h.clock.now()) - 200*day)
	if _, err := h.ca.Issue(t.Context(), Request{Names: []string{"a.casemate.internal"},
		Life: 365 * day}); err == nil || !strings.Contains(err.Error(),
		"ask for a shorter lifetime or rotate the root") {
		t.Errorf("got %v", err)
	}
}

// only returns the name of the one entry of a directory beside another.
func (h *house) only(dir, beside string) string {
	h.t.Helper()
	list, err := h.tree.ReadDir(dir)
	if err != nil || len(list) != 2 {
		h.t.Fatalf("%d entries in %s, %v", len(list), dir, err)
	}
	if list[0].Name() == beside {
		return list[1].Name()
	}
	return list[0].Name()
}

func request(t testing.TB, key crypto.Signer, tmpl *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestIssueFromCSR(t *testing.T) {
	h := build(t, nil)
	ec, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	weakEC, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// It asks for everything at once: to be a CA, mail and URI names, to sign code.
	basic, err := asn1.Marshal(struct {
		CA      bool
		PathLen int
	}{true, 5})
	if err != nil {
		t.Fatal(err)
	}
	uri, _ := url.Parse("spiffe://bank.example/root")
	greedy := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "ebanking.bank.example", Organization: []string{"Bank"}},
		DNSNames: []string{"svc.casemate.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		EmailAddresses: []string{"ceo@bank.example"}, URIs: []*url.URL{uri},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: basic}, {
			Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 0x06, 0x06, 0x04, 0x55, 0x1d, 0x25, 0x00}}},
	}
	for what, key := range map[string]crypto.Signer{"ecdsa": ec, "rsa": rsa2048, "ed25519": ed} {
		t.Run(what, func(t *testing.T) {
			der := request(t, key, greedy)
			for _, form := range [][]byte{der, pem.EncodeToMemory(
				&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})} {
				got, err := h.ca.Issue(t.Context(), Request{CSR: form})
				if err != nil {
					t.Fatal(err)
				}
				leaf := certsOf(t, got.Cert)[0]
				if got.Key != nil || !leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
					t.Error("not the request's key")
				}
				if leaf.IsCA || len(leaf.EmailAddresses)+len(leaf.URIs) != 0 ||
					leaf.Subject.CommonName != "svc.casemate.internal" || !slices.Equal(leaf.Subject.Organization,
					[]string{"casemate.internal"}) ||
					!slices.Equal(leaf.DNSNames, []string{"svc.casemate.internal"}) || len(leaf.IPAddresses) != 1 ||
					!slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) ||
					leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
					t.Errorf("a wish was granted: %+v", leaf)
				}
				if err := verifyGo(t, certsOf(t, h.ca.Roots()), append(certsOf(t, got.Cert), certsOf(t, got.Chain)...),
					nil, "svc.casemate.internal"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	named, err := h.ca.Issue(t.Context(), Request{CSR: request(t, ec, greedy),
		Names: []string{"other.casemate.internal"}})
	if err != nil || !slices.Equal(named.Names, []string{"other.casemate.internal"}) {
		t.Errorf("names %v (%v)", named.Names, err)
	}
	common, err := h.ca.Issue(t.Context(), Request{
		CSR: request(t, ec, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "cn.casemate.internal"}})})
	if err != nil || !slices.Equal(common.Names, []string{"cn.casemate.internal"}) {
		t.Errorf("names %v (%v)", common.Names, err)
	}
	good := request(t, ec, &x509.CertificateRequest{DNSNames: []string{"a.casemate.internal"}})
	tampered := bytes.Replace(good, []byte("a.casemate.internal"), []byte("b.casemate.internal"), 1)
	small := &x509.CertificateRequest{DNSNames: []string{"a.casemate.internal"}}
	for what, c := range map[string]struct {
		csr  []byte
		want string
	}{
		"signature": {tampered, "its signature is wrong"},
		"curve":     {request(t, weakEC, small), "the curve P-224 is too weak"},
		"rsa":       {request(t, rsa1024, small), "an RSA key must have 2048 to 8192 bits, got 1024"},
		"empty":     {[]byte{}, "certificate request"},
		"rubbish":   {[]byte("hello"), "certificate request"},
		"other PEM": {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: good}), "holds no CERTIFICATE REQUEST"},
		"large":     {bytes.Repeat([]byte{0x30}, maxCSR+1), "certificate request has 16385 bytes, the most is 16384"},
		"no names":  {request(t, ec, &x509.CertificateRequest{}), "a certificate needs a name"},
		"not ours":  {request(t, ec, &x509.CertificateRequest{DNSNames: []string{"bank.example"}}), "not permitted"},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := h.ca.Issue(t.Context(), Request{CSR: c.csr}); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// crl fetches the list that a certificate names, as a client does: from its distribution point.
func (h *house) crl(cert *x509.Certificate) *x509.RevocationList {
	h.t.Helper()
	if len(cert.CRLDistributionPoints) != 1 {
		h.t.Fatalf("distribution points %v", cert.CRLDistributionPoints)
	}
	id, ok := strings.CutSuffix(strings.TrimPrefix(cert.CRLDistributionPoints[0], h.cfg.CRLURL), ".crl")
	if !ok {
		h.t.Fatalf("distribution point %s", cert.CRLDistributionPoints[0])
	}
	der, err := h.ca.CRL(id)
	if err != nil {
		h.t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		h.t.Fatal(err)
	}
	now := h.clock.now()
	if list.ThisUpdate.After(now.Add(-23*time.Hour)) || list.NextUpdate.Before(now.Add(day)) {
		h.t.Errorf("list valid from %v to %v", list.ThisUpdate, list.NextUpdate)
	}
	return list
}

func lists(list *x509.RevocationList, cert *x509.Certificate) bool {
	return slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
		return e.SerialNumber.Cmp(cert.SerialNumber) == 0
	})
}

func TestRevoke(t *testing.T) {
	h := build(t, nil)
	issue := func(name string) (Issued, []*x509.Certificate) {
		t.Helper()
		got, err := h.ca.Issue(t.Context(), Request{Names: []string{name}})
		if err != nil {
			t.Fatal(err)
		}
		return got, append(certsOf(t, got.Cert), certsOf(t, got.Chain)...)
	}
	bad, badChain := issue("bad.casemate.internal")
	_, goodChain := issue("good.casemate.internal")
	h.constrain("docker.io") // another intermediate: two lists from now on
	h.clock.add(time.Hour)
	late, lateChain := issue("late.casemate.internal")
	if badChain[1].Equal(lateChain[1]) {
		t.Fatal("the intermediate was not replaced")
	}
	if n := len(h.crl(badChain[0]).RevokedCertificateEntries); n != 0 {
		t.Errorf("%d revoked before anything was", n)
	}
	number := h.crl(badChain[0]).Number
	h.clock.add(2 * time.Hour)
	colons := strings.ToUpper(bad.Serial[:2]) + ":" + bad.Serial[2:]
	for _, serial := range []string{colons, bad.Serial, late.Serial} { // the second time changes nothing
		if err := h.ca.Revoke(t.Context(), serial); err != nil {
			t.Fatal(err)
		}
	}
	first, second := h.crl(badChain[0]), h.crl(lateChain[0])
	if !lists(first, badChain[0]) || lists(first, goodChain[0]) || lists(first, lateChain[0]) ||
		len(first.RevokedCertificateEntries) != 1 {
		t.Errorf("first list: %v", first.RevokedCertificateEntries)
	}
	if !lists(second, lateChain[0]) || len(second.RevokedCertificateEntries) != 1 {
		t.Errorf("second list: %v", second.RevokedCertificateEntries)
	}
	if first.Number.Cmp(number) <= 0 {
		t.Error("the list's number did not grow")
	}
	for list, parent := range map[*x509.RevocationList]*x509.Certificate{first: badChain[1], second: lateChain[1]} {
		if err := list.CheckSignatureFrom(parent); err != nil {
			t.Error(err)
		}
	}
	list, err := h.ca.List()
	if err != nil || len(list) != 3 || list[0].Serial != late.Serial {
		t.Fatalf("list %v (%v)", list, err)
	}
	for _, c := range list {
		if c.Revoked.IsZero() != (c.Names[0] == "good.casemate.internal") {
			t.Errorf("%s revoked at %v", c.Names, c.Revoked)
		}
	}
	for _, c := range []struct {
		serial string
		is     error
	}{{strings.Repeat("12", 16), fs.ErrNotExist}, {"", nil}, {"xyz", nil}, {"-5", nil}, {"../state", nil}, {
		strings.Repeat("f", 50), nil}, {"0", nil}} {
		if err := h.ca.Revoke(t.Context(), c.serial); err == nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%q: got %v", c.serial, err)
		}
	}
	for _, id := range []string{"", "state", "../../../state", strings.Repeat("0", 16), "../../issuer/../x"} {
		if _, err := h.ca.CRL(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: got %v, want fs.ErrNotExist", id, err)
		}
	}

	t.Run("openssl", func(t *testing.T) {
		if _, err := exec.LookPath("openssl"); err != nil {
			t.Skip("needs openssl: revocation was not checked with it")
		}
		for _, c := range []struct {
			chain []*x509.Certificate
			list  *x509.RevocationList
			good  bool
		}{{badChain, first, false}, {goodChain, first, true}, {lateChain, second, false}, {goodChain, second, false}} {
			err := run("openssl", "verify", "-crl_check", "-CAfile", write(t, "roots.pem", h.ca.Roots()), "-untrusted",
				write(t, "chain.pem", pemOf(c.chain[1:]...)),
				"-CRLfile", write(t, "crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: c.list.Raw})),
				write(t, "leaf.pem", pemOf(c.chain[0])))
			if (err == nil) != c.good {
				t.Errorf("%s: accepted %v, want %v (%v)", c.chain[0].DNSNames, err == nil, c.good, err)
			}
		}
	})
}

// A list is there for every certificate that names it, as long as one can be met: also when the key that signed it was
// destroyed.
func TestEveryNamedListExists(t *testing.T) {
	h := build(t, nil)
	var seen []*x509.Certificate
	for round := range 8 {
		certs, err := h.handshake(h.ca.Roots(), "docker.io")
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, certs[0])
		if round%2 == 0 {
			h.constrain("docker.io", "quay.io")
		} else {
			h.constrain("docker.io")
		}
		h.clock.add(7 * day)
		h.maintain()
		for _, cert := range seen {
			if cert.NotAfter.After(h.clock.now()) {
				h.crl(cert)
			}
		}
	}
}

// A list that another node made changes when this node revoked, within a minute.
func TestRevocationSpreads(t *testing.T) {
	h := build(t, nil)
	o := h.second("n2", "127.0.0.1")
	got, err := h.ca.Issue(t.Context(), Request{Names: []string{"a.casemate.internal"}})
	if err != nil {
		t.Fatal(err)
	}
	cert := certsOf(t, got.Cert)[0]
	if lists(o.crl(cert), cert) {
		t.Error("revoked already")
	}
	if err := h.ca.Revoke(t.Context(), got.Serial); err != nil {
		t.Fatal(err)
	}
	h.clock.add(time.Minute)
	if !lists(o.crl(cert), cert) {
		t.Error("the other node's list does not have it after a minute")
	}
}

func FuzzCSR(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	der := request(f, key, &x509.CertificateRequest{DNSNames: []string{"a.casemate.internal", "*.b.example"},
		IPAddresses: []net.IP{net.IPv6loopback}})
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		csr, err := parseCSR(data)
		if err != nil {
			return
		}
		// Whatever a request asks for: its names are canonical or refused.
		names, err := canonicals(csrNames(csr))
		if err != nil {
			return
		}
		for _, n := range names {
			if again, err := canonical(n); err != nil || again != n {
				t.Errorf("%q is not canonical: %q, %v", n, again, err)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"registry.k8s.io", "*.a.b", "10.0.0.1", "[fd00::1]", "::ffff:1.2.3.4", "bücher.example",
		"a..b", "xn--a.b", "A.B.", "1.2.3", "0x7f.1", "_x.y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := canonical(s)
		if err != nil {
			return
		}
		if again, err := canonical(n); err != nil || again != n {
			t.Errorf("%q becomes %q, and that %q (%v)", s, n, again, err)
		}
		if n != strings.ToLower(n) || strings.ContainsAny(n, "/\x00 ") || len(n) > 255 {
			t.Errorf("%q becomes %q", s, n)
		}
	})
}
