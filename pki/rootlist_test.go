package pki

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os/exec"
	"path"
	"strings"
	"testing"
	"time"

	"casemate/cluster/treetest"
)

// sent is the chain that a client gets for a name, the leaf first, and the leaf's key.
func (h *house) sent(name string) ([]*x509.Certificate, crypto.Signer) {
	h.t.Helper()
	f, err := h.ca.leaves.obtain(name)
	if err != nil {
		h.t.Fatal(err)
	}
	var chain []*x509.Certificate
	for _, der := range f.cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			h.t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return chain, f.cert.PrivateKey.(crypto.Signer)
}

// download gets the lists that certificates name, as clients do, in PEM. Certificates that are in skip need not name
// one.
func (h *house) download(chain []*x509.Certificate, skip ...*x509.Certificate) []byte {
	h.t.Helper()
	var out []byte
next:
	for _, cert := range chain {
		for _, s := range skip {
			if cert.Equal(s) {
				continue next
			}
		}
		list := h.crl(cert)
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list.Raw})...)
	}
	return out
}

// checkAll is openssl verify -crl_check_all, at the house's time.
func (h *house) checkAll(roots, chain []*x509.Certificate, crls []byte) error {
	h.t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		h.t.Skip("needs openssl")
	}
	return run("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore",
		"-crl_check_all", "-extended_crl",
		"-attime", fmt.Sprint(h.clock.now().Unix()), "-CAfile", write(h.t, "roots.pem", pemOf(roots...)), "-CRLfile",
		write(h.t, "crl.pem", crls),
		"-untrusted", write(h.t, "chain.pem", pemOf(chain[1:]...)), write(h.t, "leaf.pem", pemOf(chain[0])))
}

// A client that checks the whole chain, with the lists from where the certificates say, is content at every moment of
// the CA's life.
func TestTheWholeChainIsChecked(t *testing.T) {
	h := build(t, nil)
	good := func(what string, roots []*x509.Certificate, chain []*x509.Certificate) {
		t.Helper()
		if err := h.checkAll(roots, chain, h.download(chain)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	first := certsOf(t, h.ca.Roots())
	before, _ := h.sent("docker.io")
	good("new", first, before)
	h.constrain("docker.io", "quay.io")
	h.know("quay.io")
	after, _ := h.sent("quay.io")
	good("another intermediate", first, after)
	good("a leaf below the one before", first, before)
	issued, err := h.ca.Issue(t.Context(), Request{Names: []string{"git.casemate.internal"}})
	if err != nil {
		t.Fatal(err)
	}
	other := certsOf(t, append(issued.Cert, issued.Chain...))
	good("cert issue", first, other)
	if err := h.ca.Revoke(t.Context(), issued.Serial); err != nil {
		t.Fatal(err)
	}
	if err := h.checkAll(first, other, h.download(other)); err == nil ||
		!strings.Contains(err.Error(), "certificate revoked") {
		t.Errorf("a revoked certificate: %v", err)
	}
	for d := 130; d < 400; d += 130 {
		h.clock.add(130 * day)
		h.maintain()
		chain, _ := h.sent("docker.io")
		good(fmt.Sprintf("day %d", d), first, chain)
	}
	// The lists are asked for: without that of the root nothing passes.
	chain, _ := h.sent("docker.io")
	if err := h.checkAll(first, chain, h.download(chain[:1])); err == nil {
		t.Error("passes without the root's list")
	}

	old, _ := h.sent("docker.io")
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	both := certsOf(t, h.ca.Roots())
	chain, _ = h.sent("docker.io")
	if len(both) != 2 || len(chain) != 7 {
		t.Fatalf("%d roots and %d certificates in the overlap", len(both), len(chain))
	}
	good("overlap, the old root trusted", first, chain)
	good("overlap, the new root trusted", both[:1], chain)
	good("overlap, both trusted", both, chain)
	good("overlap, a leaf from before", first, old)
	h.constrain("docker.io")
	h.unknow("quay.io")
	chain, _ = h.sent("docker.io")
	good("an origin removed in the overlap, the old root trusted", first, chain)
	h.clock.add(100 * day)
	h.maintain()
	chain, _ = h.sent("docker.io")
	good("a long overlap, the old root trusted", first, chain)
	good("a long overlap, the new root trusted", both[:1], chain)
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	good("after it, a leaf of the overlap", both[:1], chain)
	good("after it, a leaf of the overlap, both trusted", both, chain)
	h.clock.add(25 * day)
	h.maintain()
	chain, _ = h.sent("docker.io")
	good("after it", both[:1], chain)
}

// A cluster made by an earlier version has an intermediate that refers to no list, and leaves below it. Both are
// replaced automatically.
func TestExistingClustersGetARootList(t *testing.T) {
	h := raise(t, func(s *Spec, _ *Config) { s.CRLURL = "" }, initBefore)
	root := h.snapshot().root
	before, _ := h.sent("docker.io")
	if len(before[1].CRLDistributionPoints) != 0 || h.ca.readRootList(root.ref.ID) != nil {
		t.Fatal("not a cluster of before")
	}
	h.maintain()
	if n := len(h.snapshot().issuer.cert.CRLDistributionPoints); n != 1 {
		t.Fatalf("the intermediate names %d lists", n)
	}
	chain, _ := h.sent("docker.io")
	if chain[0].Equal(before[0]) {
		t.Fatal("the leaf was not replaced")
	}
	roots := certsOf(t, h.ca.Roots())
	if err := h.checkAll(roots, chain, h.download(chain)); err != nil {
		t.Error(err)
	}
	// Once, and not again and again.
	id := h.snapshot().issuer.id
	for range 3 {
		h.clock.add(2 * time.Hour)
		h.maintain()
	}
	if again, _ := h.sent("docker.io"); h.snapshot().issuer.id != id || !again[0].Equal(chain[0]) {
		t.Error("replaced again")
	}
	// A leaf that lay on the disk of a node that was down is replaced when it is back.
	h.reopen()
	h.maintain()
	if again, _ := h.sent("docker.io"); !again[0].Equal(chain[0]) {
		t.Error("replaced at a restart")
	}
}

// Nothing is asked for and nothing is named where there is no place for lists.
func TestNoListsWithoutAPlace(t *testing.T) {
	h := build(t, func(s *Spec, c *Config) { s.CRLURL, c.CRLURL = "", "" })
	h.constrain("docker.io")
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.maintain()
	chain, _ := h.sent("docker.io")
	for _, c := range chain {
		if len(c.CRLDistributionPoints) != 0 {
			t.Errorf("%s names %v", c.Subject, c.CRLDistributionPoints)
		}
	}
	for name := range all(t, h.tree) {
		if strings.Contains(name, "/crl/") || strings.HasPrefix(name, "retired/") {
			t.Errorf("%s is kept", name)
		}
	}
}

// For two years a list is there that holds for some more days, with numbers that grow, also when the clock is set back.
func TestTheRootListIsRenewed(t *testing.T) {
	h := build(t, nil)
	id := h.snapshot().root.ref.ID
	number, lists := new(big.Int), 0
	check := func(when any) {
		t.Helper()
		list := h.ca.readRootList(id)
		if list == nil {
			t.Fatalf("%v: no list", when)
		}
		if err := list.CheckSignatureFrom(h.snapshot().root.signer); err != nil {
			t.Errorf("%v: %v", when, err)
		}
		now := h.clock.now()
		if now.Before(list.ThisUpdate) || list.NextUpdate.Before(now.Add(9*day)) {
			t.Errorf("%v: the list holds from %s to %s", when, list.ThisUpdate, list.NextUpdate)
		}
		switch list.Number.Cmp(number) {
		case -1:
			t.Errorf("%v: the number went back", when)
		case 1:
			lists++
		}
		number = list.Number
	}
	for d := 0; d < 2*365; d++ {
		check(d)
		h.clock.add(day)
		h.maintain()
	}
	if lists < 30 || lists > 45 {
		t.Errorf("%d lists in two years", lists)
	}
	h.clock.add(-300 * day)
	h.maintain()
	check("the clock set back")
	for what, bad := range map[string][]byte{"cut": {0x30, 3}, "gone": nil} {
		err := h.tree.Update(t.Context(), func(b treetest.Batch) error { return putChunks(b, rootListDir(id), bad) })
		if err != nil {
			t.Fatal(err)
		}
		number = new(big.Int) // nothing says what it was
		h.maintain()
		check(what)
	}
	// One that another key signed is replaced, too.
	forged, key, err := makeRoot(constraints{}, "casemate.internal", "", h.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	der, err := makeCRL(forged.signer, key, big.NewInt(1), nil, h.clock.now(), h.clock.now().Add(rootListLife))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.tree.Update(t.Context(), func(b treetest.Batch) error {
		return putChunks(b, rootListDir(id), der)
	}); err != nil {
		t.Fatal(err)
	}
	number = new(big.Int)
	h.maintain()
	check("forged")
}

// A replaced intermediate is revoked when no leaf below it is valid: a thief of its key in an old backup cannot sign
// anything that a checking client accepts. Until then leaves below it stay valid.
func TestARetiredIntermediateIsRevoked(t *testing.T) {
	h := build(t, nil)
	roots := certsOf(t, h.ca.Roots())
	stolen := h.snapshot().issuer
	h.constrain("docker.io")
	leaf, _ := h.sent("docker.io")
	revoked := func() bool {
		t.Helper()
		return lists(h.crl(stolen.cert), stolen.cert)
	}
	forged := func() error {
		t.Helper()
		cert, _ := forge(t, stolen.cert, stolen.key, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = h.clock.now().Add(-time.Hour), h.clock.now().Add(time.Hour)
			c.CRLDistributionPoints, c.Subject = leaf[0].CRLDistributionPoints, leaf[0].Subject
		}, "registry.k8s.io")
		// The thief makes the list of the leaf, too; that of the intermediate is the root's.
		own, err := makeCRL(stolen.cert, stolen.key, big.NewInt(1<<62), nil, h.clock.now(), h.clock.now().Add(day))
		if err != nil {
			t.Fatal(err)
		}
		crls := append(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: own}),
			h.download([]*x509.Certificate{stolen.cert})...)
		crls = append(crls, h.download(h.snapshot().root.above)...)
		return h.checkAll(roots, append([]*x509.Certificate{cert}, stolen.chain...), crls)
	}
	h.maintain()
	if revoked() {
		t.Error("revoked at once: nodes serve leaves below it")
	}
	if err := forged(); err != nil {
		t.Fatalf("the forged chain is wrong in another way: %v", err)
	}
	h.clock.add(leafLife)
	h.maintain()
	if revoked() {
		t.Error("revoked while a leaf below it may live")
	}
	h.clock.add(2 * day)
	h.maintain()
	if !revoked() {
		t.Error("not revoked when no leaf below it lives")
	}
	if err := forged(); err == nil || !strings.Contains(err.Error(), "certificate revoked") {
		t.Errorf("the forged leaf: %v", err)
	}
	chain, _ := h.sent("docker.io")
	if err := h.checkAll(roots, chain, h.download(chain)); err != nil {
		t.Errorf("what is in use: %v", err)
	}
	h.clock.add(stolen.cert.NotAfter.Sub(h.clock.now()) + 2*day)
	h.maintain()
	h.maintain()
	if revoked() {
		t.Error("on the list although it has ended")
	}
	if _, err := h.tree.Stat("retired/" + stolen.id); err == nil {
		t.Error("its record is left")
	}
}

// One that certificates of `cert issue` hang on keeps its key, to revoke them, and is revoked after the last of them
// has ended.
func TestAnIntermediateIsRevokedAfterWhatItIssued(t *testing.T) {
	h := build(t, nil)
	old := h.snapshot().issuer
	issued, err := h.ca.Issue(t.Context(), Request{Names: []string{"git.casemate.internal"}, Life: 100 * day})
	if err != nil {
		t.Fatal(err)
	}
	h.constrain("docker.io")
	roots, chain := certsOf(t, h.ca.Roots()), certsOf(t, append(issued.Cert, issued.Chain...))
	for d := 0; d < 95; d += 19 {
		h.clock.add(19 * day)
		h.maintain()
		if err := h.checkAll(roots, chain, h.download(chain)); err != nil {
			t.Errorf("day %d: %v", d, err)
		}
	}
	for range 3 {
		h.clock.add(20 * day)
		h.maintain()
	}
	if !lists(h.crl(old.cert), old.cert) {
		t.Error("not revoked")
	}
}

// The last list of a root that was replaced holds until the root ends, without its key, and goes then.
func TestTheLastListOfARoot(t *testing.T) {
	h := build(t, nil)
	h.constrain("docker.io")
	h.clock.add(retiredLife + day)
	h.maintain()
	old := h.snapshot().root
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := func() *x509.RevocationList {
		t.Helper()
		der, err := h.ca.CRL(old.ref.ID)
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := list.CheckSignatureFrom(old.signer); err != nil {
			t.Error(err)
		}
		return list
	}
	if list := last(); list.NextUpdate.Before(old.anchor.NotAfter) || len(list.RevokedCertificateEntries) != 1 {
		t.Errorf("it holds until %s and has %d entries", list.NextUpdate, len(list.RevokedCertificateEntries))
	}
	h.maintain()
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.tree.Stat("root/" + old.ref.ID + "/key"); err == nil {
		t.Error("the key is left")
	}
	for range 3 {
		h.clock.add(100 * day)
		h.maintain()
		last()
	}
	h.clock.add(old.anchor.NotAfter.Sub(h.clock.now()) + 3*day)
	h.maintain()
	for name := range all(t, h.tree) {
		if strings.Contains(name, old.ref.ID) {
			t.Errorf("%s is left", name)
		}
	}
}

// Below an enterprise's CA certificate the lists of ours are signed with its key; those of the enterprise's own
// certificates are its own.
func TestListsBelowAnEnterprise(t *testing.T) {
	for what, c := range map[string]struct {
		edit  func(root, mid *x509.Certificate)
		lists bool
	}{
		"room below it":     {nil, true},
		"no room":           {bound(direct), true},
		"room for one":      {bound(roomForOne), true},
		"may not sign them": {func(_, mid *x509.Certificate) { mid.KeyUsage = x509.KeyUsageCertSign }, false},
	} {
		t.Run(what, func(t *testing.T) {
			h := build(t, nil)
			old := h.snapshot().root
			b := newBank(t, h.clock.now(), c.edit)
			chainPEM, key := b.pem(t)
			if err := h.ca.UseEnterprise(t.Context(), chainPEM, key); err != nil {
				t.Fatal(err)
			}
			h.maintain()
			if list := h.ca.readRootList(old.ref.ID); list == nil || list.NextUpdate.Before(old.anchor.NotAfter) {
				t.Error("our own root has no last list")
			}
			chain, _ := h.sent("docker.io")
			if what == "may not sign them" {
				// What the enterprise's certificate signed is our policy certificate.
				if n := len(chain[3].CRLDistributionPoints); n != 0 {
					t.Errorf("%d lists are named that nobody signs", n)
				}
				return
			}
			crls := h.download(chain, b.mid, b.root)
			theirs, err := makeCRL(b.root, b.rootKey, big.NewInt(1), nil, h.clock.now(), h.clock.now().Add(day))
			if err != nil {
				t.Fatal(err)
			}
			crls = append(crls, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: theirs})...)
			if err := h.checkAll([]*x509.Certificate{b.root}, chain, crls); err != nil {
				t.Error(err)
			}
			if what != "room below it" {
				return
			}
			// Renewed by the enterprise below the same root: certificates below the previous one still have a list.
			was := h.snapshot().root
			mid, err := sign(&x509.Certificate{
				Subject: b.mid.Subject, NotBefore: h.clock.now().Add(-day), NotAfter: h.clock.now().Add(900 * day),
				BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1, KeyUsage: b.mid.KeyUsage,
			}, b.midKey.Public(), b.root, b.rootKey)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.ca.UseEnterprise(t.Context(), pemOf(b.root, mid), key); err != nil {
				t.Fatal(err)
			}
			h.maintain()
			if h.snapshot().root.ref == was.ref {
				t.Fatal("not replaced")
			}
			h.crl(chain[1])
			renewed, _ := h.sent("docker.io")
			if err := h.checkAll([]*x509.Certificate{b.root}, renewed,
				append(h.download(renewed, mid, b.mid, b.root), crls...)); err != nil {
				t.Error(err)
			}
		})
	}
}

// An invalid ID finds no list, and nothing else in the tree.
func TestOnlyListsAreServed(t *testing.T) {
	h := build(t, nil)
	s := h.snapshot()
	for _, id := range []string{"", ".", "..", s.root.ref.ID + "/", "../" + s.root.ref.ID, s.root.ref.ID[:15],
		strings.ToUpper(s.root.ref.ID) + "x", path.Join(s.root.ref.ID[:7], s.root.ref.ID[:8]),
		strings.Repeat("0", 16)} {
		if der, err := h.ca.CRL(id); err == nil {
			t.Errorf("%q: %d bytes", id, len(der))
		}
	}
}
