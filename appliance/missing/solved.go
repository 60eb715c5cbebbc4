package missing

import "slices"

// ByHand is what Listed.SolvedBy says of what no import brought.
const ByHand = "hand"

// Listed is an entry with whether what was missed is answered now.
type Listed struct {
	Entry
	Solved bool `json:"solved"`
	// SolvedBy is the import that brought it, or ByHand; "" while it is open.
	SolvedBy string `json:"solved_by,omitempty"`
	// Cure says what would bring it; "" for what is solved or no need.
	Cure string `json:"cure,omitempty"`
}

// Solve asks answered about each entry and returns the open ones first; apart from that the order stays. What is solved
// is not kept: it follows from what is there at the moment, so it is right on every node, and something that is deleted
// again opens its entry again. What is noise comes last, whether it is answered or not. reach is that of Cure.
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

// Unsolved returns the first n of entries that are not answered now.
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
