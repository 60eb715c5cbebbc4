package service

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestHolderOf(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::1]", "[::]"} {
			t.Run(network+" "+host, func(t *testing.T) {
				var addr net.Addr
				if network == "tcp" {
					l, err := net.Listen(network, host+":0")
					if err != nil {
						t.Skip(err) // no IPv6 here
					}
					defer l.Close()
					addr = l.Addr()
				} else {
					c, err := net.ListenPacket(network, host+":0")
					if err != nil {
						t.Skip(err)
					}
					defer c.Close()
					addr = c.LocalAddr()
				}
				bound := netip.MustParseAddrPort(addr.String())
				asked := "127.0.0.1"
				if bound.Addr().Is6() {
					asked = "::1"
				}
				at := netip.AddrPortFrom(netip.MustParseAddr(asked), bound.Port())
				h, ok, err := HolderOf(network, at)
				if err != nil || !ok || h.PID != os.Getpid() || h.Process == "" {
					t.Errorf("%s has %s, it says %+v, %v, %v", addr, at, h, ok, err)
				}
			})
		}
	}
	// At an address of its own: at 127.0.0.1 somebody may listen there next.
	l, err := net.Listen("tcp", "127.55.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	if h, ok, err := HolderOf("tcp", at); ok || err != nil {
		t.Errorf("nobody has %s, it says %+v, %v", at, h, err)
	}
}

func TestHolderOfPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path) // its other end has the path too, and accepts nothing
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if h, ok := HolderOfPath(path); !ok || h.PID != os.Getpid() || h.Process == "" {
		t.Errorf("it says %+v, %v", h, ok)
	}
	l.Close()
	if h, ok := HolderOfPath(path); ok {
		t.Errorf("nobody listens, it says %+v", h)
	}
}

func TestHoldingReadsTheKernelsTable(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	const tcp = head +
		"   0: 0B00000A:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1\n" +
		"   1: 0B00000A:0050 0C00000A:A000 01 00000000:00000000 00:00000000 00000000     0        0 222 1\n" +
		"   2: 00000000:1D13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1\n"
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the table is that of a little-endian machine")
	}
	for _, c := range []struct{ at, want string }{
		{"10.0.0.11:53", "111"},
		{"10.0.0.12:53", ""},
		{"0.0.0.0:53", "111"},
		{"10.0.0.11:80", ""}, // a connection, not a listener
		{"10.0.0.11:7443", "333"},
		{"[fd00::11]:7443", ""}, // an IPv4 wildcard does not cover it
	} {
		if got := holding(tcp, "tcp", netip.MustParseAddrPort(c.at)); got != c.want {
			t.Errorf("%s is held by %q, expected %q", c.at, got, c.want)
		}
	}
}
