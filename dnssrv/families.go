package dnssrv

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// Values of [Base.Families].
const (
	BothFamilies = "both"
	OnlyIPv4     = "ipv4"
	OnlyIPv6     = "ipv6"
)

// withheldType returns the type of the addresses that no answer contains; 0 if answers contain both families.
func withheldType(families string) (uint16, error) {
	switch families {
	case "", BothFamilies:
		return 0, nil
	case OnlyIPv4:
		return dns.TypeAAAA, nil
	case OnlyIPv6:
		return dns.TypeA, nil
	}
	return 0, fmt.Errorf("dns.families must be %s, %s or %s, got %q", BothFamilies, OnlyIPv4, OnlyIPv6, clip(families))
}

// checkFamilies adds a conflict for each node that has no address that answers may contain.
func (t *frame) checkFamilies(nodes []Node) {
	only, is6 := OnlyIPv4, false
	switch t.withheld {
	case 0:
		return
	case dns.TypeA:
		only, is6 = OnlyIPv6, true
	}
	for _, n := range nodes {
		if !slices.ContainsFunc(n.Addrs, func(a netip.Addr) bool { return a.Unmap().Is6() == is6 }) {
			t.conflict("dns.families is %s, and node %s has no such address: no name leads to it", only, n.Name)
		}
	}
}

// withoutHints removes from an HTTPS or SVCB record the addresses of the withheld family (RFC 9460, 7.3). Clients may
// connect to a hint without asking for addresses.
func (t *frame) withoutHints(rr dns.RR) {
	hint := dns.SVCB_IPV6HINT
	switch t.withheld {
	case 0:
		return
	case dns.TypeA:
		hint = dns.SVCB_IPV4HINT
	}
	var svcb *dns.SVCB
	switch rr := rr.(type) {
	case *dns.SVCB:
		svcb = rr
	case *dns.HTTPS:
		svcb = &rr.SVCB
	default:
		return
	}
	svcb.Value = slices.DeleteFunc(svcb.Value, func(v dns.SVCBKeyValue) bool {
		if m, ok := v.(*dns.SVCBMandatory); ok {
			// A key that is mandatory and absent makes the record malformed (RFC 9460, 8).
			m.Code = slices.DeleteFunc(m.Code, func(k dns.SVCBKey) bool { return k == hint })
			return len(m.Code) == 0
		}
		return v.Key() == hint
	})
}
