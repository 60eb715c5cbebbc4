package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"casemate/cluster/clustertest"
)

// A disk that comes back as it was before: operators revert snapshots of virtual machines. What is acknowledged after it
// has happened, on the node itself and on the others.

// puts writes records at a node and returns what was acknowledged.
func puts(t *testing.T, n *clustertest.Node, kind string, count int) map[string]string {
	t.Helper()
	done := map[string]string{}
	for i := range count {
		key, value := fmt.Sprintf("%s/%d", kind, i), fmt.Sprintf("%s %d of %s", kind, i, n.Name)
		clustertest.Wait(t, func() error { return n.Put(key, value) })
		done[key] = value
	}
	return done
}

// shows compares what nodes have with what was acknowledged.
func shows(t *testing.T, cl *clustertest.Cluster, nodes []*clustertest.Node, want map[string]string) {
	t.Helper()
	cl.Wait(func() error {
		for _, n := range nodes {
			for key, value := range want {
				if got, err := n.C.Tree().ReadFile(key); err != nil || string(got) != value {
					return fmt.Errorf("%s has %q for %s, %v; it was acknowledged as %q", n.Name, got, key, err, value)
				}
			}
		}
		return nil
	})
}

// What a node that came back older acknowledges is there, on all of them: whether its clock goes on, came back with the
// disk, or the memory came back too.
func TestRevertedNodeNamesItsCommandsAnew(t *testing.T) {
	for _, what := range []string{"the clock goes on", "the clock too", "the memory"} {
		t.Run(what, func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, nil)
				n := cl.Followers()[0]
				begun := time.Now()
				disk := n.FS.Image()
				if what != "the memory" {
					n.Stop() // so that the start after the revert is counted as this one was
					n.Start()
					cl.WaitVoters(3)
				}
				want := puts(t, n, "before", 12)
				switch what {
				case "the clock too":
					n.SetForward(time.Until(begun))
					fallthrough
				case "the clock goes on":
					n.Revert(disk)
					n.Start()
					cl.WaitVoters(3)
				default:
					n.C.ForgetNames()
				}
				for key, value := range puts(t, n, "after", 20) {
					want[key] = value
				}
				shows(t, cl, cl.Nodes, want)
			})
		})
	}
}
