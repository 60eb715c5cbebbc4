package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"casemate/cluster"
	"casemate/cluster/clustertest"
)

// A leader whose disk hangs gives up its leadership and reports it. Writes elsewhere continue within their time, writes
// there end within theirs, and when the disk answers again everything is as before.
func TestDiskOfLeaderHangs(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		want := puts(t, cl.Nodes[0], "before", 3)
		shows(t, cl, cl.Nodes, want)
		leader, rest := cl.Leader(), cl.Followers()
		answers := sync.OnceFunc(leader.FS.Hang())
		defer answers() // else a node of a test that has failed cannot be closed
		type outcome struct {
			took time.Duration
			err  error
		}
		write := func(n *clustertest.Node, name string) outcome {
			begun := time.Now()
			err := n.Put(name, name)
			return outcome{time.Since(begun), err}
		}
		here := make(chan outcome, 2)
		go func() { here <- write(leader, "unknown/1") }()
		go func() { time.Sleep(4 * time.Second); here <- write(leader, "unknown/2") }() // another one leads by then
		if o := write(rest[0], "elsewhere/1"); o.err != nil {
			t.Errorf("a write at another node: %v after %s", o.err, o.took)
		}
		want["elsewhere/1"] = "elsewhere/1"
		cl.Wait(func() error {
			if s := rest[0].C.Status(); s.Leader == leader.Name || s.Leader == "" {
				return fmt.Errorf("%q leads", s.Leader)
			}
			if list := leader.C.Problems(); len(list) == 0 ||
				!strings.Contains(list[0], "the disk of this node has not answered for") {
				return fmt.Errorf("it does not say so: %q", list)
			}
			return nil
		})
		for range 2 {
			if o := <-here; o.took > 5*time.Second+100*time.Millisecond || !errors.Is(o.err, syscall.EAGAIN) ||
				!errors.Is(o.err, cluster.ErrUnknown) {
				t.Errorf("a write at the node whose disk hangs: %v after %s", o.err, o.took)
			}
		}
		time.Sleep(40 * time.Second)
		if o := write(rest[1], "elsewhere/2"); o.err != nil || o.took > time.Second {
			t.Errorf("a write at another node, later: %v after %s", o.err, o.took)
		}
		want["elsewhere/2"] = "elsewhere/2"
		answers()
		cl.WaitVoters(3)
		for key, value := range puts(t, leader, "after", 3) {
			want[key] = value
		}
		shows(t, cl, cl.Nodes, want)
		same(cl)
		if list := leader.C.Problems(); len(list) > 0 {
			t.Errorf("afterwards: %q", list)
		}
	})
}

// If no other node can lead, a write still ends within its time.
func TestDiskOfOnlyNodeHangs(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		n := cl.Nodes[0]
		answers := sync.OnceFunc(n.FS.Hang())
		defer answers()
		begun := time.Now()
		err := n.Put("a", "b")
		if took := time.Since(begun); took > 5*time.Second+100*time.Millisecond ||
			!errors.Is(err, cluster.ErrUnknown) || !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("%v after %s", err, took)
		}
		if list := n.C.Problems(); len(list) == 0 {
			t.Error("it does not say so")
		}
		answers()
		cl.Wait(func() error { return n.Put("c", "d") })
	})
}

// A patient write waits for a disk for as long as that takes, and happens once; it ends with its context.
func TestPatientWrites(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 1, nil)
		n := cl.Nodes[0]
		tree := n.C.Tree().Patient()
		if err := n.Put("counted", "1"); err != nil {
			t.Fatal(err)
		}
		before, err := n.C.Tree().Stat("counted")
		if err != nil {
			t.Fatal(err)
		}
		version := before.(interface{ Version() uint64 }).Version()
		answers := sync.OnceFunc(n.FS.Hang())
		defer answers()
		begun := time.Now()
		record, group, given := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		go func() {
			record <- tree.Update(t.Context(), func(b cluster.Batch) error {
				b.Expect("counted", version) // which the same once more would find changed
				b.Put("counted", []byte("2"))
				return nil
			})
		}()
		go func() {
			_, err := pushGroup(t, tree, 10)
			group <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		go func() {
			given <- tree.Update(ctx, func(b cluster.Batch) error { b.Put("given up", []byte("x")); return nil })
		}()
		if err := <-given; !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 20*time.Second {
			t.Errorf("one whose context ends: %v after %s", err, time.Since(begun))
		}
		time.Sleep(40 * time.Second)
		if len(record)+len(group) > 0 {
			t.Error("a write has ended while the disk hangs")
		}
		answers()
		if err := <-record; err != nil {
			t.Errorf("the record: %v", err)
		}
		if err := <-group; err != nil {
			t.Errorf("the group: %v", err)
		}
		if got, err := n.C.Tree().ReadFile("counted"); string(got) != "2" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// A patient write that has left for a leader who is cut off waits for a majority; one that finds no leader ends as all
// others do.
func TestPatientWritesWithoutAMajority(t *testing.T) {
	clustertest.Run(t, func(t *testing.T) {
		cl := clustertest.New(t, 3, nil)
		n, others := cl.Leader(), cl.Followers()
		for _, f := range others {
			f.Die()
		}
		write := func(name string) error {
			return n.C.Tree().Patient().Update(t.Context(), func(b cluster.Batch) error {
				b.Put(name, []byte(name))
				return nil
			})
		}
		sent := make(chan error, 1)
		go func() { sent <- write("sent") }()
		cl.Wait(func() error {
			if leader := n.C.Status().Leader; leader != "" {
				return fmt.Errorf("%s leads", leader)
			}
			return nil
		})
		begun := time.Now()
		if err := write("refused"); !errors.Is(err, syscall.EAGAIN) || errors.Is(err, cluster.ErrUnknown) {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		time.Sleep(time.Minute)
		if len(sent) > 0 {
			t.Errorf("the write that was under way has ended: %v", <-sent)
		}
		for _, f := range others {
			f.Start()
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		shows(t, cl, cl.Nodes, map[string]string{"sent": "sent"})
	})
}
