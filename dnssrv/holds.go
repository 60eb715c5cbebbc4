package dnssrv

import (
	"iter"

	"github.com/miekg/dns"
)

// HeldBy returns a function that reports whether a table with these owner names answers questions for a name, by the
// name itself or through a wildcard; asking for such a name is no miss. Names that only resolvers know are not covered.
func HeldBy(owners iter.Seq[string]) func(name string) bool {
	data := make(map[string]bool) // true: the name has data; false: it only exists above one that has
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
