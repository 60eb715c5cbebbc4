package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io/fs"
	"math/big"
	"strings"
	"sync"
	"time"
)

// The revocation list of an intermediate is made on request, from the records in the tree: it needs neither refreshing
// nor a quorum.
const (
	crlLife  = 7 * day
	crlFresh = time.Minute // how long a list is served again
)

// crlCache has the newest list of each issuer.
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

// CRL returns the revocation list (RFC 5280, 5; DER) of the intermediate or root id, the ID in certificates'
// distribution points: CRLURL + id + ".crl". That of an intermediate is at most a minute old. An unknown id is
// fs.ErrNotExist.
func (c *CA) CRL(id string) ([]byte, error) {
	if len(id) != 16 || !fs.ValidPath(id) || strings.Contains(id, "/") {
		return nil, fmt.Errorf("revocation list %.20q: %w", id, fs.ErrNotExist)
	}
	if der, err := c.cfg.Tree.ReadFile("crl/" + id); err == nil {
		return der, nil
	}
	if list := c.readRootList(id); list != nil {
		return list.Raw, nil
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
	if !signsLists(iss.cert) {
		return nil, fmt.Errorf("revocation list %s: its CA certificate may not sign one: %w", id, fs.ErrNotExist)
	}
	live, err := c.liveIssued()
	if err != nil {
		return nil, err
	}
	var revoked []x509.RevocationListEntry
	for _, r := range live {
		if n, ok := new(big.Int).SetString(r.Serial, 16); ok && r.Issuer == id && r.Revoked != 0 {
			revoked = append(revoked, x509.RevocationListEntry{SerialNumber: n,
				RevocationTime: time.Unix(r.Revoked, 0).UTC()})
		}
	}
	// Numbers must grow (RFC 5280, 5.2.3), on whichever node a list is made: the time does.
	der, err := makeCRL(iss.cert, iss.key, big.NewInt(now.UnixNano()), revoked, now, now.Add(crlLife))
	if err != nil {
		return nil, err
	}
	if c.crls.made == nil || len(c.crls.made) > 100 {
		c.crls.made = map[string]madeCRL{}
	}
	c.crls.made[id] = madeCRL{der: der, at: now}
	return der, nil
}

func makeCRL(
	cert *x509.Certificate, key crypto.Signer, number *big.Int, revoked []x509.RevocationListEntry, now, next time.Time,
) ([]byte, error) {
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: number, ThisUpdate: now.Add(-backdate).UTC(), NextUpdate: next.UTC(),
		RevokedCertificateEntries: revoked,
	}, cert, key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return der, nil
}

// lastCRL makes the list that remains when the key of iss is destroyed. It is empty: a key that may have to revoke
// something is kept. It must outlast the leaves that nodes still serve. Nil if iss signs no lists.
func (c *CA) lastCRL(iss *issuer) ([]byte, error) {
	if !signsLists(iss.cert) {
		return nil, nil
	}
	now := c.now()
	next := earlier(now.Add(retiredLife), later(iss.cert.NotAfter, now.Add(day)))
	return makeCRL(iss.cert, iss.key, big.NewInt(now.UnixNano()), nil, now, next)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
