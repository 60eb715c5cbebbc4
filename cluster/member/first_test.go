package member

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"casemate/cluster/blob/blobtest"
	"casemate/cluster/disk"
	"casemate/cluster/state"
)

// alone is a tree that one node proposes to, with no log behind it.
type alone struct {
	mu    sync.Mutex
	st    *state.State
	index uint64
}

func (a *alone) View() *state.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.st.Clone()
}

func (a *alone) Propose(_ context.Context, ops ...state.Op) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index++
	cmd := state.Command{Node: "n1", Boot: 1, Seq: a.index, Finished: a.index - 1, Time: time.Now().UnixNano(),
		Ops: ops}
	data, err := cmd.Encode()
	if err != nil {
		return err
	}
	r := a.st.Apply(a.index, data)
	return errors.Join(r.Fatal, r.Err)
}

func (a *alone) Commit(ctx context.Context, ops []state.Op) error { return a.Propose(ctx, ops...) }
func (a *alone) CaughtUp() bool                                   { return true }
func (a *alone) AddLearner(context.Context, string) error         { return nil }
func (a *alone) Voters() (map[string]bool, int)                   { return map[string]bool{"n1": true}, 1 }
func (a *alone) Others() []string                                 { return nil }
func (a *alone) Watch(context.Context, string) <-chan struct{}    { return nil }

// openAlone opens the members of a cluster of one.
func openAlone(t *testing.T) *Members {
	t.Helper()
	f := blobtest.New(1)
	if err := disk.MkdirAll(f, "/data"); err != nil {
		t.Fatal(err)
	}
	ms, err := New(Config{
		Node: "n1", Addrs: []string{"127.0.0.1:1"}, Cluster: "c", Dir: "/data", FS: f,
		Log:      slog.New(slog.DiscardHandler),
		Now:      time.Now,
		CheckCSR: (*x509.CertificateRequest).CheckSignature,
	}, &alone{st: state.New()}, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if err := ms.OpenNode(); err != nil {
		t.Fatal(err)
	}
	return ms
}

// The first caller that needs this node's first certificate makes it, one at a time: `token create` in a node's first
// moment, and the node's own periodic work.
func TestFirstCertificate(t *testing.T) {
	ms := openAlone(t)
	if err := ms.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		ms.node.mu.Lock()
		ms.node.cert = nil
		ms.node.mu.Unlock()
		errs := make(chan error)
		for range 4 {
			go func() { errs <- ms.Renew() }()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if ms.Certificate() == nil {
			t.Fatal("there is no certificate")
		}
	}
}

// A secret that was sealed before a removal opens after it, and a removed node's key opens nothing that is written
// later.
func TestResealKeepsSecrets(t *testing.T) {
	ms := openAlone(t)
	ctx := t.Context()
	if err := ms.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	old, err := newKeyring(ms.keys.Load().raw)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := ms.Seal([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	gone := Record{Addr: "127.0.0.1:2", Key: ms.node.spki}
	put, err := putRecord(MembersDir+"/n2", gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := ms.cluster.Propose(ctx, put, &state.Put{Name: "secrets/x", Data: sealed}); err != nil {
		t.Fatal(err)
	}
	if err := ms.Reseal(ctx, "n2"); err != nil {
		t.Fatal(err)
	}
	e, _ := ms.cluster.View().Get("secrets/x")
	if plain, err := ms.Unseal([]byte(e.Data)); string(plain) != "secret" || err != nil {
		t.Errorf("after the removal: %q, %v", plain, err)
	}
	if _, err := old.unseal([]byte(e.Data)); !errors.Is(err, ErrSealed) {
		t.Errorf("the key of before opens what was sealed anew: %v", err)
	}
	if !ms.Removed("n2") {
		t.Error("the removed node's name is not taken")
	}
	if _, there := ms.Record("n2"); there {
		t.Error("the removed node still has a record")
	}
}
