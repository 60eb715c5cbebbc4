package pki

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/cluster/treetest"
	"casemate/cluster/waittest"
)

// constrain enables exactly these names, as the appliance does: one batch, together with another record.
func (h *house) constrain(names ...string) {
	h.t.Helper()
	write, err := h.ca.Constrain(names)
	if err != nil {
		h.t.Fatal(err)
	}
	err = h.tree.Update(h.t.Context(), func(b treetest.Batch) error {
		b.Put("origin-of-the-test", []byte(strings.Join(names[:min(len(names), 20)], " ")))
		return write(b)
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// second is another node on the same tree.
func (h *house) second(node, addr string) *house {
	h.t.Helper()
	o := &house{t: h.t, tree: h.tree, clock: h.clock, cfg: h.cfg, known: h.known}
	o.cfg.Dir, o.cfg.Node, o.cfg.Addrs, o.cfg.Miss = h.t.TempDir(), node, addrs(addr), nil
	o.open()
	h.t.Cleanup(func() { o.ca.Close() })
	return o
}

func (h *house) snapshot() *snapshot {
	h.t.Helper()
	s, err := h.ca.current()
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *house) maintain() {
	h.t.Helper()
	if err := h.ca.maintain(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

// all returns every record of the tree by its path.
func all(t testing.TB, tree *treetest.Mem) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for name := range tree.Walk(".", "") {
		data, err := tree.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = data
	}
	return out
}

// watchingSealer remembers the plain texts.
type watchingSealer struct {
	Sealer
	mu    sync.Mutex
	plain [][]byte
}

func (w *watchingSealer) Seal(plain []byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plain = append(w.plain, bytes.Clone(plain))
	return w.Sealer.Seal(plain)
}

// Promise 10: keys are in the tree sealed only, those of issued certificates not at all.
func TestKeysAreSealed(t *testing.T) {
	w := &watchingSealer{Sealer: newSealer(t)}
	h := build(t, func(_ *Spec, c *Config) { c.Sealer = w })
	issued, err := h.ca.Issue(t.Context(), Request{Names: []string{"harbor.casemate.internal"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Fatal(err)
	}
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.plain) != 4 {
		t.Errorf("%d keys were sealed, want two roots and two intermediates", len(w.plain))
	}
	for name, data := range all(t, h.tree) {
		if strings.HasSuffix(name, "/key") {
			if _, err := x509.ParsePKCS8PrivateKey(data); err == nil {
				t.Errorf("%s holds a plain key", name)
			}
		}
		for _, key := range w.plain {
			secret := key[36:68] // the scalar of a P-256 key in PKCS #8
			if bytes.Contains(data, secret) {
				t.Errorf("%s holds a secret", name)
			}
		}
		if bytes.Contains(data, []byte("PRIVATE KEY")) || bytes.Contains(data, issued.Key) {
			t.Errorf("%s holds a private key in PEM", name)
		}
	}
}

// A key that is replaced is destroyed: it could sign for more than the names enabled now.
func TestSupersededKeyIsDestroyed(t *testing.T) {
	h := build(t, nil)
	old := h.snapshot().issuer.id
	h.constrain("docker.io")
	now := h.snapshot()
	if now.issuer.id == old {
		t.Fatal("the intermediate was not replaced")
	}
	for name := range all(t, h.tree) {
		if strings.Contains(name, old) && name != "crl/"+old && name != "retired/"+old {
			t.Errorf("%s is left of the old intermediate", name)
		}
	}
	for name, want := range map[string]bool{"docker.io": true, "registry-1.docker.io": true, "registry.k8s.io": false,
		"casemate.internal": true, "127.0.0.1": true} {
		if got := now.issuer.allows(name) == nil; got != want {
			t.Errorf("intermediate permits %s: %v, want %v", name, got, want)
		}
	}
	// The lists go, too, when no leaf is left that could name them.
	h.clock.add(leafLife + 5*day)
	h.maintain()
	if _, err := h.tree.Stat("crl/" + old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want the last list gone", err)
	}
}

func TestEnablingIsOneConditionalBatch(t *testing.T) {
	h := build(t, nil)
	if err := h.ca.Permits("ghcr.io"); err != nil {
		t.Fatal(err)
	}
	if err := h.ca.Permits("ebanking.bank.example"); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("got %v, want ErrNotPermitted", err)
	}
	if _, err := h.ca.Constrain([]string{"docker.io", "ebanking.bank.example"}); !errors.Is(err, ErrNotPermitted) ||
		!strings.Contains(err.Error(), "ebanking.bank.example") {
		t.Errorf("got %v, want ErrNotPermitted with the name", err)
	}
	h.know("ghcr.io", "quay.io")
	if _, err := h.handshake(h.ca.Roots(), "ghcr.io"); err == nil {
		t.Error("a certificate was made for a name that the intermediate does not permit")
	}
	first, err := h.ca.Constrain(append([]string{"ghcr.io"}, enabled...))
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.ca.Constrain(append([]string{"quay.io"}, enabled...))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.tree.Update(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := h.tree.Update(t.Context(), second); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("got %v, want fs.ErrExist: the CA changed in between", err)
	}
	// At once, with no Run going on.
	if _, err := h.handshake(h.ca.Roots(), "ghcr.io"); err != nil {
		t.Error(err)
	}
	h.constrain(append([]string{"ghcr.io", "quay.io"}, enabled...)...)
	if _, err := h.handshake(h.ca.Roots(), "quay.io"); err != nil {
		t.Error(err)
	}
	// The same names again change nothing, but still write the condition.
	before := h.snapshot()
	again, err := h.ca.Constrain(append([]string{"Quay.io.", "ghcr.io"}, enabled...))
	if err != nil {
		t.Fatal(err)
	}
	h.constrain(enabled...)
	if err := h.tree.Update(t.Context(), again); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	if h.snapshot().issuer.id == before.issuer.id {
		t.Error("the intermediate was not replaced")
	}
}

// For three years nothing but maintenance happens, and in every handshake a client whose clock is right, and one whose
// clock is 23 hours slow, is content. The root is rotated in the middle.
func TestYearsGoBy(t *testing.T) {
	h := build(t, nil)
	roots := h.ca.Roots()
	slow := func() time.Time { return h.clock.now().Add(-23 * time.Hour) }
	issuers, leaves := map[string]bool{}, map[string]bool{}
	for d := 0; d < 3*365; d += 5 {
		switch d {
		case 500:
			if err := h.ca.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
		case 600:
			roots = h.ca.Roots()
			if err := h.ca.FinishRotation(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, now := range []func() time.Time{h.clock.now, slow} {
			for _, name := range []string{"registry.k8s.io", ""} {
				certs, err := handshake(t, h.ca.TLSConfig(), roots, name, now)
				if err != nil {
					t.Fatalf("day %d, %q: %v", d, name, err)
				}
				leaves[certs[0].SerialNumber.String()] = true
				issuers[certs[1].SerialNumber.String()] = true
				if certs[0].NotAfter.After(certs[1].NotAfter) {
					t.Errorf("day %d: the leaf outlives its intermediate", d)
				}
				if life := certs[0].NotAfter.Sub(certs[0].NotBefore); life > 90*day {
					t.Errorf("day %d: the leaf lives for %s", d, life)
				}
			}
		}
		h.clock.add(5 * day)
		h.maintain()
	}
	if len(issuers) < 4 {
		t.Errorf("%d intermediates in three years: it does not rotate by itself", len(issuers))
	}
	if len(leaves) < 2*3*365/30 {
		t.Errorf("%d leaves in three years: they are not renewed", len(leaves))
	}
	if n := len(h.ca.leaves.ready); n != 2 {
		t.Errorf("%d leaves are in memory, want 2", n)
	}
	// What has expired is gone.
	if n := len(all(t, h.tree)); n > 25 {
		t.Errorf("%d records are left in the tree", n)
	}
}

// Ten years and longer: when the root ends, everything below it has ended, and nothing was made that outlives it.
func TestRootEnds(t *testing.T) {
	h := build(t, nil)
	end := h.snapshot().root.anchor.NotAfter
	h.clock.add(end.Sub(h.clock.now()) - 40*day)
	h.maintain()
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Fatal(err)
	}
	h.clock.add(15 * day)
	h.maintain()
	certs, err := h.handshake(h.ca.Roots(), "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range certs {
		if c.NotAfter.After(end) {
			t.Errorf("%s outlives the root", c.Subject)
		}
	}
	before := len(all(t, h.tree))
	for range 5 {
		h.clock.add(2 * time.Hour)
		h.maintain()
	}
	if n := len(all(t, h.tree)); n != before {
		t.Errorf("maintenance goes round in circles: %d records, then %d", before, n)
	}
	// A rotation in time is not noticed by clients.
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	roots := h.ca.Roots()
	h.clock.add(60 * day)
	h.maintain()
	if _, err := h.handshake(roots, "docker.io"); err != nil {
		t.Error(err)
	}
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Error(err)
	}
}

// A clock that was years ahead, and was set right.
func TestClockSetBack(t *testing.T) {
	h := build(t, nil)
	h.clock.add(5 * 365 * day)
	h.maintain()
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Fatal(err)
	}
	h.clock.add(-5 * 365 * day)
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err == nil {
		t.Fatal("a leaf of the future was accepted")
	}
	select {
	case <-h.ca.kick:
	default:
		t.Error("the failed handshake does not wake up Run")
	}
	h.maintain()
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Error(err)
	}
}

// Run of one node notices what another node did.
func TestRunFollowsTheTree(t *testing.T) {
	h := build(t, nil)
	other := h.second("n2", "127.0.0.2")
	if _, err := other.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Fatal(err)
	}
	first := other.ca.leaves.lookup("docker.io").cert.Leaf
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- other.ca.Run(ctx) }()
	if err := h.ca.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	waittest.Until(t, "n2 has a leaf below the new root", func() bool {
		f := other.ca.leaves.lookup("docker.io")
		return f != nil && !f.cert.Leaf.Equal(first) && f.root == h.snapshot().root.ref.ID
	})
	// Its own address was not permitted at first: a new intermediate permits it, and still the other node's.
	waittest.Until(t, "the intermediate permits the addresses of both nodes", func() bool {
		iss := h.snapshot().issuer
		return iss.allows("127.0.0.1") == nil && iss.allows("127.0.0.2") == nil && iss.allows("127.0.0.4") != nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := h.ca.ForgetNode(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	if h.snapshot().issuer.allows("127.0.0.2") == nil {
		t.Error("the address of a forgotten node is still permitted")
	}
	if err := h.ca.ForgetNode(t.Context(), "n1"); err == nil {
		t.Error("a node forgot itself")
	}
}

// Two nodes that change the CA at once do not both succeed, and nothing of the loser is left.
func TestRotateAtOnce(t *testing.T) {
	h := build(t, nil)
	other := h.second("n2", "127.0.0.1")
	errs := make(chan error, 2)
	for _, ca := range []*CA{h.ca, other.ca} {
		go func() { errs <- ca.Rotate(context.Background()) }()
	}
	a, b := <-errs, <-errs
	if (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), ErrRotating) {
		t.Errorf("got %v and %v, want one success and one ErrRotating", a, b)
	}
	if n := bytes.Count(other.ca.Roots(), []byte("BEGIN CERTIFICATE")); n != 2 {
		t.Errorf("%d roots are handed out, want 2", n)
	}
	roots, err := h.tree.ReadDir("root")
	if err != nil || len(roots) != 2 {
		t.Errorf("%d roots in the tree, want 2 (%v)", len(roots), err)
	}
}

func TestRotationIsAStory(t *testing.T) {
	h := build(t, nil)
	if err := h.ca.FinishRotation(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "no rotation is under way") {
		t.Errorf("got %v", err)
	}
	old := h.snapshot().root.ref.ID
	oldPEM := h.ca.Roots()
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if since, overlap := h.ca.Rotation(); !overlap || !since.Equal(h.clock.now()) {
		t.Errorf("rotation %v since %v", overlap, since)
	}
	if err := h.ca.Rotate(t.Context()); !errors.Is(err, ErrRotating) {
		t.Errorf("got %v, want ErrRotating", err)
	}
	h.reopen()
	roots := h.ca.Roots()
	if !bytes.HasSuffix(roots, oldPEM) || bytes.Count(roots, []byte("BEGIN")) != 2 {
		t.Errorf("Roots are not the new one and the old one")
	}
	newPEM := bytes.TrimSuffix(roots, oldPEM)
	// Names can be enabled in the overlap, and clients that trust either root accept them.
	h.know("ghcr.io")
	h.constrain(append([]string{"ghcr.io"}, enabled...)...)
	for _, trust := range [][]byte{oldPEM, newPEM, roots} {
		if _, err := h.handshake(trust, "ghcr.io"); err != nil {
			t.Error(err)
		}
	}
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(h.ca.Roots(), newPEM) {
		t.Error("the old root is still handed out")
	}
	if _, overlap := h.ca.Rotation(); overlap {
		t.Error("the rotation is not finished")
	}
	if _, err := h.handshake(newPEM, "ghcr.io"); err != nil {
		t.Error(err)
	}
	if _, err := h.tree.Stat("root/" + old + "/key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old root's key is stored: %v", err)
	}
	// What a finish can be undone with goes when that time is over.
	h.clock.add(undoLife + time.Second)
	if err := h.ca.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name := range all(t, h.tree) {
		if strings.Contains(name, old) && name != rootListDir(old)+"/00" {
			t.Errorf("%s is left of the old root", name)
		}
	}
}

func TestExpiries(t *testing.T) {
	h := build(t, nil)
	if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
		t.Fatal(err)
	}
	good, err := h.ca.Issue(t.Context(), Request{Names: []string{"a.casemate.internal"}})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := h.ca.Issue(t.Context(), Request{Names: []string{"b.casemate.internal"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ca.Revoke(t.Context(), gone.Serial); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range h.ca.Expiries() {
		kinds = append(kinds, e.Kind)
		if e.Kind == "issued" && e.Name != good.Serial {
			t.Errorf("unexpected %v", e)
		}
	}
	if want := []string{"leaf", "issued", "intermediate", "root"}; !slices.Equal(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
}
