package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"casemate/dnssrv"
)

// siteOf names this cluster for the detection of forwarding loops: the same on every node, and different from other
// clusters', which may have the same domain.
func siteOf(domain string, nodes []dnssrv.Node) string {
	var addrs []netip.Addr
	for _, n := range nodes {
		addrs = append(addrs, n.Addrs...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	text := []string{domain}
	for _, a := range addrs {
		text = append(text, a.String())
	}
	return strings.Join(text, " ")
}

// Warnings returns sentences for status about resolvers that send questions back.
func (r *Resolver) Warnings() (list []string) {
	for _, l := range r.link.Stats().Loops {
		from := ""
		if l.Client != "" {
			from = " from " + l.Client
		}
		list = append(list, fmt.Sprintf("DNS forwards in a loop: questions that are forwarded to the resolver %s come "+
			"back%s, %d so far, the last one for %s; clients get SERVFAIL for such names: give dns.forward only the "+
			"zones that this resolver knows (casemate config set dns.forward ZONE=%s), or have it stop forwarding "+
			"them here",
			l.Resolver, from, l.Count, l.Name, l.Resolver))
	}
	return list
}
