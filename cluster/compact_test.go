package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"casemate/cluster/blob/blobtest"
)

// byBytes is a node that makes snapshots for the bytes of its log and not for the number of its entries.
func byBytes(f *blobtest.FS) Config {
	cfg := powerConfig(f)
	cfg.snapshots, cfg.snapshotLog = 1<<30, 32<<10
	return cfg
}

// fill puts records of 1 KiB, each in a separate entry.
func fill(t *testing.T, c *Cluster, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		update(t, c.Tree(), func(b Batch) { b.Put(fmt.Sprintf("n/%d", i), bytes.Repeat([]byte{byte(i)}, 1<<10)) })
	}
}

// The log behind the newest snapshot stays short, so that a start after a crash reads little of it.
func TestSnapshotsByBytesOfLog(t *testing.T) {
	f := blobtest.New(1)
	c := start(t, byBytes(f))
	fill(t, c, 0, 200)
	want := snapshotBytes(t, c.machine.view.Load())
	eventually(t, func() error {
		if log := c.machine.log.Load(); log >= c.logLimit() {
			return fmt.Errorf("%d bytes of log behind the newest snapshot, at most %d are wanted", log, c.logLimit())
		}
		return nil
	})
	if newest, size := c.snaps.Newest(), c.snaps.Size(); newest < 150 || size < 100<<10 {
		t.Errorf("the newest snapshot is at entry %d and has %d bytes", newest, size)
	}
	c = start(t, byBytes(f.Image())) // as after kill -9
	if got := c.machine.log.Load(); got >= max(64<<10, c.logLimit()) {
		t.Errorf("the start has read %d bytes of log", got)
	}
	if !bytes.Equal(snapshotBytes(t, c.machine.view.Load()), want) {
		t.Error("the state is another one")
	}
}

// A clean stop leaves no log to read, unless there is so little that a snapshot would cost more.
func TestSnapshotAtACleanStop(t *testing.T) {
	f := blobtest.New(1)
	for _, step := range []struct {
		from, to int
		snapshot bool
	}{{0, 3, false}, {3, 20, true}, {20, 21, false}} {
		c := start(t, byBytes(f))
		before := c.snaps.Newest()
		fill(t, c, step.from, step.to)
		want := snapshotBytes(t, c.machine.view.Load())
		c.Close()
		c = start(t, byBytes(f))
		if made := c.snaps.Newest() > before; made != step.snapshot || made && c.machine.log.Load() != 0 {
			t.Errorf("%+v: a snapshot %v, and the start has read %d bytes of log", step, made, c.machine.log.Load())
		}
		if !bytes.Equal(snapshotBytes(t, c.machine.view.Load()), want) {
			t.Errorf("%+v: the state is another one", step)
		}
		c.Close()
	}
}

// A snapshot that is being written ends with the node, and leaves nothing.
func TestSnapshotsEndWithTheNode(t *testing.T) {
	f := blobtest.New(1)
	c := start(t, byBytes(f))
	fill(t, c, 0, 2)
	life, end := context.WithCancel(context.Background())
	sink, err := c.snaps.Create(raft.SnapshotVersionMax, 9, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	end()
	if err := writeSnapshot(life, sink, c.machine.view.Load()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if list, err := f.ReadDir("/data/casemate/snapshots"); err != nil || len(list) != 0 {
		t.Errorf("it left %v, %v", list, err)
	}
}

// However many entries lie between two snapshots, the log goes back to the older one, which so is good for something.
func TestTheLogReachesBackToTheOlderSnapshot(t *testing.T) {
	f := blobtest.New(7)
	cfg := powerConfig(f)
	cfg.snapshots = 4 // and five entries behind the newest one, as far as raft knows
	c := start(t, cfg)
	for _, n := range []int{10, 60, 61} {
		fill(t, c, n-10, n)
		if err := c.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		fill(t, c, n, n+40)
	}
	want := snapshotBytes(t, c.machine.view.Load())
	if first, _ := c.wal.FirstIndex(); first < 10 || first > c.snaps.Older()+1 {
		t.Errorf("the log begins at %d, the older snapshot is of %d", first, c.snaps.Older())
	}
	c.Close()
	names, err := c.snaps.Names()
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	f.Flip("/data/casemate/snapshots/"+names[0], 100)
	c = start(t, cfg)
	if !bytes.Equal(snapshotBytes(t, c.machine.view.Load()), want) {
		t.Error("the older snapshot and the log gave another state")
	}
}

// Names are counted as they come and go, over refused batches, stages, restarts and snapshots.
func TestTallies(t *testing.T) {
	f := blobtest.New(3)
	cfg := byBytes(f)
	cfg.Tallies = []func([]byte) bool{
		func(name []byte) bool { return bytes.HasPrefix(name, []byte("a/")) },
		func(name []byte) bool { return bytes.HasSuffix(name, []byte("/1")) },
	}
	c := start(t, cfg)
	look := func(when string) {
		t.Helper()
		var want [2]int
		for name := range c.Tree().Walk(".", "") {
			if strings.HasPrefix(name, "a/") {
				want[0]++
			}
			if strings.HasSuffix(name, "/1") {
				want[1]++
			}
		}
		if got := c.Tallies(); !slices.Equal(got, want[:]) || want[0] == 0 || want[1] == 0 {
			t.Errorf("%s: counted %d, there are %d", when, got, want)
		}
	}
	update(t, c.Tree(), func(b Batch) {
		for i := range 300 { // in stages
			b.Put(fmt.Sprintf("a/%d", i), make([]byte, 100))
			b.Put(fmt.Sprintf("b/%d/1", i), nil)
		}
	})
	look("a large batch")
	update(t, c.Tree(), func(b Batch) { b.Remove("a/7"); b.Remove("b/7/1"); b.Remove("b/8/1"); b.Put("b/8/1", nil) })
	update(t, c.Tree(), func(b Batch) { b.Put("b/9/1", []byte("again")) })
	if err := c.Tree().Update(context.Background(), func(b Batch) error {
		b.Put("a/new", nil)
		b.Put("a/1/below", nil)
		return nil
	}); err == nil {
		t.Error("a file became a directory")
	}
	look("small ones")
	cfg.FS = f.Image()
	c = start(t, cfg)
	look("a crash")
	update(t, c.Tree(), func(b Batch) {
		for i := range 200 {
			b.Remove(fmt.Sprintf("b/%d", i))
		}
	})
	if err := c.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c = start(t, cfg)
	look("a snapshot")
}
