package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"testing"
	"time"
)

// A leaf below a chain that was verified before is judged as one whose whole chain is verified: whatever it is made of,
// and whenever it is asked for.
func TestRememberedChainJudgesTheSame(t *testing.T) {
	for what, build := range map[string]func(t *testing.T) *house{
		"plain": func(t *testing.T) *house { return build(t, fortified) },
		"in an overlap": func(t *testing.T) *house {
			h := build(t, fortified)
			if err := h.ca.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
			return h
		},
		"from the shape of before": func(t *testing.T) *house { return raise(t, fortified, initBefore) },
	} {
		t.Run(what, func(t *testing.T) {
			h := build(t)
			s, now := h.snapshot(), h.clock.now()
			const name = "registry.k8s.io"
			good, err := h.ca.leaves.obtain(name)
			if err != nil {
				t.Fatal(err)
			}
			// A thief's intermediate, which says nothing of its own and outlives what is above it: only that stops its
			// leaves.
			rootKey, err := h.ca.rootKey(s.root, nil)
			if err != nil {
				t.Fatal(err)
			}
			tmpl, wideKey, _, err := caTemplate("intermediate", "casemate.internal", now, now.Add(20*365*day))
			if err != nil {
				t.Fatal(err)
			}
			wideCert, err := sign(tmpl, wideKey.Public(), s.root.signer, rootKey)
			if err != nil {
				t.Fatal(err)
			}
			wide := &issuer{cert: wideCert, key: wideKey,
				chain: append([]*x509.Certificate{wideCert}, s.issuer.chain[1:]...)}
			foreign := raise(t, fortified, Init).snapshot().issuer
			names := func(list ...string) func(*x509.Certificate) {
				return func(c *x509.Certificate) {
					c.DNSNames, c.IPAddresses = nil, nil
					for _, n := range list {
						if a, err := netip.ParseAddr(n); err == nil {
							c.IPAddresses = append(c.IPAddresses, net.IP(a.AsSlice()))
						} else {
							c.DNSNames = append(c.DNSNames, n)
						}
					}
				}
			}
			u, _ := url.Parse("spiffe://bank.example/x")
			type made struct {
				what, name string
				edit       func(*x509.Certificate)
				by         *issuer
			}
			var list []made
			add := func(what, name string, edit func(*x509.Certificate), by *issuer) {
				list = append(list, made{what, name, edit, by})
				if by == s.issuer {
					list = append(list, made{what + ", by a wide intermediate", name, edit, wide})
				}
			}
			for _, n := range []string{name, "docker.io", "casemate.internal", "10.0.0.11", "fd00::11", "198.51.100.7",
				"10.66.0.1", "203.0.113.9", "ebanking.bank.example", "vault.corp.example", "app.corp.example",
				"ghcr.io"} {
				add("for "+n, n, names(n), s.issuer)
				add(n+" beside a good name", name, names(name, n), s.issuer)
				add("of another name than "+n, n, names(name), s.issuer)
			}
			nothing := func(*x509.Certificate) {}
			add("signed by a stranger", name, nothing, foreign)
			add("of a stranger's key below our chain", name, nothing,
				&issuer{cert: s.issuer.cert, chain: s.issuer.chain, key: foreign.key})
			add("ended", name, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }, s.issuer)
			add("not yet begun", name, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }, s.issuer)
			add("with a URI", name, func(c *x509.Certificate) { c.URIs = []*url.URL{u} }, s.issuer)
			add("with mail", name, func(c *x509.Certificate) { c.EmailAddresses = []string{"a@bank.example"} },
				s.issuer)
			add("for clients", name,
				func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, s.issuer)
			add("a CA", name, func(c *x509.Certificate) { c.IsCA = true }, s.issuer)
			times := map[string]time.Time{
				"now": now, "yesterday": now.Add(-26 * time.Hour), "in a month": now.Add(31 * day),
				"after the intermediate": now.Add(366 * day), "after the root": now.Add(11 * 365 * day),
			}
			accepted := 0
			for _, m := range list {
				key, err := newKey()
				if err != nil {
					t.Fatal(err)
				}
				tmpl := &x509.Certificate{
					NotBefore: now.Add(-backdate), NotAfter: now.Add(15 * 365 * day), BasicConstraintsValid: true,
					KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: serversOnly(),
					Subject: good.cert.Leaf.Subject,
				}
				names(m.name)(tmpl)
				m.edit(tmpl)
				parent := *m.by.cert
				parent.PublicKey = m.by.key.Public() // else a wrong key is refused before it has signed
				leaf, err := sign(tmpl, key.Public(), &parent, m.by.key)
				if err != nil {
					t.Fatal(err)
				}
				cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, Leaf: leaf}
				for _, c := range m.by.chain {
					cert.Certificate = append(cert.Certificate, c.Raw)
				}
				for when, at := range times {
					whole, wholeErr := (&snapshot{root: s.root, old: s.old}).verify(cert, m.name, at)
					short, shortErr := s.verify(cert, m.name, at)
					if (wholeErr == nil) != (shortErr == nil) {
						t.Errorf("%s, %s: the whole chain %v, the remembered one %v", m.what, when, wholeErr, shortErr)
					} else if wholeErr == nil {
						accepted++
						if fmt.Sprint(whole.root, whole.listed, whole.behind) != fmt.Sprint(short.root, short.listed,
							short.behind) {
							t.Errorf("%s, %s: root %s, with the remembered chain %s", m.what, when, whole.root,
								short.root)
						}
					}
				}
			}
			if len(s.verified) != 2 {
				t.Errorf("%d chains are remembered, want those of the intermediate and of the wide one",
					len(s.verified))
			}
			if accepted == 0 {
				t.Error("everything is refused")
			}
		})
	}
}

// However many chains stored leaves have, few are remembered.
func TestFewChainsAreRemembered(t *testing.T) {
	h := build(t, nil)
	s := h.snapshot()
	for i := range 3 * maxAbove {
		s.remember([32]byte{byte(i), byte(i >> 8)}, &above{}, s.issuer.chain)
		if len(s.verified) > maxAbove {
			t.Fatalf("%d chains are remembered, the most is %d", len(s.verified), maxAbove)
		}
	}
}
