package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"casemate/cluster/treetest"
)

// A root cannot be widened, but a second one can be wider. Through the overlap, clients of the old one keep what that
// permits, and clients of the new one have more at once.
func TestRotateWidens(t *testing.T) {
	h := build(t, func(s *Spec, _ *Config) {
		s.Permit, s.Exclude = []string{"old.example"}, []string{"k8s.io.old.example"}
	})
	old := h.ca.Roots()
	if err := h.ca.Permits("files.new.example"); !errors.Is(err, ErrNotPermitted) {
		t.Fatalf("got %v", err)
	}
	err := h.ca.RotateTo(t.Context(), Change{
		Permit: []string{"new.example", "198.51.100.0/24"}, Exclude: []string{"secret.new.example"},
		Drop: []string{"old.example", "quay.io"},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.reopen()
	for name, want := range map[string]bool{
		"files.new.example": true, "new.example": true, "198.51.100.7": true, "registry.k8s.io": true,
		"casemate.internal":  true,
		"secret.new.example": false, "a.secret.new.example": false, "old.example": false, "quay.io": false,
		"other.example": false,
	} {
		if err := h.ca.Permits(name); (err == nil) != want || err != nil && !errors.Is(err, ErrNotPermitted) {
			t.Errorf("%s permitted: %v, want %v", name, err, want)
		}
	}
	h.know("files.new.example")
	h.constrain(append([]string{"files.new.example"}, enabled...)...)
	both := h.ca.Roots()
	fresh := bytes.TrimSuffix(both, old)
	shakes := func(what string, roots []byte, name string, want bool) {
		t.Helper()
		if _, err := h.handshake(roots, name); (err == nil) != want {
			t.Errorf("%s, %s: accepted %v, want %v (%v)", what, name, err == nil, want, err)
		}
	}
	shakes("old root", old, "docker.io", true)
	shakes("old root", old, "files.new.example", false)
	for _, roots := range [][]byte{fresh, both} {
		shakes("new root", roots, "docker.io", true)
		shakes("new root", roots, "files.new.example", true)
	}
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	shakes("finished, new root", fresh, "files.new.example", true)
	shakes("finished, old root", old, "docker.io", false)
}

// Every verifier accepts what its trusted roots permit, in an overlap in which the new one permits more and less.
func TestWidenedVerifies(t *testing.T) {
	h := raise(t, fortified, Init)
	old := h.snapshot().anchors()
	err := h.ca.RotateTo(t.Context(), Change{Permit: []string{"new.example"}, Exclude: []string{"secret.new.example"},
		Drop: []string{"quay.io"}})
	if err != nil {
		t.Fatal(err)
	}
	names := append([]string{"files.new.example"}, enabled...)
	h.know(names...)
	h.constrain(names...)
	both := h.snapshot().anchors()
	for _, c := range []struct {
		what, name string
		roots      []*x509.Certificate
		good       bool
		but        string // verifiers that refuse it nevertheless: see TestRotationVerifies
	}{
		{"old trusted", "registry.k8s.io", old, true, ""},
		{"old trusted, new name", "files.new.example", old, false, ""},
		{"both trusted", "registry.k8s.io", both, true, ""},
		{"new trusted, new name", "files.new.example", both[:1], true, "gnutls"},
	} {
		f, err := h.ca.leaves.obtain(c.name)
		if err != nil {
			t.Fatal(err)
		}
		chain := append([]*x509.Certificate{f.cert.Leaf}, h.snapshot().issuer.chain...)
		t.Run(c.what, func(t *testing.T) {
			eachVerifier(t, func(t *testing.T, v verifier) {
				good := c.good && c.but != v.name
				if err := v.verify(t, c.roots, chain, f.cert.PrivateKey.(crypto.Signer), c.name); (err == nil) != good {
					t.Errorf("accepted: %v, want %v (%v)", err == nil, good, err)
				}
			})
		})
	}
}

func TestRotateMistakes(t *testing.T) {
	h := build(t, func(s *Spec, _ *Config) {
		s.Permit, s.Exclude = []string{"corp.example", "198.51.100.0/24"}, []string{"vault.corp.example"}
	})
	before := h.ca.Roots()
	for _, c := range []struct {
		change Change
		class  error
		says   string
	}{
		{Change{Permit: []string{"corp.example"}}, fs.ErrInvalid, "permits and excludes this already"},
		{Change{Permit: []string{"git.corp.example"}}, fs.ErrInvalid, "permits and excludes this already"},
		{Change{Permit: []string{"a.vault.corp.example"}}, fs.ErrInvalid, "is in exclude vault.corp.example"},
		{Change{Permit: []string{"com"}}, fs.ErrInvalid, "permit com is wider than the public zone"},
		{Change{Permit: []string{"0.0.0.0/0"}}, fs.ErrInvalid, "most of the internet"},
		{Change{Permit: []string{"not a host"}}, fs.ErrInvalid, "neither a zone nor a CIDR"},
		{Change{Exclude: []string{"internal"}}, fs.ErrInvalid, "forbids the domain casemate.internal"},
		{Change{Exclude: []string{"127.0.0.0/8"}}, fs.ErrInvalid, "holds the address 127.0.0.1 of a node"},
		{Change{Exclude: []string{"k8s.io"}}, ErrNotPermitted, "dl.k8s.io is enabled, remove that origin first"},
		{Change{Drop: []string{"docker.io"}}, ErrNotPermitted, "docker.io is enabled, remove that origin first"},
		{Change{Drop: []string{"nothing.example"}}, fs.ErrInvalid, "the root in use has no such entry"},
		{Change{Drop: []string{"casemate.internal"}}, fs.ErrInvalid, "the own domain must stay"},
		{Change{Own: true}, fs.ErrInvalid, "the root is our own already"},
	} {
		if err := h.ca.RotateTo(t.Context(), c.change); !errors.Is(err, c.class) ||
			!strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: got %v, want %q", c.change, err, c.says)
		}
	}
	if !bytes.Equal(h.ca.Roots(), before) {
		t.Error("a change that was refused was made")
	}
	// An exclusion can be lifted, by naming it.
	if err := h.ca.RotateTo(t.Context(), Change{Drop: []string{"vault.corp.example", "198.51.100.0/24"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.ca.Permits("a.vault.corp.example"); err != nil {
		t.Error(err)
	}
	if err := h.ca.Permits("198.51.100.7"); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("got %v", err)
	}
}

// Below an enterprise's CA certificate with room for it, the way back to a root of our own has an overlap like any
// other; without room it must be asked for.
func TestRotateAwayFromEnterprise(t *testing.T) {
	t.Run("room", func(t *testing.T) {
		h := build(t, nil)
		chain, key := enterprise(t, func(_, mid *x509.Certificate) { mid.MaxPathLen = -1 })
		if err := h.ca.UseEnterprise(t.Context(), chain, key); err != nil {
			t.Fatal(err)
		}
		if err := h.ca.FinishRotation(t.Context()); err != nil {
			t.Fatal(err)
		}
		theirs := h.ca.Roots()
		if err := h.ca.RotateTo(t.Context(), Change{Permit: []string{"new.example"}}); err != nil {
			t.Fatal(err)
		}
		ours := bytes.TrimSuffix(h.ca.Roots(), theirs)
		for _, trust := range [][]byte{theirs, ours, h.ca.Roots()} {
			if _, err := h.handshake(trust, "docker.io"); err != nil {
				t.Error(err)
			}
		}
		if err := h.ca.Permits("files.new.example"); err != nil {
			t.Error(err)
		}
		if err := h.ca.FinishRotation(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := h.ca.Shape(); s.Name != ShapeAnchored {
			t.Errorf("shape %s", s.Name)
		}
		if _, err := h.handshake(ours, "docker.io"); err != nil {
			t.Error(err)
		}
	})
	t.Run("no room", func(t *testing.T) {
		h := build(t, nil)
		b := newBank(t, h.clock.now(), func(_, mid *x509.Certificate) { mid.MaxPathLen = roomForRoot })
		chain, key := b.pem(t)
		if err := h.ca.UseEnterprise(t.Context(), chain, key); err != nil {
			t.Fatal(err)
		}
		if err := h.ca.FinishRotation(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := h.ca.RotateTo(t.Context(), Change{Own: true}); !errors.Is(err, fs.ErrInvalid) ||
			!strings.Contains(err.Error(), "no room for a cross certificate") {
			t.Fatalf("got %v", err)
		}
		if err := h.ca.RotateTo(t.Context(), Change{Own: true, Abrupt: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
			t.Error(err)
		}
	})
}

// A finish that came too early is undone: clients that trust only the old root are served again.
func TestUndoFinish(t *testing.T) {
	h := build(t, nil)
	if _, err := h.ca.Undo(t.Context()); !errors.Is(err, fs.ErrInvalid) ||
		!strings.Contains(err.Error(), "no rotation to undo") {
		t.Fatalf("got %v", err)
	}
	old := h.ca.Roots()
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	both := h.ca.Roots()
	since, _ := h.ca.Rotation()
	h.clock.add(time.Hour)
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.handshake(old, "docker.io"); err == nil {
		t.Fatal("the old root is of use after the end")
	}
	h.clock.add(29 * day)
	if err := h.ca.maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if what, err := h.ca.Undo(t.Context()); err != nil || what != UndoneFinish {
		t.Fatal(what, err)
	}
	h.reopen()
	if again, overlap := h.ca.Rotation(); !overlap || !again.Equal(since) || !bytes.Equal(h.ca.Roots(), both) {
		t.Errorf("overlap %v since %v, want the previous one", overlap, again)
	}
	for _, name := range []string{"docker.io", "registry.k8s.io"} { // one leaf from before, and a new one
		for _, trust := range [][]byte{old, bytes.TrimSuffix(both, old), both} {
			if _, err := h.handshake(trust, name); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := h.ca.Undo(t.Context()); !errors.Is(err, fs.ErrInvalid) ||
		!strings.Contains(err.Error(), "key was destroyed") {
		t.Errorf("got %v", err)
	}
	// Finished again, and this time for good.
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.clock.add(undoLife + time.Second)
	if _, err := h.ca.Undo(t.Context()); !errors.Is(err, fs.ErrInvalid) ||
		!strings.Contains(err.Error(), "too long ago") {
		t.Errorf("got %v", err)
	}
}

// An unfinished rotation is undone as if it had never been.
func TestUndoRotation(t *testing.T) {
	h := build(t, nil)
	old, id := h.ca.Roots(), h.snapshot().root.ref.ID
	if err := h.ca.RotateTo(t.Context(), Change{Permit: []string{"nwe.example"}}); err != nil {
		t.Fatal(err)
	}
	gone := h.snapshot().root.ref.ID
	h.know("files.nwe.example")
	h.constrain(append([]string{"files.nwe.example"}, enabled...)...)
	both := h.ca.Roots()
	if _, err := h.handshake(both, "docker.io"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ca.Undo(t.Context()); !errors.Is(err, ErrNotPermitted) ||
		!strings.Contains(err.Error(), "files.nwe.example is enabled") {
		t.Fatalf("got %v", err)
	}
	h.constrain(enabled...)
	if what, err := h.ca.Undo(t.Context()); err != nil || what != UndoneRotation {
		t.Fatal(what, err)
	}
	h.reopen()
	if s := h.snapshot(); s.root.ref.ID != id || s.old != nil || !bytes.Equal(h.ca.Roots(), old) {
		t.Error("the old root is not in use again")
	}
	for _, trust := range [][]byte{old, both} {
		certs, err := h.handshake(trust, "docker.io")
		if err != nil {
			t.Error(err)
		} else if len(certs) != 4 {
			t.Errorf("%d certificates sent, want leaf, intermediate, root and policy", len(certs))
		}
	}
	for name := range all(t, h.tree) {
		if strings.Contains(name, "root/"+gone) && name != rootListDir(gone)+"/00" {
			t.Errorf("%s is left of the new root", name)
		}
	}
	// What the old root signs is complete: an intermediate for more, a list, and the next rotation.
	h.know("ghcr.io")
	h.constrain(append([]string{"ghcr.io"}, enabled...)...)
	if err := h.ca.maintain(t.Context()); err != nil {
		t.Error(err)
	}
	if err := h.ca.RotateTo(t.Context(), Change{Permit: []string{"new.example"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.handshake(old, "ghcr.io"); err != nil {
		t.Error(err)
	}
}

// A switch to an enterprise's CA certificate that nodes do not trust yet is taken back.
func TestUndoEnterprise(t *testing.T) {
	h := build(t, nil)
	old := h.ca.Roots()
	chain, key := enterprise(t, func(_, mid *x509.Certificate) { mid.MaxPathLen = -1 })
	if err := h.ca.UseEnterprise(t.Context(), chain, key); err != nil {
		t.Fatal(err)
	}
	if _, err := h.handshake(old, "docker.io"); err == nil {
		t.Fatal("there is no cross certificate")
	}
	if what, err := h.ca.Undo(t.Context()); err != nil || what != UndoneRotation {
		t.Fatal(what, err)
	}
	if _, err := h.handshake(old, "docker.io"); err != nil {
		t.Error(err)
	}
}

// A record of a version that knows no undo reads as before: an overlap of it is finished, not undone.
func TestUndoWithoutTheKey(t *testing.T) {
	h := build(t, nil)
	old := h.snapshot().root.ref.ID
	if err := h.ca.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := h.tree.Update(t.Context(), func(b treetest.Batch) error { b.Remove("root/" + old + "/key"); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.ca.Undo(t.Context()); !errors.Is(err, fs.ErrInvalid) ||
		!strings.Contains(err.Error(), "key was destroyed") {
		t.Errorf("got %v", err)
	}
	if err := h.ca.FinishRotation(t.Context()); err != nil {
		t.Error(err)
	}
}

// An address that a new root must permit is that of every node.
func TestRotateKeepsNodes(t *testing.T) {
	h := build(t, nil)
	err := h.tree.Update(t.Context(), func(b treetest.Batch) error {
		b.Put("node/n2", []byte(`["203.0.113.9"]`))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ca.RotateTo(t.Context(), Change{Permit: []string{"new.example"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.ca.Permits(netip.MustParseAddr("203.0.113.9").String()); err != nil {
		t.Error(err)
	}
}

// The root permits the network of a bastion's public IPv6 address, at first and for a node that has joined since; of
// other addresses the address alone.
func TestRootPermitsNetworksOfNodes(t *testing.T) {
	h := build(t, func(s *Spec, _ *Config) {
		s.Addrs = append(s.Addrs, netip.MustParseAddr("2001:db8:1::11"), netip.MustParseAddr("198.51.100.11"))
	})
	permits := func(when string, want map[string]bool) {
		t.Helper()
		for addr, ok := range want {
			if err := h.ca.Permits(addr); (err == nil) != ok {
				t.Errorf("%s, %s: %v", when, addr, err)
			}
		}
	}
	permits("at first", map[string]bool{"2001:db8:1::11": true, "2001:db8:1:0:ffff::1": true, "fd12:3456::1": true,
		"2001:db8:1:1::1": false, "2001:db8:2::1": false, "198.51.100.11": true, "198.51.100.12": false})
	err := h.tree.Update(t.Context(), func(b treetest.Batch) error {
		b.Put("node/n2", []byte(`["2001:db8:2::12"]`))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if w := h.ca.Widening("2001:db8:2::12", "198.51.100.12"); w.Flags() !=
		"--permit 2001:db8:2::/64 --permit 198.51.100.12" {
		t.Errorf("the cure is %s", w.Flags())
	}
	if err := h.ca.RotateTo(t.Context(), h.ca.Widening("2001:db8:3::13")); err != nil {
		t.Fatal(err)
	}
	permits("after the rotation", map[string]bool{"2001:db8:1::12": true, "2001:db8:2::1": true,
		"2001:db8:3::1": true, "2001:db8:4::1": false})
}

// What is not permitted says which rotation permits it, and that rotation does.
func TestWidening(t *testing.T) {
	for _, c := range []struct {
		what  string
		edit  func(*Spec, *Config)
		names []string
		flags string
	}{
		{"permitted", nil, []string{"registry.k8s.io"}, ""},
		{"a host", nil, []string{"files.new.example"}, "--permit new.example"},
		{"a zone of two labels", nil, []string{"files.deep.bank.co.uk", "bank.co.uk"}, "--permit bank.co.uk"},
		{"two zones, one permitted", nil, []string{"a.one.example", "quay.io", "b.two.example"},
			"--permit one.example --permit two.example"},
		{"below what holds a public zone", nil, []string{"other.googleapis.com"}, "--permit other.googleapis.com"},
		{"a public suffix", nil, []string{"co.uk"}, "--permit co.uk"},
		{"an address", nil, []string{"203.0.113.77"}, "--permit 203.0.113.77"},
		{"excluded", func(s *Spec, _ *Config) {
			s.Permit, s.Exclude = []string{"corp.example"}, []string{"vault.corp.example"}
		},
			[]string{"a.vault.corp.example"}, "--drop vault.corp.example"},
		{"excluded, and nothing permits it", func(s *Spec, _ *Config) { s.Exclude = []string{"vault.corp.example"} },
			[]string{"a.vault.corp.example"}, "--permit corp.example --drop vault.corp.example"},
		{"an excluded range", func(s *Spec, _ *Config) { s.Exclude = []string{"10.66.0.0/16"} },
			[]string{"10.66.1.1"}, "--permit 10.66.1.1 --drop 10.66.0.0/16"},
	} {
		t.Run(c.what, func(t *testing.T) {
			h := build(t, c.edit)
			g := h.ca.Widening(c.names...)
			if g.Flags() != c.flags {
				t.Fatalf("got %q, want %q", g.Flags(), c.flags)
			}
			if c.flags == "" {
				return
			}
			err := errors.Join(h.ca.Permits(c.names[0]), h.ca.Permits(c.names[len(c.names)-1]))
			if !errors.Is(err, ErrNotPermitted) || !strings.Contains(err.Error(), "casemate ca rotate --") {
				t.Errorf("got %v", err)
			}
			if err := h.ca.RotateTo(t.Context(), g); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.names {
				if err := h.ca.Permits(n); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
