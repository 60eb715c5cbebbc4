package dnssrv

import (
	"fmt"
	"net/netip"
	"testing"

	"casemate/cluster/share"
)

// However many addresses of its network one host uses, it is one client of the connections over TCP: it does not take
// all places, and others get in.
func TestAHostsAddressesAreOneClient(t *testing.T) {
	for name, addr := range map[string]func(i int) string{
		"IPv4":               func(int) string { return "10.0.0.1" },
		"IPv4 in IPv6":       func(i int) string { return []string{"10.0.0.1", "::ffff:10.0.0.1"}[i%2] },
		"a /64":              func(i int) string { return fmt.Sprintf("2001:db8::%x", i+1) },
		"link-local, zones":  func(i int) string { return fmt.Sprintf("fe80::%x%%eth%d", i+1, i%3) },
		"a /64 from the top": func(i int) string { return fmt.Sprintf("2001:db8:0:0:%x::1", i+1) },
	} {
		t.Run(name, func(t *testing.T) {
			s := tcp{conns: share.New(share.Config{Max: 16, PerClient: 6})}
			var held []*conn
			for i := range 64 {
				if c := s.accept(netip.MustParseAddr(addr(i)), func() {}); c != nil {
					c.Begin()
					held = append(held, c)
				}
			}
			if len(held) != 6 {
				t.Errorf("one host has %d of 16 connections, want 6", len(held))
			}
			for i := range 10 {
				if s.accept(netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%x::1", i)), func() {}) == nil {
					t.Errorf("client %d of others is refused", i)
				}
			}
		})
	}
}
