package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"
)

// keysOf makes the keys of a weak chain: root, policy and signer, each of its own kind.
func keysOf(t *testing.T, kinds ...func() (crypto.Signer, error)) (keys []crypto.Signer) {
	t.Helper()
	for _, kind := range kinds {
		key, err := kind()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

func rsaOf(bits int) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, bits) }
}

func onCurve(c elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
}

func onEdwards() (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// weakChain makes a root, a certificate below it and one below that, the last with its key. edit gets the templates.
func weakChain(
	t *testing.T, keys []crypto.Signer, edit func(certs []*x509.Certificate),
) (certs []*x509.Certificate, key []byte) {
	t.Helper()
	now := time.Now()
	var templates []*x509.Certificate
	for _, cn := range []string{"Bank Root", "Bank Policy CA", "Bank Platform CA"} {
		templates = append(templates, &x509.Certificate{
			Subject: pkix.Name{CommonName: cn}, NotBefore: now.Add(-day), NotAfter: now.Add(3 * 365 * day),
			BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign,
		})
	}
	if edit != nil {
		edit(templates)
	}
	var up *x509.Certificate
	for i, tmpl := range templates {
		by, parent := keys[max(0, i-1)], up
		if i == 0 {
			parent = tmpl
		}
		tmpl.SerialNumber, _ = newSerial()
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, keys[i].Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		if up, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		certs = append(certs, up)
	}
	der, err := marshalKey(keys[2])
	if err != nil {
		t.Fatal(err)
	}
	return certs, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// What clients refuse in a handshake is refused when it is set, wherever in the chain it is, and the error names it.
func TestEnterpriseWeak(t *testing.T) {
	p256 := onCurve(elliptic.P256())
	strong := keysOf(t, p256, p256, p256)
	longRSA := keysOf(t, rsaOf(2048), rsaOf(2048), p256)
	for _, c := range []struct {
		what string
		keys []crypto.Signer
		edit func(certs []*x509.Certificate)
		want string // "": accepted
	}{
		{"strong", strong, nil, ""},
		{"RSA of 2048 bits", longRSA, nil, ""},
		{"P-384 and P-521", keysOf(t, onCurve(elliptic.P521()), onCurve(elliptic.P384()), p256), nil, ""},
		{"short root", keysOf(t, rsaOf(1024), p256, p256), nil, "RSA key of CN=Bank Root has 1024 bits"},
		{"short middle", keysOf(t, p256, rsaOf(1536), p256), nil, "RSA key of CN=Bank Policy CA has 1536 bits"},
		{"short signer", keysOf(t, p256, p256, rsaOf(1024)), nil, "RSA key of CN=Bank Platform CA has 1024 bits"},
		{"weak curve above", keysOf(t, onCurve(elliptic.P224()), p256, p256), nil,
			"CN=Bank Root is on the curve P-224"},
		{"weak curve", keysOf(t, p256, p256, onCurve(elliptic.P224())), nil,
			"CN=Bank Platform CA is on the curve P-224"},
		{"Ed25519", keysOf(t, p256, onEdwards, p256), nil, "CN=Bank Policy CA is of a kind (Ed25519)"},
		{"SHA-1 below the root", longRSA, func(l []*x509.Certificate) { l[1].SignatureAlgorithm = x509.SHA1WithRSA },
			"CN=Bank Policy CA is signed with SHA1-RSA"},
		{"SHA-1 at the signer", longRSA, func(l []*x509.Certificate) { l[2].SignatureAlgorithm = x509.SHA1WithRSA },
			"CN=Bank Platform CA is signed with SHA1-RSA"},
		{"SHA-1 with ECDSA", strong, func(l []*x509.Certificate) { l[2].SignatureAlgorithm = x509.ECDSAWithSHA1 },
			"CN=Bank Platform CA is signed with ECDSA-SHA1"},
		{"SHA-1 of the root itself, which nobody verifies", longRSA,
			func(l []*x509.Certificate) { l[0].SignatureAlgorithm = x509.SHA1WithRSA }, ""},
		{"path length of the root", strong, func(l []*x509.Certificate) { l[0].MaxPathLen = 1 },
			"the path length of CN=Bank Root is 1, but 2 CA certificates"},
		{"path length in the middle", strong,
			func(l []*x509.Certificate) { l[1].MaxPathLen, l[1].MaxPathLenZero = 0, true },
			"the path length of CN=Bank Policy CA is 0, but 1 CA certificates"},
		{"path length of the signer", strong,
			func(l []*x509.Certificate) { l[2].MaxPathLen, l[2].MaxPathLenZero = 0, true },
			"its path length leaves no room for a constrained root"},
		{"no CA in the middle", strong, func(l []*x509.Certificate) { l[1].IsCA, l[1].MaxPathLen = false, 0 },
			"CN=Bank Policy CA is no CA certificate"},
		{"for lists only", strong, func(l []*x509.Certificate) { l[1].KeyUsage = x509.KeyUsageCRLSign },
			"CN=Bank Policy CA may not sign certificates"},
		{"for clients only", strong,
			func(l []*x509.Certificate) { l[1].ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
			"CN=Bank Policy CA is not for TLS servers"},
		{"for everything", strong,
			func(l []*x509.Certificate) { l[1].ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, ""},
		{"for something unknown", strong,
			func(l []*x509.Certificate) { l[2].UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
			"CN=Bank Platform CA is not for TLS servers"},
		{"critical and unknown", strong, func(l []*x509.Certificate) {
			l[1].ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true,
				Value: []byte{5, 0}}}
		}, "CN=Bank Policy CA has the critical extension 1.2.3.4"},
		{"the middle ended", strong, func(l []*x509.Certificate) { l[1].NotAfter = time.Now().Add(-time.Hour) },
			"CN=Bank Policy CA is valid from"},
		{"the root of the future", strong, func(l []*x509.Certificate) { l[0].NotBefore = time.Now().Add(time.Hour) },
			"CN=Bank Root is valid from"},
	} {
		t.Run(c.what, func(t *testing.T) {
			certs, key := weakChain(t, c.keys, c.edit)
			err := build(t, nil).ca.UseEnterprise(t.Context(), pemOf(certs...), key)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A chain whose certificates do not belong together is refused for what it is.
func TestEnterpriseMismatched(t *testing.T) {
	p256 := onCurve(elliptic.P256())
	keys := keysOf(t, p256, p256, p256)
	good, key := weakChain(t, keys, nil)
	other, _ := weakChain(t, keysOf(t, p256, p256, p256), nil)
	damaged := *good[2]
	damaged.Raw = slices.Clone(damaged.Raw)
	damaged.Raw[len(damaged.Raw)-1] ^= 1
	badRoot := *good[0]
	badRoot.Raw = slices.Clone(badRoot.Raw)
	badRoot.Raw[len(badRoot.Raw)-1] ^= 1
	for _, c := range []struct {
		what  string
		chain []*x509.Certificate
		want  string // "": accepted
	}{
		{"another issuer of the same name", []*x509.Certificate{good[0], other[1], good[2]},
			"the signature of CN=Bank Platform CA is not by the key of CN=Bank Policy CA"},
		{"another root of the same name", []*x509.Certificate{other[0], good[1], good[2]},
			"the signature of CN=Bank Policy CA is not by the key of CN=Bank Root"},
		{"damaged", []*x509.Certificate{good[0], good[1], &damaged},
			"the signature of CN=Bank Platform CA is not by the key of CN=Bank Policy CA"},
		{"a damaged root", []*x509.Certificate{&badRoot, good[1], good[2]},
			"CN=Bank Root names itself as its issuer, but its signature is not by its own key"},
		{"the middle is missing", []*x509.Certificate{good[0], good[2]},
			"the chain lacks the certificate of CN=Bank Policy CA, which signed CN=Bank Platform CA"},
		{"both of the same name", []*x509.Certificate{other[1], good[0], good[1], good[2], other[0]}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			err := build(t, nil).ca.UseEnterprise(t.Context(), pemOf(c.chain...), key)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
