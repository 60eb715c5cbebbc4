package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
	"casemate/cluster/wake"
)

// No write waits for raft's next message: a committed entry shows on all nodes as soon as messages arrive, also entries
// of an earlier leader, and entries that a node missed while it was down. (In a bubble time passes only while all
// goroutines wait.)
func TestCommitIsPassedOn(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		soon := func(what string, n *clustertest.Node) {
			t.Helper()
			began := time.Now()
			if err := n.C.Tree().Update(context.Background(), func(b cluster.Batch) error {
				b.Put("x", []byte(what))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d > 50*time.Millisecond {
				t.Errorf("%s: the write has waited for %s", what, d)
			}
			for _, m := range cl.Nodes {
				if data, err := m.C.Tree().ReadFile("x"); err != nil || string(data) != what {
					t.Errorf("%s: on %s it is %q, %v", what, m.Name, data, err)
				}
			}
		}
		time.Sleep(5 * time.Second)
		soon("at the leader", cl.Leader())
		time.Sleep(300 * time.Millisecond)
		soon("at a follower", cl.Followers()[0])

		// It was down while others wrote: it has their entries, and that they are committed, as soon as it is up.
		n := cl.Followers()[1]
		n.Stop()
		for range 3 {
			if err := cl.Leader().C.Tree().Update(context.Background(), func(b cluster.Batch) error {
				b.Put("y", nil)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		want := cl.Leader().C.Index()
		n.Start()
		cl.Wait(func() error {
			for _, m := range cl.Leader().C.Members() {
				if !m.Up {
					return errors.New(m.Node + " is down")
				}
			}
			return nil
		})
		time.Sleep(100 * time.Millisecond)
		if n.C.Index() < want {
			t.Errorf("100 ms after it came back the node shows entry %d of %d", n.C.Index(), want)
		}
		soon("after a restart", cl.Leader())
	})
}

// A write that comes alone waits for disks and the network, and for no timer: in a bubble no time passes.
func TestWritesWaitForNoTimer(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		for _, n := range cl.Nodes {
			for i := range 5 {
				time.Sleep(time.Second)
				// Heartbeats and beats go out at whole multiples of 200 ms. A write in the 2 ms after one of them has
				// to wait for the next beat, so this one comes between two.
				time.Sleep(wake.Within(200*time.Millisecond) + time.Duration(i+1)*30*time.Millisecond)
				began := time.Now()
				if err := n.Put("x", fmt.Sprint(n.Name, i)); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(began); d != 0 {
					t.Errorf("write %d at %s has waited for %s", i, n.Name, d)
				}
			}
		}
	})
}

// A small blob is sent to another node in one piece with its description, so the other node is woken once.
func TestSmallCopiesAreOnePiece(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		const size = 4 << 10
		var mu sync.Mutex
		var large []int // writes that hold a blob
		cl := clustertest.New(t, 3, func(c *cluster.Config) {
			dial := c.Dial
			c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
				conn, err := dial(ctx, addr)
				if err != nil {
					return nil, err
				}
				return noting{conn, func(n int) {
					mu.Lock()
					defer mu.Unlock()
					if n >= size {
						large = append(large, n)
					}
				}}, nil
			}
		})
		time.Sleep(time.Second)
		mu.Lock()
		large = nil
		mu.Unlock()
		w, err := cl.Leader().C.Tree().CreateBlob("")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Write(noise(size, 7)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		const record = 5 + 1 + 16 // what a record of TLS 1.3 adds (RFC 8446, section 5.2)
		if len(large) != 2 || min(large[0], large[1]) <= size+record {
			t.Errorf("a blob of %d bytes was sent to two nodes in writes of %v bytes: without their headers",
				size, large)
		}
	})
}

// noting records each write.
type noting struct {
	net.Conn
	write func(n int)
}

func (c noting) Write(p []byte) (int, error) {
	c.write(len(p))
	return c.Conn.Write(p)
}

// A node does not fetch a blob that is being sent to it; if the sender gives up, it does.
func TestNotFetchedWhileReceived(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		data := noise(6<<20, 5)
		n := cl.Followers()[1]
		digest := ""
		for _, m := range cl.Nodes {
			if m == n {
				continue
			}
			var err error
			if digest, _, err = m.C.TakeCopy(data); err != nil {
				t.Fatal(err)
			}
		}
		first, second := n.C.Receives(digest), n.C.Receives(digest)
		if err := cl.Leader().C.Know(context.Background(), []string{digest}, int64(len(data))); err != nil {
			t.Fatal(err)
		}
		missing := func() error {
			if list, err := n.C.OnDisk(); err != nil || slices.Contains(list, digest) {
				return fmt.Errorf("%v, %v", list, err)
			}
			return nil
		}
		cl.Wait(func() error {
			if !n.C.Knows(digest) {
				return errors.New("it has not heard of the blob")
			}
			return nil
		})
		time.Sleep(5 * time.Second)
		if err := missing(); err != nil {
			t.Errorf("while two send it: %v", err)
		}
		first()
		time.Sleep(5 * time.Second)
		if err := missing(); err != nil {
			t.Errorf("while one sends it: %v", err)
		}
		second()
		cl.Wait(func() error {
			if missing() == nil {
				return errors.New("it is not fetched")
			}
			return nil
		})
	})
}

// Nodes that have nothing to do keep their connections: a handshake costs more than all else that they do in a second.
func TestIdleNodesMakeNoConnections(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		var dials atomic.Int64
		cl := clustertest.New(t, 3, func(c *cluster.Config) {
			dial := c.Dial
			c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
				dials.Add(1)
				return dial(ctx, addr)
			}
		})
		if err := cl.Leader().Put("x", "y"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		before := dials.Load()
		time.Sleep(time.Minute)
		if n := dials.Load() - before; n != 0 {
			t.Errorf("three nodes have made %d connections in a minute", n)
		}
	})
}
