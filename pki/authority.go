package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"slices"
	"time"
)

// How long things live. Everything is dated back by a day, for clients whose clocks are slow.
const (
	rootLife   = 10 * 365 * day
	issuerLife = 365 * day
	leafLife   = 30 * day
	backdate   = day
	day        = 24 * time.Hour
)

// authority is a root as the cluster knows it: the anchor that clients trust, and the CA certificate that signs our
// intermediates, which is the anchor itself unless the root is an enterprise's.
type authority struct {
	ref    rootRef
	anchor *x509.Certificate
	above  []*x509.Certificate // sent behind our intermediates
	signer *x509.Certificate   // the certificate whose key we hold
	limits []constraints       // of every certificate that a client goes through
}

// ready completes an authority read or made.
func (a *authority) ready() *authority {
	a.limits = []constraints{constraintsOf(a.anchor)}
	if a.ref.Enterprise {
		for _, c := range a.above {
			a.limits = append(a.limits, constraintsOf(c))
		}
	}
	return a
}

func allowsAll(limits []constraints, name string) error {
	for _, k := range limits {
		if err := k.allows(name); err != nil {
			return err
		}
	}
	return nil
}

// issuer is an intermediate: what signs leaves.
type issuer struct {
	id    string
	cert  *x509.Certificate
	chain []*x509.Certificate // sent behind a leaf: cert and what is above it
	key   crypto.Signer
	end   time.Time // no leaf may outlive it
	// limits are the constraints of every certificate that a client goes through, the anchor's among them.
	limits []constraints
}

// under completes an issuer read or made below a.
func (i *issuer) under(a *authority) *issuer {
	i.end = earlier(i.cert.NotAfter, a.end())
	i.limits = nil
	for _, c := range append([]*x509.Certificate{a.anchor}, i.chain...) {
		i.limits = append(i.limits, constraintsOf(c))
	}
	return i
}

// allows returns nil if a leaf for the name or address verifies below the issuer.
func (i *issuer) allows(name string) error { return allowsAll(i.limits, name) }

// direct reports that there may be no CA certificate below the enterprise's (path lengths, RFC 5280, 4.2.1.9), which so
// signs leaves itself.
func (a *authority) direct() bool {
	if !a.ref.Enterprise {
		return false
	}
	for i, c := range append(slices.Clone(a.above), a.anchor) {
		// Below c there are i CA certificates, and ours would be one more. -1: no limit.
		if c.MaxPathLen >= 0 && (c.MaxPathLen > 0 || c.MaxPathLenZero) && c.MaxPathLen < i+1 {
			return true
		}
	}
	return false
}

// allows returns nil if every certificate of the authority permits the name or address.
func (a *authority) allows(name string) error { return allowsAll(a.limits, name) }

// constraints are what an intermediate below the authority inherits. What an enterprise's chain permits is the
// intersection of several lists, which allows checks name by name: here only what is excluded counts.
func (a *authority) constraints() constraints {
	if !a.ref.Enterprise {
		return a.limits[0]
	}
	var k constraints
	for _, up := range a.limits {
		k.noZones, k.noRanges = append(k.noZones, up.noZones...), append(k.noRanges, up.noRanges...)
	}
	return k
}

// end is when an intermediate under the authority must end at the latest. The cross certificate of an overlap does not
// count: it ends with the old root, and whoever trusts the new one does not need it.
func (a *authority) end() time.Time {
	end := a.anchor.NotAfter
	if a.ref.Enterprise {
		for _, c := range a.above {
			end = earlier(end, c.NotAfter)
		}
	}
	return end
}

// due reports that two thirds of a life are over.
func due(from, to, now time.Time) bool { return now.After(from.Add(to.Sub(from) / 3 * 2)) }

// keyID returns the subject key identifier (RFC 7093, method 1) and the ID made of it.
func keyID(pub crypto.PublicKey) (ski []byte, id string, err error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(der)
	return sum[:20], hex.EncodeToString(sum[:8]), nil
}

func newSerial() (*big.Int, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	// Positive and of full length (RFC 5280, 4.1.2.2).
	raw[0] = raw[0]&0x7f | 0x40
	return new(big.Int).SetBytes(raw), nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// sign makes a certificate from a template for pub, signed by parent's key (by its own, if parent is nil).
func sign(t *x509.Certificate, pub crypto.PublicKey, parent *x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	var err error
	if t.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	if t.SubjectKeyId, _, err = keyID(pub); err != nil {
		return nil, err
	}
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", t.Subject, err)
	}
	return x509.ParseCertificate(der)
}

func subject(kind, id, domain string) pkix.Name {
	n := pkix.Name{CommonName: "Casemate " + kind + " " + id[:8]}
	// An organisation has at most 64 characters (RFC 5280, appendix A).
	if len(domain) <= 64 {
		n.Organization = []string{domain}
	}
	return n
}

// makeRoot makes an anchor with these constraints.
func makeRoot(k constraints, domain string, now time.Time) (*authority, crypto.Signer, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	_, id, err := keyID(key.Public())
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		Subject: subject("root", id, domain), NotBefore: now.Add(-backdate), NotAfter: now.Add(rootLife),
		BasicConstraintsValid: true, IsCA: true,
		// Two, not one: in an overlap the next root's cross certificate stands between this root and an intermediate.
		MaxPathLen: 2, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	k.apply(t)
	cert, err := sign(t, key.Public(), nil, key)
	if err != nil {
		return nil, nil, err
	}
	return (&authority{ref: rootRef{ID: id}, anchor: cert, signer: cert}).ready(), key, nil
}

// crossSign certifies next by the old root, so that clients which trust only the old one follow. lists is the directory
// of the revocation lists.
func crossSign(next *x509.Certificate, old *authority, oldKey crypto.Signer, lists string, now time.Time) (*x509.Certificate, error) {
	t := &x509.Certificate{
		Subject: next.Subject, NotBefore: now.Add(-backdate), NotAfter: earlier(next.NotAfter, old.signer.NotAfter),
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1, KeyUsage: next.KeyUsage,
		CRLDistributionPoints: listURL(lists, old.signer, old.ref.ID),
	}
	constraintsOf(next).apply(t)
	return sign(t, next.PublicKey, old.signer, oldKey)
}

// makeIssuer makes an intermediate under a. It may issue certificates for TLS servers and clients only, so that the
// kinds of names that it is not constrained in (mail addresses, URIs) are of no use to a thief. lists is the directory
// of the revocation lists.
func makeIssuer(a *authority, key crypto.Signer, k constraints, domain, lists string, now time.Time) (*issuer, error) {
	own, err := newKey()
	if err != nil {
		return nil, err
	}
	_, id, err := keyID(own.Public())
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject: subject("intermediate", id, domain), NotBefore: now.Add(-backdate), NotAfter: now.Add(issuerLife),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},

		CRLDistributionPoints: listURL(lists, a.signer, a.ref.ID),
	}
	t.NotAfter = earlier(t.NotAfter, a.end())
	if !t.NotAfter.After(now) {
		return nil, fmt.Errorf("root certificate %s ended on %s: make a new one with casemate ca rotate", a.ref.ID, t.NotAfter.UTC().Format(time.DateOnly))
	}
	k.apply(t)
	cert, err := sign(t, own.Public(), a.signer, key)
	if err != nil {
		return nil, err
	}
	i := &issuer{id: id, cert: cert, chain: append([]*x509.Certificate{cert}, a.above...), key: own}
	return i.under(a), nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// marshalKey and parseKey use PKCS #8.
func marshalKey(key crypto.Signer) ([]byte, error) { return x509.MarshalPKCS8PrivateKey(key) }

func parseKey(der []byte) (crypto.Signer, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", k)
	}
	return s, nil
}

func (a *authority) put(b Batch, s Sealer, key crypto.Signer) error {
	dir := "root/" + a.ref.ID
	if err := putChunks(b, dir+"/cert", a.anchor.Raw); err != nil {
		return err
	}
	if err := putChunks(b, dir+"/above", concat(a.above)); err != nil {
		return err
	}
	der, err := marshalKey(key)
	if err != nil {
		return err
	}
	return putSealed(b, s, dir+"/key", der)
}

func readAuthority(t Tree, ref rootRef) (*authority, error) {
	dir := "root/" + ref.ID
	a := &authority{ref: ref}
	der, err := readChunks(t, dir+"/cert")
	if err != nil {
		return nil, err
	}
	if len(der) == 0 {
		return nil, &fs.PathError{Op: "read", Path: dir + "/cert", Err: fs.ErrNotExist}
	}
	if a.anchor, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("record pki/%s is damaged: %w", dir, err)
	}
	if der, err = readChunks(t, dir+"/above"); err != nil {
		return nil, err
	}
	if a.above, err = x509.ParseCertificates(der); err != nil {
		return nil, fmt.Errorf("record pki/%s is damaged: %w", dir, err)
	}
	a.signer = a.anchor
	if ref.Enterprise {
		if len(a.above) == 0 {
			return nil, fmt.Errorf("record pki/%s is damaged: %w", dir, errors.New("no certificate above"))
		}
		a.signer = a.above[0]
	}
	return a.ready(), nil
}

func (a *authority) readKey(t Tree, s Sealer) (crypto.Signer, error) {
	return readKey(t, s, "root/"+a.ref.ID+"/key", a.signer)
}

// readKey unseals a key and checks that it is that of cert.
func readKey(t Tree, s Sealer, name string, cert *x509.Certificate) (crypto.Signer, error) {
	der, err := readSealed(t, s, name)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(der)
	if err != nil {
		return nil, fmt.Errorf("record pki/%s is damaged: %w", name, err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("record pki/%s is not the key of %s", name, cert.Subject)
	}
	return key, nil
}

func (i *issuer) put(b Batch, s Sealer, names []string) error {
	dir := "issuer/" + i.id
	if err := putChunks(b, dir+"/chain", concat(i.chain)); err != nil {
		return err
	}
	if err := putNames(b, i.id, names); err != nil {
		return err
	}
	der, err := marshalKey(i.key)
	if err != nil {
		return err
	}
	return putSealed(b, s, dir+"/key", der)
}

func readIssuer(t Tree, s Sealer, id string) (*issuer, error) {
	dir := "issuer/" + id
	der, err := readChunks(t, dir+"/chain")
	if err != nil {
		return nil, err
	}
	if len(der) == 0 {
		return nil, &fs.PathError{Op: "read", Path: dir + "/chain", Err: fs.ErrNotExist}
	}
	i := &issuer{id: id}
	if i.chain, err = x509.ParseCertificates(der); err != nil {
		return nil, fmt.Errorf("record pki/%s is damaged: %w", dir, err)
	}
	i.cert = i.chain[0]
	if i.key, err = readKey(t, s, dir+"/key", i.cert); err != nil {
		return nil, err
	}
	return i, nil
}

func readNames(t Tree, id string) ([]string, error) {
	data, err := readChunks(t, "issuer/"+id+"/names")
	if err != nil || len(data) == 0 {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return nil, fmt.Errorf("record pki/issuer/%s/names is damaged: %w", id, err)
	}
	return names, nil
}
