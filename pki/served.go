package pki

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// Who can replace a certificate.
const (
	OwnerRoot       = "root"       // operators, by a rotation: clients must trust the next one
	OwnerEnterprise = "enterprise" // the enterprise, with a new certificate for pki.issuer
	OwnerSelf       = "self"       // this CA, without anybody
)

// Served is a CA certificate that every new connection depends on, together with those above it.
type Served struct {
	Subject             string
	Owner               string // one of the constants above
	NotBefore, NotAfter time.Time
	// Old: only clients depend on it that trust only the old root of an overlap.
	Old bool
}

// Valid reports whether clients whose clock shows now accept the certificate.
func (s Served) Valid(now time.Time) bool { return !now.Before(s.NotBefore) && !now.After(s.NotAfter) }

// Served returns the CA certificates whose dates decide how long clients can connect, those that sign first: the
// anchor, and of those below it the ones that end earlier than everything above them, or began later than now. A
// certificate that ends together with one above it is replaced together with that one, and is left out.
func (c *CA) Served() []Served {
	s := c.latest()
	// Below an enterprise's certificate, the policy certificate and the root are made again with a new pki.issuer.
	root := OwnerRoot
	if s.root.ref.Enterprise {
		root = OwnerEnterprise
	}
	list := c.deciding(nil, root, false, s.root.anchor, s.root.above)
	if len(s.root.cross) > 0 && s.old != nil {
		list = append(list, c.deciding(nil, OwnerRoot, true, s.old.anchor, s.root.cross)...)
	}
	if !s.issuer.cert.Equal(s.root.signer) {
		list = c.deciding(list, OwnerSelf, false, s.issuer.cert, nil)
	}
	return list
}

// deciding appends to list the certificates of a chain that decide, from its top down. chain begins with the lowest.
func (c *CA) deciding(
	list []Served, owner string, old bool, top *x509.Certificate, chain []*x509.Certificate,
) []Served {
	now := c.now()
	for _, cert := range append([]*x509.Certificate{top}, reversed(chain)...) {
		outlasts := func(s Served) bool { return s.Old == old && !cert.NotAfter.Before(s.NotAfter) }
		if slices.ContainsFunc(list, outlasts) && !now.Before(cert.NotBefore) {
			continue
		}
		list = append(list, Served{cert.Subject.String(), owner, cert.NotBefore, cert.NotAfter, old})
	}
	return list
}

func reversed(chain []*x509.Certificate) []*x509.Certificate {
	chain = slices.Clone(chain)
	slices.Reverse(chain)
	return chain
}

// Serves returns nil if a new connection can be served by every enabled name: every certificate in the chain is valid,
// and the one that signs leaves permits each name that it was made for. Otherwise the error names what stops it.
func (c *CA) Serves() error {
	s, now := c.latest(), c.now()
	for _, v := range c.Served() {
		switch {
		case v.Old || v.Valid(now):
		case now.Before(v.NotBefore):
			return fmt.Errorf("clients refuse every TLS connection: the certificate %s is valid from %s on, and the "+
				"clock of this node shows %s", v.Subject, v.NotBefore.UTC().Format(time.RFC3339),
				now.UTC().Format(time.RFC3339))
		default:
			return fmt.Errorf("clients refuse every TLS connection: the certificate %s ended on %s", v.Subject,
				v.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	for _, n := range append([]string{c.domain}, s.names...) {
		if err := s.issuer.allows(n); err != nil {
			return fmt.Errorf("clients cannot connect to %s: %w", n, err)
		}
	}
	return nil
}

// latest is the newest state of the CA that can be read.
func (c *CA) latest() *snapshot {
	s, err := c.current()
	if err != nil {
		s = c.snap.Load()
	}
	return s
}
