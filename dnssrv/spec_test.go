package dnssrv

import (
	"net/netip"
	"strings"
	"time"
)

// Spec is all that a table holds, for tests that need one at once.
type Spec struct {
	Domain       string
	Node         string
	Nodes        []Node
	Origins      []string
	Records      []Record
	TTL          time.Duration
	Forward      []Forward
	ResponseRate int
	Families     string
	Allow        []netip.Prefix
}

func (s Spec) update() Update {
	u := Update{
		Reset: true,
		Base: &Base{
			Domain: s.Domain, Node: s.Node, TTL: s.TTL, Forward: s.Forward, ResponseRate: s.ResponseRate,
			Allow: s.Allow, Families: s.Families,
		},
		Nodes: s.Nodes, Origins: s.Origins, Records: map[string][]Record{},
	}
	for _, rec := range s.Records {
		owner := strings.ToLower(strings.TrimSuffix(rec.Name, "."))
		u.Records[owner] = append(u.Records[owner], rec)
	}
	return u
}

func NewTable(spec Spec) (*Table, error) {
	c, err := content{}.with(spec.update())
	if err != nil {
		return nil, err
	}
	return c.table(), nil
}

func (t *Table) Conflicts() []string { return t.conflicts }

func (s *Server) SetTable(t *Table) {
	s.table.Store(t)
	if t != nil {
		s.forward.retain(t)
	}
}
