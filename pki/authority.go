package pki

import (
	"bytes"
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

// Lifetimes. Every certificate is dated back by a day, for clients whose clocks are slow.
const (
	rootLife   = 10 * 365 * day
	issuerLife = 365 * day
	leafLife   = 30 * day
	backdate   = day
	day        = 24 * time.Hour
)

// authority is a root with its chain: the anchor that clients trust, and the CA certificate that signs our
// intermediates. That is a constrained root below the anchor (rootRef.Below); in clusters made by earlier versions it
// is the anchor itself, or an enterprise's CA certificate.
type authority struct {
	ref    rootRef
	anchor *x509.Certificate
	above  []*x509.Certificate // the signer first, up to the one that the anchor signed; empty if the anchor signs
	cross  []*x509.Certificate // in an overlap: the cross certificate, and those above it below the old anchor
	signer *x509.Certificate   // the certificate whose key we hold
	limits []constraints       // constraints of every certificate in a client's chain
	// lists are the final revocation lists of CAs whose keys were destroyed when this authority was made, by ID.
	lists map[string][]byte
}

// ready completes an authority that was read or made.
func (a *authority) ready() *authority {
	a.signer = a.anchor
	a.limits = []constraints{constraintsOf(a.anchor)}
	if a.ref.Below || a.ref.Enterprise {
		a.signer = a.above[0]
		for _, c := range a.above {
			a.limits = append(a.limits, constraintsOf(c))
		}
	}
	return a
}

// sent returns the certificates that servers send after an intermediate. In an overlap they form one chain from the
// intermediate through the new root to the old anchor; clients that trust the new anchor stop at that anchor's cross
// certificate. If the cross certificate is one of the signer instead (see crossSign), there are two chains. The one of
// the old anchor, which clients trust until the overlap ends, comes first: OpenSSL and GnuTLS follow only the first.
func (a *authority) sent() []*x509.Certificate {
	if len(a.cross) > 0 && bytes.Equal(a.cross[0].SubjectKeyId, a.signer.SubjectKeyId) {
		return slices.Concat(a.cross, a.above)
	}
	return slices.Concat(a.above, a.cross)
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
	chain []*x509.Certificate // sent after a leaf: cert and those above it
	key   crypto.Signer
	end   time.Time // the latest end of a leaf
	// limits are the constraints of every certificate that a client goes through which trusts the newest anchor.
	limits []constraints
}

// under completes an issuer that was read or made below a.
func (i *issuer) under(a *authority) *issuer {
	i.end = earlier(i.cert.NotAfter, a.end())
	i.limits = append(slices.Clone(a.limits), constraintsOf(i.cert))
	return i
}

// allows returns nil if a leaf for the name or address verifies below the issuer.
func (i *issuer) allows(name string) error { return allowsAll(i.limits, name) }

// direct reports that the enterprise's certificate allows no CA certificate below it (path lengths, RFC 5280, 4.2.1.9)
// and therefore signs leaves itself.
func (a *authority) direct() bool {
	return a.ref.Enterprise && a.room() < 1
}

// room returns how many CA certificates may follow below the signer, one below the other.
func (a *authority) room() int {
	room := 100
	for i, c := range append(slices.Clone(a.above), a.anchor) {
		// There are i CA certificates below c. -1: no limit.
		if c.MaxPathLen >= 0 && (c.MaxPathLen > 0 || c.MaxPathLenZero) {
			room = min(room, c.MaxPathLen-i)
		}
	}
	return room
}

// allows returns nil if every certificate of the authority permits the name or address.
func (a *authority) allows(name string) error { return allowsAll(a.limits, name) }

// constraints returns the constraints that an intermediate below the authority inherits. An enterprise's chain permits
// the intersection of several lists, which allows checks name by name; then only the exclusions are inherited.
func (a *authority) constraints() constraints {
	if a.ref.Below {
		return constraintsOf(a.signer)
	}
	if !a.ref.Enterprise {
		return a.limits[0]
	}
	var k constraints
	for _, up := range a.limits {
		k.noZones, k.noRanges = append(k.noZones, up.noZones...), append(k.noRanges, up.noRanges...)
	}
	return k
}

// end is the latest end of an intermediate under the authority. The cross certificate of an overlap does not count: it
// ends with the old root, and clients that trust the new one do not need it.
func (a *authority) end() time.Time {
	end := a.anchor.NotAfter
	if a.ref.Below || a.ref.Enterprise {
		for _, c := range a.above {
			end = earlier(end, c.NotAfter)
		}
	}
	return end
}

// due reports that two thirds of a lifetime are over.
func due(from, to, now time.Time) bool { return now.After(from.Add(to.Sub(from) / 3 * 2)) }

// keyID returns the subject key identifier (RFC 7093, method 1) and the ID derived from it.
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

// sign makes a certificate from a template for pub, signed by parent's key (self-signed if parent is nil).
func sign(t *x509.Certificate, pub crypto.PublicKey, parent *x509.Certificate, key crypto.Signer) (*x509.Certificate,
	error) {
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

// organization is the O of every subject below a root of ours: the one that its directory name constraint permits. It
// has at most 64 characters (RFC 5280, appendix A).
func organization(domain string) string {
	if len(domain) > 64 {
		return "Casemate"
	}
	return domain
}

func subject(kind, id, domain string) pkix.Name {
	if domain == LabDomain {
		kind = "rehearsal " + kind
	}
	return pkix.Name{CommonName: "Casemate " + kind + " " + id[:8], Organization: []string{organization(domain)}}
}

// serversOnly is the extended key usage of everything below an anchor. In Go, OpenSSL, GnuTLS and Windows it limits the
// certificates below a CA certificate; for NSS and Java the directory name constraint does.
func serversOnly() []x509.ExtKeyUsage { return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }

// caTemplate is a CA certificate with a new key.
func caTemplate(kind, domain string, now, end time.Time) (*x509.Certificate, crypto.Signer, string, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, "", err
	}
	_, id, err := keyID(key.Public())
	if err != nil {
		return nil, nil, "", err
	}
	return &x509.Certificate{
		Subject: subject(kind, id, domain), NotBefore: now.Add(-backdate), NotAfter: end,
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: serversOnly(),
	}, key, id, nil
}

// makeRoot makes an anchor, and below it a root with these constraints, whose key it returns. lists is the directory of
// the revocation lists.
//
// The anchor's key signs one certificate and one list and is discarded before this function returns: it is never
// stored, so it cannot be disclosed. Clients that ignore the constraints of a trust anchor (Java) apply those of the
// root below it.
func makeRoot(k constraints, domain, lists string, now time.Time) (*authority, crypto.Signer, error) {
	t, anchorKey, _, err := caTemplate("root", domain, now, now.Add(rootLife))
	if err != nil {
		return nil, nil, err
	}
	// The same constraints as below, for clients that apply those of an anchor.
	k.apply(t)
	anchor, err := sign(t, anchorKey.Public(), nil, anchorKey)
	if err != nil {
		return nil, nil, err
	}
	return makeBelow(&authority{anchor: anchor, signer: anchor}, anchorKey, k, domain, lists, now)
}

// rootPathLen leaves room for an intermediate, and in an overlap for the next anchor's cross certificate and the two
// certificates below that.
const rootPathLen = 4

// makeBelow makes a root with these constraints below a CA certificate whose key is used for this and then discarded:
// our own anchor's, or an enterprise's. A policy certificate between the two restricts subjects to our own
// organization. It stops Java and NSS from accepting a forged client certificate: they do not apply the extended key
// usage of a CA to the certificates below it. That constraint cannot be critical (see constraints.extension), so the
// root repeats the others, critical. Both lists must be equal, because of the way in which Java intersects them.
func makeBelow(
	up *authority, upKey crypto.Signer, k constraints, domain, lists string, now time.Time,
) (*authority, crypto.Signer, error) {
	end := earlier(now.Add(rootLife), up.anchor.NotAfter)
	for _, c := range up.above {
		end = earlier(end, c.NotAfter)
	}
	a := &authority{ref: up.ref, anchor: up.anchor, lists: map[string][]byte{}}
	a.ref.Below = true
	// Each key signs an empty revocation list that is valid as long as the certificate: afterwards the key is gone. To
	// revoke such a root, its anchor is removed from the trust stores.
	last := func(cert *x509.Certificate, key crypto.Signer) (id string, err error) {
		if _, id, err = keyID(cert.PublicKey); err != nil || listURL(lists, cert, id) == nil {
			return id, err
		}
		a.lists[id], err = makeCRL(cert, key, big.NewInt(now.UnixNano()), nil, now, cert.NotAfter)
		return id, err
	}
	upID, err := last(up.signer, upKey)
	if err != nil {
		return nil, nil, err
	}
	t, policyKey, _, err := caTemplate("policy", domain, now, end)
	if err != nil {
		return nil, nil, err
	}
	t.CRLDistributionPoints = listURL(lists, up.signer, upID)
	only, err := k.extension(organization(domain))
	if err != nil {
		return nil, nil, err
	}
	t.ExtraExtensions = []pkix.Extension{only}
	policy, err := sign(t, policyKey.Public(), up.signer, upKey)
	if err != nil {
		return nil, nil, err
	}
	policyID, err := last(policy, policyKey)
	if err != nil {
		return nil, nil, err
	}
	t, key, id, err := caTemplate("constrained root", domain, now, end)
	if err != nil {
		return nil, nil, err
	}
	a.ref.ID = id
	t.MaxPathLen, t.CRLDistributionPoints = rootPathLen, listURL(lists, policy, policyID)
	k.apply(t)
	root, err := sign(t, key.Public(), policy, policyKey)
	if err != nil {
		return nil, nil, err
	}
	a.above = append([]*x509.Certificate{root, policy}, up.above...)
	return a.ready(), key, nil
}

// crossSign certifies next with the old root, so that clients that trust only the old one accept it. It returns that
// certificate and those above it. lists is the directory of the revocation lists.
//
// It certifies next's anchor, whose key is gone: then the sent certificates form one chain (see authority.sent). A root
// made by an earlier version, which is an anchor itself, has no room for that (path length 2): it certifies next's
// signer.
func crossSign(next, old *authority, oldKey crypto.Signer, lists string, now time.Time) ([]*x509.Certificate, error) {
	target, pathLen := next.anchor, rootPathLen-1
	if !old.ref.Below {
		target, pathLen = next.signer, 1
	}
	t := &x509.Certificate{
		Subject: target.Subject, NotBefore: now.Add(-backdate), NotAfter: earlier(target.NotAfter, old.end()),
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: pathLen,
		KeyUsage: target.KeyUsage, ExtKeyUsage: serversOnly(),
		CRLDistributionPoints: listURL(lists, old.signer, old.ref.ID),
	}
	if !old.ref.Below {
		constraintsOf(target).apply(t) // otherwise it is between others with the constraints
		// Of two certificates with the same subject NSS uses the one with the later start.
		t.NotBefore = t.NotBefore.Add(time.Second)
	}
	cert, err := sign(t, target.PublicKey, old.signer, oldKey)
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{cert}, old.above...), nil
}

// makeIssuer makes an intermediate under a. It may issue certificates for TLS servers only. lists is the directory of
// the revocation lists.
func makeIssuer(a *authority, key crypto.Signer, k constraints, domain, lists string, now time.Time) (*issuer, error) {
	t, own, id, err := caTemplate("intermediate", domain, now, earlier(now.Add(issuerLife), a.end()))
	if err != nil {
		return nil, err
	}
	t.MaxPathLen, t.MaxPathLenZero = 0, true
	t.CRLDistributionPoints = listURL(lists, a.signer, a.ref.ID)
	if !t.NotAfter.After(now) {
		return nil, fmt.Errorf("root certificate %s ended on %s: make a new one with casemate ca rotate", a.ref.ID,
			t.NotAfter.UTC().Format(time.DateOnly))
	}
	for _, up := range a.limits[1:] {
		k = k.mergeable(up)
	}
	k.apply(t)
	cert, err := sign(t, own.Public(), a.signer, key)
	if err != nil {
		return nil, err
	}
	i := &issuer{id: id, cert: cert, chain: append([]*x509.Certificate{cert}, a.sent()...), key: own}
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
	if err := putChunks(b, dir+"/cross", concat(a.cross)); err != nil {
		return err
	}
	for id, list := range a.lists {
		b.Put("crl/"+id, list)
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
	if der, err = readChunks(t, dir+"/cross"); err != nil {
		return nil, err
	}
	if a.cross, err = x509.ParseCertificates(der); err != nil {
		return nil, fmt.Errorf("record pki/%s is damaged: %w", dir, err)
	}
	switch {
	case (ref.Enterprise || ref.Below) && len(a.above) == 0:
		return nil, fmt.Errorf("record pki/%s is damaged: %w", dir, errors.New("no certificate above"))
	case !ref.Enterprise && !ref.Below:
		// An overlap begun by an earlier version: above holds the cross certificate.
		a.above, a.cross = nil, a.above
	}
	return a.ready(), nil
}

func (a *authority) readKey(t Tree, s Sealer) (crypto.Signer, error) {
	return readKey(t, s, "root/"+a.ref.ID+"/key", a.signer)
}

// readKey unseals a key and checks that it belongs to cert.
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
	if err := putNames(b, i.id, names); err != nil {
		return err
	}
	return i.putKey(b, s, i.chain)
}

// putAlone is put for an intermediate that is never used for further certificates: the certificates above it are not
// needed any more.
func (i *issuer) putAlone(b Batch, s Sealer) error { return i.putKey(b, s, i.chain[:1]) }

func (i *issuer) putKey(b Batch, s Sealer, chain []*x509.Certificate) error {
	dir := "issuer/" + i.id
	if err := putChunks(b, dir+"/chain", concat(chain)); err != nil {
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
