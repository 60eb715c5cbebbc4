package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"time"
)

// UseEnterprise makes a CA certificate of the enterprise's the one that signs, in the place of our own root (the setting pki.issuer). chain is PEM: the CA
// certificate whose key is given, and those above it up to and including the self-signed root, in any order. key is PEM, unencrypted: PKCS #8, PKCS #1 or SEC 1.
//
// If the CA certificate may have another below it (path length), exactly constrained intermediates of ours are made under it; otherwise it signs
// leaves itself and only its own constraints hold. What is enabled must be permitted by the whole chain (else ErrNotPermitted).
// Signing changes at once and there is no cross certificate: clients must trust the enterprise's root before. Until FinishRotation, Roots returns our own root besides.
func (c *CA) UseEnterprise(ctx context.Context, chain, key []byte) error {
	next, signer, err := parseEnterprise(chain, key, c.now())
	if err != nil {
		return fmt.Errorf("enterprise CA: %w", err)
	}
	err = c.retry(func(s *snapshot) error {
		if next.ref == s.root.ref {
			return nil
		}
		if s.old != nil && !next.anchor.Equal(s.root.anchor) {
			return fmt.Errorf("begun on %s: %w", time.Unix(s.state.Since, 0).UTC().Format(time.DateOnly), ErrRotating)
		}
		if err := next.allows(c.domain); err != nil {
			return err
		}
		if err := c.probe(next, signer); err != nil {
			return err
		}
		if next.direct() && len(next.signer.PermittedDNSDomains) == 0 {
			c.log.Warn("the enterprise's CA certificate has no name constraints: whoever gets its key can impersonate any name", "subject", next.signer.Subject)
		}
		return c.replaceRoot(ctx, s, next, signer)
	})
	if err != nil {
		return fmt.Errorf("enterprise CA: %w", err)
	}
	return nil
}

// parseEnterprise orders and checks the certificates.
func parseEnterprise(chain, keyPEM []byte, now time.Time) (*authority, crypto.Signer, error) {
	var certs []*x509.Certificate
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, nil, mistakef("the chain holds a %s: give certificates there and the key apart", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, mistakef("the chain cannot be read: %v", err)
		}
		if certs = append(certs, cert); len(certs) > 10 {
			return nil, nil, mistakef("the chain has more than 10 certificates")
		}
		// Before any signature is verified: with a giant key that would take as long as whoever made it likes.
		if pub, ok := cert.PublicKey.(*rsa.PublicKey); ok && pub.N.BitLen() > maxRSA {
			return nil, nil, mistakef("the RSA key of %s has %d bits, the most is %d", cert.Subject, pub.N.BitLen(), maxRSA)
		}
	}
	if len(certs) == 0 {
		return nil, nil, mistakef("the chain holds no certificate in PEM")
	}
	key, err := parseKeyPEM(keyPEM)
	if err != nil {
		return nil, nil, err
	}
	a := &authority{ref: rootRef{Enterprise: true}}
	for _, cert := range certs {
		if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && pub.Equal(cert.PublicKey) {
			a.signer = cert
		}
	}
	if a.signer == nil {
		return nil, nil, mistakef("the key belongs to none of the certificates")
	}
	for at := a.signer; ; {
		switch {
		case !at.BasicConstraintsValid || !at.IsCA:
			return nil, nil, mistakef("%s is no CA certificate", at.Subject)
		case at.KeyUsage != 0 && at.KeyUsage&x509.KeyUsageCertSign == 0:
			return nil, nil, mistakef("%s may not sign certificates (key usage)", at.Subject)
		case now.Before(at.NotBefore) || now.After(at.NotAfter):
			return nil, nil, mistakef("%s is valid from %s to %s, not now", at.Subject, at.NotBefore.UTC().Format(time.DateOnly), at.NotAfter.UTC().Format(time.DateOnly))
		}
		if bytes.Equal(at.RawSubject, at.RawIssuer) && at.CheckSignatureFrom(at) == nil {
			a.anchor = at
			break
		}
		a.above = append(a.above, at)
		var up *x509.Certificate
		for _, cert := range certs {
			if cert != at && bytes.Equal(cert.RawSubject, at.RawIssuer) && at.CheckSignatureFrom(cert) == nil {
				up = cert
			}
		}
		if up == nil {
			return nil, nil, mistakef("the chain lacks the certificate of %s, which signed %s", at.Issuer, at.Subject)
		}
		if len(a.above) > len(certs) {
			return nil, nil, mistakef("the chain runs in a circle")
		}
		at = up
	}
	if len(a.above) == 0 {
		return nil, nil, mistakef("the key is that of a self-signed root: give an intermediate, the root's key does not belong here")
	}
	sum := sha256.Sum256(a.signer.Raw)
	a.ref.ID = hex.EncodeToString(sum[:8])
	return a.ready(), key, nil
}

// probe makes a leaf below a, as handshakes will, and verifies it: path lengths, constraints, key usages and algorithms at once.
func (c *CA) probe(a *authority, key crypto.Signer) error {
	iss := (&issuer{cert: a.signer, chain: a.above, key: key}).under(a)
	if !a.direct() {
		k, err := issuerConstraints(constraints{}, c.domain, nil, nil)
		if err != nil {
			return err
		}
		if iss, err = makeIssuer(a, key, k, c.domain, c.cfg.CRLURL, c.now()); err != nil {
			return err
		}
	}
	own, err := newKey()
	if err != nil {
		return err
	}
	leaf, err := c.signLeaf(iss, own.Public(), []string{c.domain}, leafLife, false)
	if err != nil {
		return err
	}
	der := [][]byte{leaf.Raw}
	for _, up := range iss.chain {
		der = append(der, up.Raw)
	}
	if _, err := (&snapshot{root: a}).verify(der, c.domain, c.now()); err != nil {
		return mistakef("certificates below %s would not verify: %v", a.signer.Subject, err)
	}
	return nil
}

func parseKeyPEM(data []byte) (key crypto.Signer, err error) {
	block, _ := pem.Decode(data)
	for block != nil && block.Type == "EC PARAMETERS" {
		_, data, _ = bytes.Cut(data, []byte("-----END EC PARAMETERS-----"))
		block, _ = pem.Decode(data)
	}
	if block == nil {
		return nil, mistakef("the key is not in PEM")
	}
	switch block.Type {
	case "PRIVATE KEY":
		key, err = parseKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, mistakef("the key is a PEM block %q: give an unencrypted private key", block.Type)
	}
	if err != nil {
		return nil, mistakef("the key cannot be read: %v", err)
	}
	return key, nil
}
