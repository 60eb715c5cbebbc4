package cluster

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
)

// Processor time that outsiders cost is bounded for each address and for all, and members are apart from it.
func TestOutsidersPayForTheirTime(t *testing.T) {
	now := time.Unix(1e9, 0)
	tl := toll{now: func() time.Time { return now }}
	count := func(from string, member bool) (n int) {
		for n < 100_000 && tl.admit(from, member) {
			n++
		}
		return n
	}
	each := int(tollBurst / tollFloor)
	if n := count("a", false); n != each {
		t.Errorf("one address: %d connections at once, want %d", n, each)
	}
	now = now.Add(time.Second)
	if n := count("a", false); n != each/int(tollBurst/time.Second*tollEach+10) {
		t.Errorf("a second later %d more, want %d", n, each/10)
	}
	if !tl.admit("b", false) {
		t.Error("another address is refused")
	}
	tl.charge("b", tollBurst, false) // one that took as long as a request with a giant key
	if tl.admit("b", false) {
		t.Error("what was dear does not count")
	}
	for i := range 10 {
		count(fmt.Sprint("few ", i), false)
	}
	if !tl.admit("honest", false) {
		t.Error("an address that has cost nothing is refused for what ten others have cost")
	}
	all := 0
	for i := range 1000 {
		all += count(fmt.Sprint("crowd ", i), false)
	}
	if most := 2 * int(tollAllOnce/tollFloor); all >= most {
		t.Errorf("a thousand addresses: %d connections at once, the most is %d", all, most)
	}
	if tl.admit("c", false) {
		t.Error("there is no bound for all")
	}
	if n := count("member", true); n != 8*each {
		t.Errorf("a member has %d connections at once, want %d", n, 8*each)
	}
	now = now.Add(time.Minute)
	if !tl.admit("a", false) || !tl.admit("c", false) || !tl.admit("member", true) {
		t.Error("time does not pay")
	}
	// What turns out to be a member's handshake costs nothing.
	for range 100 * each {
		if !tl.admit("new member", false) {
			t.Fatal("handshakes of a member are refused")
		}
		tl.charge("new member", -tollFloor, false)
	}
	// Addresses are not remembered without end.
	for i := range 3 * maxTolled {
		tl.admit(fmt.Sprint("many ", i), false)
		if i%100 == 0 {
			now = now.Add(time.Second)
		}
	}
	if len(tl.by) > maxTolled {
		t.Errorf("%d addresses are remembered", len(tl.by))
	}
}

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
		if err := cheapChain(c.chain); (err == nil) != c.ok || err != nil && !errors.Is(err, errStranger) {
			t.Errorf("%s: %v, taken is %v", c.name, err, c.ok)
		}
	}
}
