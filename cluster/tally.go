package cluster

import (
	"sync/atomic"

	"casemate/cluster/state"
)

// tallies count the names of each kind in [Config].Tallies. They are recounted when the state is replaced, and updated
// with each entry.
type tallies struct {
	kinds  []func(name []byte) bool
	counts []atomic.Int64
	name   []byte // buffer; owned by the goroutine that applies
}

func (t *tallies) of(kinds []func(name []byte) bool) {
	t.kinds, t.counts = kinds, make([]atomic.Int64, len(kinds))
}

func (t *tallies) add(name []byte, by int64) {
	for i, is := range t.kinds {
		if is(name) {
			t.counts[i].Add(by)
		}
	}
}

// recount counts the names of the whole state, about 50 ns each.
func (t *tallies) recount(s *state.State) {
	if len(t.kinds) == 0 {
		return
	}
	for i := range t.counts {
		t.counts[i].Store(0)
	}
	for name := range s.Names() {
		t.add(name, 1)
	}
}

func (t *tallies) update(r *state.Result) {
	if len(t.kinds) == 0 {
		return
	}
	for _, name := range r.Appeared {
		t.name = append(t.name[:0], name...)
		t.add(t.name, 1)
	}
	for _, name := range r.Vanished {
		t.name = append(t.name[:0], name...)
		t.add(t.name, -1)
	}
}

// Tallies returns the number of names of each kind in [Config].Tallies. A weak link counts until it is swept. Its cost
// does not depend on the number of names.
func (c *Cluster) Tallies() []int {
	t := &c.machine.tallies
	list := make([]int, len(t.counts))
	for i := range t.counts {
		list[i] = int(t.counts[i].Load())
	}
	return list
}
