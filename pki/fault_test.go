package pki

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"casemate/cluster/treetest"
)

var errFault = errors.New("injected")

// Faults come in pairs: it failed; it failed but happened. In both, the CA's state is that of the tree afterwards, and
// a repetition succeeds.
func TestFaults(t *testing.T) {
	type act struct {
		what string
		do   func(h *house) error
		// done says whether the goal is reached.
		done func(h *house) bool
		// before prepares.
		before func(h *house) error
	}
	var serial string
	acts := []act{
		{what: "rotate", do: func(h *house) error { return h.ca.Rotate(h.t.Context()) }, done: func(h *house) bool {
			return bytes.Count(h.ca.Roots(), []byte("BEGIN")) == 2
		}},
		{
			what: "finish", before: func(h *house) error { return h.ca.Rotate(h.t.Context()) },
			do:   func(h *house) error { return h.ca.FinishRotation(h.t.Context()) },
			done: func(h *house) bool { return bytes.Count(h.ca.Roots(), []byte("BEGIN")) == 1 },
		},
		{
			what: "renew the intermediate", before: func(h *house) error { h.clock.add(250 * day); return nil },
			do:   func(h *house) error { return h.ca.renewIssuer(h.t.Context()) },
			done: func(h *house) bool { return h.ca.issuerDue(h.snapshot()) == "" },
		},
		{
			what: "issue", do: func(h *house) error {
				_, err := h.ca.Issue(h.t.Context(), Request{Names: []string{"a.casemate.internal"}})
				return err
			},
			done: func(h *house) bool { list, err := h.ca.List(); return err == nil && len(list) == 1 },
		},
		{
			what: "issue with a new intermediate", do: func(h *house) error {
				_, err := h.ca.Issue(h.t.Context(), Request{Names: []string{"10.7.7.7"}})
				return err
			},
			done: func(h *house) bool {
				list, err := h.ca.List()
				return err == nil && len(list) == 1 && list[0].Issuer != h.snapshot().issuer.id
			},
		},
		{
			what: "revoke", before: func(h *house) error {
				got, err := h.ca.Issue(h.t.Context(), Request{Names: []string{"a.casemate.internal"}})
				serial = got.Serial
				return err
			},
			do:   func(h *house) error { return h.ca.Revoke(h.t.Context(), serial) },
			done: func(h *house) bool { list, err := h.ca.List(); return err == nil && !list[0].Revoked.IsZero() },
		},
		{
			what: "enterprise", do: func(h *house) error {
				chain, key := enterprise(h.t, nil)
				return h.ca.UseEnterprise(h.t.Context(), chain, key)
			},
			done: func(h *house) bool { return h.snapshot().root.ref.Enterprise },
		},
		{
			what: "forget a node", before: func(h *house) error {
				return h.tree.Update(h.t.Context(), func(b treetest.Batch) error {
					b.Put("node/n9", []byte(`["10.0.0.9"]`))
					return nil
				})
			},
			do:   func(h *house) error { return h.ca.ForgetNode(h.t.Context(), "n9") },
			done: func(h *house) bool { _, err := h.tree.Stat("node/n9"); return err != nil },
		},
	}
	for _, a := range acts {
		for _, happened := range []bool{false, true} {
			t.Run(a.what+map[bool]string{false: " failed", true: " failed but happened"}[happened], func(t *testing.T) {
				h := build(t, nil)
				if a.before != nil {
					if err := a.before(h); err != nil {
						t.Fatal(err)
					}
				}
				shots := 1
				h.tree.Fail = func(string) (error, bool) {
					if shots == 0 {
						return nil, true
					}
					shots--
					return errFault, happened
				}
				err := a.do(h)
				if shots != 0 {
					t.Fatal("nothing was written")
				}
				if happened && err != nil {
					t.Errorf("it happened, but is said to have failed: %v", err)
				}
				if !happened && !errors.Is(err, errFault) {
					t.Errorf("got %v, want the fault", err)
				}
				if a.done(h) != happened {
					t.Errorf("done: %v, want %v", !happened, happened)
				}
				if err := a.do(h); !happened && err != nil {
					t.Errorf("again: %v", err)
				}
				if !a.done(h) {
					if list, err := h.ca.List(); len(list) != 2 || err != nil { // a second try issues a second one
						t.Error("trying again does not lead to the goal")
					}
				}
				if !h.snapshot().root.ref.Enterprise {
					if _, err := h.handshake(h.ca.Roots(), "docker.io"); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

func TestInitFaults(t *testing.T) {
	for _, happened := range []bool{false, true} {
		tree := treetest.New(t)
		tree.Fail = func(string) (error, bool) { return errFault, happened }
		err := Init(t.Context(), tree, newSealer(t), testSpec(newClock()), enabled)
		if happened && err != nil || !happened && !errors.Is(err, errFault) {
			t.Errorf("happened %v: got %v", happened, err)
		}
		tree.Fail = nil
		if !happened {
			if err := Init(t.Context(), tree, newSealer(t), testSpec(newClock()), enabled); err != nil {
				t.Error(err)
			}
		}
	}
}

// A batch that failed but happened leaves the CA following the tree, and the caller's next Constrain sees it.
func TestConstrainFailedButHappened(t *testing.T) {
	h := build(t, nil)
	write, err := h.ca.Constrain([]string{"quay.io"})
	if err != nil {
		t.Fatal(err)
	}
	h.tree.Fail = func(string) (error, bool) { return errFault, true }
	if err := h.tree.Update(t.Context(), write); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	h.tree.Fail = nil
	if h.snapshot().issuer.allows("quay.io") != nil {
		t.Error("the CA does not follow the tree")
	}
	if write, err = h.ca.Constrain([]string{"quay.io"}); err != nil {
		t.Fatal(err)
	}
	if err := h.tree.Update(t.Context(), write); err != nil {
		t.Error(err)
	}
}

// Damage in the tree is a sentence that names the record, and never a panic.
func TestDamagedRecords(t *testing.T) {
	h := build(t, nil)
	records := all(t, h.tree)
	h.ca.Close()
	for name, data := range records {
		if strings.HasPrefix(name, "node/") || strings.HasPrefix(name, "crl/") || strings.Contains(name, "/crl/") {
			continue // not needed to sign
		}
		for what, bad := range map[string][]byte{"cut": data[:len(data)/2],
			"flipped": append(append([]byte{}, data[:len(data)/2]...), ^data[len(data)/2])} {
			tree := treetest.New(t)
			err := tree.Update(t.Context(), func(b treetest.Batch) error {
				for n, d := range records {
					b.Put(n, d)
				}
				b.Put(name, bad)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			cfg := h.cfg
			cfg.Tree = tree
			ca, err := Open(t.Context(), cfg)
			if err == nil {
				// The root's key is read only when it signs.
				_, err = ca.Constrain([]string{"quay.io"})
				ca.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "pki/") {
				t.Errorf("%s %s: got %v", name, what, err)
			}
		}
	}
	// A key in the wrong place is noticed, whatever the sealer binds.
	tree := treetest.New(t)
	err := tree.Update(t.Context(), func(b treetest.Batch) error {
		for n, d := range records {
			if strings.HasPrefix(n, "issuer/") && strings.HasSuffix(n, "/key") {
				for other, key := range records {
					if strings.HasPrefix(other, "root/") && strings.HasSuffix(other, "/key") {
						d = key
					}
				}
			}
			b.Put(n, d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := h.cfg
	cfg.Tree = tree
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("got %v", err)
	}
}

// A cluster key that is another one is a sentence.
func TestWrongSealer(t *testing.T) {
	h := build(t, nil)
	cfg := h.cfg
	cfg.Sealer = brokenSealer{}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, errFault) ||
		!strings.Contains(err.Error(), "is this the cluster's key?") {
		t.Errorf("got %v", err)
	}
	if err := Init(t.Context(), treetest.New(t), brokenSealer{}, testSpec(h.clock), nil); !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
}

type brokenSealer struct{}

func (brokenSealer) Seal([]byte) ([]byte, error)   { return nil, errFault }
func (brokenSealer) Unseal([]byte) ([]byte, error) { return nil, errFault }
