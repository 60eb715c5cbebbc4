// Package routing maps the host names of requests to services.
package routing

import (
	"net/netip"
	"strings"

	"casemate/appliance/origin"
)

// Place is the meaning of a host name.
type Place int

const (
	Unknown  Place = iota
	Origin         // an origin or an alias of one
	Registry       // registry.<domain>
	Files          // files.<domain>
	Packages       // packages.<domain>
	Self           // <domain>, <node>.<domain>, an address
)

// Hosts maps host names to places. It is immutable; a change of origins or nodes creates a new one.
type Hosts struct {
	Domain    string
	Nodes     map[string]bool
	NodeAddrs map[string]bool // the nodes' addresses, as returned by share.Of
	Origins   *origin.Set
}

// Find returns the place of host, as a client wrote it, and for an origin its canonical name.
func (h *Hosts) Find(host string) (Place, string) {
	host = origin.Fold(host)
	if o, ok := h.Origins.Canonical(host); ok {
		return Origin, o
	}
	switch host {
	case h.Domain, "", "localhost": // HTTP/1.0 has no host
		return Self, ""
	case "registry." + h.Domain:
		return Registry, ""
	case "files." + h.Domain:
		return Files, ""
	case "packages." + h.Domain:
		return Packages, ""
	}
	if node, ok := strings.CutSuffix(host, "."+h.Domain); ok && h.Nodes[node] {
		return Self, ""
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return Self, ""
	}
	return Unknown, ""
}

// Names returns every host name that this node serves.
func (h *Hosts) Names() []string {
	names := append([]string{h.Domain, "registry." + h.Domain, "files." + h.Domain,
		"packages." + h.Domain}, h.Origins.Names()...)
	for n := range h.Nodes {
		names = append(names, n+"."+h.Domain)
	}
	return names
}
