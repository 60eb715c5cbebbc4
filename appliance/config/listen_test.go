package config

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func ports(text string) (list []netip.AddrPort) {
	for _, f := range strings.Fields(text) {
		list = append(list, netip.MustParseAddrPort(f))
	}
	return list
}

// What other nodes dial: all addresses, and never a wildcard.
func TestPeerDial(t *testing.T) {
	for _, tt := range []struct{ advertise, listen, want string }{
		{"10.0.0.11", "", "10.0.0.11:7443"},
		{"10.0.0.11 fd00::11", "", "10.0.0.11:7443 [fd00::11]:7443"},
		{"10.0.0.11 fd00::11", "[fd00::11]:8443", "[fd00::11]:8443"},
		{"10.0.0.11", "192.168.7.1:7443 10.0.0.11:7443", "192.168.7.1:7443 10.0.0.11:7443"},
		{"10.0.0.11 fd00::11", "[::]:7443", "10.0.0.11:7443 [fd00::11]:7443"},
		{"10.0.0.11 fd00::11", "0.0.0.0:8443", "10.0.0.11:8443"},
		{"fd00::11 10.0.0.11", "0.0.0.0:7443 [fd00::11]:7443", "10.0.0.11:7443 [fd00::11]:7443"},
		{"10.0.0.11", "[::]:7443 192.168.7.1:8443", "10.0.0.11:7443 192.168.7.1:8443"},
		{"fd00::11", "0.0.0.0:7443", "!listen.peer 0.0.0.0:7443 has no advertised address that other nodes could " +
			"dial (advertise is fd00::11)"},
		{"10.0.0.11", "[fe80::1]:7443", "!listen.peer must not have a link-local address"},
		{"fe80::1", "", "!advertise must not have a link-local address"},
		{"10.0.0.11", "10.0.0.11:7443 10.0.0.11:7443", "!listen.peer must have each address once"},
		{"10.0.0.11 fd00::11", "[::]:7443 [fd00::11]:7443", "!listen.peer must have each address once"},
	} {
		c := Config{Node: "n1", Data: "/d", Listen: Listen{Peer: ports(tt.listen)}}
		for _, a := range strings.Fields(tt.advertise) {
			c.Advertise = append(c.Advertise, netip.MustParseAddr(a))
		}
		err := c.Complete()
		if says, wrong := strings.CutPrefix(tt.want, "!"); wrong {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s at %s: %v, want %q", tt.advertise, tt.listen, err, says)
			}
			continue
		}
		if got := c.PeerDial(c.PeerListen()); err != nil || !slices.Equal(got, strings.Fields(tt.want)) {
			t.Errorf("%s at %s: %v, %v, want %s", tt.advertise, tt.listen, got, err, tt.want)
		}
	}
}

// listen.peer is a list, or one address as in older versions; what is written can be read.
func TestListenPeerForms(t *testing.T) {
	for _, text := range []string{`"10.0.0.11:7443"`, `["10.0.0.11:7443"]`, `["10.0.0.11:7443", "[fd00::11]:7443"]`} {
		c, err := Parse("f", []byte("listen:\n  peer: "+text+"\n"))
		if err != nil || len(c.Listen.Peer) != strings.Count(text, ":7443") {
			t.Errorf("%s: %v, %v", text, c.Listen.Peer, err)
		}
		again, err := Parse("f", c.YAML())
		if err != nil || !slices.Equal(again.Listen.Peer, c.Listen.Peer) {
			t.Errorf("%s, written and read: %v, %v", text, again.Listen.Peer, err)
		}
	}
	for _, text := range []string{"", "[]", "{a: b}", "[[]]"} {
		if c, err := Parse("f", []byte("listen:\n  peer: "+text+"\n")); err == nil {
			t.Errorf("%q: %v", text, c.Listen.Peer)
		}
	}
}
