package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Without a default route the only address that clients can reach is used; with several there is no guess.
func TestOnlyAddrs(t *testing.T) {
	for _, c := range []struct {
		what, addrs string // IFACE=ADDRESS…, with ! one that ends
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
		{"a temporary one besides", "eth0=fd00::11 eth0=fd00::abcd!", "fd00::11"},
		{"two temporary ones besides", "eth0=10.0.0.11 eth0=fd00::11 eth0=fd00::abcd! eth0=2001:db8::abcd!",
			"10.0.0.11 fd00::11"},
		{"a temporary one alone", "eth0=fd00::abcd!", "!no address that clients could use (only fd00::abcd on eth0, " +
			"which is temporary)"},
		{"multicast and loopback", "eth0=224.0.0.1 eth0=127.0.0.2", "!connect the host"},
	} {
		var all []hostAddr
		for _, f := range strings.Fields(c.addrs) {
			iface, addr, _ := strings.Cut(f, "=")
			addr, ends := strings.CutSuffix(addr, "!")
			all = append(all, hostAddr{iface, netip.MustParseAddr(addr), ends})
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

// The address of a route gives way to one that lasts.
func TestLasting(t *testing.T) {
	for _, c := range []struct{ what, route, addrs, want string }{
		{"it lasts", "fd00::11", "eth0=fd00::11", "fd00::11"},
		{"it is nobody's", "fd00::11", "eth0=fd00::12", "fd00::11"},
		{"IPv4", "10.0.0.11", "eth0=10.0.0.11 eth0=fd00::11", "10.0.0.11"},
		{"another of its network", "fd00::abcd", "eth0=fd00::abcd! eth0=2001:db8::1 eth0=fd00::11 eth0=fd00::12",
			"fd00::11"},
		{"the only one of another network", "2001:db8::abcd", "eth0=2001:db8::abcd! eth0=fd00::11 eth0=fe80::1",
			"fd00::11"},
		{"two of other networks", "2001:db8::abcd", "eth0=2001:db8::abcd! eth0=fd00::11 eth0=fd01::11", ""},
		{"another interface", "fd00::abcd", "eth0=fd00::abcd! eth1=fd00::11", ""},
		{"all end", "fd00::abcd", "eth0=fd00::abcd! eth0=fd00::abce! eth0=10.0.0.11", ""},
	} {
		var all []hostAddr
		for _, f := range strings.Fields(c.addrs) {
			iface, addr, _ := strings.Cut(f, "=")
			addr, ends := strings.CutSuffix(addr, "!")
			all = append(all, hostAddr{iface, netip.MustParseAddr(addr), ends})
		}
		got, ok := lasting(netip.MustParseAddr(c.route), all)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s: got %s %v, want %s", c.what, got, ok, c.want)
		}
	}
}

func TestEndingAddrs(t *testing.T) {
	list := endingAddrs("20010db8000000000000000000000011 02 40 00 80     eth0\n" + // permanent
		"20010db800000000abcdabcdabcdabcd 02 40 00 01     eth0\n" + // temporary
		"20010db8000000000000000000000022 02 40 00 a0     eth0\n" + // permanent and deprecated
		"20010db8000000000000000000000033 02 40 00 c8     eth0\n" + // another host has it
		"20010db8000000000000000000000044 02 40 00 c0     eth0\n" + // tentative: it is new
		"fe800000000000000000000000000001 02 40 20 80     eth0\n" +
		"nonsense 02 40 00 01 eth0\n20010db8 02 40 00 01 eth0\n\nx\n")
	var got []string
	for a := range list {
		got = append(got, a.String())
	}
	slices.Sort(got)
	if want := "2001:db8::22 2001:db8::33 2001:db8::abcd:abcd:abcd:abcd"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
