package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// bank is an enterprise's PKI: a root, and an intermediate for us.
type bank struct {
	root, mid       *x509.Certificate
	rootKey, midKey crypto.Signer
}

func newBank(t testing.TB, now time.Time, edit func(root, mid *x509.Certificate)) bank {
	t.Helper()
	var b bank
	ca := func(cn string, life time.Duration) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: cn}, NotBefore: now.Add(-day), NotAfter: now.Add(life),
			BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	root, mid := ca("Bank Root", 20*365*day), ca("Bank Platform CA", 3*365*day)
	if edit != nil {
		edit(root, mid)
	}
	var err error
	if b.rootKey, err = newKey(); err != nil {
		t.Fatal(err)
	}
	if b.midKey, err = newKey(); err != nil {
		t.Fatal(err)
	}
	if b.root, err = sign(root, b.rootKey.Public(), nil, b.rootKey); err != nil {
		t.Fatal(err)
	}
	if b.mid, err = sign(mid, b.midKey.Public(), b.root, b.rootKey); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b bank) pem(t testing.TB) (chain, key []byte) {
	t.Helper()
	der, err := marshalKey(b.midKey)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf(b.root, b.mid), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func enterprise(t testing.TB, edit func(root, mid *x509.Certificate)) (chain, key []byte) {
	return newBank(t, time.Now(), edit).pem(t)
}

func direct(_, mid *x509.Certificate)     { mid.MaxPathLen, mid.MaxPathLenZero = 0, true }
func roomForOne(_, mid *x509.Certificate) { mid.MaxPathLen = 1 }

// bound gives the enterprise's certificate for us all constraints of ours, which it must have if its key is stored.
func bound(edit func(root, mid *x509.Certificate)) func(root, mid *x509.Certificate) {
	return func(root, mid *x509.Certificate) {
		k := constraints{
			zones: append([]string{"casemate.internal", "ghcr.io"}, enabled...), ranges: privateRanges(),
		}
		k.tidy().apply(mid)
		mid.ExtKeyUsage = serversOnly()
		edit(root, mid)
	}
}

// With room below it, the enterprise's CA certificate gets exactly constrained intermediates of ours; without, it signs
// leaves itself.
func TestEnterprise(t *testing.T) {
	for _, c := range []struct {
		what  string
		edit  func(root, mid *x509.Certificate)
		chain int // certificates sent
		exact bool
	}{
		{"with room below", nil, 5, true},
		{"room for three", func(_, mid *x509.Certificate) { mid.MaxPathLen = 3 }, 5, true},
		{"room for one", bound(roomForOne), 3, true},
		{"without", bound(direct), 2, false},
		{"without, by the root", bound(func(root, _ *x509.Certificate) { root.MaxPathLen = 1 }), 2, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			h := build(t, nil)
			own := h.ca.Roots()
			b := newBank(t, time.Now(), c.edit)
			chain, key := b.pem(t)
			if err := h.ca.UseEnterprise(t.Context(), chain, key); err != nil {
				t.Fatal(err)
			}
			if err := h.ca.UseEnterprise(t.Context(), chain, key); err != nil {
				t.Errorf("the same again: %v", err)
			}
			roots := h.ca.Roots()
			if !bytes.Equal(roots, append(pemOf(b.root), own...)) {
				t.Error("Roots are not the enterprise's and our own")
			}
			for _, name := range []string{"docker.io", "casemate.internal", ""} {
				certs, err := h.handshake(pemOf(b.root), name)
				if err != nil {
					t.Fatal(err)
				}
				if len(certs) != c.chain {
					t.Errorf("%d certificates sent, want %d", len(certs), c.chain)
				}
			}
			f := h.ca.leaves.lookup("docker.io")
			sent := append([]*x509.Certificate{f.cert.Leaf}, h.snapshot().issuer.chain...)
			t.Run("verifies", func(t *testing.T) {
				eachVerifier(t, func(t *testing.T, v verifier) {
					if err := v.verify(t, []*x509.Certificate{b.root}, sent, f.cert.PrivateKey.(crypto.Signer),
						"docker.io"); err != nil {
						t.Error(err)
					}
				})
			})
			if got := h.snapshot().issuer.allows("ghcr.io") != nil; got != c.exact {
				t.Errorf("constrained to the enabled names: %v, want %v", got, c.exact)
			}
			h.know("ghcr.io")
			h.constrain(append([]string{"ghcr.io"}, enabled...)...)
			if _, err := h.handshake(pemOf(b.root), "ghcr.io"); err != nil {
				t.Error(err)
			}
			if !slices.Contains(h.snapshot().names, "ghcr.io") {
				t.Error("the names were not stored")
			}
			got, err := h.ca.Issue(t.Context(), Request{Names: []string{"git.casemate.internal"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := h.ca.Revoke(t.Context(), got.Serial); err != nil {
				t.Fatal(err)
			}
			if cert := certsOf(t, got.Cert)[0]; !lists(h.crl(cert), cert) {
				t.Error("not on the list")
			}
			if err := h.ca.Rotate(t.Context()); err == nil {
				t.Error("a second rotation began")
			}
			if err := h.ca.FinishRotation(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.reopen()
			if !bytes.Equal(h.ca.Roots(), pemOf(b.root)) {
				t.Error("our own root is still handed out")
			}
			if err := h.ca.Rotate(t.Context()); err == nil ||
				!strings.Contains(err.Error(), "the root is the enterprise's") {
				t.Errorf("got %v", err)
			}
			// Renewed by the enterprise: the same key or another, the same root.
			for range 2 {
				mid, err := sign(&x509.Certificate{
					Subject: b.mid.Subject, NotBefore: b.mid.NotBefore, NotAfter: b.mid.NotAfter.Add(day),
					BasicConstraintsValid: true, IsCA: true,
					MaxPathLen: b.mid.MaxPathLen, MaxPathLenZero: b.mid.MaxPathLenZero, KeyUsage: b.mid.KeyUsage,
					ExtraExtensions: constraintsAndUsages(b.mid),
				}, b.midKey.Public(), b.root, b.rootKey)
				if err != nil {
					t.Fatal(err)
				}
				b.mid = mid
				chain, key := b.pem(t)
				if err := h.ca.UseEnterprise(t.Context(), chain, key); err != nil {
					t.Fatal(err)
				}
				h.reopen()
				if _, overlap := h.ca.Rotation(); overlap || !bytes.Equal(h.ca.Roots(), pemOf(b.root)) {
					t.Error("an overlap of a root with itself")
				}
				if _, err := h.handshake(pemOf(b.root), "docker.io"); err != nil {
					t.Error(err)
				}
				if _, err := h.ca.Issue(t.Context(), Request{Names: []string{"git.casemate.internal"}}); err != nil {
					t.Error(err)
				}
				if b.midKey, err = newKey(); err != nil {
					t.Fatal(err)
				}
			}
			// And back to a root of our own.
			if err := h.ca.RotateTo(t.Context(), Change{Own: true, Abrupt: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
				t.Error(err)
			}
			if err := h.ca.FinishRotation(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
				t.Error(err)
			}
		})
	}
}

// constraintsAndUsages are these extensions of a certificate.
func constraintsAndUsages(c *x509.Certificate) []pkix.Extension {
	return slices.DeleteFunc(slices.Clone(c.Extensions), func(e pkix.Extension) bool {
		id := e.Id.String()
		return id != "2.5.29.30" && id != "2.5.29.37"
	})
}

// What the enterprise's certificates do not permit is not enabled.
func TestEnterpriseConstraints(t *testing.T) {
	h := build(t, nil)
	chain, key := enterprise(t, func(_, mid *x509.Certificate) {
		mid.PermittedDNSDomainsCritical, mid.PermittedDNSDomains = true, []string{"casemate.internal", "docker.io"}
	})
	if err := h.ca.UseEnterprise(t.Context(), chain, key); !errors.Is(err, ErrNotPermitted) ||
		!strings.Contains(err.Error(), "dl.k8s.io") {
		t.Errorf("got %v, want ErrNotPermitted with the enabled name", err)
	}
	h.constrain("docker.io")
	if err := h.ca.UseEnterprise(t.Context(), chain, key); err != nil {
		t.Fatal(err)
	}
	if err := h.ca.Permits("quay.io"); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("got %v, want ErrNotPermitted", err)
	}
	if _, err := h.ca.Constrain([]string{"docker.io", "quay.io"}); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("got %v, want ErrNotPermitted", err)
	}
	if _, err := h.ca.Issue(t.Context(), Request{Names: []string{"quay.io"}}); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("got %v, want ErrNotPermitted", err)
	}
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Error(err)
	}
}

func TestEnterpriseRefuses(t *testing.T) {
	h := build(t, nil)
	before := all(t, h.tree)
	good := newBank(t, time.Now(), nil)
	chain, key := good.pem(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	with := func(edit func(root, mid *x509.Certificate)) func() ([]byte, []byte) {
		return func() ([]byte, []byte) { return enterprise(t, edit) }
	}
	rootDER, err := marshalKey(good.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		make func() (chain, key []byte)
		want string
	}{
		{"no chain", func() ([]byte, []byte) { return nil, key }, "the chain holds no certificate"},
		{"no key", func() ([]byte, []byte) { return chain, nil }, "the key is not in PEM"},
		{"key in the chain", func() ([]byte, []byte) { return append(bytes.Clone(chain), key...), key },
			"give certificates there and the key apart"},
		{"rubbish", func() ([]byte, []byte) {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), key
		}, "enterprise CA"},
		{"another key", func() ([]byte, []byte) {
			der, err := marshalKey(rsaKey)
			if err != nil {
				t.Fatal(err)
			}
			return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		}, "the key belongs to none of the certificates"},
		{"encrypted key", func() ([]byte, []byte) {
			return chain, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
		}, "give an unencrypted private key"},
		{"the root's key", func() ([]byte, []byte) {
			return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rootDER})
		}, "give an intermediate"},
		{"without the root", func() ([]byte, []byte) {
			return pemOf(good.mid), key
		}, "the chain lacks the certificate of CN=Bank Root"},
		{"a giant key", func() ([]byte, []byte) {
			n := new(big.Int).Lsh(big.NewInt(1), 16383)
			giant := &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 1<<31 - 1}
			der, err := x509.CreateCertificate(rand.Reader, good.mid, good.root, giant, good.rootKey)
			if err != nil {
				t.Fatal(err)
			}
			return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), chain...), key
		}, "has 16384 bits, the most is 8192"},
		{"no CA", with(func(_, m *x509.Certificate) { m.IsCA, m.MaxPathLen = false, 0 }),
			"CN=Bank Platform CA is no CA certificate"},
		{"may not sign", with(func(_, m *x509.Certificate) { m.KeyUsage = x509.KeyUsageDigitalSignature }),
			"may not sign certificates"},
		{"expired", with(func(_, m *x509.Certificate) { m.NotAfter = time.Now().Add(-time.Hour) }), "not now"},
		{"of the future", with(func(_, m *x509.Certificate) { m.NotBefore = time.Now().Add(time.Hour) }), "not now"},
		{"root's path length", with(func(r, _ *x509.Certificate) { r.MaxPathLen, r.MaxPathLenZero = 0, true }),
			"the path length of CN=Bank Root is 0, but 1 CA certificates follow below it"},
		{"root of a rehearsal", with(func(r, _ *x509.Certificate) { r.Subject.Organization = []string{LabDomain} }),
			"is the CA of a rehearsal"},
		{"issuer of a rehearsal", with(func(_, m *x509.Certificate) { m.Subject.Organization = []string{LabDomain} }),
			"is the CA of a rehearsal"},
		{"for mail only", with(func(_, m *x509.Certificate) {
			m.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		}), "is not for TLS servers"},
		{"domain excluded", with(func(r, _ *x509.Certificate) {
			r.PermittedDNSDomainsCritical, r.ExcludedDNSDomains = true, []string{"internal"}
		}), "excluded zone internal"},
	} {
		t.Run(c.what, func(t *testing.T) {
			chain, key := c.make()
			if err := h.ca.UseEnterprise(t.Context(), chain, key); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			} else if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, ErrNotPermitted) {
				t.Errorf("%v is not told from trouble of ours", err)
			}
		})
	}
	after := all(t, h.tree)
	if len(after) != len(before) {
		t.Error("something was written")
	}
	for name, data := range before {
		if !bytes.Equal(after[name], data) {
			t.Errorf("%s was changed", name)
		}
	}
}
