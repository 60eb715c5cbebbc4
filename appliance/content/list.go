package content

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"casemate/cluster"
	"casemate/cluster/tree"
)

// Import is one import in a list.
type Import struct {
	State string `json:"state"` // Imported, Staged, Incomplete
	Record
	Parts   int   `json:"parts,omitempty"`
	Have    []int `json:"have,omitempty"`
	Missing []int `json:"missing,omitempty"`
	// KeptUntil is when an incomplete import is dropped, together with what was read of it, unless it is continued;
	// and when a staged one expires.
	KeptUntil time.Time `json:"kept_until,omitzero"`
	// NeedsApproval reports that somebody else has to approve a staged import. Else its maker may publish it as well.
	NeedsApproval bool `json:"needs_approval,omitempty"`
	// Running reports that this node is reading it now.
	Running bool `json:"running,omitempty"`
}

// List returns all imports, complete ones first, ordered by time.
func (e *Engine) List() ([]Import, error) { return e.ListFor(context.Background()) }

// ListFor is List with a context: the names of incomplete imports are compared with the tree, which takes time.
func (e *Engine) ListFor(ctx context.Context) ([]Import, error) {
	records, err := e.records()
	if err != nil {
		return nil, err
	}
	list := make([]Import, 0, len(records))
	for _, r := range records {
		list = append(list, Import{State: Imported, Record: r})
	}
	list = append(list, e.stagedImports()...)
	pendings, err := e.pendings()
	if err != nil {
		return nil, err
	}
	for _, p := range pendings {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		list = append(list, e.pendingImport(p))
	}
	slices.SortFunc(list, func(a, b Import) int {
		return cmp.Or(cmp.Compare(a.State, b.State), a.Time.Compare(b.Time), cmp.Compare(a.Name, b.Name))
	})
	return list, nil
}

// Counts returns the numbers of imports. It reads no records, so that metrics stay cheap.
func (e *Engine) Counts() (complete, incomplete int, err error) {
	entries, err := e.cfg.Tree.ReadDir(importsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	for _, entry := range entries {
		if importsDir+"/"+entry.Name() != pendingDir {
			complete++
			continue
		}
		pending, err := e.cfg.Tree.ReadDir(pendingDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, 0, err
		}
		incomplete = len(pending)
	}
	return complete, incomplete, nil
}

// Pending returns how many imports are complete, and the incomplete ones by name, without the names that they will
// publish: its cost does not depend on their number.
func (e *Engine) Pending() (complete int, list []Import, err error) {
	if complete, _, err = e.Counts(); err != nil {
		return 0, nil, err
	}
	pendings, err := e.pendings()
	for _, p := range pendings {
		list = append(list, e.pendingBlobs(p))
	}
	slices.SortFunc(list, func(a, b Import) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Name, b.Name))
	})
	return complete, list, err
}

// pendingImport describes an incomplete import: its blobs are those stored so far, its names as they it will
// publish, as far as known.
func (e *Engine) pendingImport(p pending) Import {
	i := e.pendingBlobs(p)
	if ix, err := e.readIndex(p.dir() + "/index"); err == nil {
		if names, _, err := e.namesOfIndex(ix); err == nil {
			for _, c := range e.changes(names, p.Name) {
				i.tally(c)
			}
		}
	}
	return i
}

// pendingBlobs is pendingImport without names.
func (e *Engine) pendingBlobs(p pending) Import {
	i := Import{State: Incomplete, Parts: p.Parts, Have: p.Have, Missing: p.missing(), Running: e.isRunning(p.Key)}
	i.Record = Record{Name: p.Name, Kind: p.Kind, ID: p.ID, Sources: p.Sources, Signer: p.Signer, Time: p.Touched,
		Node: p.Node}
	i.KeptUntil = p.Touched.Add(pendingAge)
	for name, info := range e.cfg.Tree.Walk(p.dir(), "") {
		fresh := strings.HasPrefix(name, p.dir()+"/new/")
		if !fresh && !strings.HasPrefix(name, p.dir()+"/held/") {
			continue
		}
		i.Blobs++
		i.Bytes += info.Size()
		if fresh {
			i.BytesNew += info.Size()
		}
	}
	return i
}

// Shown is one name of an import, and whether clients get it.
type Shown struct {
	Name
	// Behind is the newer claim that hides it: an import's name, or "by hand". "": it is not hidden.
	Behind string `json:"behind,omitempty"`
}

// ByHand stands for pushes and other manual changes, in place of an import's name.
const ByHand = "by hand"

// Details is an import with its names.
type Details struct {
	Import
	// Intact reports that nothing of it was deleted by hand.
	Intact bool    `json:"intact"`
	Names  []Shown `json:"names"`
}

// Show returns an import with its names; for an incomplete one the names that it will publish, as far as known.
// fs.ErrNotExist: there is no such import.
func (e *Engine) Show(name string) (*Details, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	r, err := e.readRecord(name)
	if err == nil {
		return &Details{Import: Import{State: Imported, Record: r}, Intact: e.intact(r), Names: e.shown(name)}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if effect, err := e.Diff(name); err == nil {
		d := &Details{Import: effect.Import, Intact: true, Names: []Shown{}}
		for _, c := range effect.Changes {
			n := Name{Kind: c.Kind, Name: c.Name, Digest: c.To}
			d.Names = append(d.Names, Shown{Name: n, Behind: "not approved"})
		}
		return d, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	p, ok, perr := e.pendingNamed(name)
	if perr != nil || !ok {
		return nil, errors.Join(perr, err)
	}
	d := &Details{Import: e.pendingImport(p), Names: []Shown{}}
	ix, err := e.readIndex(p.dir() + "/index")
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	names, _, err := e.namesOfIndex(ix)
	for _, n := range names {
		d.Names = append(d.Names, Shown{Name: n, Behind: "not complete"})
	}
	return d, err
}

// pendingNamed returns the incomplete import of that name.
func (e *Engine) pendingNamed(name string) (pending, bool, error) {
	all, err := e.pendings()
	for _, p := range all {
		if p.Name == name {
			return p, true, err
		}
	}
	return pending{}, false, err
}

// shown returns the names of an import with their current state in the tree.
func (e *Engine) shown(importName string) []Shown {
	var names []Name
	for path, info := range e.cfg.Tree.Claimed(importName) {
		n, ok := e.nameOf(path, tree.DigestOf(info))
		if !ok {
			continue
		}
		if n.Kind == KindRedirect {
			for _, c := range e.cfg.Tree.ClaimsOf(path) {
				if c.Claim == importName {
					n.Digest = claimDigest(path, c)
				}
			}
		}
		names = append(names, n)
	}
	list := []Shown{}
	for _, n := range tidy(names) {
		s := Shown{Name: n}
		if claims := e.cfg.Tree.ClaimsOf(n.path); len(claims) > 0 && claims[0].Claim != importName &&
			claimDigest(n.path, claims[0]) != n.Digest {
			s.Behind = cmp.Or(claims[0].Claim, ByHand)
		}
		list = append(list, s)
	}
	return list
}

// behind returns the claims that hide names of an import, sorted.
func (e *Engine) behind(importName string) []string {
	var list []string
	for _, s := range e.shown(importName) {
		if s.Behind != "" {
			list = append(list, s.Behind)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Removed is the result of removing an import.
type Removed struct {
	Name string `json:"name"`
	// Vanished are names that no longer exist.
	Vanished []Name `json:"vanished"`
	// Back are names whose older content, of an import or a push, reappeared, with its digest and its claim.
	Back []Returned `json:"back"`
	// Kept is how many of its names stay unchanged, because another claim has the same content or had hidden them.
	Kept int `json:"kept"`
}

// Returned is a name whose older content reappeared.
type Returned struct {
	Name
	From string `json:"from"` // the digest before the removal
	By   string `json:"by"`   // an import's name, or ByHand
}

// Remove undoes an import in one log entry; the content of older imports and of pushes reappears. An incomplete
// import is removed together with what was read of it. Origins that it enabled stay enabled. fs.ErrNotExist: there is
// no such import. fs.ErrExist: it is being read now.
func (e *Engine) Remove(ctx context.Context, name string) (*Removed, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	out := &Removed{Name: name, Vanished: []Name{}, Back: []Returned{}}
	if _, err := e.cfg.Tree.Stat(recordName(name)); errors.Is(err, fs.ErrNotExist) {
		if _, ok := e.staged(name); ok {
			return out, e.Reject(ctx, name)
		}
		p, err := e.removable(name)
		if err != nil {
			return nil, err
		}
		return out, e.dropPending(ctx, p)
	} else if err != nil {
		return nil, err
	}
	before := e.shown(name)
	if err := e.cfg.Tree.DropClaims(ctx, name); err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	out.tell(before, e.cfg.Tree.ClaimsOf)
	e.cfg.Log.Info("import removed", "import", name, "vanished", len(out.Vanished), "back", len(out.Back), "kept",
		out.Kept)
	return out, nil
}

// WouldRemove returns what Remove would do now, and the size of the import's content in bytes. Vanished and Back are
// empty for an incomplete import, of which nothing is visible.
func (e *Engine) WouldRemove(name string) (*Removed, int64, error) {
	if err := CheckName(name); err != nil {
		return nil, 0, err
	}
	out := &Removed{Name: name, Vanished: []Name{}, Back: []Returned{}}
	r, err := e.readRecord(name)
	if errors.Is(err, fs.ErrNotExist) {
		if h, ok := e.staged(name); ok {
			r, err := e.recordOf(h)
			return out, r.Bytes, err
		}
		p, err := e.removable(name)
		if err != nil {
			return nil, 0, err
		}
		return out, e.pendingBlobs(p).Bytes, nil
	}
	// A record that cannot be read does not keep the import from being removed.
	out.tell(e.shown(name), func(path string) []cluster.Claim {
		return slices.DeleteFunc(e.cfg.Tree.ClaimsOf(path), func(c cluster.Claim) bool { return c.Claim == name })
	})
	return out, r.Bytes, nil
}

// removable returns the incomplete import of that name; fs.ErrNotExist: there is none. fs.ErrExist: it is being read.
func (e *Engine) removable(name string) (pending, error) {
	p, ok, err := e.pendingNamed(name)
	switch {
	case err != nil:
		return p, err
	case !ok:
		return p, fmt.Errorf("there is no import %s: %w", name, fs.ErrNotExist)
	case e.isRunning(p.Key):
		return p, fmt.Errorf("import %s is being read now: stop its command first: %w", name, fs.ErrExist)
	}
	return p, nil
}

// tell sets what became of the names that an import had: after are the claims of a name without it.
func (r *Removed) tell(before []Shown, after func(path string) []cluster.Claim) {
	for _, s := range before {
		now := after(s.path)
		if len(now) == 0 {
			r.Vanished = append(r.Vanished, s.Name)
			continue
		}
		d := claimDigest(s.path, now[0])
		if s.Behind != "" || d == s.Digest {
			r.Kept++
			continue
		}
		back := Returned{Name: s.Name, From: s.Digest, By: cmp.Or(now[0].Claim, ByHand)}
		back.Digest = d
		r.Back = append(r.Back, back)
	}
}
