package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// UseEnterprise makes a CA certificate of the enterprise's the signing one, replacing our own root (the setting
// pki.issuer). chain is PEM: the CA certificate whose key is given, and those above it up to and including the
// self-signed root, in any order. key is PEM, unencrypted: PKCS #8, PKCS #1 or SEC 1.
//
// If three CA certificates may follow below it (path length), a root of ours with our constraints is made below it, and
// its key is not stored: a thief of a bastion gets only the key of our constrained root. The constraints are those of
// the root in use. With less room its key is stored and signs our intermediates (room for one), or leaves (room for
// none): then its own chain must restrict a thief, and a chain that does not is refused with a list of what is missing.
//
// The whole chain must permit all enabled names (otherwise ErrNotPermitted). Signing changes at once and there is no
// cross certificate: clients must trust the enterprise's root before. Until FinishRotation, Roots also returns our own
// root.
func (c *CA) UseEnterprise(ctx context.Context, chain, key []byte) error {
	given, signer, err := parseEnterprise(chain, key, c.now())
	if err != nil {
		return fmt.Errorf("enterprise CA: %w", err)
	}
	err = c.retry(func(s *snapshot) error {
		below := given.room() >= roomForRoot
		if s.root.ref.Below == below && s.root.lastsFor(given, c.now()) {
			return nil
		}
		if s.old != nil && !given.anchor.Equal(s.root.anchor) {
			return fmt.Errorf("begun on %s: %w", time.Unix(s.state.Since, 0).UTC().Format(time.DateOnly), ErrRotating)
		}
		if err := given.allows(c.domain); err != nil {
			return err
		}
		if err := c.probe(given, signer); err != nil {
			return err
		}
		if below {
			next, key, err := c.belowEnterprise(s, given, signer)
			if err != nil {
				return err
			}
			return c.replaceRoot(ctx, s, next, key)
		}
		if list := given.missing(); len(list) > 0 {
			return mistakef("the key of %s would have to be kept, since its path length leaves no room for a "+
				"constrained root of ours below it, and the certificate lacks: %s. Have it signed with these, or with "+
				"a path length of at least %d or none", given.signer.Subject, strings.Join(list, "; "), roomForRoot)
		}
		return c.replaceRoot(ctx, s, given, signer)
	})
	if err != nil {
		return fmt.Errorf("enterprise CA: %w", err)
	}
	return nil
}

// lastsFor reports whether a is below the given chain already, every certificate of it, and need not be made again: it
// ends with that chain, or is still new.
func (a *authority) lastsFor(given *authority, now time.Time) bool {
	sent := func(c *x509.Certificate) bool { return slices.ContainsFunc(a.above, c.Equal) }
	return a.ref.Enterprise && a.anchor.Equal(given.anchor) && !slices.ContainsFunc(given.above,
		func(c *x509.Certificate) bool { return !sent(c) }) &&
		(!a.end().Before(given.end()) || !due(a.signer.NotBefore, a.signer.NotAfter, now))
}

// roomForRoot is how many CA certificates follow below an enterprise's: the policy certificate, the root, an
// intermediate.
const roomForRoot = 3

// belowEnterprise makes a root of ours below the enterprise's CA certificate. It permits what the root in use permits;
// if that has no list of zones (an enterprise's root of an earlier version), it permits the same as a new root of ours.
func (c *CA) belowEnterprise(s *snapshot, up *authority, upKey crypto.Signer) (*authority, crypto.Signer, error) {
	k, err := c.inherited(s)
	if err != nil {
		return nil, nil, err
	}
	addrs, err := c.nodeAddrs("")
	if err != nil {
		return nil, nil, err
	}
	k.ranges = append(k.ranges, networks(addrs)...)
	return makeBelow(up, upKey, k.tidy(), c.domain, c.cfg.CRLURL, c.now())
}

// missing returns what the certificates in a client's chain do not forbid, one extension each; none if a thief of the
// signer's key can only impersonate TLS servers that they permit.
func (a *authority) missing() []string {
	chain := append(slices.Clone(a.above), a.anchor)
	chain = chain[:max(1, len(chain)-1)] // clients may ignore the extensions of a trust anchor (RFC 5280, 6.1.1)
	has := func(f func(*x509.Certificate) bool) bool { return slices.ContainsFunc(chain, f) }
	family := func(size int) bool {
		return has(func(c *x509.Certificate) bool {
			return slices.ContainsFunc(c.PermittedIPRanges, func(n *net.IPNet) bool { return len(n.IP) == size }) ||
				slices.ContainsFunc(c.ExcludedIPRanges, func(n *net.IPNet) bool {
					bits, _ := n.Mask.Size()
					return len(n.IP) == size && bits == 0
				})
		})
	}
	var list []string
	if !has(func(c *x509.Certificate) bool { return len(c.PermittedDNSDomains) > 0 }) {
		list = append(list, "permitted DNS names (nameConstraints)")
	}
	if !family(net.IPv4len) {
		list = append(list, "IPv4 addresses permitted, or 0.0.0.0/0 excluded (nameConstraints)")
	}
	if !family(net.IPv6len) {
		list = append(list, "IPv6 addresses permitted, or ::/0 excluded (nameConstraints)")
	}
	if !has(func(c *x509.Certificate) bool { return len(c.PermittedEmailAddresses) > 0 }) {
		list = append(list, "a permitted mail domain that does not exist, such as invalid (nameConstraints)")
	}
	// GnuTLS considers excluded URIs only, and then refuses all.
	if !has(func(c *x509.Certificate) bool { return len(c.PermittedURIDomains) > 0 && len(c.ExcludedURIDomains) > 0 }) {
		list = append(list, "URI:invalid both permitted and excluded (nameConstraints)")
	}
	if !has(func(c *x509.Certificate) bool {
		return len(c.UnknownExtKeyUsage) == 0 && slices.Equal(c.ExtKeyUsage, serversOnly())
	}) {
		list = append(list, "serverAuth as only extended key usage (extendedKeyUsage)")
	}
	return list
}

// probe makes a leaf below a, as handshakes will, and verifies it: this checks path lengths, constraints, key usages
// and algorithms together.
func (c *CA) probe(a *authority, key crypto.Signer) error {
	iss := (&issuer{cert: a.signer, chain: a.above, key: key}).under(a)
	if !a.direct() {
		k, err := issuerConstraints(constraints{}, []string{c.domain}, nil)
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
	leaf, err := c.signLeaf(iss, own.Public(), []string{c.domain}, leafLife)
	if err != nil {
		return err
	}
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, Leaf: leaf}
	for _, up := range iss.chain {
		cert.Certificate = append(cert.Certificate, up.Raw)
	}
	if _, err := (&snapshot{root: a}).verify(cert, c.domain, c.now()); err != nil {
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
