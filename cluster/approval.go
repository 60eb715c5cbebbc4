package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"time"

	"casemate/cluster/state"
	"casemate/cluster/tree"
)

// ErrApproval is the error for what needs the approval of somebody else.
var ErrApproval = state.ErrApproval

// Held is a batch that waits until somebody else approves it. Nothing of it is visible; its blobs are kept.
type Held struct {
	ID string
	// Claim is the claim of its entries. At most one batch is held for a claim.
	Claim string
	// Content is the digest by which people know what it writes.
	Content string
	// Maker is the name of the actor (tree.ActorIn) who has held it.
	Maker string
	Made  time.Time
	Until time.Time // when it expires
	Edits int
}

// HeldEdit is one edit of a held batch.
type HeldEdit struct {
	Name string
	// Digest is that of a link, Data is that of a record. Removes: the name and what is below it are removed.
	Digest, Data string
	Removes      bool
	Claim        string
	// Now are the entries under the name, newest first, in the state that the diff is of.
	Now []Claim
}

const heldFormat = 4

// mayHold refuses edits that not every member understands.
func (c *Cluster) mayHold() error {
	if agreed, newest := c.Format(); agreed < heldFormat {
		return fmt.Errorf("approvals need format %d of the replicated log, and the cluster is at %d (newest here: "+
			"%d): upgrade every node, then run casemate cluster format --raise: %w", heldFormat, agreed, newest,
			fs.ErrInvalid)
	}
	return nil
}

// RequireApproval decides, with the batch, whether entries with a claim are written only by approvals. b must come from
// an Update of this package. Before format 4 the Update is refused with fs.ErrInvalid.
func RequireApproval(b Batch, on bool) {
	own, ok := b.(*batch)
	if !ok {
		b.Put("/cluster.RequireApproval of a batch that is not of this cluster", nil) // an invalid name
		return
	}
	if err := own.t.c.mayHold(); err != nil {
		if on && own.err == nil { // before that format it is off
			own.err = err
		}
		return
	}
	own.ops = append(own.ops, &state.RequireApproval{On: on})
}

// ApprovalRequired reports whether entries with a claim are written only by approvals.
func (t *Tree) ApprovalRequired() bool { return t.state().ApprovalRequired() }

// Hold stages the edits of held until somebody approves them, and applies those of now at once. Of h it takes Claim,
// Content and Until; the maker is the context's actor. fs.ErrExist: a batch is held for the claim already.
func (t *Tree) Hold(ctx context.Context, h Held, held, now func(Batch) error) error {
	if err := t.c.mayHold(); err != nil {
		return err
	}
	ops, err := t.edits(held)
	if err != nil {
		return err
	}
	rest, err := t.edits(now)
	if err != nil {
		return err
	}
	id := "held-" + rand.Text()
	if err := t.c.stage(ctx, t.patient, id, ops, t.c.cuts(ops)); err != nil {
		return err
	}
	// If we were to crash before this, the stage would expire within the hour.
	hold := &state.Hold{ID: id, Claim: h.Claim, Content: h.Content, Maker: t.c.actor(ctx), Until: h.Until.UnixNano()}
	r, err := t.c.proposeAll(ctx, t.patient, append([]state.Op{hold}, rest...))
	if err != nil {
		return t.c.dropStage(ctx, id, err)
	}
	if t.c.peers != nil {
		t.c.peers.WaitShown(ctx, r.Index)
	}
	return nil
}

// actor is the name of the context's actor.
func (c *Cluster) actor(ctx context.Context) string {
	if name := tree.ActorIn(ctx).Name; name != "" {
		return name
	}
	return "node/" + c.cfg.Node
}

// Approve adds the approval of a held batch to b, in which it must come before everything that touches the same names.
// diff is what HeldEffect returned. The approver is the actor of the Update's context; a node cannot approve. The
// Update's errors: ErrApproval if the actor has made it or is a node, fs.ErrExist if the effect is another one now,
// fs.ErrNotExist if nothing is held under the id: it was approved or rejected, or has expired.
func Approve(b Batch, id, diff string) {
	own, ok := b.(*batch)
	sum, err := hex.DecodeString(strings.TrimPrefix(diff, "sha256:"))
	if !ok || err != nil {
		b.Put("/cluster.Approve of another batch, or without a diff", nil) // an invalid name
		return
	}
	own.ops = append(own.ops, &state.Approve{ID: id, Diff: sum, Until: own.until})
}

// Release adds to b the edits of a held batch, as if they were made now, and the end of the held batch: it takes effect
// without an approval. The Update's errors: ErrApproval if approvals are required, fs.ErrExist if a version that the
// held batch expects is another one now, fs.ErrNotExist if nothing is held under the id. Unlike an approval it does not
// depend on what the names show.
func Release(b Batch, id string) {
	own, ok := b.(*batch)
	if !ok {
		b.Put("/cluster.Release of a batch that is not of this cluster", nil) // an invalid name
		return
	}
	for op := range own.t.state().HeldOps(id) {
		if w, ok := op.(*state.LinkWeak); ok {
			renewed := *w
			renewed.Until = own.until
			op = &renewed
		}
		own.ops = append(own.ops, op)
		own.grows += int64(state.Size(op))
	}
	own.ends = append(own.ends, &state.Reject{ID: id})
}

// approvers names the context's actor as the approver of the edits' approvals.
func approvers(ctx context.Context, ops []state.Op) {
	for _, op := range ops {
		if a, ok := op.(*state.Approve); ok {
			if who := tree.ActorIn(ctx); who.How != state.ByNode {
				a.By = who.Name
			}
		}
	}
}

// Reject ends a held batch; nothing of it was or will be visible. fs.ErrNotExist: nothing is held under the id.
func (t *Tree) Reject(ctx context.Context, id string) error {
	if err := t.c.mayHold(); err != nil {
		return err
	}
	_, err := t.c.proposeAll(ctx, t.patient, []state.Op{&state.Reject{ID: id}})
	return err
}

// Held returns the held batches by id.
func (t *Tree) Held() []Held {
	var list []Held
	for h := range t.state().Held() {
		list = append(list, Held(h))
	}
	return list
}

// HeldEffect returns what approving a held batch would do now: its edits, and their digest ("sha256:…") with what the
// names show now. The edits are of the state that the digest is of. false: nothing is held under the id.
func (t *Tree) HeldEffect(id string) (diff string, edits iter.Seq[HeldEdit], ok bool) {
	s := t.state()
	sum, ok := s.Diff(id)
	return fmt.Sprintf("sha256:%x", sum), heldEdits(s, id), ok
}

// HeldEdits yields the edits of a held batch, without the digest of HeldEffect, which takes time.
func (t *Tree) HeldEdits(id string) iter.Seq[HeldEdit] { return heldEdits(t.state(), id) }

func heldEdits(s *state.State, id string) iter.Seq[HeldEdit] {
	return func(yield func(HeldEdit) bool) {
		for op := range s.HeldOps(id) {
			var e HeldEdit
			switch op := op.(type) {
			case *state.Put:
				e = HeldEdit{Name: op.Name, Data: string(op.Data), Claim: op.Claim}
			case *state.Link:
				e = HeldEdit{Name: op.Name, Digest: op.Digest.String(), Claim: op.Claim}
			case *state.LinkWeak:
				e = HeldEdit{Name: op.Name, Digest: op.Digest.String(), Claim: op.Claim}
			case *state.Remove:
				e = HeldEdit{Name: op.Name, Removes: true}
			default:
				continue
			}
			e.Now = claimsOf(s, e.Name, e.Name)
			if !yield(e) {
				return
			}
		}
	}
}
