package dnssrv

import (
	"iter"

	"github.com/miekg/dns"
)

// Holds reports whether questions for name are answered from the newest table, by itself or through a wildcard: then
// asking for it is no miss. What resolvers would say of it is another question.
func (s *Server) Holds(name string) bool {
	t := s.table.Load()
	if t == nil {
		return false
	}
	var buf [256]byte
	n, err := dns.PackDomainName(dns.CanonicalName(name), buf[:], 0, nil, false)
	return err == nil && t.find(buf[:n]) != nil
}

// HeldBy is Server.Holds of a table with these owner names, for who knows them and has no Server.
func HeldBy(owners iter.Seq[string]) func(name string) bool {
	data := make(map[string]bool) // whether the name holds something, or is only above one that does
	for owner := range owners {
		name := dns.CanonicalName(owner)
		data[name] = true
		for up, ok := parent(name); ok; up, ok = parent(up) {
			if _, known := data[up]; known {
				break
			}
			data[up] = false
		}
	}
	return func(name string) bool {
		name = dns.CanonicalName(name)
		if data[name] {
			return true
		}
		for _, exists := data[name]; !exists; _, exists = data[name] {
			up, ok := parent(name)
			if !ok {
				return false
			}
			if data["*."+up] {
				return true
			}
			name = up
		}
		return false
	}
}
