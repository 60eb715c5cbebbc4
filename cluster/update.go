package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"

	"casemate/cluster/replica"
	"casemate/cluster/state"
	"casemate/cluster/tree"
)

// Batch collects edits of the tree.
type Batch = tree.Batch

// batch is a tree's view of edits: names are relative to the tree, and entries carry its claim.
type batch struct {
	t *Tree
	*edits
}

// edits are the collected edits of all views of a batch. The first error counts.
type edits struct {
	until int64
	ops   []state.Op
	grows int64      // estimate of the bytes that it adds to the log and the disk
	ends  []state.Op // the ends of held batches: they apply after ops, in the entry in which those take effect
	err   error
}

func (b *batch) Put(name string, data []byte) {
	b.ops = append(b.ops, &state.Put{Name: b.t.inner(name), Data: slices.Clone(data), Claim: b.t.claim})
	b.grows += int64(len(name) + len(data) + 64)
}

func (b *batch) digest(digest string) state.Digest {
	d, err := state.ParseDigest(digest)
	if err != nil && b.err == nil {
		b.err = replica.Unknown(digest)
	}
	return d
}

func (b *batch) Link(name, digest string, holds ...string) {
	op := &state.Link{Name: b.t.inner(name), Digest: b.digest(digest), Claim: b.t.claim}
	for _, h := range holds {
		op.Holds = append(op.Holds, b.digest(h))
	}
	b.ops = append(b.ops, op)
	b.grows += int64(len(name) + 40*len(holds) + 128)
}

func (b *batch) LinkWeak(name, digest string) {
	b.ops = append(b.ops, &state.LinkWeak{Name: b.t.inner(name), Digest: b.digest(digest), Until: b.until,
		Claim: b.t.claim})
	b.grows += int64(len(name) + 128)
}

func (b *batch) Remove(name string) {
	b.ops = append(b.ops, &state.Remove{Name: b.t.full(name)})
}

func (b *batch) Expect(name string, version uint64) {
	b.ops = append(b.ops, &state.Expect{Name: b.t.inner(name), Version: version})
}

// inner is full for files: "." is not a file, and must not become the tree's own root.
func (t *Tree) inner(name string) string {
	if name == "." {
		return "" // an invalid name
	}
	return t.full(name)
}

// Update implements the contract: when it returns nil, the whole batch is committed and applied on this node (promises
// 3 and 9).
func (t *Tree) Update(ctx context.Context, fn func(Batch) error) error {
	ops, err := t.edits(fn)
	if err != nil || len(ops) == 0 {
		return err
	}
	index, err := t.c.commit(ctx, t.patient, ops)
	if err == nil && t.c.peers != nil {
		t.c.peers.WaitShown(ctx, index)
	}
	return err
}

// edits lets fn fill a batch, and checks that there is space for it.
func (t *Tree) edits(fn func(Batch) error) ([]state.Op, error) {
	b := &batch{t, &edits{until: t.c.cfg.Now().Add(t.c.cfg.PinTime).UnixNano()}}
	if err := fn(b); err != nil {
		return nil, err
	}
	if b.err != nil {
		return nil, b.err
	}
	if b.grows > 0 {
		if err := t.c.blobs.RoomSmall(b.grows); err != nil {
			return nil, err
		}
	}
	return append(b.ops, b.ends...), nil
}

// fits reports whether edits fit into one log entry.
func (c *Cluster) fits(ops []state.Op) bool {
	size := 0
	for _, op := range ops {
		size += state.Size(op)
	}
	return size <= c.cfg.entrySize && len(ops) <= maxEdits
}

// commit proposes edits of names at one entry or, if they are too many for one, stages them in several and publishes
// them with one. For patient see Tree.Patient.
func (c *Cluster) commit(ctx context.Context, patient bool, ops []state.Op) (uint64, error) {
	approvers(ctx, ops)
	cuts := c.cuts(ops)
	if len(cuts) == 1 {
		r, err := c.proposeAll(ctx, patient, ops)
		return r.Index, err
	}
	// A stage has no room for the end of another one.
	n := len(ops)
	for n > 0 && isEnd(ops[n-1]) {
		n--
	}
	staged, ends := ops[:n], ops[n:]
	cuts = c.cuts(staged)
	// If we were to crash before Publish, nothing was visible, and the stage expires with the next GC.
	id := "update-" + rand.Text()
	if err := c.stage(ctx, patient, id, staged, cuts); err != nil {
		return 0, err
	}
	// The whole batch is one act, which happens now.
	last := append([]state.Op{&state.Publish{ID: id}}, ends...)
	r, err := c.proposeRecorded(ctx, patient, last, c.events(ctx, ops))
	if err != nil {
		return 0, c.dropStage(ctx, id, err)
	}
	return r.Index, nil
}

// isEnd reports whether an edit ends a held batch.
func isEnd(op state.Op) bool {
	_, ok := op.(*state.Reject)
	return ok
}

// cuts returns where the edits are cut so that each part fits into one entry; the first is 0.
func (c *Cluster) cuts(ops []state.Op) []int {
	cuts, size := []int{0}, 0
	for i, op := range ops {
		n := state.Size(op)
		if size > 0 && (size+n > c.cfg.entrySize || i-cuts[len(cuts)-1] >= maxEdits) {
			cuts, size = append(cuts, i), 0
		}
		size += n
	}
	return cuts
}

// stage stages the edits, one entry for each part. After an error the stage is dropped.
func (c *Cluster) stage(ctx context.Context, patient bool, id string, ops []state.Op, cuts []int) error {
	until := c.cfg.Now().Add(c.cfg.PinTime).UnixNano()
	for i, from := range cuts {
		to := len(ops)
		if i+1 < len(cuts) {
			to = cuts[i+1]
		}
		stage := &state.Stage{ID: id, Until: until, From: uint64(from), Ops: ops[from:to]}
		if _, err := c.proposeAll(ctx, patient, []state.Op{stage}); err != nil {
			return c.dropStage(ctx, id, err)
		}
	}
	return nil
}

// maxEdits is the maximum number of edits in one log entry: the state accepts more, but one entry should not delay the
// others for long.
const maxEdits = 8192

// dropStage removes the stage of a refused batch. If that fails, the stage expires.
func (c *Cluster) dropStage(ctx context.Context, id string, cause error) error {
	_, err := c.propose(context.WithoutCancel(ctx), &state.DropStage{ID: id})
	var refused *state.Error
	if errors.As(cause, &refused) || err == nil {
		return cause
	}
	return errors.Join(cause, err)
}
