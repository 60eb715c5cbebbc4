package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"slices"
	"testing"
	"time"
)

// subjectOf sets a subject with these organizations, in this order.
func subjectOf(organizations ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject = pkix.Name{}
		for _, o := range organizations {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames,
				pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: o})
		}
	}
}

// A forgery is a certificate that a thief could use, besides those for servers' names (see TestRootConstraintsBite).
type forgery struct {
	what  string
	use   use
	name  string // of the server, if it is to be compared
	names []string
	edit  func(*x509.Certificate)
	// but are verifiers that accept it nevertheless, with any key.
	but []string
	// odd means that not every verifier likes such a certificate below any CA.
	odd bool
}

func forgeries(t *testing.T) []forgery {
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	uri := func(s string) func(*x509.Certificate) {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { c.URIs = append(c.URIs, u) }
	}
	mail := func(c *x509.Certificate) { c.EmailAddresses = []string{"ceo@bank.example"} }
	masters := func(c *x509.Certificate) {
		c.Subject = pkix.Name{Organization: []string{"system:masters"}, CommonName: "admin"}
	}
	all := func(edits ...func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			for _, e := range edits {
				e(c)
			}
		}
	}
	forMail, forClients := usage(x509.ExtKeyUsageEmailProtection), usage(x509.ExtKeyUsageClientAuth)
	own := []string{"casemate.internal"} // what both CAs permit
	return []forgery{
		{what: "mail of the bank", use: asMail, edit: all(mail, forMail)},
		{what: "mail of the bank, below our own name", use: asMail, names: own, edit: all(mail, forMail)},
		{what: "mail in the subject", use: asMail, edit: all(forMail, func(c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9,
				1}, Value: "ceo@bank.example"}}
		})},
		{what: "mail for every usage", use: asMail, edit: all(mail, usage(x509.ExtKeyUsageAny)), odd: true},
		{what: "mail without a usage", use: asMail, edit: all(mail, usage())},
		{what: "mail of a server", use: asServer, edit: mail},
		{what: "workload as a server", use: asServer, edit: uri("spiffe://bank.example/ns/pay/sa/ledger")},
		{what: "workload besides our own name", use: asServer, names: own,
			edit: uri("spiffe://bank.example/ns/pay/sa/ledger")},
		{what: "workload as a client", use: asClient, edit: all(uri("spiffe://bank.example/ns/pay/sa/ledger"),
			forClients)},
		{what: "URI at the host that is permitted to nobody's use", use: asClient,
			edit: all(uri("spiffe://invalid/x"), forClients), but: []string{"nss", "java"}},
		{what: "URI without a host", use: asServer, edit: uri("urn:bank:ledger"), odd: true},
		{what: "administrator of a cluster", use: asClient, edit: all(masters, forClients)},
		{what: "administrator without a common name", use: asClient, edit: all(forClients, func(c *x509.Certificate) {
			c.Subject = pkix.Name{Organization: []string{"system:masters"}}
		})},
		{what: "administrator, below our own name", use: asClient, names: own, edit: all(masters, forClients)},
		{what: "administrator, server too", use: asClient, names: own, edit: all(masters,
			usage(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth))},
		{what: "administrator without a usage", use: asClient, names: own, edit: all(masters, usage())},
		{what: "administrator for every usage", use: asClient, names: own, edit: all(masters,
			usage(x509.ExtKeyUsageAny)), odd: true},
		{what: "administrator, then our organization", use: asClient, names: own, edit: all(forClients,
			subjectOf("system:masters", "casemate.internal"))},
		// What follows on our organization is free: a subtree of names has no end.
		{what: "our organization, then an administrator", use: asClient, names: own, edit: all(forClients,
			subjectOf("casemate.internal", "system:masters")), but: []string{"nss", "java"}},
		// NSS allows others in the same part of the subject.
		{what: "administrator beside our organization", use: asClient, names: own, but: []string{"nss"},
			edit: all(forClients, func(c *x509.Certificate) {
				c.Subject = pkix.Name{Organization: []string{"system:masters", "casemate.internal"}}
			})},
		// Java and NSS bind clients to our organization, and to that only: docs/security.md says so.
		{what: "client in our organization", use: asClient, names: own, edit: forClients, but: []string{"nss", "java"}},
		{what: "wildcard", use: asServer, name: "www.bank.example", names: []string{"*.bank.example"}},
		{what: "wildcard of everything below a label", use: asServer, name: "bank.example",
			names: []string{"*.example"}, odd: true},
		{what: "upper case", use: asServer, name: "www.bank.example", names: []string{"WWW.BANK.EXAMPLE"}, odd: true},
		{what: "trailing dot", use: asServer, name: "www.bank.example", names: []string{"www.bank.example."},
			odd: true},
		{what: "permitted zone in front", use: asServer, name: "casemate.internal.bank.example",
			names: []string{"casemate.internal.bank.example"}},
		{what: "permitted zone glued", use: asServer, name: "evilcasemate.internal",
			names: []string{"evilcasemate.internal"}},
		{what: "international", use: asServer, name: "xn--bnk-qla.example", names: []string{"xn--bnk-qla.example"}},
		{what: "besides our own name", use: asServer, name: "www.bank.example", names: []string{"casemate.internal",
			"www.bank.example"}},
		{what: "common name, no other", use: asServer, name: "www.bank.example", odd: true,
			edit: func(c *x509.Certificate) {
				c.Subject.CommonName = "www.bank.example"
			}},
	}
}

// thief is an attacker with the key of chain[0], which clients that trust roots reach by the rest of chain.
type thief struct {
	roots, chain []*x509.Certificate
	key          crypto.Signer
}

func (k thief) forge(t *testing.T, f forgery) ([]*x509.Certificate, crypto.Signer) {
	leaf, key := forge(t, k.chain[0], k.key, f.edit, f.names...)
	return append([]*x509.Certificate{leaf}, k.chain...), key
}

// Every key of the cluster can certify enabled names only, in every client.
func TestForgeries(t *testing.T) {
	_, s, rootKey := fortress(t)
	thieves := map[string]thief{
		"intermediate": {s.anchors(), s.issuer.chain, s.issuer.key},
		"root":         {s.anchors(), s.root.above, rootKey},
	}
	// With room below it the enterprise's key is not stored: only the key of our root below it can be stolen.
	for what, edit := range map[string]func(root, mid *x509.Certificate){"enterprise": nil,
		"enterprise without room": bound(direct)} {
		h := build(t, nil)
		b := newBank(t, time.Now(), edit)
		chain, key := b.pem(t)
		if err := h.ca.UseEnterprise(t.Context(), chain, key); err != nil {
			t.Fatal(err)
		}
		root := h.snapshot().root
		stolen, err := root.readKey(h.tree, h.cfg.Sealer)
		if err != nil {
			t.Fatal(err)
		}
		thieves[what] = thief{[]*x509.Certificate{b.root}, root.above, stolen}
	}
	// Below an unconstrained CA all of it is accepted: the refusals above are not caused by the form.
	free := newBank(t, time.Now(), nil)
	control := thief{[]*x509.Certificate{free.root}, []*x509.Certificate{free.mid}, free.midKey}
	for _, f := range forgeries(t) {
		t.Run(f.what, func(t *testing.T) {
			eachVerifier(t, func(t *testing.T, v verifier) {
				if !slices.Contains(v.uses, f.use) || v.name == "curl" && f.name == "" {
					t.Skipf("%s is not asked about a %s", v.name, f.use)
				}
				for who, k := range thieves {
					chain, key := k.forge(t, f)
					// A certificate that the enterprise signed cannot carry our constraint on subjects (Go would
					// refuse it).
					but := slices.Contains(f.but, v.name) ||
						who == "enterprise without room" && f.use == asClient && slices.Contains([]string{"nss",
							"java"}, v.name)
					if err := v.check(t, f.use, k.roots, chain, key, f.name); err == nil && !but {
						t.Errorf("accepted, made with the key of the %s", who)
					}
				}
				if f.odd {
					return
				}
				chain, key := control.forge(t, f)
				if err := v.check(t, f.use, control.roots, chain, key, f.name); err != nil {
					t.Errorf("refused for its form: %v", err)
				}
			})
		})
	}
}
