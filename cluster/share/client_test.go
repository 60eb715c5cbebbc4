package share

import (
	"net"
	"net/netip"
	"testing"
)

// TestWhatIsOneClient is the family of addresses that are one client, each with the client's name.
func TestWhatIsOneClient(t *testing.T) {
	for name, addrs := range map[string][]string{
		"10.0.0.1":            {"10.0.0.1", "::ffff:10.0.0.1", "::ffff:10.0.0.1%eth0"},
		"10.0.0.2":            {"10.0.0.2"},
		"127.0.0.1":           {"127.0.0.1", "::ffff:127.0.0.1"},
		"127.0.0.2":           {"127.0.0.2"},
		"::1":                 {"::1", "::1%lo"},
		"2001:db8::/64":       {"2001:db8::", "2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8::ffff:10.0.0.1"},
		"2001:db8:0:1::/64":   {"2001:db8:0:1::1"},
		"2001:db8:0:100::/64": {"2001:db8:0:100::1"},
		"fe80::/64":           {"fe80::1", "fe80::1%eth0", "fe80::2%eth1"},
		"::/64":               {"::", "::2", "::10.0.0.1"},
		"64:ff9b::/64":        {"64:ff9b::10.0.0.1"},
	} {
		for _, addr := range addrs {
			if got := Of(netip.MustParseAddr(addr)); got != name {
				t.Errorf("%s is %s, want %s", addr, got, name)
			}
		}
	}
	for text, name := range map[string]string{
		"10.0.0.1": "10.0.0.1", "10.0.0.1:80": "10.0.0.1", "[::ffff:10.0.0.1]:80": "10.0.0.1", "[::1]:80": "::1",
		"2001:db8::7": "2001:db8::/64", "[2001:db8::7]:1": "2001:db8::/64", "[fe80::1%eth0]:1": "fe80::/64",
		"n1": "n1", "n1:7443": "n1", "/run/x": "/run/x", "": "", ":80": "", "@": "@",
	} {
		if got := OfText(text); got != name {
			t.Errorf("%q is %q, want %q", text, got, name)
		}
	}
	if a, b := Of(netip.Addr{}), Of(netip.MustParseAddr("0.0.0.0")); a == b || a == "" {
		t.Errorf("no address is the client %q, 0.0.0.0 is %q", a, b)
	}
}

func TestAddrOf(t *testing.T) {
	for _, c := range []struct {
		of   net.Addr
		want string
	}{
		{&net.TCPAddr{IP: net.ParseIP("10.0.0.1"), Port: 80}, "10.0.0.1"}, // net.ParseIP has IPv6 form
		{&net.UDPAddr{IP: net.ParseIP("10.0.0.1").To4()}, "10.0.0.1"},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, "fe80::1"},
		{&net.TCPAddr{}, "invalid IP"},
		{&net.UnixAddr{Name: "/run/x"}, "invalid IP"},
		{nil, "invalid IP"},
	} {
		if got := AddrOf(c.of).String(); got != c.want {
			t.Errorf("%v: got %s, want %s", c.of, got, c.want)
		}
	}
}

// Counting who is one client is on the path of each packet of a flood.
func TestNetDoesNotAllocate(t *testing.T) {
	for _, s := range []string{"10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "::1", "fe80::1%eth0"} {
		a := netip.MustParseAddr(s)
		if n := testing.AllocsPerRun(100, func() { Net(a) }); n != 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

// Whatever the address: it is in its client's network, every other address of a host's /64 is the same client, and no
// address outside is.
func FuzzOf(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "::1", "::", "ff02::1"} {
		a := netip.MustParseAddr(s)
		f.Add(a.AsSlice(), uint64(1), uint8(63))
	}
	f.Fuzz(func(t *testing.T, raw []byte, host uint64, bit uint8) {
		a, ok := netip.AddrFromSlice(raw)
		p := Net(a)
		if p.IsValid() != ok {
			t.Fatalf("%v: network %v", a, p)
		}
		if !ok {
			return
		}
		if !p.Contains(Plain(a)) || Net(p.Addr()) != p {
			t.Errorf("%v: network %v", a, p)
		}
		if name := Of(a); name != p.String() && name != p.Addr().String() {
			t.Errorf("%v: %v is called %s", a, p, name)
		}
		other := a.As16()
		for i := range 8 {
			other[8+i] = byte(host >> (8 * i))
		}
		b := netip.AddrFrom16(other)
		six := func(x netip.Addr) bool { return Plain(x).Is6() && !x.IsLoopback() }
		if six(a) && six(b) && Of(a) != Of(b) {
			t.Errorf("%v and %v are two clients", a, b)
		}
		far := a.As16()
		at := int(bit) % 64
		if Plain(a).Is4() {
			at = 96 + int(bit)%32
		}
		far[at/8] ^= 0x80 >> (at % 8)
		if c := netip.AddrFrom16(far); Of(a) == Of(c) {
			t.Errorf("%v and %v are one client", a, c)
		}
	})
}
