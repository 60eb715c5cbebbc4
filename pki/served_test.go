package pki

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

// Serves agrees with handshakes at every age of every certificate above the leaf, whoever can replace it.
func TestServesAgreesWithHandshakes(t *testing.T) {
	p256 := onCurve(elliptic.P256())
	keys := keysOf(t, p256, p256, p256)
	months := func(i int) func([]*x509.Certificate) {
		return func(l []*x509.Certificate) { l[i].NotAfter = time.Now().Add(90 * day) }
	}
	for _, c := range []struct {
		what, subject, owner string
		use                  func(t *testing.T, h *house)
		ends                 time.Duration
	}{
		{"a root of ours", "Casemate root", OwnerRoot, func(*testing.T, *house) {}, rootLife},
		{"an enterprise's root", "Bank Root", OwnerEnterprise, useWeak(keys, months(0)), 90 * day},
		{"between", "Bank Policy CA", OwnerEnterprise, useWeak(keys, months(1)), 90 * day},
		{"the enterprise's certificate", "Bank Platform CA", OwnerEnterprise, useWeak(keys, months(2)), 90 * day},
	} {
		t.Run(c.what, func(t *testing.T) {
			h := build(t, nil)
			c.use(t, h)
			var found bool
			for _, s := range h.ca.Served() {
				if strings.Contains(s.Subject, c.subject) {
					found = s.Owner == c.owner
				}
			}
			if !found {
				t.Errorf("%s is missing, or not %s: %+v", c.subject, c.owner, h.ca.Served())
			}
			start := h.clock.now()
			for _, at := range []time.Duration{0, c.ends - 2*day, c.ends + 2*day} {
				h.clock.add(start.Add(at).Sub(h.clock.now()))
				_ = h.ca.maintain(t.Context()) // fails once the chain has ended
				_, handshake := h.handshake(h.ca.Roots(), "docker.io")
				serves := h.ca.Serves()
				if (handshake == nil) != (serves == nil) || (serves == nil) != (at < c.ends) {
					t.Errorf("after %s: handshake %v, Serves %v", at, handshake, serves)
				}
				if serves != nil && !strings.Contains(serves.Error(), c.subject) {
					t.Errorf("%v does not name %s", serves, c.subject)
				}
			}
		})
	}
}

// useWeak sets a chain of weakChain as pki.issuer.
func useWeak(keys []crypto.Signer, edit func([]*x509.Certificate)) func(t *testing.T, h *house) {
	return func(t *testing.T, h *house) {
		certs, key := weakChain(t, keys, edit)
		if err := h.ca.UseEnterprise(t.Context(), pemOf(certs...), key); err != nil {
			t.Fatal(err)
		}
		if err := h.ca.FinishRotation(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A clock that is before the chain: not valid yet counts as well as ended.
func TestServesNotYet(t *testing.T) {
	h := build(t, nil)
	h.clock.add(-30 * day)
	if err := h.ca.Serves(); err == nil || !strings.Contains(err.Error(), "valid from") {
		t.Errorf("got %v", err)
	}
}

// An intermediate that nothing replaces is noticed, although the root lasts.
func TestServesIntermediate(t *testing.T) {
	h := build(t, nil)
	h.clock.add(issuerLife + day)
	if err := h.ca.Serves(); err == nil || !strings.Contains(err.Error(), "Casemate intermediate") {
		t.Errorf("got %v", err)
	}
	h.maintain()
	if err := h.ca.Serves(); err != nil {
		t.Errorf("after it was replaced: %v", err)
	}
}

// In an overlap the end of the old root is reported as such: clients of the new one still connect.
func TestServesOverlap(t *testing.T) {
	h := build(t, nil)
	h.clock.add(rootLife - 90*day)
	h.maintain()
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.clock.add(91 * day)
	if err := h.ca.Serves(); err != nil {
		t.Error(err)
	}
	var old int
	for _, s := range h.ca.Served() {
		if s.Old && !s.Valid(h.clock.now()) {
			old++
		}
	}
	if old != 1 {
		t.Errorf("%+v", h.ca.Served())
	}
}

// A renewed certificate above the one of the key takes the place of the ended one, although the key's is the same.
func TestEnterpriseRenewedAbove(t *testing.T) {
	p256 := onCurve(elliptic.P256())
	keys := keysOf(t, p256, p256, p256)
	h := build(t, nil)
	certs, key := weakChain(t, keys, func(l []*x509.Certificate) { l[1].NotAfter = time.Now().Add(90 * day) })
	if err := h.ca.UseEnterprise(t.Context(), pemOf(certs...), key); err != nil {
		t.Fatal(err)
	}
	renewed := *certs[1]
	renewed.NotAfter = certs[0].NotAfter
	der, err := x509.CreateCertificate(rand.Reader, &renewed, certs[0], keys[1].Public(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	longer, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ca.UseEnterprise(t.Context(), pemOf(certs[0], longer, certs[2]), key); err != nil {
		t.Fatal(err)
	}
	h.clock.add(91 * day)
	if err := h.ca.Serves(); err != nil {
		t.Error(err)
	}
}
