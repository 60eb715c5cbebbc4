package pki

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io/fs"
	"math/big"
	"sync"
	"time"
)

// A revocation list is made where it is asked for, from the records in the tree: there is nothing to refresh, and it needs no quorum.
const (
	crlLife  = 7 * day
	crlFresh = time.Minute // how long one is handed out again
)

// crlCache holds the lists made last, by issuer.
type crlCache struct {
	mu   sync.Mutex
	made map[string]madeCRL
}

type madeCRL struct {
	der []byte
	at  time.Time
}

func (k *crlCache) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made = nil
}

// CRL returns the revocation list (RFC 5280, 5; DER) of the intermediate id, as named in certificates' distribution points: CRLURL + id + ".crl".
// It is at most a minute old. An unknown id is fs.ErrNotExist.
func (c *CA) CRL(id string) ([]byte, error) {
	if len(id) != 16 || !fs.ValidPath(id) {
		return nil, fmt.Errorf("revocation list %.20q: %w", id, fs.ErrNotExist)
	}
	if der, err := c.cfg.Tree.ReadFile("crl/" + id); err == nil {
		return der, nil
	}
	c.crls.mu.Lock()
	defer c.crls.mu.Unlock()
	now := c.now()
	if m, ok := c.crls.made[id]; ok && now.Sub(m.at).Abs() < crlFresh {
		return m.der, nil
	}
	s, err := c.current()
	if err != nil {
		return nil, err
	}
	iss := s.issuer
	if iss.id != id {
		if iss, err = readIssuer(c.cfg.Tree, c.cfg.Sealer, id); err != nil {
			return nil, fmt.Errorf("revocation list %s: %w", id, err)
		}
	}
	if !signsCRLs(iss) {
		return nil, fmt.Errorf("revocation list %s: its CA certificate may not sign one: %w", id, fs.ErrNotExist)
	}
	live, err := c.liveIssued()
	if err != nil {
		return nil, err
	}
	var revoked []x509.RevocationListEntry
	for _, r := range live {
		if n, ok := new(big.Int).SetString(r.Serial, 16); ok && r.Issuer == id && r.Revoked != 0 {
			revoked = append(revoked, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Unix(r.Revoked, 0).UTC()})
		}
	}
	der, err := makeCRL(iss, revoked, now, now.Add(crlLife))
	if err != nil {
		return nil, err
	}
	if c.crls.made == nil || len(c.crls.made) > 100 {
		c.crls.made = map[string]madeCRL{}
	}
	c.crls.made[id] = madeCRL{der: der, at: now}
	return der, nil
}

func signsCRLs(iss *issuer) bool { return iss.cert.KeyUsage&x509.KeyUsageCRLSign != 0 }

func makeCRL(iss *issuer, revoked []x509.RevocationListEntry, now, next time.Time) ([]byte, error) {
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		// Numbers must grow (RFC 5280, 5.2.3), on whichever node a list is made: time does.
		Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-backdate).UTC(), NextUpdate: next.UTC(), RevokedCertificateEntries: revoked,
	}, iss.cert, iss.key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return der, nil
}

// lastCRL makes the list that stays when the key of iss is destroyed. It is empty: a key that may have to revoke something is kept. It must
// outlast the leaves that nodes still serve. Nil if iss signs no lists.
func (c *CA) lastCRL(iss *issuer) ([]byte, error) {
	if !signsCRLs(iss) {
		return nil, nil
	}
	now := c.now()
	return makeCRL(iss, nil, now, earlier(now.Add(leafLife+2*day), later(iss.cert.NotAfter, now.Add(day))))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
