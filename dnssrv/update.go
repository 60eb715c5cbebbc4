package dnssrv

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Base is the part of a [Spec] that holds no names.
type Base struct {
	Domain, Node string
	TTL          time.Duration
	Forward      []Forward
	ResponseRate int
	Allow        []netip.Prefix
}

// Update is a change of what a [Server] answers from. The zero value changes nothing.
type Update struct {
	// Reset drops everything that came before: Base, Nodes, Origins and Records are all there is.
	Reset bool
	// Base replaces the settings, Nodes the members with their health, Origins the overridden names; nil leaves each
	// as it is.
	Base    *Base
	Nodes   []Node
	Origins []string
	// Records replaces what the operator set, by owner name as in [Record]. An empty list removes the owner.
	Records map[string][]Record
}

// Apply changes what all questions read from now on are answered from. On an error nothing has changed. conflicts are
// those of the whole table, see [Table.Conflicts].
func (s *Server) Apply(u Update) (conflicts []string, err error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	next := s.applied.with(u)
	t, err := NewTable(next.spec())
	if err != nil {
		return nil, err
	}
	s.applied = next
	s.SetTable(t)
	return t.Conflicts(), nil
}

// content is the sum of the updates so far.
type content struct {
	base    Base
	nodes   []Node
	origins []string
	records map[string][]Record
}

func (c content) with(u Update) content {
	if u.Reset {
		c = content{}
	}
	if u.Base != nil {
		c.base = *u.Base
	}
	if u.Nodes != nil {
		c.nodes = u.Nodes
	}
	if u.Origins != nil {
		c.origins = u.Origins
	}
	if len(u.Records) == 0 {
		return c
	}
	records := maps.Clone(c.records)
	if records == nil {
		records = make(map[string][]Record, len(u.Records))
	}
	for owner, list := range u.Records {
		if len(list) == 0 {
			delete(records, owner)
			continue
		}
		records[owner] = list
	}
	c.records = records
	return c
}

func (c content) spec() Spec {
	s := Spec{
		Domain: c.base.Domain, Node: c.base.Node, Nodes: c.nodes, Origins: c.origins, TTL: c.base.TTL,
		Forward: c.base.Forward, ResponseRate: c.base.ResponseRate, Allow: c.base.Allow,
	}
	for _, owner := range slices.Sorted(maps.Keys(c.records)) {
		s.Records = append(s.Records, c.records[owner]...)
	}
	return s
}
