package share

import "container/list"

// Recent is what is remembered of clients, of a bounded number of them: when it is full, the client that was not seen
// for longest is forgotten. A caller may exempt clients from that; then strangers cannot push out, by being many, what
// still counts against a client.
type Recent[V any] struct {
	most  int
	may   func(V) bool
	at    map[string]*list.Element
	order *list.List // of *remembered[V], the client that was not seen for longest in front
}

type remembered[V any] struct {
	client string
	what   V
}

// NewRecent remembers at most that many clients. may reports whether a client may be forgotten; nil: each may.
func NewRecent[V any](most int, may func(V) bool) *Recent[V] {
	return &Recent[V]{most: max(1, most), may: may, at: map[string]*list.Element{}, order: list.New()}
}

// Len is the number of clients that are remembered.
func (r *Recent[V]) Len() int { return len(r.at) }

// Has reports whether a client is remembered.
func (r *Recent[V]) Has(client string) bool { return r.at[client] != nil }

// See returns what is remembered of a client, which counts as seen now.
func (r *Recent[V]) See(client string) (what V, ok bool) {
	e := r.at[client]
	if e == nil {
		return what, false
	}
	r.order.MoveToBack(e)
	return e.Value.(*remembered[V]).what, true
}

// Add remembers a client, which counts as seen now. It reports false if there is no room: of all that are remembered,
// none may be forgotten.
func (r *Recent[V]) Add(client string, what V) bool {
	r.Forget(client)
	if r.Len() >= r.most && !r.makeRoom() {
		return false
	}
	r.at[client] = r.order.PushBack(&remembered[V]{client, what})
	return true
}

// Forget forgets a client.
func (r *Recent[V]) Forget(client string) {
	if e := r.at[client]; e != nil {
		r.order.Remove(e)
		delete(r.at, client)
	}
}

func (r *Recent[V]) makeRoom() bool {
	for e := r.order.Front(); e != nil; e = e.Next() {
		if old := e.Value.(*remembered[V]); r.may == nil || r.may(old.what) {
			r.Forget(old.client)
			return true
		}
	}
	return false
}
