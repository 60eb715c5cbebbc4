package missing

import "slices"

// ByHand is the value of Listed.SolvedBy for content that no import brought.
const ByHand = "hand"

// Listed is an entry, and whether the missing content is available now.
type Listed struct {
	Entry
	Solved bool `json:"solved"`
	// SolvedBy is the import that brought it, or ByHand; "" while it is missing.
	SolvedBy string `json:"solved_by,omitempty"`
	// Cure is what would supply it; "" for entries that are solved or noise.
	Cure string `json:"cure,omitempty"`
}

// Solve calls answered for each entry and returns the missing ones first; apart from that the order stays. The result
// is not stored: it depends on the current content, so it is right on every node, and deleting the content makes its
// entry missing again. Noise comes last, whether or not it is available. reach is that of Cure.
func Solve(entries []Entry, answered func(Entry) (by string, ok bool), reach func(host string) string) []Listed {
	list := make([]Listed, 0, len(entries))
	var solved, noise []Listed
	for _, e := range entries {
		by, ok := answered(e)
		l := Listed{Entry: e, Solved: ok, SolvedBy: by}
		switch {
		case e.Noise != "":
			noise = append(noise, l)
		case ok:
			solved = append(solved, l)
		default:
			l.SolvedBy, l.Cure = "", Cure(e, reach)
			list = append(list, l)
		}
	}
	return slices.Concat(list, solved, noise)
}

// Unsolved returns the first n of entries whose content is missing.
func Unsolved(entries []Entry, n int, answered func(Entry) (by string, ok bool)) []Entry {
	var list []Entry
	for _, e := range entries {
		if len(list) == n {
			break
		}
		if _, ok := answered(e); !ok {
			list = append(list, e)
		}
	}
	return list
}
