package state

import "iter"

// claim counts the names that an import claims, visible or hidden.
type claim struct{ names int }

// DropClaims removes the entries of one import: its claim is removed from every name, and the next newest claim becomes
// visible. It scans the whole tree; removing an import is rare, and an index would cost every name a second key.
type DropClaims struct {
	_     struct{} `cbor:",toarray"`
	Claim string
}

func (o *DropClaims) check() error {
	if !ValidID(o.Claim) {
		return refuse(CodeInvalid, "drop claims of", o.Claim, "a claim has 1 to %d bytes and no control characters",
			MaxID)
	}
	return nil
}

func (o *DropClaims) apply(tx *tx) error {
	s := tx.s
	c, ok := s.claims.get(o.Claim)
	if !ok {
		return nil
	}
	keys := make([]string, 0, c.names)
	s.names.from("", func(k string, n *node) bool {
		for ; n != nil; n = n.older {
			if n.claim == o.Claim {
				keys = append(keys, k)
				break
			}
		}
		return len(keys) < c.names
	})
	for _, k := range keys {
		n, _ := s.names.get(k)
		before := s.visible(n)
		rest, gone := without(n, o.Claim)
		tx.release(gone)
		if rest == nil {
			tx.forget(k)
		} else {
			s.names.set(k, rest)
		}
		if before == gone {
			tx.changed(nameOf(k))
		}
	}
	return nil
}

// without removes the claim's node from the list and returns both.
func without(n *node, claim string) (rest, gone *node) {
	for at := &n; *at != nil; at = &(*at).older {
		if gone = *at; gone.claim == claim {
			*at = gone.older
			return n, gone
		}
	}
	return n, nil
}

// Claims yields the claims that have a name, sorted, with the number of names of each, visible or hidden.
func (s *State) Claims() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		s.claims.from("", func(id string, c claim) bool { return yield(id, c.names) })
	}
}

// Claimed yields the claim's entries, in the order of Walk, visible or hidden behind a newer claim. It scans all names.
func (s *State) Claimed(claim string) iter.Seq2[string, Entry] {
	return func(yield func(string, Entry) bool) {
		c, ok := s.claims.get(claim)
		if !ok {
			return
		}
		left := c.names
		s.names.from("", func(k string, n *node) bool {
			for ; n != nil; n = n.older {
				if n.claim == claim {
					left--
					if s.alive(n) && !yield(nameOf(k), s.entry(n)) {
						return false
					}
					break
				}
			}
			return left > 0
		})
	}
}

// ClaimsOf returns the entries of all claims under the name, newest first: the first is what Get returns. Entry.Claim
// is the claim.
func (s *State) ClaimsOf(name string) []Entry {
	var list []Entry
	n, _ := s.names.get(keyOf(name))
	for ; n != nil; n = n.older {
		if s.alive(n) {
			list = append(list, s.entry(n))
		}
	}
	return list
}
