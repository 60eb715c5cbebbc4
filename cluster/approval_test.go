package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
	"casemate/cluster/tree"
)

func by(t testing.TB, name string) context.Context {
	return tree.WithActor(t.Context(), tree.Actor{Name: name, How: "password"})
}

func approve(t testing.TB, n *clustertest.Node, who, id, diff string) error {
	return n.C.Tree().Update(by(t, who), func(b cluster.Batch) error {
		cluster.Approve(b, id, diff)
		return nil
	})
}

// A batch that one node holds is approved at another, after the leader was lost: once, by somebody else, and by no
// other way. It is larger than one log entry.
func TestApprovalAfterTheLeaderIsLost(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		leader, other := cl.Leader(), cl.Followers()[0]
		digest, err := leader.Push([]byte("bytes"))
		if err != nil {
			t.Fatal(err)
		}
		requires := func(b cluster.Batch) error { cluster.RequireApproval(b, true); b.Put("pending", nil); return nil }
		if err := leader.C.Tree().Update(t.Context(), requires); err != nil {
			t.Fatal(err)
		}
		h := cluster.Held{Claim: "one", Content: "sha256:1", Until: time.Now().Add(time.Hour)}
		const names = 9000 // more than one entry has
		err = leader.C.Tree().Hold(by(t, "alice"), h, func(b cluster.Batch) error {
			own := cluster.As(b, "one")
			own.Link("bytes", digest)
			for i := range names {
				own.Put(fmt.Sprintf("names/%d", i), nil)
			}
			return nil
		}, func(b cluster.Batch) error { b.Remove("pending"); return nil })
		if err != nil {
			t.Fatal(err)
		}
		var held []cluster.Held
		cl.Wait(func() error {
			if held = other.C.Tree().Held(); len(held) != 1 {
				return fmt.Errorf("%v is held", held)
			}
			return nil
		})
		if h := held[0]; h.Maker != "alice" || h.Claim != "one" || h.Edits != names+1 {
			t.Errorf("%+v", h)
		}
		id := held[0].ID
		diff, _, ok := other.C.Tree().HeldEffect(id)
		if !ok {
			t.Fatal("no effect")
		}
		leader.PowerCut()
		for what, err := range map[string]error{
			"by the maker, at another node": approve(t, other, "alice", id, diff),
			"by the node itself": other.C.Tree().Update(t.Context(), func(b cluster.Batch) error {
				cluster.Approve(b, id, diff)
				return nil
			}),
			"beside it": other.C.Tree().As("one").Update(by(t, "bob"), func(b cluster.Batch) error {
				b.Link("bytes", digest)
				return nil
			}),
		} {
			if !errors.Is(err, cluster.ErrApproval) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := approve(t, other, "bob", id, diff); err != nil {
			t.Fatal(err)
		}
		if err := approve(t, other, "carol", id, diff); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a second approval: %v", err)
		}
		leader.Start()
		cl.WaitVoters(3)
		for _, n := range cl.Nodes {
			cl.Wait(func() error {
				if _, err := n.C.Tree().ReadFile(fmt.Sprintf("names/%d", names-1)); err != nil {
					return err
				}
				got, err := n.C.Tree().ReadFile("bytes")
				if err == nil && (string(got) != "bytes" || len(n.C.Tree().Held()) != 0) {
					err = fmt.Errorf("%q, %v is held", got, n.C.Tree().Held())
				}
				return err
			})
		}
	})
}

// A held batch that is larger than one log entry is released whole, and once; not while approvals are required.
func TestRelease(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		n := cl.Leader()
		tr := n.C.Tree()
		const names = 9000 // more than one entry has
		h := cluster.Held{Claim: "one", Content: "sha256:1", Until: time.Now().Add(time.Hour)}
		err := tr.Hold(by(t, "alice"), h, func(b cluster.Batch) error {
			for i := range names {
				cluster.As(b, "one").Put(fmt.Sprintf("names/%d", i), []byte("held"))
			}
			return nil
		}, func(b cluster.Batch) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		require := func(on bool) {
			t.Helper()
			if err := tr.Update(t.Context(), func(b cluster.Batch) error {
				cluster.RequireApproval(b, on)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		release := func() error {
			return tr.Update(by(t, "alice"), func(b cluster.Batch) error {
				cluster.Release(b, tr.Held()[0].ID)
				cluster.As(b, "one").Put("names/0", []byte("replaced"))
				return nil
			})
		}
		require(true)
		if err := release(); !errors.Is(err, cluster.ErrApproval) {
			t.Errorf("released where an approval is required: %v", err)
		}
		if list, err := tr.ReadDir("names"); !errors.Is(err, fs.ErrNotExist) || len(tr.Held()) != 1 {
			t.Errorf("%d names, %v", len(list), err)
		}
		require(false)
		id := tr.Held()[0].ID
		if err := release(); err != nil {
			t.Fatal(err)
		}
		list, err := tr.ReadDir("names")
		data, rerr := tr.ReadFile("names/0")
		if err != nil || rerr != nil || len(list) != names || string(data) != "replaced" || len(tr.Held()) != 0 {
			t.Errorf("%d names, %v; %q, %v; %v", len(list), err, data, rerr, tr.Held())
		}
		again := func(b cluster.Batch) error { cluster.Release(b, id); return nil }
		if err := tr.Update(by(t, "alice"), again); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("twice: %v", err)
		}
	})
}
