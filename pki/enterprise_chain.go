package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"time"
)

// parseEnterprise reads the certificates, orders them from the one of the key up to the self-signed root, and refuses
// what clients would refuse in every handshake.
func parseEnterprise(chain, keyPEM []byte, now time.Time) (*authority, crypto.Signer, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return nil, nil, err
	}
	key, err := parseKeyPEM(keyPEM)
	if err != nil {
		return nil, nil, err
	}
	a := &authority{ref: rootRef{Enterprise: true}}
	for _, cert := range certs {
		if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && pub.Equal(cert.PublicKey) {
			a.signer = better(a.signer, cert, now)
		}
	}
	if a.signer == nil {
		return nil, nil, mistakef("the key belongs to none of the certificates")
	}
	for at := a.signer; ; {
		if err := acceptable(at, now); err != nil {
			return nil, nil, err
		}
		if selfSigned(at) {
			a.anchor = at
			break
		}
		if a.above = append(a.above, at); len(a.above) > len(certs) {
			return nil, nil, mistakef("the chain runs in a circle")
		}
		if at, err = issuerOf(at, certs, now); err != nil {
			return nil, nil, err
		}
	}
	if len(a.above) == 0 {
		return nil, nil, mistakef("the key is that of a self-signed root: give an intermediate, the root's key does " +
			"not belong here")
	}
	if err := a.fits(); err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(a.signer.Raw)
	a.ref.ID = hex.EncodeToString(sum[:8])
	return a.ready(), key, nil
}

func parseChain(chain []byte) (certs []*x509.Certificate, err error) {
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, mistakef("the chain holds a %s: give certificates there and the key apart", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, mistakef("the chain cannot be read: %v", err)
		}
		if certs = append(certs, cert); len(certs) > 10 {
			return nil, mistakef("the chain has more than 10 certificates")
		}
		// Before any signature is verified: with a giant key that could take arbitrarily long.
		if pub, ok := cert.PublicKey.(*rsa.PublicKey); ok && pub.N.BitLen() > maxRSA {
			return nil, mistakef("the RSA key of %s has %d bits, the most is %d", cert.Subject, pub.N.BitLen(), maxRSA)
		}
	}
	if len(certs) == 0 {
		return nil, mistakef("the chain holds no certificate in PEM")
	}
	return certs, nil
}

// better picks one of two certificates that serve equally: one that is valid now, and then the one that ends later.
// Renewals often have the key and the subject of the certificate that they replace.
func better(a, b *x509.Certificate, now time.Time) *x509.Certificate {
	valid := func(c *x509.Certificate) bool { return !now.Before(c.NotBefore) && !now.After(c.NotAfter) }
	switch {
	case a == nil, valid(b) && !valid(a):
		return b
	case valid(a) && !valid(b), !b.NotAfter.After(a.NotAfter):
		return a
	}
	return b
}

// minRSA is the shortest RSA key that clients accept (OpenSSL from security level 2 on, GnuTLS, NSS, Apple, Windows).
const minRSA = 2048

// acceptable refuses a CA certificate that clients refuse wherever it is in a chain.
func acceptable(c *x509.Certificate, now time.Time) error {
	switch {
	case len(c.Subject.ToRDNSequence()) == 0:
		return mistakef("a CA certificate has no subject, so clients cannot find it by its name")
	case !c.BasicConstraintsValid || !c.IsCA:
		return mistakef("%s is no CA certificate", c.Subject)
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return mistakef("%s may not sign certificates (key usage)", c.Subject)
	case slices.Contains(c.Subject.Organization, LabDomain):
		return mistakef("%s is the CA of a rehearsal, which permits almost every name: use one of your own", c.Subject)
	case !forServers(c):
		return mistakef("%s is not for TLS servers: its extended key usage has no serverAuth", c.Subject)
	case len(c.UnhandledCriticalExtensions) > 0:
		return mistakef("%s has the critical extension %s, which clients do not know and therefore refuse", c.Subject,
			c.UnhandledCriticalExtensions[0])
	case now.Before(c.NotBefore) || now.After(c.NotAfter):
		return mistakef("%s is valid from %s to %s, not now", c.Subject, c.NotBefore.UTC().Format(time.DateOnly),
			c.NotAfter.UTC().Format(time.DateOnly))
	}
	return strongKey(c)
}

// forServers reports whether certificates for TLS servers may be below c.
func forServers(c *x509.Certificate) bool {
	return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.ContainsFunc(c.ExtKeyUsage,
		func(u x509.ExtKeyUsage) bool { return u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageAny })
}

func strongKey(c *x509.Certificate) error {
	switch pub := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() < minRSA {
			return mistakef("the RSA key of %s has %d bits: clients refuse less than %d", c.Subject, pub.N.BitLen(),
				minRSA)
		}
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() && pub.Curve != elliptic.P521() {
			return mistakef("the key of %s is on the curve %s: clients accept P-256, P-384 and P-521", c.Subject,
				pub.Curve.Params().Name)
		}
	default:
		// Ed25519 included: NSS does not know it in certificates, nor does Java before 15.
		return mistakef("the key of %s is of a kind (%s) that not all clients accept: use RSA or ECDSA", c.Subject,
			c.PublicKeyAlgorithm)
	}
	return nil
}

// selfSigned reports whether c is a root. Clients that trust a root do not verify its own signature, so an old root may
// be signed with SHA-1.
func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && signed(c, c) == nil
}

// signed verifies the signature of c with the key of up, and nothing else of up. Unlike CheckSignatureFrom it verifies
// SHA-1, which issuerOf refuses by its name.
func signed(c, up *x509.Certificate) error {
	return up.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
}

// issuerOf returns the certificate that signed c. The error says which of these it is: the signature is of a kind that
// clients refuse, the certificate is missing, or one of its name is there that did not sign c.
func issuerOf(c *x509.Certificate, certs []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	switch c.SignatureAlgorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS,
		x509.SHA512WithRSAPSS, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
	case x509.UnknownSignatureAlgorithm:
		return nil, mistakef("%s is signed with an algorithm that clients do not know: use SHA-256 with RSA or ECDSA",
			c.Subject)
	default:
		return nil, mistakef("%s is signed with %s, which clients refuse: have it signed with SHA-256", c.Subject,
			c.SignatureAlgorithm)
	}
	var up, named *x509.Certificate
	for _, cert := range certs {
		if cert == c || !bytes.Equal(cert.RawSubject, c.RawIssuer) {
			continue
		}
		named = cert
		if weak := strongKey(cert); weak != nil { // before its key verifies anything
			return nil, weak
		}
		if signed(c, cert) == nil {
			up = better(up, cert, now)
		}
	}
	switch {
	case named == nil && bytes.Equal(c.RawSubject, c.RawIssuer):
		return nil, mistakef("%s names itself as its issuer, but its signature is not by its own key: it is damaged",
			c.Subject)
	case named == nil:
		return nil, mistakef("the chain lacks the certificate of %s, which signed %s", c.Issuer, c.Subject)
	case up == nil:
		return nil, mistakef("the signature of %s is not by the key of %s in the chain: the certificate is damaged, "+
			"or its issuer has another certificate of the same name", c.Subject, named.Subject)
	case len(c.AuthorityKeyId) > 0 && len(up.SubjectKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, up.SubjectKeyId):
		return nil, mistakef("%s names another key of %s as its issuer's (authority key identifier): OpenSSL would "+
			"not find the issuer", c.Subject, up.Subject)
	}
	return up, nil
}

// fits refuses a chain whose own certificates exceed the path length of one above them.
func (a *authority) fits() error {
	for i, c := range append(slices.Clone(a.above), a.anchor) {
		if limited := c.MaxPathLen > 0 || c.MaxPathLenZero; limited && c.MaxPathLen < i {
			return mistakef("the path length of %s is %d, but %d CA certificates follow below it in the chain: "+
				"clients refuse everything below %s", c.Subject, c.MaxPathLen, i, a.signer.Subject)
		}
	}
	return nil
}
