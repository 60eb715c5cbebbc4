package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"casemate/cluster"
	"casemate/cluster/blob/blobtest"
)

// Cluster is nodes n1, n2, … on one Net. Its methods are for one goroutine, as are a Node's that start and stop it;
// what Live returns may be used by any.
type Cluster struct {
	Net   *Net
	T     testing.TB
	Nodes []*Node
	log   *slog.Logger
	tune  func(*cluster.Config)
}

// Node is one of them. C is nil while it is down.
type Node struct {
	Name string
	C    *cluster.Cluster
	FS   *blobtest.FS
	cl   *Cluster

	mu     sync.Mutex
	live   *cluster.Cluster // C, for other goroutines
	ahead  atomic.Int64     // of its clock, nanoseconds
	faults atomic.Int64     // how often the disk has failed since FailSync
}

// Live is C for any goroutine. It may have ended by the time it is used.
func (n *Node) Live() *cluster.Cluster {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.live
}

func (n *Node) set(c *cluster.Cluster) {
	n.C = c
	n.mu.Lock()
	n.live = c
	n.mu.Unlock()
}

// Run runs a test in parallel with others, in a synctest bubble of its own: time passes only when every goroutine in
// the bubble is waiting.
func Run(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	defer func() {
		// On a node whose disk has failed raft does not answer all who ask it, so their goroutines outlive the bubble.
		// Whether others do says goleak, which knows this exception.
		if r := recover(); r != nil && fmt.Sprint(r) != "deadlock: main bubble goroutine has exited but blocked "+
			"goroutines remain" {
			panic(r)
		}
	}()
	synctest.Test(t, test)
}

// New starts n nodes and waits until all vote. tune may change what every node is opened with; nil changes nothing.
func New(t testing.TB, n int, tune func(*cluster.Config)) *Cluster {
	t.Helper()
	return NewOn(t, NewNet(), n, tune)
}

// NewOn is New on wires that were prepared.
func NewOn(t testing.TB, wires *Net, n int, tune func(*cluster.Config)) *Cluster {
	t.Helper()
	cl := &Cluster{Net: wires, T: t, tune: tune,
		log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
	t.Cleanup(cl.close)
	first := cl.add()
	if err := cluster.Bootstrap(first.config(nil)); err != nil {
		t.Fatal(err)
	}
	first.Start()
	for range n - 1 {
		cl.Join()
	}
	cl.WaitVoters(n)
	return cl
}

func (cl *Cluster) add() *Node {
	n := &Node{Name: fmt.Sprintf("n%d", len(cl.Nodes)+1), FS: blobtest.New(uint64(len(cl.Nodes) + 1)), cl: cl}
	cl.Nodes = append(cl.Nodes, n)
	return n
}

// Join adds a node by a token of any node that is up.
func (cl *Cluster) Join() *Node {
	cl.T.Helper()
	n := cl.add()
	var err error
	cl.Wait(func() error {
		var by *Node
		for _, m := range cl.Nodes {
			if m.C != nil {
				by = m
			}
		}
		var token cluster.Token
		if token, err = by.C.CreateToken(context.Background(), time.Hour); err != nil {
			return err
		}
		_, err = cluster.Join(context.Background(), n.config(nil), cl.Net.liveAddr(by.Name), token)
		return err
	})
	n.Start()
	return n
}

func (n *Node) config(l net.Listener) cluster.Config {
	cfg := cluster.Config{
		Dir: "/data/casemate", Node: n.Name, FS: n.FS, Log: n.cl.log.With("node", n.Name), LeaderWait: 5 * time.Second,
		PeerAddrs: n.cl.Net.AddrsOf(n.Name), Dial: n.cl.Net.Dialer(n.Name), Version: "test",
		SegmentSize: 1 << 20,
		Now:         func() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) },
	}
	if l != nil {
		cfg.Peer = []net.Listener{l}
	}
	if n.cl.tune != nil {
		n.cl.tune(&cfg)
	}
	return cfg
}

// Config is what the node is opened with, but for its port.
func (n *Node) Config() cluster.Config { return n.config(nil) }

// Start opens a node that is down.
func (n *Node) Start() {
	n.cl.T.Helper()
	if err := n.TryStart(); err != nil {
		n.cl.T.Fatalf("%s: %v", n.Name, err)
	}
}

// TryStart is Start with the error.
func (n *Node) TryStart() error {
	l, err := n.cl.Net.Listen(n.Name)
	if err != nil {
		return err
	}
	c, err := cluster.Open(n.config(l))
	if err != nil {
		l.Close()
		return err
	}
	n.set(c)
	return nil
}

// Stop closes a node as a clean stop does.
func (n *Node) Stop() {
	n.cl.T.Helper()
	if err := n.C.Close(); err != nil && !n.Failed() {
		n.cl.T.Errorf("%s: close: %v", n.Name, err)
	}
	n.set(nil)
}

// Die closes a node that cannot go on, as the process does that it is in. What its disk has in memory stays.
func (n *Node) Die() {
	n.FS.Fault(nil)
	n.C.Close() // its errors are the disk's
	n.set(nil)
}

// PowerCut ends a node at once. What its disk was not told to keep is gone.
func (n *Node) PowerCut() {
	n.cl.Net.Off(n.Name, true)
	n.FS = n.FS.Reboot()
	n.C.Close() // its errors are the power's
	n.cl.Net.Off(n.Name, false)
	n.set(nil)
}

// Revert ends a node at once and gives it a disk as it was: an image that its FS made before.
func (n *Node) Revert(disk *blobtest.FS) {
	if n.C != nil {
		n.PowerCut()
	}
	n.FS = disk.Image()
}

// PowerCut ends all nodes that are up at the same moment.
func (cl *Cluster) PowerCut() {
	var up []*Node
	for _, n := range cl.Nodes {
		if n.C != nil {
			up = append(up, n)
			cl.Net.Off(n.Name, true)
		}
	}
	for _, n := range up {
		n.FS = n.FS.Reboot()
	}
	var all sync.WaitGroup
	for _, n := range up {
		all.Go(func() { n.C.Close() })
	}
	all.Wait()
	for _, n := range up {
		cl.Net.Off(n.Name, false)
		n.set(nil)
	}
}

// FailSync lets the nth sync of a file, a directory or everything from now fail, counted from 0. happened says whether
// the disk has done it all the same.
func (n *Node) FailSync(nth int, happened bool) {
	n.faults.Store(0)
	left := nth
	n.FS.Fault(func(op, _ string) (error, bool) {
		if op != "sync" && op != "syncdir" && op != "syncfs" {
			return nil, false
		}
		left--
		if left != -1 {
			return nil, false
		}
		n.faults.Add(1)
		return syscall.EIO, happened
	})
}

// Failed reports whether the sync that FailSync chose has come.
func (n *Node) Failed() bool { return n.faults.Load() > 0 }

// SetForward sets the node's clock forward.
func (n *Node) SetForward(d time.Duration) { n.ahead.Add(int64(d)) }

func (cl *Cluster) close() {
	cl.Net.Heal()
	var all sync.WaitGroup
	for _, n := range cl.Nodes {
		if n.C != nil {
			all.Go(func() { n.C.Close() })
		}
	}
	all.Wait()
}

// Wait waits for a condition, half a minute of the bubble's time at most, and then says what is still missing.
func (cl *Cluster) Wait(holds func() error) {
	cl.T.Helper()
	Wait(cl.T, holds)
}

// Wait waits for a condition, half a minute of the bubble's time at most, and then says what is still missing.
func Wait(t testing.TB, holds func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if err = holds(); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("waited in vain: %v", err)
}

// WaitVoters waits until there are n voters, as every node that is up sees it, and they see each other.
func (cl *Cluster) WaitVoters(n int) {
	cl.T.Helper()
	cl.Wait(func() error {
		for _, node := range cl.Nodes {
			if node.C == nil {
				continue
			}
			voters, leader := 0, false
			for _, m := range node.C.Members() {
				if m.Role != "learner" {
					voters++
				}
				leader = leader || m.Role == "leader"
				other := cl.Node(m.Node)
				if other != nil && other.C != nil && !m.Up {
					return fmt.Errorf("%s does not hear %s", node.Name, m.Node)
				}
			}
			if voters != n || !leader {
				return fmt.Errorf("%s sees %d voters, leader %v", node.Name, voters, leader)
			}
		}
		return nil
	})
}

// Node returns a node by name.
func (cl *Cluster) Node(name string) *Node {
	for _, n := range cl.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Leader waits for a leader among the nodes that are up and returns it.
func (cl *Cluster) Leader() (leader *Node) {
	cl.T.Helper()
	cl.Wait(func() error {
		for _, n := range cl.Nodes {
			if n.C != nil {
				if s := n.C.Status(); s.Role == "leader" {
					leader = n
					return nil
				}
			}
		}
		return fmt.Errorf("no leader")
	})
	return leader
}

// Followers are the nodes that are up and do not lead.
func (cl *Cluster) Followers() (list []*Node) {
	leader := cl.Leader()
	for _, n := range cl.Nodes {
		if n.C != nil && n != leader {
			list = append(list, n)
		}
	}
	return list
}

// Push makes a blob at a node.
func (n *Node) Push(data []byte) (string, error) {
	w, err := n.C.Tree().CreateBlob("")
	if err != nil {
		return "", err
	}
	defer w.Close()
	if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
		return "", err
	}
	return w.Commit(context.Background(), "")
}

// Put writes a record at a node.
func (n *Node) Put(name, value string) error {
	return n.C.Tree().Update(context.Background(), func(b cluster.Batch) error {
		b.Put(name, []byte(value))
		return nil
	})
}

// Link names a blob at a node.
func (n *Node) Link(name, digest string) error {
	return n.C.Tree().Update(context.Background(), func(b cluster.Batch) error { b.Link(name, digest); return nil })
}
