package content

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"casemate/cluster"
	"casemate/cluster/tree"
)

// Staged is the state of an import that waits for the approval of a second person: every byte of it is here, and
// nothing is visible. The tree holds the batch that publishes it (cluster.Held), under the import's name as the claim.
const Staged = "staged"

// approveWithin is how long an import waits where the policy says nothing.
const approveWithin = 14 * 24 * time.Hour

// Effect is what the approval of a staged import would do.
type Effect struct {
	Import
	// Diff is the digest of the effect, which the approval has to name: it is another one if the names show other
	// content by then.
	Diff    string   `json:"diff"`
	Changes []Change `json:"changes"`
}

// stage holds what publish would commit until somebody else approves it.
func (j *job) stage(ctx context.Context, r Record, version uint64, links *edits, index string) (*Result, error) {
	e := j.e
	var err error
	if r.Origins, err = e.cfg.Origins(hostsOf(links)); err != nil {
		return nil, err
	}
	data, err := r.encode()
	if err != nil {
		return nil, err
	}
	until := e.cfg.Now().Add(cmp.Or(j.policy.ApproveWithin, approveWithin))
	h := cluster.Held{Claim: r.Name, Content: r.ID, Until: until}
	told := tree.WithEvent(ctx, tree.Event{Verb: "import.stage", Object: r.Name, New: r.ID})
	err = e.cfg.Tree.Hold(told, h, func(b cluster.Batch) error {
		own := cluster.As(b, r.Name)
		own.Put(recordName(r.Name), data) // the first one, where recordOf finds it
		b.Expect(recordName(r.Name), version)
		own.Link(indexName(r.Name), index)
		links.write(own)
		return nil
	}, func(b cluster.Batch) error {
		b.Remove(j.keeper.get().dir())
		return nil
	})
	if _, held := e.staged(r.Name); err != nil && !held {
		return nil, collected(err)
	}
	return e.waits(r.Name, j.keeper.get().Parts)
}

// waits is the result for an import that is staged.
func (e *Engine) waits(name string, parts int) (*Result, error) {
	h, ok := e.staged(name)
	if !ok {
		return nil, noLonger(name)
	}
	r, err := e.recordOf(h)
	if err != nil {
		return nil, err
	}
	res := &Result{State: Staged, Record: r, Parts: parts}
	res.NeedsApproval = e.cfg.Tree.ApprovalRequired()
	who := "somebody other than " + h.Maker + " approves it"
	if !res.NeedsApproval {
		who = h.Maker + " publishes it, or somebody else approves it"
	}
	res.Message = fmt.Sprintf("%s is staged until %s: every byte is here, and nothing is visible until %s: %s; "+
		"casemate import diff %s shows what it would do", name, h.Until.Format(time.RFC3339), who, changesText(r), name)
	return res, nil
}

// staged returns the batch that is held for an import.
func (e *Engine) staged(name string) (cluster.Held, bool) {
	all := e.cfg.Tree.Held()
	i := slices.IndexFunc(all, func(h cluster.Held) bool { return h.Claim == name })
	if i < 0 {
		return cluster.Held{}, false
	}
	return all[i], true
}

// stagedContent returns the name of the staged import of that content.
func (e *Engine) stagedContent(id string) (name string, ok bool) {
	for _, h := range e.cfg.Tree.Held() {
		if id != "" && h.Content == id {
			return h.Claim, true
		}
	}
	return "", false
}

// recordOf returns the record of a staged import as it will be published.
func (e *Engine) recordOf(h cluster.Held) (Record, error) {
	for ed := range e.cfg.Tree.HeldEdits(h.ID) {
		if ed.Name != recordName(h.Claim) {
			continue
		}
		var r Record
		if err := json.Unmarshal([]byte(ed.Data), &r); err != nil {
			return r, fmt.Errorf("import %s: its record cannot be read: %w", h.Claim, err)
		}
		r.Maker = h.Maker
		return r, nil
	}
	return Record{}, noLonger(h.Claim)
}

func noLonger(name string) error {
	return fmt.Errorf("no import %s waits for an approval: it was approved or rejected, or has expired: %w", name,
		fs.ErrNotExist)
}

// stagedRecords returns the records of the staged imports by name; their names are taken.
func (e *Engine) stagedRecords() map[string]Record {
	list := map[string]Record{}
	for _, h := range e.cfg.Tree.Held() {
		r, err := e.recordOf(h)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended meanwhile
		}
		if err != nil {
			r = Record{Name: h.Claim, Maker: h.Maker, Notes: []string{err.Error()}}
		}
		list[h.Claim] = r
	}
	return list
}

// stagedImports lists the staged imports.
func (e *Engine) stagedImports() []Import {
	var list []Import
	for name, r := range e.stagedRecords() {
		if h, ok := e.staged(name); ok {
			list = append(list, e.stagedImport(r, h))
		}
	}
	slices.SortFunc(list, func(a, b Import) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Name, b.Name))
	})
	return list
}

func (e *Engine) stagedImport(r Record, h cluster.Held) Import {
	return Import{State: Staged, Record: r, KeptUntil: h.Until, NeedsApproval: e.cfg.Tree.ApprovalRequired()}
}

// Waiting lists the staged imports, the oldest first. What each would do is in its Diff.
func (e *Engine) Waiting() []Import { return append([]Import{}, e.stagedImports()...) }

// Staged returns how many imports are staged. It reads no records.
func (e *Engine) Staged() int { return len(e.cfg.Tree.Held()) }

// Diff returns what approving a staged import would do now. fs.ErrNotExist: no import of that name waits.
func (e *Engine) Diff(name string) (*Effect, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	h, ok := e.staged(name)
	if !ok {
		return nil, noLonger(name)
	}
	r, err := e.recordOf(h)
	if err != nil {
		return nil, err
	}
	diff, held, ok := e.cfg.Tree.HeldEffect(h.ID)
	if !ok {
		return nil, noLonger(name)
	}
	links, now := e.heldLinks(held)
	if r.Origins, err = e.cfg.Origins(hostsOf(links)); err != nil {
		return nil, err
	}
	r.New, r.Changed, r.Unchanged, r.Images, r.Manifests, r.Files, r.Redirects = 0, 0, 0, 0, 0, 0, 0
	out := &Effect{Import: e.stagedImport(r, h), Diff: diff,
		Changes: changesOf(e.names(links), name, func(path string) []cluster.Claim { return now[path] })}
	for _, c := range out.Changes {
		out.tally(c)
	}
	return out, nil
}

// heldLinks returns the links of a held batch, and what their names show.
func (e *Engine) heldLinks(held iter.Seq[cluster.HeldEdit]) (*edits, map[string][]cluster.Claim) {
	links, now := &edits{at: map[string]int{}}, map[string][]cluster.Claim{}
	for ed := range held {
		if ed.Removes || strings.HasPrefix(ed.Name, importsDir+"/") {
			continue
		}
		now[ed.Name] = ed.Now
		one := edit{name: ed.Name, digest: ed.Digest}
		if strings.HasPrefix(ed.Name, RedirectsDir+"/") {
			one.digest = textDigest(ed.Data)
		}
		links.add(one)
	}
	return links, now
}

// Approve publishes a staged import. The context's actor is the approver; diff is that of Diff, which the approver has
// seen. The state of the cluster decides again: cluster.ErrApproval: the actor has made the import. fs.ErrExist: it
// would do something else than diff. fs.ErrNotExist: it was approved or rejected before, or has expired.
// fs.ErrPermission: the policy does not allow it any more.
func (e *Engine) Approve(ctx context.Context, name, diff string) (*Result, error) {
	h, effect, err := e.seen(name, diff)
	if err != nil {
		return nil, err
	}
	if tree.ActorIn(ctx).Name == h.Maker {
		if !effect.NeedsApproval {
			return nil, fmt.Errorf("import %s was made by %s, who need not approve it: casemate import publish %s "+
				"publishes it: %w", name, h.Maker, name, cluster.ErrApproval)
		}
		return nil, fmt.Errorf("import %s was made by %s: %w", name, h.Maker, cluster.ErrApproval)
	}
	if by := tree.ActorIn(ctx).Name; by != "" && by == effect.KeyBy {
		return nil, fmt.Errorf("import %s was made by %s, which is an API key of %s: %w", name, h.Maker, by,
			cluster.ErrApproval)
	}
	effect.Approver = tree.ActorIn(ctx).Name
	told := tree.Event{Verb: "import.approve", Object: name, Old: effect.ID, New: effect.Diff}
	return e.publishStaged(ctx, h, effect, told, func(b cluster.Batch) { cluster.Approve(b, h.ID, effect.Diff) })
}

// PublishStaged publishes a staged import for who has made it, the context's actor, where the policy asks for no
// approval. diff is that of Diff, which the actor has seen. cluster.ErrApproval: the policy asks for one.
// ErrOtherMaker: somebody else has made it. fs.ErrPermission, fs.ErrExist and fs.ErrNotExist are those of Approve.
// Names that change at the very moment are published over, as by an import that was not staged.
func (e *Engine) PublishStaged(ctx context.Context, name, diff string) (*Result, error) {
	h, effect, err := e.seen(name, diff)
	if err != nil {
		return nil, err
	}
	switch {
	case effect.NeedsApproval:
		return nil, fmt.Errorf("import %s cannot be published by who has made it: %w", name, cluster.ErrApproval)
	case tree.ActorIn(ctx).Name != h.Maker:
		return nil, fmt.Errorf("import %s was made by %s, and only %s publishes it: others approve it with casemate "+
			"import approve %s: %w", name, h.Maker, h.Maker, name, ErrOtherMaker)
	}
	told := tree.Event{Verb: "import.publish", Object: name, Old: effect.ID, New: effect.Diff}
	return e.publishStaged(ctx, h, effect, told, func(b cluster.Batch) { cluster.Release(b, h.ID) })
}

// ErrOtherMaker refuses to publish what somebody else has staged.
var ErrOtherMaker = errors.New("it was staged by somebody else")

// seen returns a staged import that would do what the digest says.
func (e *Engine) seen(name, diff string) (cluster.Held, *Effect, error) {
	effect, err := e.Diff(name)
	if err != nil {
		return cluster.Held{}, nil, err
	}
	h, ok := e.staged(name)
	switch {
	case !ok:
		return h, nil, noLonger(name)
	case effect.Diff != diff:
		return h, nil, fmt.Errorf("import %s would do something else than %.80q now (%s): casemate import diff %s "+
			"shows what: %w", name, diff, effect.Diff, name, fs.ErrExist)
	}
	return h, effect, nil
}

// publishStaged publishes a staged import with what write adds to the batch: its approval, or its edits.
func (e *Engine) publishStaged(ctx context.Context, h cluster.Held, effect *Effect, told tree.Event,
	write func(cluster.Batch)) (*Result, error) {
	r := effect.Record
	links, _ := e.heldLinks(e.cfg.Tree.HeldEdits(h.ID))
	hosts := hostsOf(links)
	if err := e.cfg.Policy().checkNames(r, hosts); err != nil {
		return nil, fmt.Errorf("import %s: %w", r.Name, err)
	}
	r.Time = e.cfg.Now().UTC()
	err := e.cfg.Publish(tree.WithEvent(ctx, told), hosts, func(b cluster.Batch, o Origins) error {
		r.Origins = o
		data, err := r.encode()
		if err == nil {
			write(b)
			cluster.As(b, r.Name).Put(recordName(r.Name), data)
		}
		return err
	})
	if err != nil && !e.happened(r) {
		return nil, fmt.Errorf("import %s cannot be published: %w", r.Name, err)
	}
	e.cfg.Log.Info("staged import published", "event", told.Verb, "import", r.Name, "id", r.ID, "maker", r.Maker,
		"approver", r.Approver, "diff", effect.Diff)
	res := &Result{State: Imported, Record: r}
	res.Message = fmt.Sprintf("%s is imported: %s", r.Name, changesText(r))
	return res, nil
}

// Reject ends a staged import; its content is freed with the next gc. fs.ErrNotExist: no import of that name waits.
func (e *Engine) Reject(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	h, ok := e.staged(name)
	if !ok {
		return noLonger(name)
	}
	told := tree.WithEvent(ctx, tree.Event{Verb: "import.reject", Object: name, Old: h.Content})
	if err := e.cfg.Tree.Reject(told, h.ID); err != nil {
		return fmt.Errorf("import %s: %w", name, err)
	}
	e.cfg.Log.Info("import rejected", "import", name, "id", h.Content, "maker", h.Maker)
	return nil
}
