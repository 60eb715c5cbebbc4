package cluster_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

// A copied virtual machine: every node, the original and the copy too, says that the node runs twice and where; and
// when one of the two is stopped, nobody says it any more.
func TestClone(t *testing.T) {
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, nodes, nil)
				n := cl.Followers()[0]
				l, err := cl.Net.Listen("copy")
				if err != nil {
					t.Fatal(err)
				}
				cfg := n.Config()
				cfg.FS, cfg.Peer = n.FS.Image(), []net.Listener{l}
				cfg.PeerAddrs, cfg.Dial = []string{clustertest.Addr("copy")}, cl.Net.Dialer("copy")
				twin, err := cluster.Open(cfg)
				if err != nil {
					t.Fatal(err)
				}
				all := func() (list []*cluster.Cluster) {
					for _, m := range cl.Nodes {
						list = append(list, m.C)
					}
					return append(list, twin)
				}
				cl.Wait(func() error {
					for i, c := range all() {
						said := strings.Join(c.Problems(), "\n")
						if !strings.Contains(said, "node "+n.Name+" runs twice") ||
							!strings.Contains(said, "copy:7443") || !strings.Contains(said, n.Name+":7443") {
							return fmt.Errorf("%d says %q", i, said)
						}
					}
					return nil
				})
				if err := twin.Close(); err != nil {
					t.Log(err) // its log may contradict what the others have
				}
				cl.Wait(func() error {
					for _, m := range cl.Nodes {
						if said := strings.Join(m.C.Problems(), "\n"); strings.Contains(said, "runs twice") {
							return fmt.Errorf("%s still says %q", m.Name, said)
						}
					}
					return nil
				})
			})
		})
	}
}

// Restarts, also in quick succession and at another address, are no copies.
func TestRestartIsNoClone(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		n := cl.Followers()[0]
		for i := range 6 {
			if i%2 == 0 {
				n.PowerCut()
			} else {
				n.Stop()
			}
			if i == 4 {
				cl.Net.Move(n.Name, "elsewhere")
			}
			n.Start()
			cl.WaitVoters(3)
			for range 5 {
				time.Sleep(time.Second) // of the bubble
				for _, m := range cl.Nodes {
					if said := strings.Join(m.C.Problems(), "\n"); strings.Contains(said, "runs twice") {
						t.Fatalf("start %d: %s says %q", i, m.Name, said)
					}
				}
			}
		}
	})
}

// Clocks that are apart stand in the member list of both sides, and beyond a bound in status.
func TestClocksOfMembers(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		odd := cl.Followers()[0]
		said := func(n *clustertest.Node) (problems, warnings string) {
			about := func(list []string) string {
				var out []string
				for _, s := range list {
					if strings.Contains(s, "clock") {
						out = append(out, s)
					}
				}
				return strings.Join(out, "\n")
			}
			return about(n.C.Problems()), about(n.C.Warnings())
		}
		total := time.Duration(0)
		for _, c := range []struct {
			ahead        time.Duration
			loud         bool // a problem
			own, foreign string
		}{
			{0, false, "", ""},
			{5 * time.Second, false, "", ""},
			{40 * time.Second, false, "the clock of this node is 40s ahead of the clocks of all other nodes",
				"the clock of node " + odd.Name + " is 40s ahead of this node's"},
			{72 * time.Hour, true, "the clock of this node is 72h0m0s ahead of", "is 72h0m0s ahead of this node's"},
			{-72 * time.Hour, true, "the clock of this node is 72h0m0s behind", "is 72h0m0s behind this node's"},
			{0, false, "", ""},
		} {
			odd.SetForward(c.ahead - total)
			total = c.ahead
			cl.Wait(func() error {
				for _, n := range cl.Nodes {
					want := c.foreign
					if n == odd {
						want = c.own
					}
					problems, warnings := said(n)
					quiet, loud := warnings, problems
					if c.loud {
						quiet, loud = problems, warnings
					}
					if loud != "" || (want == "") != (quiet == "") || !strings.Contains(quiet, want) {
						return fmt.Errorf("%s, %s ahead: problems %q, warnings %q, want %q", n.Name, c.ahead, problems,
							warnings, want)
					}
				}
				return nil
			})
			cl.Wait(func() error {
				for _, m := range cl.Leader().C.Members() {
					want := 0.0
					if m.Node == odd.Name {
						want = c.ahead.Seconds()
					}
					if !m.Self && (m.ClockAhead == nil || *m.ClockAhead < want-1 || *m.ClockAhead > want+1) {
						return fmt.Errorf("clock_ahead_seconds of %s is not %v", m.Node, want)
					}
				}
				return nil
			})
		}
	})
}
