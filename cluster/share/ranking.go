package share

import "container/heap"

// Ranking orders the clients that hold something, so that the one that makes room is the first. Its clients embed Rank.
type Ranking[C ranked] struct{ heap byRank[C] }

// Rank is the place of a client in a Ranking. Its zero value is that of a client in none.
type Rank struct{ at int } // index in the heap, from 1

func (r *Rank) rank() *Rank { return r }

type ranked interface{ rank() *Rank }

// NewRanking returns an empty ranking. before reports whether a makes room before b does.
func NewRanking[C ranked](before func(a, b C) bool) *Ranking[C] {
	return &Ranking[C]{byRank[C]{before: before}}
}

// Len is the number of clients.
func (r *Ranking[C]) Len() int { return len(r.heap.list) }

// First returns the client that makes room first. There must be one.
func (r *Ranking[C]) First() C { return r.heap.list[0] }

// Fix puts a client where it belongs, after what it holds has changed; a client in no place is added.
func (r *Ranking[C]) Fix(c C) {
	if at := c.rank().at; at > 0 {
		heap.Fix(&r.heap, at-1)
		return
	}
	heap.Push(&r.heap, c)
}

// Remove removes a client, if it is there.
func (r *Ranking[C]) Remove(c C) {
	if at := c.rank().at; at > 0 {
		heap.Remove(&r.heap, at-1)
	}
}

// byRank implements heap.Interface.
type byRank[C ranked] struct {
	before func(a, b C) bool
	list   []C
}

func (h *byRank[C]) Len() int           { return len(h.list) }
func (h *byRank[C]) Less(i, j int) bool { return h.before(h.list[i], h.list[j]) }

func (h *byRank[C]) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].rank().at, h.list[j].rank().at = i+1, j+1
}

func (h *byRank[C]) Push(x any) {
	h.list = append(h.list, x.(C))
	h.list[len(h.list)-1].rank().at = len(h.list)
}

func (h *byRank[C]) Pop() any {
	last := len(h.list) - 1
	c := h.list[last]
	var none C
	h.list[last], h.list = none, h.list[:last]
	c.rank().at = 0
	return c
}
