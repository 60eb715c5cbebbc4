package missing

// ByHand is what Listed.SolvedBy says of what no import brought.
const ByHand = "hand"

// Listed is an entry with whether what was missed is answered now.
type Listed struct {
	Entry
	Solved bool `json:"solved"`
	// SolvedBy is the import that brought it, or ByHand; "" while it is open.
	SolvedBy string `json:"solved_by,omitempty"`
}

// Solve asks answered about each entry and returns the open ones first; apart from that the order stays. What is solved
// is not kept: it follows from what is there at the moment, so it is right on every node, and something that is deleted
// again opens its entry again.
func Solve(entries []Entry, answered func(Entry) (by string, ok bool)) []Listed {
	list := make([]Listed, 0, len(entries))
	var solved []Listed
	for _, e := range entries {
		if by, ok := answered(e); ok {
			solved = append(solved, Listed{e, true, by})
		} else {
			list = append(list, Listed{Entry: e})
		}
	}
	return append(list, solved...)
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
