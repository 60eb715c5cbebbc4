package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// Without a default route the only address that clients can reach is used; with several there is no guess.
func TestOnlyAddrs(t *testing.T) {
	for _, c := range []struct {
		what, addrs string // IFACE=ADDRESS…
		want        string // ADDRESS…, or after "!" a part of the error
	}{
		{"one", "eth0=10.0.0.11", "10.0.0.11"},
		{"one of each family", "eth0=10.0.0.11 eth0=fd00::11", "10.0.0.11 fd00::11"},
		{"link-local besides", "eth0=10.0.0.11 eth0=fe80::1 eth1=169.254.7.7", "10.0.0.11"},
		{"docker besides", "eth0=10.0.0.11 docker0=172.17.0.1 br-5f0a=172.18.0.1 veth12=10.9.9.9 cni0=10.244.0.1",
			"10.0.0.11"},
		{"a bridge of the operator", "br0=10.0.0.11 eth0=fe80::2", "10.0.0.11"},
		{"a bond and a VLAN", "bond0.42=10.0.0.11", "10.0.0.11"},
		{"privacy addresses", "eth0=10.0.0.11 eth0=2001:db8::1 eth0=2001:db8::2", "10.0.0.11"},
		{"IPv6 alone", "eth0=fd00::11 eth0=fe80::1", "fd00::11"},
		{"several of IPv6 alone", "eth0=fd00::11 eth0=2001:db8::1",
			"!the host has several addresses (fd00::11 on eth0, 2001:db8::1 on eth0)"},
		{"two networks", "eth0=10.0.0.11 eth1=192.168.7.1", "!the host has several addresses (10.0.0.11 on eth0, " +
			"192.168.7.1 on eth1): set advertise"},
		{"two of one interface", "eth0=10.0.0.11 eth0=10.0.0.12", "!several addresses"},
		{"link-local alone", "eth0=169.254.7.7 eth0=fe80::1", "!no address that clients could use (only 169.254.7.7 " +
			"on eth0, fe80::1 on eth0)"},
		{"docker alone", "docker0=172.17.0.1", "!no address that clients could use (only 172.17.0.1 on docker0)"},
		{"nothing", "", "!connect the host to the clients' network"},
		{"multicast and loopback", "eth0=224.0.0.1 eth0=127.0.0.2", "!connect the host"},
	} {
		var all []hostAddr
		for _, f := range strings.Fields(c.addrs) {
			iface, addr, _ := strings.Cut(f, "=")
			all = append(all, hostAddr{iface, netip.MustParseAddr(addr)})
		}
		got, err := onlyAddrs(all)
		if says, wrong := strings.CutPrefix(c.want, "!"); wrong {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: got %v, %v, want %q", c.what, got, err, says)
			}
		} else if list := strings.Trim(fmt.Sprint(got), "[]"); err != nil || list != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.what, list, err, c.want)
		}
	}
}
