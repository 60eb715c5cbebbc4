package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"slices"
	"strings"
	"time"

	"casemate/cluster/tree"
)

const (
	// IssueLife is how long a certificate lives that Issue makes when Request.Life is 0.
	IssueLife = 90 * day
	maxIssued = 10000
	// keepExpired is how long the record of an expired certificate stays in the list.
	keepExpired = 30 * day
)

// Request asks for a certificate for something else inside the gap.
type Request struct {
	// Names are host names (also "*.zone") and addresses. With a CSR they may be empty: then those of the CSR are
	// taken.
	Names []string
	// CSR is a PKCS #10 request, PEM or DER. Nil: a key is made.
	CSR []byte
	// Life is how long the certificate is valid from now; 0: IssueLife. At most a year.
	Life time.Duration
}

// Issued is a certificate made by Issue.
type Issued struct {
	Serial   string // hex
	Names    []string
	NotAfter time.Time
	Cert     []byte // PEM
	Chain    []byte // PEM: what a server sends behind Cert
	Key      []byte // PEM, PKCS #8; nil if there was a CSR. It is kept nowhere else.
}

// Certificate is what the cluster remembers of one made by Issue.
type Certificate struct {
	Serial    string // hex
	Names     []string
	Issuer    string // ID of the intermediate; its revocation list is CRL(Issuer)
	NotBefore time.Time
	NotAfter  time.Time
	Revoked   time.Time // zero: it is not
}

// record is what the tree keeps of a certificate made by Issue. Times are Unix seconds.
type record struct {
	Serial  string   `json:"serial"`
	Names   []string `json:"names"`
	Issuer  string   `json:"issuer"`
	From    int64    `json:"from"`
	To      int64    `json:"to"`
	Revoked int64    `json:"revoked,omitempty"`
	version uint64
}

// Issue makes a certificate and lists it. Names that the root does not permit are ErrNotPermitted; if only the
// intermediate in use does not permit them, one for these names alone is made in the same batch.
func (c *CA) Issue(ctx context.Context, req Request) (Issued, error) {
	var out Issued
	pub, asked, err := c.requested(req, &out)
	if err != nil {
		return Issued{}, err
	}
	if out.Names, err = canonicals(asked); err != nil {
		return Issued{}, err
	}
	if len(out.Names) == 0 {
		return Issued{}, mistakef("a certificate needs a name: give --name, or a CSR with a subject alternative name")
	}
	life := req.Life
	if life == 0 {
		life = IssueLife
	}
	if life < time.Hour || life > issuerLife {
		return Issued{}, mistakef("lifetime must be between 1h and %d days, got %s", issuerLife/day, life)
	}
	err = c.retry(func(s *snapshot) error { return c.issue(ctx, s, &out, pub, life) })
	if err != nil {
		return Issued{}, err
	}
	c.log.Info("certificate issued", "serial", out.Serial, "names", out.Names, "until", out.NotAfter)
	return out, nil
}

// requested returns the public key and the names that are asked for; it makes a key if there is no CSR.
func (c *CA) requested(req Request, out *Issued) (crypto.PublicKey, []string, error) {
	if req.CSR != nil {
		csr, err := parseCSR(req.CSR)
		if err != nil {
			return nil, nil, err
		}
		if len(req.Names) > 0 {
			return csr.PublicKey, req.Names, nil
		}
		return csr.PublicKey, csrNames(csr), nil
	}
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := marshalKey(key)
	if err != nil {
		return nil, nil, err
	}
	out.Key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key.Public(), req.Names, nil
}

func (c *CA) issue(ctx context.Context, s *snapshot, out *Issued, pub crypto.PublicKey, life time.Duration) error {
	all, err := c.issued()
	if err != nil {
		return err
	}
	if len(all) >= maxIssued {
		return fmt.Errorf("%d certificates are listed, which is the most: wait until some expire", len(all))
	}
	ch := &change{base: s, next: s.state}
	iss, now := s.issuer, c.now()
	outside := slices.ContainsFunc(out.Names, func(n string) bool { return iss.allows(n) != nil })
	switch {
	case s.root.direct(): // there are no intermediates of ours
	case outside:
		iss, err = c.planOwnIssuer(ch, s.root, out.Names)
	case now.Add(life).After(iss.end) && s.root.end().After(iss.end):
		iss, err = c.planIssuer(ch, s.root, nil, s.names)
	}
	if err != nil {
		return s.cured(err, out.Names...)
	}
	if now.Add(life).After(iss.end.Add(time.Minute)) {
		return mistakef("the CA ends on %s: ask for a shorter lifetime or rotate the root",
			iss.end.UTC().Format(time.DateOnly))
	}
	cert, err := c.signLeaf(iss, pub, out.Names, life)
	if err != nil {
		return err
	}
	out.Serial, out.NotAfter = serialText(cert.SerialNumber), cert.NotAfter
	out.Cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	out.Chain = nil
	for _, up := range iss.chain {
		out.Chain = append(out.Chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Raw})...)
	}
	name := "issued/" + out.Serial
	told := tree.Event{Verb: "certificate.issue", Object: out.Serial, New: strings.Join(out.Names, " ")}
	err = c.cfg.Tree.Update(tree.WithEvent(ctx, told), func(b Batch) error {
		r := record{Serial: out.Serial, Names: out.Names, Issuer: iss.id, From: cert.NotBefore.Unix(),
			To: cert.NotAfter.Unix()}
		if err := putJSON(b, name, r); err != nil {
			return err
		}
		if ch.next != s.state {
			return ch.write(b)
		}
		for _, edit := range ch.edits {
			if err := edit(b); err != nil {
				return err
			}
		}
		// The intermediate must still be in use when the record appears: otherwise its key may be gone, and nothing
		// could revoke.
		b.Expect(stateName, s.version)
		return nil
	})
	if err != nil {
		// It may have failed and happened all the same.
		if _, serr := c.cfg.Tree.Stat(name); serr == nil {
			return nil
		}
		return err
	}
	return nil
}

func serialText(n *big.Int) string { return fmt.Sprintf("%032x", n) }

// serialOf parses a serial number as people write it: hex, with colons or without.
func serialOf(text string) (string, error) {
	n, ok := new(big.Int).SetString(stripColons(text), 16)
	if !ok || n.Sign() <= 0 || n.BitLen() > 159 {
		return "", mistakef("serial number must be in hex, as cert list shows it, got %.60q", text)
	}
	return serialText(n), nil
}

// Find returns the certificate made by Issue with a serial number, in the form that Revoke takes; fs.ErrNotExist if
// there is none.
func (c *CA) Find(serial string) (Certificate, error) {
	serial, err := serialOf(serial)
	if err != nil {
		return Certificate{}, err
	}
	list, err := c.List()
	if err != nil {
		return Certificate{}, err
	}
	i := slices.IndexFunc(list, func(cert Certificate) bool { return cert.Serial == serial })
	if i < 0 {
		return Certificate{}, fmt.Errorf("there is no certificate %s: %w", serial, fs.ErrNotExist)
	}
	return list[i], nil
}

// List returns the certificates made by Issue, the newest first; expired ones for thirty days.
func (c *CA) List() ([]Certificate, error) {
	all, err := c.issued()
	if err != nil {
		return nil, err
	}
	out := make([]Certificate, 0, len(all))
	for _, r := range all {
		cert := Certificate{Serial: r.Serial, Names: r.Names, Issuer: r.Issuer, NotBefore: time.Unix(r.From, 0).UTC(),
			NotAfter: time.Unix(r.To, 0).UTC()}
		if r.Revoked != 0 {
			cert.Revoked = time.Unix(r.Revoked, 0).UTC()
		}
		out = append(out, cert)
	}
	slices.SortStableFunc(out, func(a, b Certificate) int { return b.NotBefore.Compare(a.NotBefore) })
	return out, nil
}

// Revoke puts a certificate made by Issue on its intermediate's revocation list. serial is hex, as List shows it;
// colons and case do not matter. An unknown one is fs.ErrNotExist; one that is revoked already stays as it is.
func (c *CA) Revoke(ctx context.Context, serial string) error {
	serial, err := serialOf(serial)
	if err != nil {
		return err
	}
	err = c.retry(func(*snapshot) error {
		r, err := c.readIssued(serial)
		if err != nil || r.Revoked != 0 {
			return err
		}
		version := r.version
		r.Revoked = c.now().Unix()
		told := tree.Event{Verb: "certificate.revoke", Object: serial, Old: strings.Join(r.Names, " ")}
		err = c.cfg.Tree.Update(tree.WithEvent(ctx, told), func(b Batch) error {
			b.Expect("issued/"+serial, version)
			return putJSON(b, "issued/"+serial, r)
		})
		if err != nil {
			if now, rerr := c.readIssued(serial); rerr == nil && now.Revoked != 0 {
				return nil
			}
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no certificate with serial number %s was issued: %w", serial, fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("revoke %s: %w", serial, err)
	}
	c.crls.drop()
	c.log.Info("certificate revoked", "serial", serial)
	return nil
}

func stripColons(s string) string {
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] != ':' {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// issued returns all records of certificates made by Issue, by serial number.
func (c *CA) issued() ([]record, error) {
	list, err := c.cfg.Tree.ReadDir("issued")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]record, 0, len(list))
	for _, e := range list {
		r, err := c.readIssued(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (c *CA) readIssued(serial string) (record, error) {
	var r record
	info, err := c.cfg.Tree.Stat("issued/" + serial)
	if err != nil {
		return r, err
	}
	data, err := c.cfg.Tree.ReadFile("issued/" + serial)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("record pki/issued/%s is damaged: %w", serial, err)
	}
	// If the record changed between the two reads, the older version only makes a condition fail that would have to be
	// tried again anyway.
	r.version = tree.VersionOf(info)
	return r, nil
}

// liveIssued returns the records of certificates that have not expired.
func (c *CA) liveIssued() ([]record, error) {
	all, err := c.issued()
	if err != nil {
		return nil, err
	}
	now := c.now()
	// A day longer, for clients whose clocks are slow.
	return slices.DeleteFunc(all, func(r record) bool { return now.After(time.Unix(r.To, 0).Add(backdate)) }), nil
}

// prune removes what has expired: records, keys that have nothing left to revoke, last revocation lists.
func (c *CA) prune(ctx context.Context) error {
	s, err := c.current()
	if err != nil {
		return err
	}
	now := c.now()
	ch := &change{base: s, next: s.state}
	all, err := c.issued()
	if err != nil {
		return err
	}
	used := map[string]bool{s.issuer.id: true}
	for _, r := range all {
		end := time.Unix(r.To, 0)
		if now.After(end.Add(keepExpired)) {
			ch.add(func(b Batch) error { b.Remove("issued/" + r.Serial); return nil })
		}
		if now.Before(end.Add(backdate)) {
			used[r.Issuer] = true
		}
	}
	issuers, err := c.cfg.Tree.ReadDir("issuer")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range issuers {
		if used[e.Name()] {
			continue
		}
		iss, err := readIssuer(c.cfg.Tree, c.cfg.Sealer, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := c.planRetire(ch, iss, false); err != nil {
			return err
		}
	}
	lists, err := c.cfg.Tree.ReadDir("crl")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range lists {
		name := "crl/" + e.Name()
		der, err := c.cfg.Tree.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if list, err := x509.ParseRevocationList(der); err != nil || now.After(list.NextUpdate) {
			ch.add(func(b Batch) error { b.Remove(name); return nil })
		}
	}
	if err := c.pruneRoots(ch); err != nil {
		return err
	}
	if len(ch.edits) == 0 {
		return nil
	}
	if err := c.tidyUp(ctx, ch); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("remove what has expired: %w", err)
	}
	return nil
}

// pruneRoots adds to ch what is left of roots that are not in use and whose last list has ended, and of intermediates
// that have ended.
func (c *CA) pruneRoots(ch *change) error {
	s, now := ch.base, c.now()
	all, err := c.retired()
	if err != nil {
		return err
	}
	for id, r := range all {
		used := r.Root == s.root.ref.ID || s.old != nil && r.Root == s.old.ref.ID
		if !used || now.After(time.Unix(r.To, 0).Add(backdate)) {
			ch.add(func(b Batch) error { b.Remove("retired/" + id); return nil })
		}
	}
	roots, err := c.cfg.Tree.ReadDir("root")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range roots {
		if e.Name() == s.root.ref.ID || s.old != nil && e.Name() == s.old.ref.ID {
			continue
		}
		if done := s.state.Done; done != nil && e.Name() == done.ID && s.old == nil {
			if !now.After(time.Unix(s.state.Finished, 0).Add(undoLife)) {
				continue
			}
			if _, err := c.cfg.Tree.Stat("root/" + done.ID + "/cert"); err == nil {
				c.planForget(ch, done)
			}
		}
		if list := c.readRootList(e.Name()); list == nil || now.After(list.NextUpdate) {
			ch.add(func(b Batch) error { b.Remove("root/" + e.Name()); return nil })
		}
	}
	return nil
}

// tidyUp writes a change that leaves the state as it is.
func (c *CA) tidyUp(ctx context.Context, ch *change) error {
	return c.cfg.Tree.Update(ctx, func(b Batch) error {
		// What is removed must not have come into use.
		b.Expect(stateName, ch.base.version)
		for _, edit := range ch.edits {
			if err := edit(b); err != nil {
				return err
			}
		}
		return nil
	})
}
