package pki

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// signLeaf makes a certificate for names (canonical) below iss. It ends with its intermediate at the latest.
func (c *CA) signLeaf(
	iss *issuer, pub crypto.PublicKey, names []string, life time.Duration,
) (*x509.Certificate, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("a certificate needs a name")
	}
	now := c.now()
	t := &x509.Certificate{
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(life), iss.end),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: serversOnly(),
		// What the certificate above the root permits.
		Subject: pkix.Name{Organization: []string{organization(c.domain)}},
	}
	if !t.NotAfter.After(now) {
		return nil, fmt.Errorf("the intermediate %s ended on %s and is not replaced yet", iss.id,
			t.NotAfter.UTC().Format(time.DateTime))
	}
	if _, ok := pub.(*rsa.PublicKey); ok {
		t.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	for _, n := range names {
		if err := iss.allows(n); err != nil {
			return nil, err
		}
		if a, err := netip.ParseAddr(n); err == nil {
			t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	// A common name is for people. It must be a host name or absent: OpenSSL holds one of digits and dots against the
	// DNS constraints.
	if len(t.DNSNames) > 0 && len(t.DNSNames[0]) <= 64 {
		t.Subject.CommonName = t.DNSNames[0]
	}
	t.CRLDistributionPoints = listURL(c.cfg.CRLURL, iss.cert, iss.id)
	return sign(t, pub, iss.cert, iss.key)
}
