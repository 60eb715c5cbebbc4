package dnssrv

import (
	"iter"

	"github.com/miekg/dns"
)

// HeldBy returns a function that reports whether questions for a name are answered from a table with these owner names,
// by the name itself or through a wildcard: then asking for it is no miss. What resolvers would say of it is another
// question.
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
