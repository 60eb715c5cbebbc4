package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/blob/blobtest"
	"casemate/cluster/clustertest"
)

// A disk is put back to an older state: operators revert snapshots of virtual machines. Writes that are acknowledged
// afterwards are kept, on the node itself and on the others.

// puts writes records at a node and returns the acknowledged ones.
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

// shows compares the nodes' content with the acknowledged writes.
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

// Writes that a put-back node acknowledges are on all nodes: whether its clock continued, was put back with the disk,
// or the memory was put back too.
func TestRevertedNodeNamesItsCommandsAnew(t *testing.T) {
	for _, what := range []string{"the clock goes on", "the clock too", "the memory", "the memory of a moment ago"} {
		t.Run(what, func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, nil)
				n := cl.Followers()[0]
				begun := time.Now()
				disk := n.FS.Image()
				if !strings.HasPrefix(what, "the memory") {
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
				case "the memory":
					n.C.ForgetNames(0)
				default: // so that the state still remembers what it answered
					n.C.ForgetNames(1)
				}
				for key, value := range puts(t, n, "after", 20) {
					want[key] = value
				}
				shows(t, cl, cl.Nodes, want)
			})
		})
	}
}

func otherNames(cl *clustertest.Cluster, n *clustertest.Node) (names []string) {
	for _, o := range others(cl, n) {
		names = append(names, o.Name)
	}
	return names
}

// majorityReverted is a cluster of three of which n1 has written on, and n2 and n3 were put back to before that. It
// returns what was acknowledged before and after the images were made. n1 runs and is cut off, n2 and n3 are down.
func majorityReverted(t *testing.T) (cl *clustertest.Cluster, before, after map[string]string) {
	t.Helper()
	cl = clustertest.New(t, 3, nil)
	before = puts(t, cl.Nodes[0], "before", 5)
	shows(t, cl, cl.Nodes, before)
	disks := []*blobtest.FS{cl.Nodes[1].FS.Image(), cl.Nodes[2].FS.Image()}
	after = puts(t, cl.Nodes[0], "lost", 10)
	shows(t, cl, cl.Nodes, after)
	cl.Net.Cut([]string{"n1"}, otherNames(cl, cl.Nodes[0]))
	for i, disk := range disks {
		cl.Nodes[i+1].Revert(disk)
	}
	return cl, before, after
}

// A majority that was put back, and is told so by the third node, elects no node without the entries that it had:
// nothing is lost.
func TestRevertedMajorityHearsOfIt(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl, before, after := majorityReverted(t)
		cl.Net.Heal()
		// Each is told before it has the others' votes: n2 and n3 connect to each other only then.
		cl.Net.Cut([]string{"n2"}, []string{"n3"})
		cl.Nodes[1].Start()
		cl.Nodes[2].Start()
		cl.Wait(func() error {
			for _, n := range cl.Nodes[1:] {
				if !slices.ContainsFunc(n.C.Older(), func(o cluster.Older) bool { return o.Node == n.Name }) {
					return fmt.Errorf("%s does not know that it is older", n.Name)
				}
			}
			return nil
		})
		cl.Net.Heal()
		cl.Net.Cut([]string{"n1"}, []string{"n2", "n3"})
		for range 50 {
			time.Sleep(100 * time.Millisecond)
			for _, n := range cl.Nodes[1:] {
				if s := n.C.Status(); s.Role == "leader" {
					t.Fatalf("%s leads, and has %d entries", n.Name, s.LastLog)
				}
			}
		}
		cl.Net.Heal()
		cl.WaitVoters(3)
		shows(t, cl, cl.Nodes, after)
		for key, value := range puts(t, cl.Nodes[1], "then", 3) {
			after[key] = value
		}
		shows(t, cl, cl.Nodes, before)
		shows(t, cl, cl.Nodes, after)
		for _, n := range cl.Nodes {
			cl.Wait(func() error {
				if list := n.C.Warnings(); len(list) != 2 || !strings.Contains(list[0], "node n2 came back") ||
					!strings.Contains(list[1], "node n3 came back") {
					return fmt.Errorf("%s does not say that n2 and n3 came back older: %q", n.Name, list)
				}
				return nil
			})
			if list := n.C.Problems(); len(list) > 0 {
				t.Errorf("%s: %q", n.Name, list)
			}
		}
	})
}

// A majority that came back older and has gone on contradicts what the third node has applied: that node stops, says
// so, and keeps its copy as it is.
func TestRevertedMajorityGoesOn(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl, _, after := majorityReverted(t)
		cl.Nodes[1].Start()
		cl.Nodes[2].Start()
		puts(t, cl.Nodes[1], "then", 3)
		whole := cl.Nodes[0].C.StateBytes()
		cl.Net.Heal()
		cl.Wait(func() error {
			if err := cl.Nodes[0].C.Err(); err == nil ||
				!strings.Contains(err.Error(), "differs from the one that this node has applied") {
				return fmt.Errorf("n1 goes on: %v", err)
			}
			return nil
		})
		cl.Wait(func() error {
			for _, n := range cl.Nodes[1:] {
				if why := n.C.Stopped("n1"); !strings.Contains(why, "differs from the one that this node has applied") {
					return fmt.Errorf("%s does not know why n1 stopped: %q", n.Name, why)
				}
			}
			return nil
		})
		cl.Net.Cut([]string{"n1"}, otherNames(cl, cl.Nodes[0]))
		cl.Nodes[0].Stop()
		cl.Nodes[0].Start()
		shows(t, cl, cl.Nodes[:1], after)
		if !bytes.Equal(whole, cl.Nodes[0].C.StateBytes()) {
			t.Error("the copy of the node that stopped is not what it was")
		}
	})
}

// forge starts a node with a log that is not the others', and whose checksums are right.
func forge(t *testing.T, n *clustertest.Node) {
	t.Helper()
	clustertest.Wait(t, func() error { return n.Put("forged", "what all have") })
	n.Stop()
	if err := cluster.Forge(n.Config(), "what all have", "what one has!"); err != nil {
		t.Fatal(err)
	}
	n.Start()
}

// If the terms happen to be equal, raft detects no contradiction, so the nodes compare their applied entries. Both
// report it.
func TestDifferentStatesAreTold(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		want := puts(t, cl.Nodes[0], "before", 5)
		shows(t, cl, cl.Nodes, want)
		n := cl.Followers()[0]
		forge(t, n)
		cl.Wait(func() error {
			for _, m := range cl.Nodes {
				var about []string
				for _, d := range m.C.Differences() {
					about = append(about, d.Node)
				}
				want := []string{n.Name}
				if m == n {
					want = otherNames(cl, n)
				}
				if !slices.Equal(about, want) {
					return fmt.Errorf("%s says that it differs from %v, not from %v", m.Name, about, want)
				}
			}
			return nil
		})
		for _, m := range cl.Nodes {
			for _, p := range m.C.Problems() {
				if !strings.Contains(p, "hold different content") || !strings.Contains(p, "Nodes that differ") {
					t.Errorf("%s: %s", m.Name, p)
				}
				if m != n && !strings.Contains(p, "the copy of "+n.Name+" is wrong") {
					t.Errorf("%s does not say which copy is wrong: %s", m.Name, p)
				}
			}
		}
	})
}

// A cluster of an older format has no sums, and nothing is said to differ while it is raised.
func TestNoDifferenceWhileFormatsDiffer(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { cluster.BeginAt(c, 1); cluster.Small(c) })
		quiet := func(when string) {
			t.Helper()
			time.Sleep(time.Second)
			for _, n := range cl.Nodes {
				if list := n.C.Problems(); len(list) > 0 {
					t.Fatalf("%s, %s: %q", when, n.Name, list)
				}
			}
		}
		want := puts(t, cl.Nodes[0], "before", 60)
		quiet("before")
		cl.Nodes[2].Stop()
		for key, value := range puts(t, cl.Nodes[0], "while", 100) {
			want[key] = value
		}
		cl.Wait(func() error { return cl.Leader().C.RaiseFormat(t.Context(), 2) })
		for key, value := range puts(t, cl.Nodes[1], "after", 100) {
			want[key] = value
		}
		cl.Nodes[2].Start() // by a snapshot, which carries the sum
		cl.WaitVoters(3)
		shows(t, cl, cl.Nodes, want)
		quiet("after")
		forge(t, cl.Nodes[1])
		cl.Wait(func() error {
			if len(cl.Nodes[2].C.Differences()) != 1 {
				return errors.New("no difference is seen after the format was raised")
			}
			return nil
		})
	})
}

// Parts of a data directory that come back older, alone: the node notices or repairs it, and has everything in the end.
func TestRevertedParts(t *testing.T) {
	for part, notice := range map[string]string{
		"blobs":       "blobs that this node had were not on its disk when it started",
		"snapshots":   "",
		"node.crt":    "",
		"sealing.key": "", // of before a removal, after which everything was sealed anew
		"raft":        "came back",
	} {
		t.Run(part, func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 4, cluster.Small)
				want := puts(t, cl.Nodes[0], "before", 5)
				held(t, cl.Nodes[0])
				whole := func() {
					t.Helper()
					cl.Wait(func() error {
						for _, n := range cl.Nodes {
							if n.C != nil && n.C.Missing() != 0 {
								return fmt.Errorf("%s is missing %d blobs", n.Name, n.C.Missing())
							}
						}
						return nil
					})
				}
				whole()
				n := cl.Nodes[2]
				disk := n.FS.Image()
				time.Sleep(11 * time.Second) // it is written down now and then that all blobs are here
				cl.Nodes[3].Stop()
				cl.Wait(func() error { return cl.Nodes[0].C.RemoveMember(t.Context(), "n4", true) })
				cl.Nodes = cl.Nodes[:3]
				var digest string
				cl.Wait(func() (err error) { digest, err = cl.Nodes[0].Push(noise(70_000, 9)); return err })
				cl.Wait(func() error { return cl.Nodes[0].Link("new", digest) })
				for key, value := range puts(t, cl.Nodes[0], "after", 3) {
					want[key] = value
				}
				whole()
				time.Sleep(11 * time.Second)
				cl.Wait(func() error { return cl.Nodes[0].Put("tick", "") })
				sealed, err := cl.Nodes[0].C.Seal([]byte("secret"))
				if err != nil {
					t.Fatal(err)
				}
				n.Stop()
				if err := n.FS.Replace("/data/casemate/"+part, disk); err != nil {
					t.Fatal(err)
				}
				n.Start()
				cl.WaitVoters(3)
				shows(t, cl, cl.Nodes, want)
				whole()
				same(cl)
				if plain, err := n.C.Unseal(sealed); err != nil || string(plain) != "secret" {
					t.Errorf("what is sealed now: %q, %v", plain, err)
				}
				if !n.C.HasFile(digest) {
					t.Error("a blob is not here")
				}
				list := strings.Join(n.C.Warnings(), "\n")
				if (notice == "") != (list == "") || !strings.Contains(list, notice) {
					t.Errorf("it says %q, want %q", list, notice)
				}
				if list := n.C.Problems(); len(list) > 0 {
					t.Errorf("%q", list)
				}
			})
		})
	}
}
