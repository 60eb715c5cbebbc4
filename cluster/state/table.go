package state

import "github.com/tidwall/btree"

// table is an ordered map with two operations that the state needs: a copy in constant time (copy-on-write nodes), and
// a rollback of the writes since the last commit, so that a batch is all or nothing.
//
// Values must not be changed once they are in a table: clones share them.
type table[K ~string, V any] struct {
	m    btree.Map[K, V]
	undo []change[K, V]
}

type change[K ~string, V any] struct {
	key K
	old V
	had bool
}

// degree is half the width of a node. A write that follows a clone copies the nodes on its way down, so narrow nodes
// make cloning after every command, which cluster does, cheap; wide ones save a little memory. DESIGN.md has the
// numbers.
const degree = 16

func newTable[K ~string, V any]() table[K, V] {
	return table[K, V]{m: *btree.NewMap[K, V](degree)}
}

func (t *table[K, V]) len() int            { return t.m.Len() }
func (t *table[K, V]) get(key K) (V, bool) { return t.m.Get(key) }
func (t *table[K, V]) clone() table[K, V]  { return table[K, V]{m: *t.m.Copy()} }

func (t *table[K, V]) set(key K, v V) {
	old, had := t.m.Set(key, v)
	t.undo = append(t.undo, change[K, V]{key, old, had})
}

func (t *table[K, V]) del(key K) {
	if old, had := t.m.Delete(key); had {
		t.undo = append(t.undo, change[K, V]{key, old, true})
	}
}

// from calls fn for the keys at or after pivot, in order, until it returns false. fn must not write to the table.
func (t *table[K, V]) from(pivot K, fn func(K, V) bool) { t.m.Ascend(pivot, fn) }

func (t *table[K, V]) commit() {
	if cap(t.undo) > 1024 {
		t.undo = nil // do not retain the list of a large import
		return
	}
	clear(t.undo)
	t.undo = t.undo[:0]
}

func (t *table[K, V]) rollback() {
	for i := len(t.undo) - 1; i >= 0; i-- {
		if c := t.undo[i]; c.had {
			t.m.Set(c.key, c.old)
		} else {
			t.m.Delete(c.key)
		}
	}
	t.commit()
}
