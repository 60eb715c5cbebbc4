package cluster_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
	"casemate/cluster/wake"
)

// TestMissOfAFollower: a follower that asks the leader about a miss is, with the leader, a majority of three voters, so
// the leader asks no other node. Of five it is not. (In a bubble time passes only while all goroutines wait.)
func TestMissOfAFollower(t *testing.T) {
	for _, c := range []struct {
		nodes int
		asks  bool
	}{{2, false}, {3, false}, {5, true}} {
		t.Run(fmt.Sprintf("%d nodes", c.nodes), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) { missOfAFollower(t, c.nodes, c.asks) })
		})
	}
}

func missOfAFollower(t *testing.T, nodes int, wanted bool) {
	var mu sync.Mutex
	written := map[string]int{} // writes to connections that the node has dialed
	cl := clustertest.New(t, nodes, func(cfg *cluster.Config) {
		dial, node := cfg.Dial, cfg.Node
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := dial(ctx, addr)
			if err != nil {
				return nil, err
			}
			return noting{conn, func(int) {
				mu.Lock()
				defer mu.Unlock()
				written[node]++
			}}, nil
		}
	})
	leader, asker := cl.Leader(), cl.Followers()[0]
	writes := func() int {
		mu.Lock()
		defer mu.Unlock()
		return written[leader.Name]
	}
	miss := func() {
		t.Helper()
		if _, _, sure, err := asker.C.Tree().Look("nowhere"); err == nil || !sure {
			t.Fatalf("a miss is %v, confirmed %v", err, sure)
		}
	}
	miss() // the leader's barrier, once in a term
	for range 3 {
		time.Sleep(time.Second)
		// between two heartbeats
		time.Sleep(wake.Within(200*time.Millisecond) + 50*time.Millisecond)
		before := writes()
		miss()
		if asks := writes() > before; asks != wanted {
			t.Errorf("the leader has asked others: %v", asks)
		}
	}
	// What the leader has acknowledged is no miss.
	if err := leader.Put("here", "x"); err != nil {
		t.Fatal(err)
	}
	if v, _, _, err := asker.C.Tree().Look("here"); err != nil || v != "x" {
		t.Errorf("what was acknowledged is %q, %v", v, err)
	}
}

// TestMissOfAnotherTerm: a question of a node that was in another term confirms nothing, nor does one of a node that
// does not vote, so the leader asks a majority, and has none.
func TestMissOfAnotherTerm(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		leader, asker := cl.Leader(), cl.Followers()[0].Name
		term := leader.C.Term()
		if err := leader.C.ConfirmFor(asker, term); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name, asker string
			term        uint64
			confirmed   bool
		}{
			{"its term", asker, term, true},
			{"the term before", asker, term - 1, false},
			{"a later term", asker, term + 1, false},
			{"an earlier version", asker, 0, false},
			{"no voter", "n9", term, false},
			{"the leader itself", leader.Name, term, false},
		} {
			followers := cl.Followers()
			off := func(off bool) {
				for _, n := range followers {
					cl.Net.Off(n.Name, off)
				}
			}
			off(true)
			if err := leader.C.ConfirmFor(c.asker, c.term); (err == nil) != c.confirmed {
				t.Errorf("%s: %v", c.name, err)
			}
			off(false) // before the leader's lease ends
			time.Sleep(time.Second)
			if now := leader.C.Term(); now != term {
				t.Fatalf("%s: the term is %d, was %d", c.name, now, term)
			}
		}
	})
}
