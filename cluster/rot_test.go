package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

// One bit that flips in an older entry of the log is found when the entry is read, and the entry comes from the others.

// flipInLog inverts a bit of the first entry on a node's disk that has the text, so many bytes behind its beginning.
func flipInLog(t *testing.T, n *clustertest.Node, text string, behind int) {
	t.Helper()
	for _, name := range n.FS.Files() {
		if !strings.HasSuffix(name, ".wal") {
			continue
		}
		f, err := n.FS.OpenFile(name, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(data, []byte(text)); at >= 0 {
			if err := n.FS.Flip(name, int64(at+behind)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("the log of %s has no %q", n.Name, text)
}

// same waits until all nodes have the same state, byte for byte.
func same(cl *clustertest.Cluster) {
	cl.T.Helper()
	cl.Wait(func() error {
		for _, n := range cl.Nodes[1:] {
			if a, b := cl.Nodes[0].C, n.C; !bytes.Equal(a.StateBytes(), b.StateBytes()) {
				return fmt.Errorf("the states of %s and %s differ (%d and %d)", cl.Nodes[0].Name, n.Name, a.Index(),
					b.Index())
			}
		}
		return nil
	})
}

func TestFlippedBitInTheLog(t *testing.T) {
	for _, c := range []struct {
		name   string
		text   string
		behind int
	}{
		{"a record's bytes", "value 3 of", 2}, {"a record's name", "flip/4", 0}, {"the checksum", "sum1", 6},
		{"the newest but one", "value 11 of", 0}, {"a member's record", `"addr"`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, nil)
				n := cl.Followers()[0]
				want := map[string]string{}
				for i := range 12 {
					key, value := fmt.Sprintf("flip/%d", i), fmt.Sprintf("value %d of", i)
					cl.Wait(func() error { return n.Put(key, value) })
					want[key] = value
				}
				cl.Wait(func() error { return n.Put("last", "") })
				n.Stop()
				flipInLog(t, n, c.text, c.behind)
				n.Start()
				cl.WaitVoters(3)
				shows(t, cl, cl.Nodes, want)
				same(cl)
				if list := n.C.Problems(); len(list) > 0 {
					t.Errorf("%q", list)
				}
				n.Stop() // and it stays so
				n.Start()
				cl.WaitVoters(3)
				shows(t, cl, cl.Nodes, want)
			})
		})
	}
}

// A node that has lost the end of its log votes for no node without it, also after a restart: writes that were
// acknowledged with its vote are not lost.
func TestFlippedBitForgetsNoVote(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		cl.Wait(func() error { return cl.Nodes[0].Put("before", "") })
		leader := cl.Leader()
		rest := cl.Followers()
		knows, away := rest[0], rest[1]
		same(cl)
		away.Stop()
		want := puts(t, leader, "flip", 10) // on two of three
		cl.Wait(func() error {
			if _, err := knows.C.Tree().ReadFile("flip/9"); err != nil {
				return err
			}
			return nil
		})
		leader.Stop()
		knows.Stop()
		flipInLog(t, knows, "flip 2 of", 0)
		knows.Start()
		away.Start()
		for range 2 {
			cl.Wait(func() error {
				if err := knows.Put("then", "x"); err == nil || !errors.Is(err, cluster.ErrUnknown) &&
					!strings.Contains(err.Error(), "no majority") {
					return fmt.Errorf("a write succeeded without what was acknowledged, or: %v", err)
				}
				return nil
			})
			knows.Stop()
			knows.Start()
		}
		leader.Start()
		cl.WaitVoters(3)
		shows(t, cl, cl.Nodes, want)
		same(cl)
	})
}

// A leader whose log has rotted gives others a snapshot instead of the entry.
func TestFlippedBitIsNotSpread(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		leader := cl.Leader()
		away := cl.Followers()[0]
		cl.Wait(func() error { return leader.Put("before", "") })
		same(cl)
		away.Stop()
		want := puts(t, leader, "flip", 10)
		flipInLog(t, leader, "flip 5 of", 0)
		away.Start()
		cl.WaitVoters(3)
		shows(t, cl, cl.Nodes, want)
		same(cl)
		if leader.C == nil || leader.C.Err() != nil {
			t.Errorf("the leader stopped: %v", leader.C.Err())
		}
	})
}

// A single node cannot fetch it from another one. Its error says what to do.
func TestFlippedBitOfAnOnlyNode(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		puts(t, cl.Nodes[0], "flip", 5)
		cl.Nodes[0].Stop()
		flipInLog(t, cl.Nodes[0], "flip 3 of", 0)
		err := cl.Nodes[0].TryStart()
		for _, want := range []string{"entry", "has a wrong checksum", "restore a backup", "casemate member remove"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("%q is not in: %v", want, err)
			}
		}
	})
}

// Entries of an earlier version have no checksum, and an earlier version can read those that have one.
func TestLogWithoutChecksums(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		want := puts(t, cl.Nodes[1], "old", 5)
		same(cl)
		for _, n := range cl.Nodes {
			n.Stop()
			if err := cluster.DropChecksums(n.Config()); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range cl.Nodes {
			n.Start()
		}
		cl.WaitVoters(3)
		for key, value := range puts(t, cl.Nodes[2], "new", 5) {
			want[key] = value
		}
		shows(t, cl, cl.Nodes, want)
		same(cl)
	})
}
