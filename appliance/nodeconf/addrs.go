package nodeconf

import (
	"net/netip"
	"slices"
)

// URLHost writes an address as the host of a URL, or to be joined with a port: IPv6 in brackets.
func URLHost(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// Resolvers returns all addresses of the bastions in the order in which resolvers are given to nodes: one address of
// each bastion, in the order of nodes, then the second ones. Programs use only the first places: if these have one
// family and there are two, the last of these bastions that has an address of the other family is there with that
// address. So a node finds a resolver whichever family it has. The enrol script does the same for one node
// (arrange in enroll.sh).
func Resolvers(nodes []Node, places int) (list []netip.Addr) {
	var of []int // by place in list: the index of the bastion
	for rank, more := 0, true; more; rank++ {
		more = false
		for i, n := range nodes {
			if rank < len(n.Addrs) {
				list, of, more = append(list, n.Addrs[rank]), append(of, i), true
			}
		}
	}
	other := slices.IndexFunc(list, func(a netip.Addr) bool { return a.Is4() != list[0].Is4() })
	if places < 2 || other < places {
		return list
	}
	to := places - 1
	for i := places - 1; i >= 0; i-- {
		same := slices.IndexFunc(list[places:], func(a netip.Addr) bool {
			return a.Is4() != list[0].Is4() && of[slices.Index(list, a)] == of[i]
		})
		if same >= 0 {
			to, other = i, places+same
			break
		}
	}
	list[to], list[other] = list[other], list[to]
	return list
}

// dualStack reports whether the bastions have addresses of both families.
func (s *Site) dualStack() bool {
	list := s.Addrs()
	return slices.ContainsFunc(list, netip.Addr.Is4) && slices.ContainsFunc(list, netip.Addr.Is6)
}
