package cluster

import (
	"context"
	"io/fs"
	"iter"
	"strings"

	"casemate/cluster/state"
)

// As returns a view of the same batch whose edits carry another claim, so that one batch can write an import's names
// under its claim, and other names without a claim (""). Edits of both views apply in the order in which they were
// made. b must come from an Update of this package, or be a view of such a batch. With another batch, or an invalid
// claim, the Update of b is refused with fs.ErrInvalid.
func As(b Batch, claim string) Batch {
	own, ok := b.(*batch)
	if !ok {
		b.Put("/cluster.As of a batch that is not of this cluster", nil) // an invalid name
		return b
	}
	return &batch{t: own.t.As(claim), edits: own.edits}
}

// Claim is the entry of one claim under a name.
type Claim struct {
	// Claim is the import's name; "" for no import.
	Claim string
	// FileInfo is what Stat would return if this claim were visible; it also has Digest and Version.
	fs.FileInfo
	// Data is the content of a record; "" for a link.
	Data string
}

// DropClaims removes everything with the claim from the whole tree: for each name, the entry of this claim is removed,
// and the entry of an older claim, or without claim, becomes visible again. It happens at one log entry, so never
// between two edits of another write. A claim without names is no error; an invalid claim is fs.ErrInvalid.
func (t *Tree) DropClaims(ctx context.Context, claim string) error {
	_, err := t.c.propose(ctx, &state.DropClaims{Claim: claim})
	return err
}

// Claims yields the claims in the whole tree, sorted, with the number of names of each, visible or hidden. The claim ""
// is not included.
func (t *Tree) Claims() iter.Seq2[string, int] { return t.state().Claims() }

// Claimed yields the entries of the claim below this tree's root, visible or hidden behind a newer claim, in the order
// of Walk and from one state. It scans all names of the whole tree.
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

// ClaimsOf returns the entries of all claims under the name, newest first; Stat returns the first. It is empty for a
// directory and for a name that does not exist.
func (t *Tree) ClaimsOf(name string) []Claim {
	if !fs.ValidPath(name) || name == "." {
		return nil
	}
	return claimsOf(t.state(), t.full(name), name)
}

// claimsOf are the entries of a name in the whole tree, with the name that is told.
func claimsOf(s *state.State, full, name string) (list []Claim) {
	for _, e := range s.ClaimsOf(full) {
		list = append(list, Claim{e.Claim, fileInfo(name, e), e.Data})
	}
	return list
}

// Weigh returns the bytes of the blobs that visible files below dirs keep, by a strong link or by its holds, each blob
// once. It calls file, if it is not nil, with the name of each visible file there. All of it is from one state; its
// cost grows with the number of files and blobs.
func (t *Tree) Weigh(dirs []string, file func(name string)) (bytes int64) {
	full := make([]string, len(dirs))
	for i, dir := range dirs {
		if full[i] = t.full(dir); !fs.ValidPath(dir) {
			full[i] = "/" // which nothing is below
		}
	}
	below := file
	if skip := len(t.prefix); skip > 0 && file != nil {
		below = func(name string) { file(name[skip+1:]) }
	}
	return t.state().Weigh(full, below)
}

// Kept yields digest and size of every blob that a published name keeps, by a strong link or by its holds, visible or
// hidden, anywhere in the tree. A blob that is kept only by a weak link, a pin or an unfinished batch may be collected
// at any time, so an inventory must not promise it.
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
