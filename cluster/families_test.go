package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"casemate/cluster/clustertest"
)

// Nodes with an address of each of two families: every address of a node is as good as another.

// families are the hosts of n1, n2 and n3, by family.
var families = [2][]string{{"n1", "n2", "n3"}, {"n1-6", "n2-6", "n3-6"}}

// twoFamilies are wires on which each node has a host of both families.
func twoFamilies() *clustertest.Net {
	wires := clustertest.NewNet()
	for i, n := range families[0] {
		wires.Also(n, families[1][i])
	}
	return wires
}

// serve puts a record at each node and waits until all of them show it.
func serve(t *testing.T, cl *clustertest.Cluster, what string) {
	t.Helper()
	want := map[string]string{}
	for _, n := range cl.Nodes {
		key := what + "/" + n.Name
		cl.Wait(func() error { return n.Put(key, what) })
		want[key] = what
	}
	shows(t, cl, cl.Nodes, want)
}

// A cluster comes into being, and writes on each node, where only one family works from the beginning: the first that
// nodes name or the other one.
func TestOneFamilyWorks(t *testing.T) {
	for _, dead := range families {
		t.Run(fmt.Sprintf("without %v", dead), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				wires := twoFamilies()
				wires.Kill(dead...)
				cl := clustertest.NewOn(t, wires, 3, nil)
				serve(t, cl, "alive")
				for _, n := range cl.Nodes {
					for _, m := range n.C.Members() {
						want := []string{m.Node + ":7443", m.Node + "-6:7443"}
						if !slices.Equal(m.Addrs, want) || m.Addr != want[0] {
							t.Errorf("%s finds %s at %v (first %s), want %v", n.Name, m.Node, m.Addrs, m.Addr, want)
						}
					}
				}
			})
		})
	}
}

// A follower that starts while a family is dead does not know which: it is there soon, and nobody else is elected.
func TestDeadFamilyElectsNobody(t *testing.T) {
	for _, dead := range families {
		t.Run(fmt.Sprintf("without %v", dead), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				wires := twoFamilies()
				wires.Kill(dead...)
				cl := clustertest.NewOn(t, wires, 3, nil)
				leader, term := cl.Leader(), cl.Leader().C.Status().Term
				for _, n := range cl.Followers() {
					n.Stop()
					began := time.Now()
					n.Start()
					cl.WaitVoters(3)
					if d := time.Since(began); d > 2*time.Second {
						t.Errorf("%s was back after %s", n.Name, d)
					}
				}
				serve(t, cl, "back")
				if now := cl.Leader(); now != leader || now.C.Status().Term != term {
					t.Errorf("%s leads in term %d, it was %s in term %d", now.Name, now.C.Status().Term, leader.Name,
						term)
				}
			})
		})
	}
}

// The family that all connections use dies without a word, and later the other one while the first is back: each time
// the nodes are together again, as after the loss of a leader.
func TestFamilyDies(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.NewOn(t, twoFamilies(), 3, nil)
		serve(t, cl, "before")
		for round, dead := range [][]string{families[0], families[1], families[0]} {
			cl.Net.Heal()
			cl.Net.Kill(dead...)
			began := time.Now()
			cl.Wait(func() error { return cl.Nodes[0].Put("during", fmt.Sprint(round)) })
			cl.WaitVoters(3)
			d := time.Since(began)
			t.Logf("without %v: whole after %s", dead, d)
			// Votes may split several times; only a connection that is given up as stalled takes longer than that.
			if d > 10*time.Second {
				t.Errorf("without %v the nodes were together again after %s", dead, d)
			}
			serve(t, cl, fmt.Sprint("round", round))
		}
	})
}

// A node gets a further address, or loses its first: the others learn all that it has, through the one that they know.
func TestAddressesAreLearnt(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		n := cl.Followers()[0]
		n.Stop()
		cl.Net.Also(n.Name, "further", "other")
		n.Start()
		learnt := func(want ...string) {
			t.Helper()
			cl.Wait(func() error {
				for _, by := range cl.Nodes {
					for _, m := range by.C.Members() {
						if m.Node == n.Name && !slices.Equal(m.Addrs, want) {
							return fmt.Errorf("%s finds %s at %v, want %v", by.Name, n.Name, m.Addrs, want)
						}
					}
				}
				return nil
			})
		}
		learnt(n.Name+":7443", "further:7443", "other:7443")
		cl.Net.Kill(n.Name, "other")
		cl.WaitVoters(3)
		n.Stop()
		cl.Net.Move(n.Name, "moved")
		cl.Net.Also(n.Name)
		n.Start()
		learnt("moved:7443")
		serve(t, cl, "after")
	})
}
