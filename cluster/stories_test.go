package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

// All three lose power at once; whichever starts alone still shows the last write that was acknowledged while all were
// connected (promise 7).
func TestAloneAfterPowerCut(t *testing.T) {
	for i := range 3 {
		t.Run(fmt.Sprint("n", i+1), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, nil)
				by := cl.Nodes[(i+1)%3]
				data := noise(10_000, uint64(i))
				digest, err := by.Push(data)
				if err != nil {
					t.Fatal(err)
				}
				if err := by.C.Tree().Update(context.Background(), func(b cluster.Batch) error {
					b.Put("last", []byte("written"))
					b.Link("bytes", digest)
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				cl.PowerCut()
				alone := cl.Nodes[i]
				alone.Start()
				if got, err := alone.C.Tree().ReadFile("last"); err != nil || string(got) != "written" {
					t.Errorf("%s alone shows %q, %v", alone.Name, got, err)
				}
				if _, err := alone.C.Tree().StatBlob(digest); err != nil {
					t.Error(err)
				}
				if err := alone.C.Tree().Update(short(t), func(b cluster.Batch) error {
					b.Put("alone", nil)
					return nil
				}); err == nil {
					t.Error("a node alone takes writes")
				}
			})
		})
	}
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// forget removes a name and makes a node collect the blob that it named.
func forget(cl *clustertest.Cluster, by *clustertest.Node, name string) {
	cl.T.Helper()
	if err := by.C.Tree().Update(context.Background(), func(b cluster.Batch) error {
		b.Remove(name)
		return nil
	}); err != nil {
		cl.T.Fatal(err)
	}
	by.SetForward(2 * time.Hour)
	if _, err := by.C.GC(context.Background(), false); err != nil {
		cl.T.Fatal(err)
	}
}

// wholeEverywhere waits until every node has a name, and its bytes on its own disk.
func wholeEverywhere(cl *clustertest.Cluster, name, digest string) {
	cl.T.Helper()
	cl.Wait(func() error {
		for _, n := range cl.Nodes {
			if got, _, _, err := n.C.Tree().Look(name); err != nil || got != digest {
				return fmt.Errorf("%s: %s is %q, %v", n.Name, name, got, err)
			}
			for _, m := range n.C.Members() {
				if m.Missing != 0 {
					return fmt.Errorf("%s says that %s lacks %d", n.Name, m.Node, m.Missing)
				}
			}
		}
		return nil
	})
	for _, n := range cl.Nodes {
		if r, err := n.C.Scrub(context.Background()); err != nil || r.Faults > 0 || !n.C.HasFile(digest) {
			cl.T.Errorf("%s: a name without bytes: %+v, %v", n.Name, r, err)
		}
	}
}

// Promise 6 with a follower that is behind: it still has the bytes of a blob that the others have collected, and is
// asked to confirm them for a new push. It may then lose its power, be restarted, or go on.
func TestCollectedElsewhere(t *testing.T) {
	for _, then := range []string{"goes on", "restarts", "loses power", "loses power with the pusher"} {
		t.Run(strings.ReplaceAll(then, " ", "-"), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, cluster.Small)
				leader, pusher, behind := cl.Leader(), cl.Followers()[0], cl.Followers()[1]
				data := noise(3000, 7)
				digest, err := pusher.Push(data)
				if err != nil {
					t.Fatal(err)
				}
				if err := pusher.Link("first", digest); err != nil {
					t.Fatal(err)
				}
				wholeEverywhere(cl, "first", digest)
				cl.Net.Cut([]string{leader.Name}, []string{behind.Name})
				forget(cl, pusher, "first")
				if behind.C.HasFile(digest) != behind.C.Knows(digest) {
					t.Fatal("the follower is not behind")
				}
				// The follower that is behind answers first.
				cl.Net.Slow(leader.Name, pusher.Name, 20*time.Millisecond)
				cl.Wait(func() error { _, err := pusher.Push(data); return err })
				if err := pusher.Link("second", digest); err != nil {
					t.Fatal(err)
				}
				switch then {
				case "restarts":
					behind.Stop()
					behind.Start()
				case "loses power":
					behind.PowerCut()
					behind.Start()
				case "loses power with the pusher":
					behind.PowerCut()
					pusher.PowerCut()
					behind.Start()
					pusher.Start()
				}
				cl.Net.Heal()
				wholeEverywhere(cl, "second", digest)
			})
		})
	}
}

// Promise 6 across a restart: what a node has confirmed after a collect it does not sweep when raft hands out that
// collect once more.
func TestConfirmedBeforePowerCut(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.LeaderWait = time.Second })
		by, n := cl.Leader(), cl.Followers()[0]
		data := noise(3000, 8)
		digest, err := by.Push(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := by.Link("name", digest); err != nil {
			t.Fatal(err)
		}
		wholeEverywhere(cl, "name", digest)
		n.FS.Fault(func(op, name string) (error, bool) {
			if op == "sync" && strings.HasSuffix(name, "raft/commit") {
				return syscall.EIO, false
			}
			return nil, false
		})
		forget(cl, by, "name")
		cl.Wait(func() error {
			if n.C.Knows(digest) || n.C.HasFile(digest) {
				return errors.New("it is not swept yet")
			}
			return nil
		})
		collected := n.C.CollectedAt(digest)
		_, confirmed, err := n.C.TakeCopy(data)
		if err != nil {
			t.Fatal(err)
		}
		n.PowerCut()
		n.Start()
		cl.WaitVoters(3)
		if err := by.Put("after", "x"); err != nil {
			t.Fatal(err)
		}
		cl.Wait(func() error { _, err := n.C.Tree().Stat("after"); return err })
		for end := time.Now().Add(time.Second); confirmed >= collected &&
			time.Now().Before(end); time.Sleep(time.Millisecond) {
			if !n.C.HasFile(digest) {
				t.Fatalf("confirmed at %d, collected at %d, and not there after the power cut", confirmed, collected)
			}
		}
	})
}

// Promise 6 with a node that is still fetching a blob when that is collected, and is asked to keep a new copy before it
// has all of it.
func TestConfirmedWhileFetching(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.CatchUp = 16 << 10 })
		by, n := cl.Leader(), cl.Followers()[0]
		n.Stop()
		data := noise(400<<10, 9) // a quarter of a MiB goes at once
		digest, err := by.Push(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := by.Link("name", digest); err != nil {
			t.Fatal(err)
		}
		n.Start()
		cl.Wait(func() error {
			if !n.C.Fetching(digest) {
				return errors.New("it does not fetch")
			}
			return nil
		})
		forget(cl, by, "name")
		cl.Wait(func() error {
			if n.C.CollectedAt(digest) == 0 {
				return errors.New("it has not applied the collect")
			}
			return nil
		})
		_, confirmed, err := n.C.TakeCopy(data)
		if err != nil || confirmed < n.C.CollectedAt(digest) {
			t.Fatal(confirmed, err)
		}
		if !n.C.Fetching(digest) {
			t.Fatal("it does not fetch any more")
		}
		cl.Wait(func() error {
			if n.C.Fetching(digest) {
				return errors.New("it fetches")
			}
			return nil
		})
		if err := n.Put("later", "x"); err != nil {
			t.Fatal(err)
		}
		if !n.C.HasFile(digest) {
			t.Errorf("confirmed at %d, collected at %d, and not there", confirmed, n.C.CollectedAt(digest))
		}
	})
}

// Promise 1 on a disk that could not sync a name once: the bytes can be seen, but that is not enough to count. Nor is
// it when the process is another one since.
func TestConfirmedNameNotSynced(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart=", restart), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				for seed := range uint64(8) { // what a power cut leaves is up to chance
					cl := clustertest.New(t, 1, nil)
					n := cl.Nodes[0]
					n.FS.Fault(func(op, name string) (error, bool) {
						if op == "syncdir" && strings.Contains(name, "/sha256/") {
							return syscall.EIO, false
						}
						return nil, false
					})
					data := noise(3000, seed)
					if _, _, err := n.C.TakeCopy(data); err == nil {
						t.Fatal("a copy was taken that is not durable")
					}
					if restart {
						n.Die()
						n.Start()
					}
					n.FS.Fault(nil)
					digest := digestOf(data)
					_, err := n.C.Confirm(digest)
					n.PowerCut()
					n.Start()
					if err == nil && !n.C.HasFile(digest) {
						t.Fatal("it was confirmed, and a power cut took it away")
					}
				}
			})
		})
	}
}

// Promise 7 on a disk that could not sync the log once: what the next process reads of it may be in memory only. It is
// on the disk before anybody hears of it.
func TestLogNotSynced(t *testing.T) {
	for _, happened := range []bool{false, true} {
		t.Run(fmt.Sprint("happened=", happened), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, nil)
				n := cl.Followers()[0]
				n.FS.Fault(func(op, name string) (error, bool) {
					if op == "sync" && strings.HasSuffix(name, ".wal") {
						return syscall.EIO, happened
					}
					return nil, false
				})
				if err := cl.Leader().Put("a", "x"); err != nil {
					t.Fatal(err)
				}
				cl.Wait(func() error {
					select {
					case <-n.C.Done():
						return nil
					default:
						return errors.New("the node goes on")
					}
				})
				n.Die()
				n.Start()
				cl.WaitVoters(3)
				for i := range 20 {
					if err := n.Put(fmt.Sprint("b", i), "x"); err != nil {
						t.Fatal(err)
					}
				}
				n.PowerCut()
				n.Start()
				cl.WaitVoters(3)
				for _, name := range []string{"a", "b0", "b19"} {
					cl.Wait(func() error { _, err := n.C.Tree().Stat(name); return err })
				}
			})
		})
	}
}

// Who gives up a write gets an answer, although there is a leader that could be asked again.
func TestWriteGivenUp(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		n := cl.Followers()[0]
		cl.Net.Slow(n.Name, cl.Leader().Name, 60*time.Millisecond)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		err := n.C.Tree().Update(ctx, func(b cluster.Batch) error { b.Put("x", nil); return nil })
		if !errors.Is(err, cluster.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A push ends when the others' disks take no copies, although they answer; it says why, and nothing of it shows.
func TestPushWhereNoCopyIsTaken(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.LeaderWait = time.Second })
		leader, followers := cl.Leader(), cl.Followers()
		for _, n := range followers {
			n.FS.Fault(func(op, name string) (error, bool) {
				if op == "rename" && strings.Contains(name, "/blobs/") {
					return syscall.EIO, false
				}
				return nil, false
			})
		}
		for _, size := range []int{3000, 1<<20 + 1000} { // sent when it is complete; begun while it grows
			data := noise(size, uint64(size))
			_, err := leader.Push(data)
			if !errors.Is(err, syscall.EAGAIN) || !strings.Contains(err.Error(), "input/output error") {
				t.Errorf("%d bytes: %v", size, err)
			}
			for _, n := range cl.Nodes {
				if n.C.Knows(digestOf(data)) {
					t.Errorf("%d bytes: %s knows them", size, n.Name)
				}
			}
		}
		for _, n := range followers {
			n.FS.Fault(nil)
		}
		cl.WaitVoters(3)
		if _, err := leader.Push(noise(3000, 3000)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A push ends when its data does not reach the others, although their data arrives here.
func TestPushOverACutInOneDirection(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, func(c *cluster.Config) { c.LeaderWait = time.Second })
		by := cl.Followers()[0]
		for _, n := range others(cl, by) {
			cl.Net.CutOneWay(by.Name, n.Name)
		}
		if _, err := by.Push(noise(1<<20+1000, 1)); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("got %v", err)
		}
		cl.Net.Heal()
		cl.WaitVoters(3)
	})
}
