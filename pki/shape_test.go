package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// initBefore is Init as it was before roots stood below an anchor: what clients trust signs the intermediates, mail
// addresses, URIs and TLS clients are not constrained.
func initBefore(ctx context.Context, tree Tree, sealer Sealer, spec Spec, enabled []string) error {
	k, err := spec.constraints()
	if err != nil {
		return err
	}
	names, err := canonicals(enabled)
	if err != nil {
		return err
	}
	ik, err := issuerConstraints(k, append([]string{spec.Domain}, names...), spec.Addrs)
	if err != nil {
		return err
	}
	plain := func(t *x509.Certificate, k constraints, usages ...x509.ExtKeyUsage) *x509.Certificate {
		k.apply(t)
		t.PermittedEmailAddresses, t.ExcludedEmailAddresses, t.PermittedURIDomains, t.ExcludedURIDomains = nil, nil,
			nil, nil
		t.ExtKeyUsage = usages
		return t
	}
	now := spec.now()
	t, key, id, err := caTemplate("root", spec.Domain, now, now.Add(rootLife))
	if err != nil {
		return err
	}
	t.MaxPathLen = 2
	cert, err := sign(plain(t, k), key.Public(), nil, key)
	if err != nil {
		return err
	}
	root := (&authority{ref: rootRef{ID: id}, anchor: cert}).ready()
	t, own, issuerID, err := caTemplate("intermediate", spec.Domain, now, now.Add(issuerLife))
	if err != nil {
		return err
	}
	t.MaxPathLen, t.MaxPathLenZero, t.CRLDistributionPoints = 0, true, listURL(spec.CRLURL, cert, id)
	mid, err := sign(plain(t, ik, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth), own.Public(), cert, key)
	if err != nil {
		return err
	}
	iss := (&issuer{id: issuerID, cert: mid, chain: []*x509.Certificate{mid}, key: own}).under(root)
	return tree.Update(ctx, func(b Batch) error {
		if err := root.put(b, sealer, key); err != nil {
			return err
		}
		if err := iss.put(b, sealer, names); err != nil {
			return err
		}
		if spec.CRLURL != "" {
			if err := root.putRootList(b, key, nil, nil, now, now.Add(rootListLife)); err != nil {
				return err
			}
		}
		if err := putJSON(b, "node/"+spec.Node, spec.Addrs); err != nil {
			return err
		}
		return putState(b, state{Root: root.ref, Issuer: iss.id})
	})
}

// A cluster made by an earlier version stays as it is, with an intermediate that forbids more, and gets the present
// shape by Rotate.
func TestRotateBringsThePresentShape(t *testing.T) {
	h := raise(t, fortified, initBefore)
	before := h.ca.Roots()
	if s := h.ca.Shape(); s.Name != ShapeSelfSigned || len(s.Missing) == 0 {
		t.Errorf("shape %+v", s)
	}
	h.maintain()
	cert := h.snapshot().issuer.cert
	if len(cert.PermittedURIDomains) == 0 || len(cert.PermittedEmailAddresses) == 0 ||
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		t.Error("the intermediate was not replaced")
	}
	id := h.snapshot().issuer.id
	h.clock.add(2 * time.Hour)
	h.maintain()
	if h.snapshot().issuer.id != id {
		t.Error("replaced again")
	}
	if !bytes.Equal(h.ca.Roots(), before) {
		t.Error("clients must trust something else")
	}
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := h.ca.Shape(); s.Name != ShapeAnchored || len(s.Missing) != 0 {
		t.Errorf("shape %+v", s)
	}
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := h.ca.Shape(); s.Name != ShapeAnchored {
		t.Errorf("shape %+v", s)
	}
}

// Properties of every certificate.
func TestShapeOfCertificates(t *testing.T) {
	h := build(t, fortified)
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	chain, _ := h.sent("registry.k8s.io")
	for i, c := range append(chain, certsOf(t, h.ca.Roots())...) {
		if !slices.Equal(c.ExtKeyUsage, serversOnly()) || len(c.UnknownExtKeyUsage) > 0 {
			t.Errorf("%s: usages %v", c.Subject, c.ExtKeyUsage)
		}
		if !slices.Equal(c.Subject.Organization, []string{"casemate.internal"}) {
			t.Errorf("subject %s", c.Subject)
		}
		if i == 0 || c.Subject.CommonName == h.snapshot().root.cross[0].Subject.CommonName &&
			!c.Equal(h.snapshot().root.anchor) {
			continue // the leaf, and certificates between two that have it
		}
		policy := strings.HasPrefix(c.Subject.CommonName, "Casemate policy")
		if c.PermittedDNSDomainsCritical == policy || len(c.PermittedDNSDomains) == 0 ||
			len(c.PermittedEmailAddresses) == 0 || len(c.PermittedURIDomains) == 0 || len(c.ExcludedURIDomains) == 0 {
			t.Errorf("%s: critical %v, %v", c.Subject, c.PermittedDNSDomainsCritical, c.PermittedDNSDomains)
		}
	}
	for name, data := range all(t, h.tree) {
		if bytes.Contains(data, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a key", name)
		}
	}
}

// The keys of the anchor and of the policy certificate are nowhere: the tree contains only the keys of the root and of
// the intermediate, sealed or unsealed.
func TestNoAnchorKeyIsKept(t *testing.T) {
	w := &watchingSealer{Sealer: newSealer(t)}
	h := build(t, func(_ *Spec, c *Config) { c.Sealer = w })
	for _, raw := range w.plain {
		key, err := parseKey(raw)
		if err != nil {
			t.Fatal(err)
		}
		pub := key.Public().(*ecdsa.PublicKey)
		if !pub.Equal(h.snapshot().root.signer.PublicKey) && !pub.Equal(h.snapshot().issuer.cert.PublicKey) {
			t.Error("another key was sealed")
		}
	}
	if len(w.plain) != 2 {
		t.Errorf("%d keys were sealed, want two", len(w.plain))
	}
}

// A certificate of the enterprise's whose key must be stored is refused with a list of what is missing.
func TestEnterpriseMissing(t *testing.T) {
	for what, c := range map[string]struct {
		edit func(root, mid *x509.Certificate)
		want []string
	}{
		"everything": {direct, []string{"permitted DNS names", "IPv4", "IPv6", "mail domain", "URI:invalid",
			"serverAuth"}},
		"room for one": {roomForOne, []string{"permitted DNS names", "IPv4", "IPv6", "mail domain", "URI:invalid",
			"serverAuth"}},
		"room for two": {func(_, mid *x509.Certificate) { mid.MaxPathLen = 2 }, []string{"permitted DNS names",
			"at least 3"}},
		"names": {bound(func(r, m *x509.Certificate) { direct(r, m); m.PermittedDNSDomains = nil }),
			[]string{"permitted DNS names"}},
		"IPv6": {bound(func(r, m *x509.Certificate) {
			direct(r, m)
			m.PermittedIPRanges, m.ExcludedIPRanges = ipNets(addrRanges("10.0.0.0/8", "127.0.0.0/8")), nil
		}), []string{"IPv6 addresses"}},
		"part of IPv6": {bound(func(r, m *x509.Certificate) {
			direct(r, m)
			m.PermittedIPRanges, m.ExcludedIPRanges = ipNets(addrRanges("10.0.0.0/8", "127.0.0.0/8")),
				ipNets(addrRanges("2000::/3"))
		}), []string{"IPv6 addresses"}},
		"mail": {bound(func(r, m *x509.Certificate) { direct(r, m); m.PermittedEmailAddresses = nil }),
			[]string{"mail domain"}},
		"URIs permitted only": {bound(func(r, m *x509.Certificate) { direct(r, m); m.ExcludedURIDomains = nil }),
			[]string{"URI:invalid"}},
		"usage": {bound(func(r, m *x509.Certificate) {
			direct(r, m)
			m.ExtKeyUsage = append(m.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		}), []string{"serverAuth"}},
		"any usage": {bound(func(r, m *x509.Certificate) {
			direct(r, m)
			m.ExtKeyUsage = append(m.ExtKeyUsage,
				x509.ExtKeyUsageAny)
		}), []string{"serverAuth"}},
		// What the root of the enterprise says counts for nothing: Java does not read it.
		"said by the root": {func(r, m *x509.Certificate) {
			bound(direct)(m, r)
			r.MaxPathLen, r.MaxPathLenZero = 1, false
			direct(r, m)
		}, []string{"permitted DNS names", "serverAuth"}},
		"nothing": {bound(direct), nil},
	} {
		t.Run(what, func(t *testing.T) {
			h := build(t, nil)
			before := len(all(t, h.tree))
			chain, key := enterprise(t, c.edit)
			err := h.ca.UseEnterprise(t.Context(), chain, key)
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("got %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v does not say %q", err, w)
				}
			}
			if err == nil {
				if s := h.ca.Shape(); s.Name != ShapeKept || len(s.Missing) != 0 {
					t.Errorf("shape %+v", s)
				}
				return
			}
			if !errors.Is(err, fs.ErrInvalid) || len(all(t, h.tree)) != before {
				t.Errorf("%v is not told from trouble of ours, or something was written", err)
			}
			if c.want[0] == "IPv6 addresses" && strings.Contains(err.Error(), "IPv4") {
				t.Errorf("%v lists present ones", err)
			}
		})
	}
}

func addrRanges(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// An enterprise's certificate with room, whose key an earlier version stored, loses it by Rotate; clients see no
// difference.
func TestRotateConfinesAnEnterprise(t *testing.T) {
	h := build(t, nil)
	b := newBank(t, h.clock.now(), nil)
	chain, key := b.pem(t)
	given, signer, err := parseEnterprise(chain, key, h.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ca.replaceRoot(t.Context(), h.snapshot(), given, signer); err != nil {
		t.Fatal(err)
	}
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := h.ca.Shape(); s.Name != ShapeKept || len(s.Missing) == 0 {
		t.Errorf("shape %+v", s)
	}
	roots, kept := h.ca.Roots(), given.ref.ID
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := h.ca.Shape(); s.Name != ShapeEnterprise || len(s.Missing) != 0 {
		t.Errorf("shape %+v", s)
	}
	if _, overlap := h.ca.Rotation(); overlap || !bytes.Equal(h.ca.Roots(), roots) {
		t.Error("clients must trust something else")
	}
	if _, err := h.tree.Stat("root/" + kept + "/key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the enterprise's key is stored: %v", err)
	}
	h.maintain()
	if _, err := h.handshake(roots, "docker.io"); err != nil {
		t.Error(err)
	}
	sent, _ := h.sent("docker.io")
	theirs, err := makeCRL(b.root, b.rootKey, big.NewInt(1), nil, h.clock.now(), h.clock.now().Add(day))
	if err != nil {
		t.Fatal(err)
	}
	crls := append(h.download(sent, b.mid, b.root), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: theirs})...)
	if err := h.checkAll([]*x509.Certificate{b.root}, sent, crls); err != nil {
		t.Error(err)
	}
}
