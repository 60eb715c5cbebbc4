package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"casemate/cluster/clustertest"
)

// What an answer says is so at that moment, not a little later.

// Promise 1: when a push is answered its bytes are durable on a majority, however slow the wires are.
func TestPushIsOnAMajorityWhenAnswered(t *testing.T) {
	for _, size := range []int{100, 70_000, 1_400_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, nil)
				for i, n := range cl.Nodes {
					for _, m := range cl.Nodes[i+1:] {
						cl.Net.Slow(n.Name, m.Name, 20*time.Millisecond)
					}
				}
				for i, n := range cl.Nodes {
					digest, err := n.Push(noise(size, uint64(size+i)))
					if err != nil {
						t.Fatal(err)
					}
					durable := 0
					for _, m := range cl.Nodes {
						if info, err := m.FS.Image().Stat(blobFile(digest)); err == nil && info.Size() == int64(size) {
							durable++
						}
					}
					if durable < 2 {
						t.Errorf("a push of %d bytes at %s was answered when %d of 3 disks had it", size, n.Name, durable)
					}
				}
			})
		})
	}
}

// Promise 4: a leader that was deposed and does not know it confirms no miss. Its disk hangs, so raft's own goroutine does
// not notice that nobody answers it any more.
func TestDeposedLeaderConfirmsNoMiss(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		leader, rest := cl.Leader(), cl.Followers()
		cl.Wait(func() error {
			if _, _, sure, _ := leader.C.Tree().Look("nothing"); !sure {
				return errors.New("the leader confirms no miss at first")
			}
			return nil
		})
		answers := sync.OnceFunc(leader.FS.Hang())
		defer answers()
		written := make(chan error, 1)
		go func() { written <- leader.Put("waits", "for the disk") }()
		time.Sleep(20 * time.Millisecond)
		cl.Net.Cut([]string{leader.Name}, otherNames(cl, leader))
		begun := time.Now()
		cl.Wait(func() error { return rest[0].Put("elsewhere", "written") })
		if took := time.Since(begun); took > 1500*time.Millisecond {
			t.Fatalf("another leader came after %s only: the one before knows by then that its disk hangs", took)
		}
		if value, _, sure, err := leader.C.Tree().Look("elsewhere"); sure || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the deposed leader says %q, %v, and confirms it: %v", value, err, sure)
		}
		answers()
		<-written
	})
}

// Promise 4: a new leader confirms no miss before it has applied what the one before had acknowledged.
func TestNewLeaderConfirmsNoMissTooSoon(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		leader, rest := cl.Leader(), cl.Followers()
		for i, n := range cl.Nodes {
			for _, m := range cl.Nodes[i+1:] {
				cl.Net.Slow(n.Name, m.Name, 30*time.Millisecond)
			}
		}
		before := leader.C.Index()
		written := make(chan error, 1)
		go func() { written <- leader.Put("a", "b") }()
		for leader.C.Index() == before {
			time.Sleep(100 * time.Microsecond)
		}
		// It is committed, and the others have not been told so.
		cl.Net.Cut([]string{leader.Name}, otherNames(cl, leader))
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		index := leader.C.Index()
		for _, n := range rest {
			if n.C.Index() >= index {
				t.Skip("they have been told already")
			}
		}
		// Both are asked until one answers, which is the new leader.
		ctx, over := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		var answered atomic.Bool
		for _, n := range rest {
			asking.Go(func() {
				for ctx.Err() == nil {
					got, err := n.C.LeaderIndex(ctx)
					if err == nil && !answered.Swap(true) && got < index {
						t.Errorf("%s would confirm misses as of entry %d, and entry %d is acknowledged", n.Name, got, index)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		cl.Wait(func() error {
			if !answered.Load() {
				return errors.New("no new leader answers")
			}
			return nil
		})
		over()
		asking.Wait()
		cl.Net.Heal()
	})
}

// Promise 7: what a node shows when it starts alone was committed; it shows nothing that only its own log has.
func TestUncommittedIsNotShown(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		leader, rest := cl.Leader(), cl.Followers()
		cl.Wait(func() error { return leader.Put("a", "all have it") })
		same(cl)
		cl.Net.Cut([]string{leader.Name}, otherNames(cl, leader))
		if err := leader.Put("a", "one has it"); err == nil {
			t.Fatal("a write without a majority is acknowledged")
		}
		time.Sleep(time.Second)
		leader.Stop()
		leader.Start()
		if got, err := leader.C.Tree().ReadFile("a"); string(got) != "all have it" {
			t.Errorf("alone it shows %q, %v", got, err)
		}
		cl.Wait(func() error { return rest[0].Put("b", "of the others") })
		cl.Net.Heal()
		cl.WaitVoters(3)
		same(cl)
		if got, _ := leader.C.Tree().ReadFile("a"); string(got) != "all have it" {
			t.Errorf("in the end it is %q", got)
		}
	})
}

// Promise 7: the mark is a lower bound of what is committed, also while more is on its way.
func TestMarkIsNotAboveTheCommit(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		for i, n := range cl.Nodes {
			for _, m := range cl.Nodes[i+1:] {
				cl.Net.Slow(n.Name, m.Name, 5*time.Millisecond)
			}
		}
		var writing sync.WaitGroup
		for i := range 8 {
			writing.Go(func() {
				for j := range 10 {
					cl.Nodes[i%3].Put(fmt.Sprintf("w%d/%d", i, j), "x")
					time.Sleep(time.Duration(i) * time.Millisecond)
				}
			})
		}
		over := make(chan struct{})
		go func() { writing.Wait(); close(over) }()
		for {
			select {
			case <-over:
				return
			case <-time.After(200 * time.Microsecond):
			}
			for _, n := range cl.Nodes {
				marked := n.C.Marked()
				if committed := n.C.Committed(); marked > committed {
					t.Fatalf("%s has marked entry %d, and knows %d to be committed", n.Name, marked, committed)
				}
			}
		}
	})
}
