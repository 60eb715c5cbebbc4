package member

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"casemate/cluster/peer"
)

// Nothing is computed with the keys of a chain that no node has.
func TestForeignChainsAreRefusedUnseen(t *testing.T) {
	make := func(pub crypto.PublicKey, signer crypto.Signer, names int) *x509.Certificate {
		t.Helper()
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n2"}, NotAfter: time.Now().Add(time.Hour),
		}
		for i := range names {
			tmpl.DNSNames = append(tmpl.DNSNames, fmt.Sprintf("%d.%s.example", i, strings.Repeat("x", 60)))
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wide, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	edPub, _, _ := ed25519.GenerateKey(rand.Reader)
	modulus := new(big.Int).Lsh(big.NewInt(1), 8191)
	ours := make(key.Public(), key, 0)
	giant := make(&rsa.PublicKey{N: modulus.Add(modulus, big.NewInt(1)), E: 1<<31 - 1}, key, 0)
	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		ok    bool
	}{
		{"none", nil, false},
		{"ours", []*x509.Certificate{ours}, true},
		{"ours with all cross certificates", []*x509.Certificate{ours, ours, ours, ours}, true},
		{"one more", []*x509.Certificate{ours, ours, ours, ours, ours}, false},
		{"RSA", []*x509.Certificate{giant}, false},
		{"an RSA CA", []*x509.Certificate{ours, giant}, false},
		{"P-521", []*x509.Certificate{make(wide.Public(), wide, 0)}, false},
		{"Ed25519", []*x509.Certificate{make(edPub, key, 0)}, false},
		{"many names", []*x509.Certificate{make(key.Public(), key, 100)}, false},
	} {
		if err := cheapChain(c.chain); (err == nil) != c.ok || err != nil && !errors.Is(err, peer.ErrStranger) {
			t.Errorf("%s: %v, taken is %v", c.name, err, c.ok)
		}
	}
}
