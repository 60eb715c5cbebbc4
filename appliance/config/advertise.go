package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// hostAddr is an address of one of this host's interfaces.
type hostAddr struct {
	iface string
	addr  netip.Addr
}

// hostAddrs returns the addresses of the interfaces that are up.
func hostAddrs() (list []hostAddr) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				list = append(list, hostAddr{i.Name, p.Addr().Unmap()})
			}
		}
	}
	return list
}

// ofContainers are the name prefixes of interfaces that container runtimes, virtual machines and Kubernetes create
// for workloads on the host: clients do not reach the host through them.
var ofContainers = []string{"docker", "br-", "podman", "cni", "veth", "virbr", "lxc", "lxd", "flannel", "cali",
	"cilium",
	"kube-", "nodelocaldns", "vxlan"}

// onlyAddrs chooses, on a host without a default route, the addresses at which clients reach it: its only IPv4
// address, and its only IPv6 address. If an IPv4 address exists, several IPv6 addresses are ignored (privacy
// addresses change); otherwise several addresses of a family are an error that lists them.
func onlyAddrs(all []hostAddr) ([]netip.Addr, error) {
	const set = "set advertise (or --advertise) to the addresses at which clients reach this host"
	const unset = "advertise is not set and this host has no default route"
	var v4, v6 []netip.Addr
	var named, skipped []string
	for _, h := range all {
		skip := h.addr.IsLinkLocalUnicast()
		for _, p := range ofContainers {
			skip = skip || strings.HasPrefix(h.iface, p)
		}
		switch {
		case !h.addr.IsGlobalUnicast() && !h.addr.IsLinkLocalUnicast():
			continue
		case skip:
			skipped = append(skipped, h.addr.String()+" on "+h.iface)
			continue
		case h.addr.Is4():
			v4 = append(v4, h.addr)
		default:
			v6 = append(v6, h.addr)
		}
		named = append(named, h.addr.String()+" on "+h.iface)
	}
	switch {
	case len(v4) == 1 && len(v6) == 1:
		return append(v4, v6...), nil
	case len(v4) == 1:
		return v4, nil
	case len(v4) == 0 && len(v6) == 1:
		return v6, nil
	case len(named) > 0:
		return nil, fmt.Errorf("%s, and the host has several addresses (%s): %s", unset, strings.Join(named, ", "), set)
	case len(skipped) > 0:
		return nil, fmt.Errorf("%s, and the host has no address that clients could use (only %s): %s", unset,
			strings.Join(skipped, ", "), set)
	}
	return nil, fmt.Errorf("%s and no address: connect the host to the clients' network, or %s", unset, set)
}
