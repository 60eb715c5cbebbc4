package egress

import (
	"container/list"
	"net/netip"
	"slices"
	"time"

	"casemate/cluster/share"
)

// key is what one entry is about.
type key struct {
	client              netip.Prefix
	kind, name, verdict string
}

// keyOf returns the key of an entry; !ok if the entry is not valid.
func keyOf(e Entry) (key, bool) {
	p, err := netip.ParsePrefix(e.Client)
	if a, aerr := netip.ParseAddr(e.Client); aerr == nil {
		p, err = share.Net(a), nil
	}
	known := slices.Contains([]string{DNS, TLS, Handshake, HTTP}, e.Kind) &&
		slices.Contains([]string{Answered, Forwarded, Refused}, e.Verdict)
	return key{p, e.Kind, clean(e.Name), e.Verdict}, err == nil && known && e.Name != ""
}

// record is what is counted of a key.
type record struct {
	count       uint64
	first, last time.Time
}

// shelves keep a bounded number of records. Anybody can send a question with a forged address, and one client can have
// many addresses that way, so questions push out others only while these have more than half of the records.
//
// A client holds at most half of all records. Beyond that, and if all are in use and it holds most of its shelf, it
// loses the one that was not used for longest.
type shelves struct {
	max       int
	dns, rest *places
}

func newShelves(most int) *shelves { return &shelves{most, newPlaces(), newPlaces()} }

// add counts uses of a key, and returns how many records that dropped.
func (s *shelves) add(k key, r record) (dropped uint64) {
	if k.kind == DNS {
		s.dns.add(k, r)
	} else {
		s.rest.add(k, r)
	}
	for ; ; dropped++ {
		dns, rest := s.dns.clients[k.client], s.rest.clients[k.client]
		switch {
		case dns.records()+rest.records() > (s.max+1)/2 && dns.records() > rest.records():
			s.dns.drop(dns)
		case dns.records()+rest.records() > (s.max+1)/2:
			s.rest.drop(rest)
		case len(s.dns.at)+len(s.rest.at) <= s.max:
			return dropped
		case len(s.dns.at) > s.max/2:
			s.dns.drop(s.dns.noisy.First())
		default:
			s.rest.drop(s.rest.noisy.First())
		}
	}
}

// list returns the records as entries: all, or, with a limit, as many of questions as of others if there are, and
// within these the newest of each client, then the second newest of each, and so on.
func (s *shelves) list(limit int) []Entry {
	if limit == 0 {
		return append(s.dns.list(0), s.rest.list(0)...)
	}
	dns := s.dns.list(max(limit/2, limit-len(s.rest.at)))
	return append(dns, s.rest.list(limit-len(dns))...)
}

// places has records of clients.
type places struct {
	at      map[key]*list.Element // of *place in its client's order
	clients map[netip.Prefix]*client
	noisy   *share.Ranking[*client] // the client with most records first
}

type place struct {
	key
	record
}

type client struct {
	share.Rank
	net   netip.Prefix
	order *list.List // of *place, the one that was not used for longest in front
}

// records returns how many a client has.
func (c *client) records() int {
	if c == nil {
		return 0
	}
	return c.order.Len()
}

func newPlaces() *places {
	return &places{at: map[key]*list.Element{}, clients: map[netip.Prefix]*client{},
		noisy: share.NewRanking(func(a, b *client) bool { return a.order.Len() > b.order.Len() })}
}

// add counts uses of a key.
func (p *places) add(k key, r record) {
	if e := p.at[k]; e != nil {
		at := e.Value.(*place)
		at.count += r.count
		at.last = r.last
		p.clients[k.client].order.MoveToBack(e)
		return
	}
	c := p.clients[k.client]
	if c == nil {
		c = &client{net: k.client, order: list.New()}
		p.clients[k.client] = c
	}
	p.at[k] = c.order.PushBack(&place{k, r})
	p.noisy.Fix(c)
}

// drop drops the oldest record of a client.
func (p *places) drop(c *client) {
	e := c.order.Front()
	delete(p.at, e.Value.(*place).key)
	c.order.Remove(e)
	if c.order.Len() > 0 {
		p.noisy.Fix(c)
		return
	}
	p.noisy.Remove(c)
	delete(p.clients, c.net)
}

// list returns the records as entries: all, or, with a limit above 0, that many, see shelves.
func (p *places) list(limit int) []Entry {
	entries := make([]Entry, 0, len(p.at))
	take := func(e *list.Element) {
		at := e.Value.(*place)
		entries = append(entries, Entry{Client: share.Of(at.client.Addr()), Kind: at.kind, Name: at.name,
			Verdict: at.verdict, Count: at.count, First: at.first, Last: at.last})
	}
	if limit == 0 {
		for _, e := range p.at {
			take(e)
		}
		return entries
	}
	var next []*list.Element
	for _, c := range p.clients {
		next = append(next, c.order.Back())
	}
	for len(next) > 0 && len(entries) < limit {
		begin := len(entries)
		for i, e := range next {
			take(e)
			next[i] = e.Prev()
		}
		slices.SortFunc(entries[begin:], Order)
		next = slices.DeleteFunc(next, func(e *list.Element) bool { return e == nil })
	}
	return entries[:min(len(entries), limit)]
}
