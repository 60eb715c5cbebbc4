package cluster

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"casemate/cluster/state"
)

// TestDiscard: the given blobs are removed at once, although they are pinned, and no others: neither named blobs nor
// blobs that another caller has pinned before or after.
func TestDiscard(t *testing.T) {
	clock := new(clock)
	c := start(t, clock.config(testConfig(t, t.TempDir())))
	ctx, tree := context.Background(), c.Tree()
	before := push(t, tree, []byte("another's, before"))
	clock.forward(time.Minute)
	mine := []string{push(t, tree, []byte("mine, first"))}
	clock.forward(time.Minute)
	between := push(t, tree, []byte("another's, between"))
	clock.forward(time.Minute)
	named, weak := push(t, tree, []byte("named")), push(t, tree, []byte("a layer"))
	update(t, tree, func(b Batch) { b.Link("kept", named); b.LinkWeak("layer", weak) })
	mine = append(mine, push(t, tree, []byte("mine, second")), named, weak)
	clock.forward(time.Minute)
	after := push(t, tree, []byte("another's, after"))
	r, err := c.Discard(ctx, mine)
	if err != nil || r.Blobs != 2 || r.Removed != 2 || r.RemovedBytes != int64(len("mine, first")+len("mine, second")) {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, d := range mine[:2] {
		if _, err := tree.StatBlob(d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", d, err)
		}
	}
	// The others are pinned as before: a collection leaves them, and they can be named.
	if r, err := c.GC(ctx, false); err != nil || r.Blobs != 0 {
		t.Errorf("GC: %+v, %v", r, err)
	}
	for _, d := range []string{before, between, after, named, weak} {
		if _, err := tree.HasBlob(ctx, d); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
	// Not for good.
	clock.forward(2 * time.Hour)
	if r, err := c.GC(ctx, false); err != nil || r.Blobs != 4 {
		t.Errorf("GC two hours later: %+v, %v", r, err)
	}
	// Unknown digests and digests without an owner are no error. An invalid digest is one.
	if r, err := c.Discard(ctx, mine); err != nil || r.Blobs != 0 {
		t.Errorf("again: %+v, %v", r, err)
	}
	if _, err := c.Discard(ctx, []string{"x"}); err == nil {
		t.Error("of what is no digest: no error")
	}
	// A batch that another caller is staging would lose its stage: then all pins are left to expire.
	mine = []string{push(t, tree, []byte("mine, once more"))}
	d, err := state.ParseDigest(mine[0])
	if err != nil {
		t.Fatal(err)
	}
	b, _ := c.machine.view.Load().Blob(d)
	staged := []state.Op{&state.Put{Name: "a", Data: []byte("x")}}
	if _, err := c.propose(ctx, &state.Stage{ID: "s", Until: b.Until.UnixNano(), Ops: staged}); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Discard(ctx, mine); err != nil || r.Blobs != 0 || c.Status().Stages != 1 {
		t.Errorf("while a batch is staged: %+v, %v, %d stages", r, err, c.Status().Stages)
	}
}
