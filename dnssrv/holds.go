package dnssrv

import "github.com/miekg/dns"

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
