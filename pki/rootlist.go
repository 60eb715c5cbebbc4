package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"slices"
	"strings"
	"time"
)

// The list of a root contains the revoked intermediates. Unlike those of intermediates it is signed ahead and stored in
// the tree: the root's key is unsealed to sign, not because a client requests a page.
const (
	rootListLife = 30 * day
	// An intermediate that was replaced is revoked when no leaf below it can be valid any more; its own last list stays
	// as long.
	retiredLife = leafLife + 2*day
)

// retired is the tree's record of an intermediate whose key was destroyed, until it ends. Times are Unix seconds.
type retired struct {
	Serial string `json:"serial"`
	Root   string `json:"root"`
	At     int64  `json:"at"` // from when on it is revoked
	To     int64  `json:"to"` // when it ends
}

// listURL is the URL of the revocation list with an ID; "" if there is none.
func listURL(dir string, signer *x509.Certificate, id string) []string {
	if dir == "" || !signsLists(signer) {
		return nil
	}
	if !strings.HasSuffix(dir, "/") {
		dir += "/"
	}
	return []string{dir + id + ".crl"}
}

// signsLists reports whether a CA certificate may sign revocation lists, and can be referred to in one.
func signsLists(cert *x509.Certificate) bool {
	return cert.KeyUsage&x509.KeyUsageCRLSign != 0 && len(cert.SubjectKeyId) > 0
}

func rootListDir(id string) string { return "root/" + id + "/crl" }

// putRootList adds to a batch a list of a that is valid from now to next.
func (a *authority) putRootList(
	b Batch, key crypto.Signer, revoked []x509.RevocationListEntry, prev *x509.RevocationList, now, next time.Time,
) error {
	number := big.NewInt(now.UnixNano())
	if prev != nil && prev.Number != nil && prev.Number.Cmp(number) >= 0 {
		number.Add(prev.Number, big.NewInt(1)) // a clock was set back
	}
	der, err := makeCRL(a.signer, key, number, revoked, now, next)
	if err != nil {
		return err
	}
	return putChunks(b, rootListDir(a.ref.ID), der)
}

// hasList reports whether the authority keeps a list: it signs intermediates of ours, and they contain its URL.
func (c *CA) hasList(a *authority) bool {
	return c.cfg.CRLURL != "" && !a.direct() && signsLists(a.signer) && c.now().Before(a.signer.NotAfter)
}

// readRootList returns the list of a root in the tree; nil if there is none that can be read.
func (c *CA) readRootList(id string) *x509.RevocationList {
	der, err := readChunks(c.cfg.Tree, rootListDir(id))
	if err != nil || len(der) == 0 {
		return nil
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil
	}
	return list
}

// planRootList adds to ch a new list of a, whose key is given. A last list is one of a root whose key is about to be
// destroyed: it is valid until the root ends.
func (c *CA) planRootList(ch *change, a *authority, key crypto.Signer, last bool) error {
	if !c.hasList(a) {
		return nil
	}
	revoked, err := c.revokedIssuers(a.ref.ID)
	if err != nil {
		return err
	}
	now := c.now()
	next := now.Add(rootListLife)
	if last {
		next = later(next, a.signer.NotAfter)
	}
	prev := c.readRootList(a.ref.ID)
	ch.add(func(b Batch) error { return a.putRootList(b, key, revoked, prev, now, next) })
	return nil
}

// planLastRootList is planRootList for a root that is replaced. If it fails, the root's intermediates have the previous
// list until that ends: that must not prevent the replacement of a root whose key is lost.
func (c *CA) planLastRootList(ch *change, a *authority) {
	if !c.hasList(a) {
		return
	}
	key, err := a.readKey(c.cfg.Tree, c.cfg.Sealer)
	if err == nil {
		err = c.planRootList(ch, a, key, true)
	}
	if err != nil {
		c.log.Warn("the last revocation list of the old root cannot be signed", "root", a.ref.ID, "err", err)
	}
}

// revokedIssuers returns the intermediates of a root that were replaced so long ago that no leaf below them is valid.
func (c *CA) revokedIssuers(root string) ([]x509.RevocationListEntry, error) {
	all, err := c.retired()
	if err != nil {
		return nil, err
	}
	now := c.now()
	var out []x509.RevocationListEntry
	for _, r := range all {
		n, ok := new(big.Int).SetString(r.Serial, 16)
		at := time.Unix(r.At, 0).UTC()
		// An entry stays for a day after the end, for clients whose clocks are slow.
		if !ok || r.Root != root || now.Before(at) || now.After(time.Unix(r.To, 0).Add(backdate)) {
			continue
		}
		const superseded = 4 // RFC 5280, 5.3.1
		out = append(out, x509.RevocationListEntry{SerialNumber: n, RevocationTime: at, ReasonCode: superseded})
	}
	slices.SortFunc(out, func(a, b x509.RevocationListEntry) int { return a.SerialNumber.Cmp(b.SerialNumber) })
	return out, nil
}

// retired returns the records of intermediates that were replaced, by ID.
func (c *CA) retired() (map[string]retired, error) {
	list, err := c.cfg.Tree.ReadDir("retired")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make(map[string]retired, len(list))
	for _, e := range list {
		data, err := c.cfg.Tree.ReadFile("retired/" + e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var r retired
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("record pki/retired/%s is damaged: %w", e.Name(), err)
		}
		out[e.Name()] = r
	}
	return out, nil
}

// refreshRootList signs the root's list again when two thirds of its lifetime are over, when a clock was ahead when it
// was made, when it is damaged, and when its revoked intermediates are out of date.
func (c *CA) refreshRootList(ctx context.Context) error {
	err := c.retry(func(s *snapshot) error {
		if !c.hasList(s.root) {
			return nil
		}
		revoked, err := c.revokedIssuers(s.root.ref.ID)
		if err != nil {
			return err
		}
		now := c.now()
		same := func(a, b x509.RevocationListEntry) bool { return a.SerialNumber.Cmp(b.SerialNumber) == 0 }
		list := c.readRootList(s.root.ref.ID)
		if list != nil && list.CheckSignatureFrom(s.root.signer) == nil &&
			slices.EqualFunc(list.RevokedCertificateEntries, revoked, same) &&
			!now.Before(list.ThisUpdate) && !due(list.ThisUpdate, list.NextUpdate, now) {
			return nil
		}
		key, err := s.root.readKey(c.cfg.Tree, c.cfg.Sealer)
		if err != nil {
			return err
		}
		ch := &change{base: s, next: s.state}
		if err := c.planRootList(ch, s.root, key, false); err != nil {
			return err
		}
		if err := c.tidyUp(ctx, ch); err != nil {
			return err
		}
		c.log.Info("revocation list of the root signed", "root", s.root.ref.ID, "revoked", len(revoked))
		return nil
	})
	if err != nil {
		return fmt.Errorf("sign the root's revocation list: %w", err)
	}
	return nil
}
