package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"casemate/appliance/nodeconf"
)

// This file has what differs between IPv4 and IPv6: which of them this node can use, and with which addresses.

// dialer makes connections, like net.Dialer.DialContext.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// to connects to one address within the time limit of a probe.
func (dial dialer) to(ctx context.Context, network string, at netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime*second)
	defer cancel()
	return dial(ctx, network, at.String())
}

// families are the kinds of nodes' and bastions' addresses, in the order in which they are reported.
var families = []string{"IPv4", "IPv6"}

func familyOf(a netip.Addr) string {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

// noRoute reports whether a connection failed on this node: it has no route to the address, no address of that family,
// or not the family at all.
func noRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) ||
		errors.Is(err, syscall.EAFNOSUPPORT)
}

// lost is a family that this node cannot reach: none of the bastions' addresses answers at any port.
type lost struct {
	family string
	local  bool // this node has no route; otherwise packets are lost on the way
	ends   []*endpoint
}

// lostFamilies finds them. If no address of the other family answers either, the family is not the cause, unless this
// node has no route.
func (r *run) lostFamilies(endpoints []*endpoint) (list []lost) {
	for _, family := range families {
		l := lost{family: family, local: true}
		dead, others := true, false
		for _, d := range endpoints {
			switch {
			case familyOf(d.addr) != family:
				others = others || !r.gone(d)
			case !r.gone(d):
				dead = false
			default:
				l.ends = append(l.ends, d)
				l.local = l.local && noRoute(d.http)
			}
		}
		if dead && l.ends != nil && (l.local || others) {
			list = append(list, l)
		}
	}
	return list
}

// gone reports whether no port of the endpoint gives any answer.
func (r *run) gone(d *endpoint) bool {
	errs := []error{d.http, d.https}
	if !r.mirror {
		errs = append(errs, d.tcp, d.udp)
	}
	return !slices.ContainsFunc(errs, func(err error) bool { return err == nil || reachID(err) != "unreachable" })
}

// lostFor returns the lost family of an address, nil if the node can reach its family.
func (r *run) lostFor(a netip.Addr) *lost {
	for i := range r.lost {
		if r.lost[i].family == familyOf(a) {
			return &r.lost[i]
		}
	}
	return nil
}

// checkFamily reports a lost family, once. A node that has no route to a family does not need it as long as every
// bastion has an address of the other one.
func (c *Check) checkFamily(l lost, report func(id string, v values), works func(d *endpoint) bool) {
	var addrs []string
	needed := false
	for _, d := range l.ends {
		addrs = append(addrs, d.addr.String())
		needed = needed || !works(d)
	}
	v := values{"family": l.family, "detail": some(addrs), "bastion": addrs[0]}
	switch {
	case !l.local:
		report("family-lost", v)
	case needed:
		report("no-family", v)
	}
}

// checkResolverFamilies reports resolvers of a family that this node cannot reach: none of those in use can be
// reached, or each lookup waits for the first.
func (r *run) checkResolverFamilies(c *Check, ours map[netip.Addr]bool) {
	used := r.node.servers
	if !r.node.kinds["resolved"] {
		used = used[:min(usedResolvers, len(used))]
	}
	var dead []string
	family := ""
	for _, a := range used {
		if l := r.lostFor(a); l != nil && ours[a] {
			dead, family = append(dead, a.String()), l.family
		}
	}
	if len(dead) == 0 {
		return
	}
	v := r.here(values{"file": r.node.file, "family": family, "detail": some(dead)})
	if len(dead) == len(used) {
		c.fail("resolver-family", v)
	} else if l := r.lostFor(used[0]); l != nil && !l.local && ours[used[0]] {
		c.warn("resolver-family", v)
	}
}

// here adds what cures need in order to make the bastions this node's resolvers: a bastion that can be reached, and
// the resolvers, together and by family.
func (r *run) here(v values) values {
	list := r.resolvers()
	four, six := []string{}, []string{}
	for _, a := range list {
		if a.Is4() {
			four = append(four, a.String())
		} else {
			six = append(six, a.String())
		}
	}
	out := values{"bastion": r.open1(), "bastions": strings.Join(texts(list), " "),
		"bastions4": strings.Join(four, " "), "bastions6": strings.Join(six, " ")}
	for k, s := range v {
		out[k] = s
	}
	return out
}

// resolvers returns at most three addresses for this node to use as resolvers: of the families that it can reach,
// reachable ones first.
func (r *run) resolvers() []netip.Addr {
	var up, down []nodeconf.Node
	for _, d := range r.endpoints {
		list := &down
		if d.whole() {
			list = &up
		} else if r.lostFor(d.addr) != nil && len(r.open()) > 0 {
			continue
		}
		i := slices.IndexFunc(*list, func(n nodeconf.Node) bool { return n.Name == d.key() })
		if i < 0 {
			i = len(*list)
			*list = append(*list, nodeconf.Node{Name: d.key()})
		}
		(*list)[i].Addrs = append((*list)[i].Addrs, d.addr)
	}
	list := append(nodeconf.Resolvers(up, usedResolvers), nodeconf.Resolvers(down, usedResolvers)...)
	return list[:min(usedResolvers, len(list))]
}
