package clients

import (
	"container/list"
	"net/netip"
	"slices"

	"casemate/cluster/share"
)

// shelf divides a bounded number of clients among networks. A network holds at most half of the places; beyond that,
// and if all are in use and it holds most, it loses the client that was not seen for longest. Of networks that hold as
// many, the one with the older client loses it.
type shelf struct {
	max      int
	at       map[netip.Prefix]*list.Element // of *record in its network's order
	networks map[netip.Prefix]*network
	largest  *share.Ranking[*network] // the network with most clients first
}

type network struct {
	share.Rank
	net   netip.Prefix
	order *list.List // of *record, the one that was not seen for longest in front
}

func newShelf(most int) *shelf {
	return &shelf{max: most, at: map[netip.Prefix]*list.Element{}, networks: map[netip.Prefix]*network{},
		largest: share.NewRanking(func(a, b *network) bool {
			if n, m := a.order.Len(), b.order.Len(); n != m {
				return n > m
			}
			return a.oldest().Last.Before(b.oldest().Last)
		})}
}

// oldest returns the client that was not seen for longest.
func (n *network) oldest() *record { return n.order.Front().Value.(*record) }

// networkOf returns the network of a client: what one host or one segment can usually use.
func networkOf(client netip.Prefix) netip.Prefix {
	bits := 48
	if client.Addr().Is4() {
		bits = 24
	}
	p, _ := client.Addr().Prefix(bits)
	return p
}

// get returns the record of a client, nil if there is none.
func (s *shelf) get(client netip.Prefix) *record {
	if e := s.at[client]; e != nil {
		return e.Value.(*record)
	}
	return nil
}

// add adds a client, or records that it was seen.
func (s *shelf) add(r *record) {
	if e := s.at[r.net]; e != nil {
		e.Value = r
		n := s.networks[networkOf(r.net)]
		n.order.MoveToBack(e)
		s.largest.Fix(n)
		return
	}
	in := networkOf(r.net)
	n := s.networks[in]
	if n == nil {
		n = &network{net: in, order: list.New()}
		s.networks[in] = n
	}
	s.at[r.net] = n.order.PushBack(r)
	s.largest.Fix(n)
	for n.order.Len() > (s.max+1)/2 {
		s.drop(n.oldest().net)
	}
	for len(s.at) > s.max {
		s.drop(s.largest.First().oldest().net)
	}
}

// drop removes a client, if it is there.
func (s *shelf) drop(client netip.Prefix) {
	e := s.at[client]
	if e == nil {
		return
	}
	n := s.networks[networkOf(client)]
	delete(s.at, client)
	if n.order.Len() == 1 {
		s.largest.Remove(n)
		delete(s.networks, n.net)
		return
	}
	n.order.Remove(e)
	s.largest.Fix(n)
}

// list returns copies of the records: the newest of each network, then the second newest of each, and so on; in any
// order if all is set.
func (s *shelf) list(all bool) []record {
	copies := make([]record, 0, len(s.at))
	take := func(e *list.Element) {
		r := *e.Value.(*record)
		r.Protocols, r.Programs = slices.Clone(r.Protocols), slices.Clone(r.Programs)
		copies = append(copies, r) // an Error is never changed
	}
	if all {
		for _, e := range s.at {
			take(e)
		}
		return copies
	}
	var next []*list.Element
	for _, n := range s.networks {
		next = append(next, n.order.Back())
	}
	for len(next) > 0 {
		begin := len(copies)
		for i, e := range next {
			take(e)
			next[i] = e.Prev()
		}
		slices.SortFunc(copies[begin:], func(x, y record) int {
			if c := y.Last.Compare(x.Last); c != 0 {
				return c
			}
			return x.net.Addr().Compare(y.net.Addr())
		})
		next = slices.DeleteFunc(next, func(e *list.Element) bool { return e == nil })
	}
	return copies
}
