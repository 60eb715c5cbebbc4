package missing

import (
	"container/list"
	"slices"
	"strings"

	"casemate/cluster/share"
)

// A shelf holds a bounded number of entries and divides its places among the clients. A client may hold at most share
// of them; beyond that it loses its own oldest entry. When the shelf is full, the client with most entries loses its
// oldest. A shelf is not safe for concurrent use.
type shelf struct {
	max, share int
	entries    map[key]*entry
	clients    map[string]*client
	noisy      *share.Ranking[*client] // the client with most entries first
}

type key struct{ kind, name string }

type entry struct {
	Entry
	owner *client
	at    *list.Element // in owner.entries
}

// client is one that had a miss: a user, or a client as in share.Of.
type client struct {
	share.Rank
	name    string
	entries *list.List // of *entry, the least recently requested first
}

func newShelf(max int) *shelf {
	return &shelf{
		max: max, share: (max + 1) / 2, // so two clients always leave places for a third
		entries: map[key]*entry{}, clients: map[string]*client{},
		noisy: share.NewRanking(func(a, b *client) bool { return a.entries.Len() > b.entries.Len() }),
	}
}

// ownerOf returns the owner of an entry, given one of its clients: the user of USER@ADDRESS, or who is one client with
// the address (share.Of). Earlier versions recorded the /64 itself.
func ownerOf(client string) string {
	if user, _, ok := strings.Cut(client, "@"); ok {
		return user + "@"
	}
	return share.OfText(client)
}

// sameOwner reports whether one of the clients has that owner.
func sameOwner(clients []string, owner string) bool {
	return slices.ContainsFunc(clients, func(c string) bool { return ownerOf(c) == owner })
}

// insert adds an entry, owned by the last of its clients, and returns how many others it evicted.
func (s *shelf) insert(e Entry) (dropped uint64) {
	n := &entry{Entry: e}
	s.entries[key{e.Kind, e.Name}] = n
	c := s.client(ownerOf(e.Clients[len(e.Clients)-1]))
	s.own(c, n)
	for c.entries.Len() > s.share {
		dropped += s.evict(c)
	}
	for len(s.entries) > s.max {
		dropped += s.evict(s.noisy.First())
	}
	return dropped
}

// again records that that client requested the entry once more, in that minute.
func (e *entry) again(client string, minute int64) {
	if i := slices.Index(e.Clients, client); i < 0 || i != len(e.Clients)-1 {
		if i < 0 && len(e.Clients) == maxClients {
			i = oldestOfMost(append(slices.Clone(e.Clients), client))
		}
		if i >= 0 {
			e.Clients, e.Asked = slices.Delete(e.Clients, i, i+1), slices.Delete(e.Asked, i, i+1)
		}
		e.Clients, e.Asked = append(e.Clients, client), append(e.Asked, minute)
	}
	e.Asked[len(e.Asked)-1] = minute
	e.owner.entries.MoveToBack(e.at)
}

// oldestOfMost returns the index of the oldest client of the owner that has most: a host that changes its address does
// not push out the others.
func oldestOfMost(clients []string) int {
	count := map[string]int{}
	most := 0
	for _, c := range clients {
		count[ownerOf(c)]++
		most = max(most, count[ownerOf(c)])
	}
	return slices.IndexFunc(clients, func(c string) bool { return count[ownerOf(c)] == most })
}

func (s *shelf) client(name string) *client {
	c := s.clients[name]
	if c == nil {
		c = &client{name: name, entries: list.New()}
		s.clients[name] = c
	}
	return c
}

func (s *shelf) own(c *client, e *entry) {
	e.owner, e.at = c, c.entries.PushBack(e)
	s.noisy.Fix(c)
}

func (s *shelf) disown(e *entry) {
	c := e.owner
	c.entries.Remove(e.at)
	if c.entries.Len() > 0 {
		s.noisy.Fix(c)
		return
	}
	s.noisy.Remove(c)
	delete(s.clients, c.name)
}

func (s *shelf) drop(e *entry) {
	s.disown(e)
	delete(s.entries, key{e.Kind, e.Name})
}

// evict removes the oldest entry from a client. If a much quieter client requested it too, the entry moves to that
// client and nothing is dropped: an entry that a scan shares with an honest client stays.
func (s *shelf) evict(c *client) (dropped uint64) {
	e := c.entries.Front().Value.(*entry)
	heir := ""
	for _, name := range e.Clients {
		name = ownerOf(name)
		has := 0
		if other := s.clients[name]; other != nil {
			has = other.entries.Len()
		}
		if name != c.name && has+1 < c.entries.Len() {
			heir = name
		}
	}
	if heir == "" {
		s.drop(e)
		return 1
	}
	s.disown(e)
	s.own(s.client(heir), e)
	return 0
}

// fairest returns copies of the entries: the newest of each client, then the second newest of each, and so on; in any
// order if all is set.
func (s *shelf) fairest(all bool) []Entry {
	copies := make([]Entry, 0, len(s.entries))
	take := func(e *entry) {
		c := e.Entry
		c.Clients, c.Asked = slices.Clone(c.Clients), slices.Clone(c.Asked)
		copies = append(copies, c)
	}
	if all {
		for _, e := range s.entries {
			take(e)
		}
		return copies
	}
	var next []*list.Element
	for _, c := range s.clients {
		next = append(next, c.entries.Back())
	}
	for len(next) > 0 {
		begin := len(copies)
		for i, at := range next {
			take(at.Value.(*entry))
			next[i] = at.Prev()
		}
		slices.SortFunc(copies[begin:], newest)
		next = slices.DeleteFunc(next, func(at *list.Element) bool { return at == nil })
	}
	return copies
}
