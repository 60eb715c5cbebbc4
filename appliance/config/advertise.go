package config

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// hostAddr is an address of one of this host's interfaces.
type hostAddr struct {
	iface string
	addr  netip.Addr
	ends  bool // it is temporary (RFC 8981), deprecated, or another host has it: it cannot be advertised
}

// hostAddrs returns the addresses of the interfaces that are up.
func hostAddrs() (list []hostAddr) {
	ending := endingAddrs(kernelAddrs())
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
			if n, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(n.IP); ok {
					addr = addr.Unmap()
					list = append(list, hostAddr{i.Name, addr, ending[addr]})
				}
			}
		}
	}
	return list
}

// kernelAddrs returns the kernel's list of IPv6 addresses, "" where there is none.
func kernelAddrs() string {
	text, _ := os.ReadFile("/proc/net/if_inet6")
	return string(text)
}

// endingAddrs returns the addresses of /proc/net/if_inet6 that are temporary, deprecated, or in use by another host, by
// the flags IFA_F_TEMPORARY, IFA_F_DEPRECATED and IFA_F_DADFAILED of linux/if_addr.h. A line is the address, the
// interface's number, the prefix length, the scope and the flags in hexadecimal, and the interface's name.
func endingAddrs(text string) map[netip.Addr]bool {
	const ends = 0x01 | 0x20 | 0x08
	list := map[netip.Addr]bool{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 6 {
			continue
		}
		raw, err := hex.DecodeString(f[0])
		flags, ferr := strconv.ParseUint(f[4], 16, 32)
		if a, ok := netip.AddrFromSlice(raw); ok && a.Is6() && err == nil && ferr == nil && flags&ends != 0 {
			list[a] = true
		}
	}
	return list
}

// Temporary reports an address of this host that it will give up by itself.
func Temporary(a netip.Addr) bool { return endingAddrs(kernelAddrs())[a] }

// lasting returns the address to advertise for one that a route uses: itself, or if it ends, one of the same interface
// that does not, in the same network if there is one.
func lasting(a netip.Addr, all []hostAddr) (netip.Addr, bool) {
	i := slices.IndexFunc(all, func(h hostAddr) bool { return h.addr == a })
	if i < 0 || !all[i].ends {
		return a, true
	}
	network, _ := a.Prefix(64)
	var same, others []netip.Addr
	for _, h := range all {
		switch {
		case h.iface != all[i].iface || h.ends || h.addr.Is4() || !h.addr.IsGlobalUnicast():
		case network.Contains(h.addr):
			same = append(same, h.addr)
		default:
			others = append(others, h.addr)
		}
	}
	if len(same) > 0 {
		return same[0], true
	}
	if len(others) == 1 {
		return others[0], true
	}
	return netip.Addr{}, false
}

// ofContainers are the name prefixes of interfaces that container runtimes, virtual machines and Kubernetes create
// for workloads on the host: clients do not reach the host through them.
var ofContainers = []string{"docker", "br-", "podman", "cni", "veth", "virbr", "lxc", "lxd", "flannel", "cali",
	"cilium",
	"kube-", "nodelocaldns", "vxlan"}

// onlyAddrs chooses, on a host without a default route, the addresses at which clients reach it: its only IPv4
// address, and its only IPv6 address. Addresses that end do not count. If an IPv4 address exists, several IPv6
// addresses are ignored; otherwise several addresses of a family are an error that lists them.
func onlyAddrs(all []hostAddr) ([]netip.Addr, error) {
	const set = "set advertise (or --advertise) to the addresses at which clients reach this host"
	const unset = "advertise is not set and this host has no default route"
	var v4, v6 []netip.Addr
	var named, skipped []string
	for _, h := range all {
		if h.ends && h.addr.IsGlobalUnicast() {
			skipped = append(skipped, h.addr.String()+" on "+h.iface+", which is temporary")
			continue
		}
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
