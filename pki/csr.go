package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
)

const (
	maxCSR = 16 << 10 // bytes
	maxRSA = 8192     // bits of a key, as in crypto/tls
)

// parseCSR reads a PKCS #10 request, PEM or DER, and checks that its author has the key. Only the key and the names of
// a request are ever used: extensions, including a request to be a CA, are dropped.
func parseCSR(data []byte) (*x509.CertificateRequest, error) {
	if len(data) > maxCSR {
		return nil, mistakef("certificate request has %d bytes, the most is %d", len(data), maxCSR)
	}
	if bytes.Contains(data, []byte("-----BEGIN")) {
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
			return nil, mistakef("certificate request: the PEM file holds no CERTIFICATE REQUEST")
		}
		data = block.Bytes
	}
	csr, err := x509.ParseCertificateRequest(data)
	if err != nil {
		return nil, mistakef("certificate request: it cannot be read, it must be PKCS #10 in PEM or DER (openssl req " +
			"-new)")
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize < 256 {
			return nil, mistakef("certificate request: the curve %s is too weak, take P-256", key.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		// Bounded above, too: otherwise a client could cause much work with the signature of a giant key.
		if n := key.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, mistakef("certificate request: an RSA key must have %d to %d bits, got %d", minRSA, maxRSA, n)
		}
	case ed25519.PublicKey:
	default:
		return nil, mistakef("certificate request: keys of type %s are not certified, take ECDSA, RSA or Ed25519",
			csr.PublicKeyAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, mistakef("certificate request: its signature is wrong: %v", err)
	}
	return csr, nil
}

// csrNames returns the host names and addresses of a request, or its common name if it has none.
func csrNames(csr *x509.CertificateRequest) []string {
	names := append([]string{}, csr.DNSNames...)
	for _, ip := range csr.IPAddresses {
		names = append(names, ip.String())
	}
	if cn := csr.Subject.CommonName; len(names) == 0 && strings.Contains(cn, ".") {
		names = append(names, cn)
	}
	return names
}
