package cluster_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

// Nodes whose addresses change: they find each other again.

// recorded waits until the nodes' records say where they are.
func recorded(cl *clustertest.Cluster) {
	cl.T.Helper()
	cl.WaitVoters(len(cl.Nodes))
	cl.Wait(func() error {
		for _, n := range cl.Nodes {
			for _, m := range n.C.Members() {
				if want := cl.Net.AddrOf(m.Node); m.Addr != want {
					return fmt.Errorf("%s finds %s at %s in its record, it is at %s", n.Name, m.Node, m.Addr, want)
				}
			}
		}
		return nil
	})
}

// One or two of three move, the leader among them or not: those that do not are told where the others are.
func TestSomeAddressesChange(t *testing.T) {
	for _, who := range []string{"a follower", "the leader", "both followers", "the leader and a follower"} {
		t.Run(who, func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, nil)
				want := puts(t, cl.Nodes[0], "before", 3)
				leader, rest := cl.Leader(), cl.Followers()
				move := map[string][]*clustertest.Node{
					"a follower": rest[:1], "the leader": {
						leader}, "both followers": rest, "the leader and a follower": {leader, rest[0]},
				}[who]
				for _, n := range move {
					n.Stop()
				}
				for i, n := range move {
					cl.Net.Move(n.Name, fmt.Sprintf("host%d", i))
					n.Start()
				}
				recorded(cl)
				for key, value := range puts(t, move[0], "after", 3) {
					want[key] = value
				}
				shows(t, cl, cl.Nodes, want)
			})
		})
	}
}

// All nodes move at once: no node finds another until each is told one address; that still works after a restart.
func TestAllAddressesChange(t *testing.T) {
	for _, how := range []string{"told", "told and restarted", "by the config", "by name"} {
		t.Run(how, func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				peers := map[string]string{}
				cl := clustertest.New(t, 3, func(c *cluster.Config) { c.Peers = peers })
				want := puts(t, cl.Nodes[0], "before", 3)
				shows(t, cl, cl.Nodes, want)
				// the records then have addresses that are no longer valid, and the names lead to the nodes
				if how == "by name" {
					for _, n := range cl.Nodes {
						n.Stop()
						cl.Net.Move(n.Name, "gone-"+n.Name)
						n.FS.Remove("/data/casemate/seed.json") // which says where the others were when it joined
						n.Start()
						recorded(cl)
					}
				}
				for _, n := range cl.Nodes {
					n.Stop()
				}
				for _, n := range cl.Nodes {
					cl.Net.Move(n.Name, "new-"+n.Name)
					if how == "by name" {
						cl.Net.Move(n.Name, n.Name)
					}
					if how == "by the config" {
						peers[n.Name] = cl.Net.AddrOf(n.Name)
					}
				}
				for _, n := range cl.Nodes {
					n.Start()
				}
				if strings.HasPrefix(how, "told") {
					if err := cl.Nodes[0].Put("x", "y"); err == nil {
						t.Fatal("they find each other without being told")
					}
					for i, n := range cl.Nodes {
						next := cl.Nodes[(i+1)%len(cl.Nodes)]
						if err := n.C.TellAddress(next.Name, cl.Net.AddrOf(next.Name)); err != nil {
							t.Fatal(err)
						}
					}
				}
				if how == "told and restarted" {
					for _, n := range cl.Nodes {
						n.Stop()
					}
					for _, n := range cl.Nodes {
						n.Start()
					}
				}
				recorded(cl)
				shows(t, cl, cl.Nodes, want)
				cl.Wait(func() error { return cl.Nodes[2].Put("after", "x") })
			})
		})
	}
}

func TestTellAddressRefusals(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		c := clustertest.New(t, 2, nil).Nodes[0].C
		for _, tt := range []struct {
			node, addr, want string
			is               error
		}{
			{"n2", "10.0.0.12", "must be host:port", fs.ErrInvalid},
			{"n2", ":7443", "must be host:port", fs.ErrInvalid},
			{"n2", "a:0", "must be host:port", fs.ErrInvalid},
			{"n2", "a:99999", "must be host:port", fs.ErrInvalid},
			{"n2", strings.Repeat("a", 400) + ":1", "must be host:port", fs.ErrInvalid},
			{"n1", "a:1", "listen.peer", fs.ErrInvalid},
			{"n9", "a:1", "there is no node n9", fs.ErrNotExist},
		} {
			err := c.TellAddress(tt.node, tt.addr)
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s at %.20s: %v", tt.node, tt.addr, err)
			}
		}
	})
}
