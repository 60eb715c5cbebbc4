package cluster

import (
	"context"
	"io/fs"
	"iter"
	"strings"

	"casemate/cluster/state"
)

// As returns a view of the same batch whose edits carry another claim, so that one batch can write an import's names
// under its claim and what belongs to no import by hand (claim ""). Edits of both views apply in the order in which
// they were made. b must be what an Update of this package gave to its function, or a view of it; with another batch,
// and with a bad claim, the Update that b belongs to is refused with fs.ErrInvalid.
func As(b Batch, claim string) Batch {
	own, ok := b.(*batch)
	if !ok {
		b.Put("/cluster.As of a batch that is not of this cluster", nil) // a name that no tree takes
		return b
	}
	return &batch{t: own.t.As(claim), edits: own.edits}
}

// Claim is what one claim has under a name.
type Claim struct {
	// Claim is the import's name, "" for by hand.
	Claim string
	// FileInfo is what Stat would return if this claim showed; it has Digest and Version as well.
	fs.FileInfo
	// Data is the content of a record, "" of a link.
	Data string
}

// DropClaims removes everything that carries the claim, in the whole tree: from each name goes what this claim wrote
// there, and what an older claim or a hand wrote shows again. It happens at one log entry, so it is before or after any
// other write, never between two edits of one. A claim that nothing carries is no error; one that is not valid is
// fs.ErrInvalid.
func (t *Tree) DropClaims(ctx context.Context, claim string) error {
	_, err := t.c.propose(ctx, &state.DropClaims{Claim: claim})
	return err
}

// Claims yields the claims of the whole tree that have a name, sorted, with how many names each has, seen or hidden. By
// hand is none.
func (t *Tree) Claims() iter.Seq2[string, int] { return t.state().Claims() }

// Claimed yields what the claim wrote below this tree's root and still has there, seen or hidden behind a newer claim,
// in the order of Walk and from one state. It scans all names of the whole tree.
func (t *Tree) Claimed(claim string) iter.Seq2[string, fs.FileInfo] {
	s := t.state() // now, not when the caller begins to range
	return func(yield func(string, fs.FileInfo) bool) {
		below := t.prefix
		if below != "" {
			below += "/"
		}
		for name, e := range s.Claimed(claim) {
			if rest, ok := strings.CutPrefix(name, below); ok && !yield(rest, fileInfo(name, e)) {
				return
			}
		}
	}
}

// ClaimsOf returns what each claim has under the name, newest first: the first is what Stat returns. It is empty for a
// directory and for what does not exist.
func (t *Tree) ClaimsOf(name string) []Claim {
	if !fs.ValidPath(name) || name == "." {
		return nil
	}
	var list []Claim
	for _, e := range t.state().ClaimsOf(t.full(name)) {
		list = append(list, Claim{e.Claim, fileInfo(name, e), e.Data})
	}
	return list
}

// Kept yields digest and size of every blob that a published name keeps: by a strong link or by its holds, seen or
// hidden, anywhere in the tree. What only a weak link, a pin or a batch under way keeps may be collected at any time,
// so an inventory must not promise it.
func (t *Tree) Kept() iter.Seq2[string, int64] {
	s := t.state()
	return func(yield func(string, int64) bool) {
		for d, size := range s.Kept() {
			if !yield(d.String(), size) {
				return
			}
		}
	}
}
