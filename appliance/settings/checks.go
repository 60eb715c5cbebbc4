package settings

import (
	"net/netip"
	"slices"
	"strings"

	"casemate/appliance/address"
	"casemate/appliance/hostname"
	"casemate/appliance/usage"
	"casemate/dnssrv"
	"casemate/fileserver"
)

// RefuseSelf refuses forwarding to addresses of this node: such a query would loop.
func (s *Settings) RefuseSelf(own []netip.Addr, port func(netip.AddrPort) bool) error {
	for _, r := range s.Upstream.Resolvers {
		if slices.Contains(own, r.Addr()) && port(r) {
			return usage.Errorf("setting upstream.resolvers must not have this node's own address %s, which answers "+
				"the origins' names with the bastions", r)
		}
	}
	for _, f := range s.Forward {
		for _, r := range f.Resolvers {
			if slices.Contains(own, r.Addr()) && port(r) {
				return usage.Errorf("setting dns.forward must not have this node's own address %s", r)
			}
		}
	}
	return nil
}

// RefuseNoResolver refuses to fetch from origins without a resolver that knows them. It is not part of Parse, which
// also checks one setting alone.
func (s *Settings) RefuseNoResolver() error {
	if s.Upstream.On && len(s.Upstream.Resolvers) == 0 {
		return usage.Errorf("setting upstream needs upstream.resolvers: set the resolvers of the site first, " +
			"the bastions' own DNS answers the origins' names with the bastions")
	}
	return nil
}

// RefuseLinkLocal refuses forwarding to IPv6 link-local addresses: they have a meaning together with an interface of
// one host, and the setting is for all nodes. It is not part of Parse, so that a cluster in which one was set before
// this was checked still starts.
func (s *Settings) RefuseLinkLocal() error {
	for _, f := range s.Forward {
		for _, r := range f.Resolvers {
			if a := r.Addr(); a.Zone() != "" || address.NeedsZone(a) {
				return usage.Errorf("setting dns.forward must not have a link-local address, which has a meaning on "+
					"one host only: name a unique local (fd00::/8) or global address of the resolver, got %q", a)
			}
		}
	}
	return nil
}

// RefuseDomain refuses a domain that could not be served, or that no client would ask us for. It is not part of Parse,
// so that a cluster that was made before this was checked still starts.
func (s *Settings) RefuseDomain() error {
	if err := hostname.CheckDomain(s.Domain); err != nil {
		return usage.Errorf("setting domain %w", err)
	}
	return nil
}

// RefuseFamilies refuses to leave our names without any address; nodes are the addresses of all nodes. It is not part
// of Parse, because a cluster may come to it by losing nodes.
func (s *Settings) RefuseFamilies(nodes []netip.Addr) error {
	if s.Families == dnssrv.BothFamilies || slices.ContainsFunc(nodes, func(a netip.Addr) bool {
		return a.Unmap().Is4() == (s.Families == dnssrv.OnlyIPv4)
	}) {
		return nil
	}
	return usage.Errorf("setting dns.families must not be %s: no node has such an address, so no name would have "+
		"one; add one to advertise, or use %s", s.Families, dnssrv.BothFamilies)
}

// RefuseArch refuses an unknown architecture for aliases. It is not part of Parse, so that a cluster in which one was
// set before this was checked still starts.
func (s *Settings) RefuseArch() error {
	if s.AliasArch == "" || fileserver.KnownArchitecture(s.AliasArch) {
		return nil
	}
	return usage.Errorf("setting files.alias_arch must be one of %s, or empty, got %q",
		strings.Join(fileserver.Architectures(), ", "), s.AliasArch)
}
