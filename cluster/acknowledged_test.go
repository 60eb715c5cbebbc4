package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/blob"
	"casemate/cluster/clustertest"
)

// What an answer says is so at that moment, not a little later: tests of the moments at which a promise could be
// broken and nothing would show it afterwards. packaging/tools/mutations breaks these promises on purpose and expects
// a failure.

// barrier holds back syncs of the raft log, and of nothing else: the node votes and answers heartbeats. Its zero value
// is open.
type barrier struct {
	shut    atomic.Pointer[chan struct{}]
	waiting atomic.Int64
}

// hold shuts the barrier until the returned function is called, once.
func (g *barrier) hold() (open func()) {
	ch := make(chan struct{})
	g.shut.Store(&ch)
	return func() {
		g.shut.Store(nil)
		close(ch)
	}
}

// pass waits while the barrier is shut. Who waits holds raft-wal's lock, and a goroutine that waits for that lock stops
// the bubble's time: no log may be cut meanwhile.
func (g *barrier) pass() {
	if ch := g.shut.Load(); ch != nil {
		g.waiting.Add(1)
		defer g.waiting.Add(-1)
		<-*ch
	}
}

// barriers are those of nodes by name; tune puts them before their disks.
type barriers map[string]*barrier

func (g barriers) tune(c *cluster.Config) {
	if g[c.Node] != nil {
		c.FS = barrierFS{c.FS, g[c.Node]}
	}
}

func newBarriers(nodes ...string) barriers {
	g := barriers{}
	for _, n := range nodes {
		g[n] = new(barrier)
	}
	return g
}

type barrierFS struct {
	cluster.FS
	barrier *barrier
}

type barrierFile struct {
	blob.File
	barrier *barrier
}

func (f barrierFS) OpenFile(name string, flag int, perm fs.FileMode) (blob.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil || !strings.HasSuffix(name, ".wal") {
		return file, err
	}
	return barrierFile{file, f.barrier}, nil
}

func (f barrierFS) Allocate(file blob.File, size int64) error {
	if g, ok := file.(barrierFile); ok {
		file = g.File
	}
	return f.FS.Allocate(file, size)
}

func (f barrierFile) Sync() error {
	f.barrier.pass()
	return f.File.Sync()
}

// noCopies lets a node's disk take no blob of others, although the node answers.
func noCopies(n *clustertest.Node) {
	n.FS.Fault(func(op, name string) (error, bool) {
		if op == "rename" && strings.Contains(name, "/blobs/") {
			return syscall.EIO, false
		}
		return nil, false
	})
}

// Promise 1 for three and five voters, at the leader and at another node, for bytes that are sent when they are
// complete and for those that are copied while they come: a push is acknowledged when a majority of the disks has
// taken the bytes, and not with one disk less.
func TestAcknowledgedByAMajority(t *testing.T) {
	for _, voters := range []int{3, 5} {
		t.Run(fmt.Sprint(voters, "-voters"), func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, voters, func(c *cluster.Config) { c.LeaderWait = time.Second })
				for role, by := range map[string]*clustertest.Node{"leader": cl.Leader(),
					"follower": cl.Followers()[0]} {
					for _, size := range []int{3000, 1<<20 + 1000} {
						// that take the bytes, the pusher's among them
						for _, disks := range []int{voters / 2, voters/2 + 1} {
							what := fmt.Sprintf("%d bytes at the %s, taken by %d of %d disks", size, role,
								disks, voters)
							for i, n := range others(cl, by) {
								if i >= disks-1 {
									noCopies(n)
								}
							}
							data := noise(size, uint64(size*10+disks)<<8|uint64(len(role)))
							digest := digestOf(data)
							_, err := by.Push(data)
							have := 0
							for _, n := range cl.Nodes {
								if n.C.HasFile(digest) {
									have++
								}
							}
							switch {
							case disks <= voters/2 && !errors.Is(err, syscall.EAGAIN):
								t.Errorf("%s: %v", what, err)
							case disks > voters/2 && err != nil:
								t.Errorf("%s: %v", what, err)
							case err == nil && have <= voters/2:
								t.Errorf("%s: acknowledged when %d had them", what, have)
							}
							for _, n := range cl.Nodes {
								if err != nil && n.C.Knows(digest) {
									t.Errorf("%s: refused, and %s knows them", what, n.Name)
								}
								n.FS.Fault(nil)
							}
							cl.WaitVoters(voters)
						}
					}
				}
			})
		})
	}
}

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
						t.Errorf("a push of %d bytes at %s was answered when %d of 3 disks had it", size,
							n.Name, durable)
					}
				}
			})
		})
	}
}

// Promise 1, for a node's own disk: a node confirms no bytes that it does not have, whether they were never stored,
// were removed, or are damaged.
func TestConfirmsOnlyWhatItHas(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		n := cl.Nodes[0]
		if _, err := n.C.Confirm(digestOf(noise(3000, 1))); err == nil {
			t.Error("it has confirmed what was never there")
		}
		for what, spoil := range map[string]func(name string) error{
			"was taken away": func(name string) error { return n.FS.Remove(name) },
			"is cut short":   func(name string) error { return truncate(n, name) },
		} {
			digest, err := n.Push(noise(3000, uint64(len(what))))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.C.Confirm(digest); err != nil {
				t.Errorf("what is there: %v", err)
			}
			if err := spoil("/data/casemate/blobs/sha256/" + digest[7:9] + "/" + digest[7:]); err != nil {
				t.Fatal(err)
			}
			if _, err := n.C.Confirm(digest); err == nil {
				t.Errorf("it has confirmed what %s", what)
			}
		}
	})
}

func truncate(n *clustertest.Node, name string) error {
	f, err := n.FS.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // so that its time is another one
	return errors.Join(f.Truncate(100), f.Sync(), f.Close())
}

// Promise 4 at a leader that has lost contact with all others: while it still believes that it leads, it confirms no
// miss.
func TestCutOffLeaderConfirmsNoMiss(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		leader := cl.Leader()
		sure := func() (bool, string) {
			_, _, sure, err := leader.C.Tree().Look("nothing")
			if !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return sure, leader.C.Status().Role
		}
		cl.Wait(func() error {
			if ok, _ := sure(); !ok {
				return errors.New("a miss is not confirmed while all are well")
			}
			return nil
		})
		for _, way := range []string{"both", "out", "in"} {
			leader = cl.Leader()
			var names []string
			for _, n := range others(cl, leader) {
				names = append(names, n.Name)
			}
			switch way {
			case "both":
				cl.Net.Cut([]string{leader.Name}, names)
			case "out":
				for _, n := range names {
					cl.Net.CutOneWay(leader.Name, n)
				}
			case "in":
				for _, n := range names {
					cl.Net.CutOneWay(n, leader.Name)
				}
			}
			if role := leader.C.Status().Role; role != "leader" {
				t.Fatalf("it is a %s already", role)
			}
			if ok, role := sure(); ok {
				t.Errorf("cut off (%s) a miss was confirmed, by a %s", way, role)
			}
			cl.Net.Heal()
			cl.WaitVoters(3)
			time.Sleep(2 * time.Second) // after a round that failed misses are not confirmed for a second
		}
	})
}

// Promise 4: a deposed leader that does not know it yet confirms no miss. Its disk hangs, so raft's own goroutine does
// not notice that no node answers.
func TestDeposedLeaderConfirmsNoMiss(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		for range 10 { // votes may split
			if deposed(t) {
				return
			}
		}
		t.Fatal("the test proves nothing: each time the leader knew that its disk hangs before another one came")
	})
}

// deposed plays the story of TestDeposedLeaderConfirmsNoMiss and reports whether another leader came soon enough.
func deposed(t *testing.T) (soon bool) {
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
	if time.Since(begun) > 1500*time.Millisecond { // the one before knows by then that its disk hangs
		answers()
		<-written
		return false
	}
	if value, _, sure, err := leader.C.Tree().Look("elsewhere"); sure || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the deposed leader says %q, %v, and confirms it: %v", value, err, sure)
	}
	answers()
	<-written
	return true
}

// Promise 4 at a new leader that does not know yet what its predecessor had acknowledged: it confirms no miss until an
// entry of its own is committed.
func TestNewLeaderConfirmsNoMissTooEarly(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		g := newBarriers("n1", "n2", "n3")
		cl := clustertest.New(t, 3, g.tune)
		old, heir, third := cl.Leader(), cl.Followers()[0], cl.Followers()[1]
		// The entry is committed by the leader and its heir, which never hears that it is: after its sync nothing more
		// comes from the leader.
		cl.Net.Cut([]string{old.Name}, []string{third.Name})
		heir.FS.Fault(func(op, name string) (error, bool) {
			if op == "sync" && strings.HasSuffix(name, ".wal") {
				cl.Net.CutOneWay(old.Name, heir.Name)
			}
			return nil, false
		})
		if err := old.Put("acknowledged", "x"); err != nil {
			t.Fatal(err)
		}
		heir.FS.Fault(nil)
		if heir.C.Index() >= old.C.Index() {
			t.Fatal("the test proves nothing: the heir knows that the entry is committed")
		}
		// The third one votes, and its log hangs: the heir leads and cannot commit, and its heartbeats are answered.
		open := g[third.Name].hold()
		defer func() { cl.Net.Heal() }()
		cl.Net.Cut([]string{old.Name}, []string{heir.Name})
		cl.Wait(func() error {
			if role := heir.C.Status().Role; role != "leader" {
				return fmt.Errorf("the heir is a %s", role)
			}
			return nil
		})
		for range 3 {
			switch _, _, sure, err := heir.C.Tree().Look("acknowledged"); {
			case err == nil:
				t.Error("the test proves nothing: it can be read already")
			case !errors.Is(err, fs.ErrNotExist) || sure:
				t.Errorf("the new leader says of what was acknowledged: %v, confirmed: %v", err, sure)
			}
		}
		open()
		cl.Net.Heal()
		cl.WaitVoters(3)
		for _, n := range cl.Nodes {
			cl.Wait(func() error { _, err := n.C.Tree().ReadFile("acknowledged"); return err })
		}
	})
}

// onlyCommitted says what a node that is alone shows of the records "committed" and "uncommitted".
func onlyCommitted(t *testing.T, n *clustertest.Node) {
	t.Helper()
	for name, want := range map[string]bool{"committed": true, "uncommitted": false} {
		if _, _, _, err := n.C.Tree().Look(name); (err == nil) != want {
			t.Errorf("alone %s shows what is %s: %v", n.Name, name, err)
		}
	}
}

// Promise 7, the opposite case of the commit index file: an entry that only the leader's log had is not committed. A
// node that starts alone does not show it, and in the end all states are equal.
func TestUncommittedDoesNotShow(t *testing.T) {
	for _, how := range []string{"stopped", "without-power"} {
		t.Run(how, func(t *testing.T) {
			clustertest.Run(t, func(t *testing.T) {
				cl := clustertest.New(t, 3, func(c *cluster.Config) { c.LeaderWait = time.Second })
				old := cl.Leader()
				rest := others(cl, old)
				if err := old.Put("committed", "x"); err != nil {
					t.Fatal(err)
				}
				last := old.C.Status().LastLog
				cl.Net.Cut([]string{old.Name}, []string{rest[0].Name, rest[1].Name})
				if err := old.Put("uncommitted", "x"); !errors.Is(err, cluster.ErrUnknown) {
					t.Fatalf("a write at a leader that is cut off: %v", err)
				}
				if old.C.Status().LastLog == last {
					t.Fatal("the test proves nothing: its log does not have the write")
				}
				if how == "stopped" {
					old.Stop()
				} else {
					old.PowerCut()
				}
				old.Start()
				onlyCommitted(t, old)
				if err := rest[0].Put("elsewhere", "x"); err != nil {
					t.Fatal(err)
				}
				cl.Net.Heal()
				cl.WaitVoters(3)
				same(cl)
			})
		})
	}
}

// The same while the node runs: an entry is committed, and the next one is in the log but not committed. The mark that
// is written then is that of the first.
func TestMarkIsOfWhatIsCommitted(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		g := newBarriers("n1", "n2", "n3")
		cl := clustertest.New(t, 3, func(c *cluster.Config) { g.tune(c); c.LeaderWait = 2 * time.Second })
		old, near, far := cl.Leader(), cl.Followers()[0], cl.Followers()[1]
		time.Sleep(time.Second) // nothing else is written now
		last := old.C.Status().LastLog
		cl.Net.Cut([]string{old.Name}, []string{far.Name})
		open := g[near.Name].hold()
		first, second := make(chan error, 1), make(chan error, 1)
		inLog := func(n uint64) {
			cl.Wait(func() error {
				if got := old.C.Status().LastLog; got < n {
					return fmt.Errorf("its log ends at %d", got)
				}
				return nil
			})
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		put := func(name string, done chan error) {
			done <- old.C.Tree().Update(ctx, func(b cluster.Batch) error { b.Put(name, nil); return nil })
		}
		go put("committed", first)
		inLog(last + 1)
		cl.Wait(func() error {
			if g[near.Name].waiting.Load() == 0 {
				return errors.New("the entry is not on its way to the near node")
			}
			return nil
		})
		go put("uncommitted", second)
		inLog(last + 2)
		cl.Net.CutOneWay(old.Name, near.Name)
		open()
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if got := old.C.Index(); got != last+1 {
			t.Fatalf("the test proves nothing: applied up to %d, not %d", got, last+1)
		}
		time.Sleep(100 * time.Millisecond) // the commit index file is written
		cl.Net.Cut([]string{old.Name}, []string{near.Name})
		old.PowerCut()
		if err := <-second; err == nil {
			t.Fatal("the test proves nothing: the second write is committed")
		}
		old.Start()
		onlyCommitted(t, old)
		if err := near.Put("elsewhere", "x"); err != nil {
			t.Fatal(err)
		}
		cl.Net.Heal()
		cl.WaitVoters(3)
		same(cl)
	})
}
