// Package share says who is one client, and divides what is scarce among clients.
//
// One client is an IPv4 address, or the /64 of an IPv6 address: one host has all addresses of its /64, so counting
// addresses would give it as many shares as it likes. An IPv4 address in IPv6 form is the IPv4 address, zones do not
// count, and the IPv6 loopback address is a client by itself.
//
// Wherever clients share something, the same holds: what is kept for clients is bounded (Recent), a client alone cannot
// use up all of it, and when all is in use the client that holds most makes room, so that a client that holds little
// gets its share (Places, Ranking, Turns). No type here reads a clock, and all but Ranking and Recent are safe for
// concurrent use.
//
// A rotation of the root certificates records addresses instead, because each host has to fetch the new root by itself
// (appliance/rotation).
package share

import (
	"net"
	"net/netip"
)

// AddrOf returns the address of the other side of a connection, in the form in which addresses are compared: no IPv4 in
// IPv6, no zone. It is invalid if the connection is not one of the internet.
func AddrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return Plain(a.AddrPort().Addr())
	case *net.UDPAddr:
		return Plain(a.AddrPort().Addr())
	}
	return netip.Addr{}
}

// Plain returns a without zone, and as IPv4 if it is IPv4 in IPv6.
func Plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Net returns the addresses that are one client with a; the zero Prefix if a is invalid. It does not allocate.
func Net(a netip.Addr) netip.Prefix {
	a = Plain(a)
	bits := a.BitLen()
	if a.Is6() && !a.IsLoopback() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// Of returns the name of the client that a belongs to: an address, or a /64. Those of invalid addresses are equal.
func Of(a netip.Addr) string {
	p := Net(a)
	if p.IsSingleIP() || !p.IsValid() {
		return p.Addr().String()
	}
	return p.String()
}

// OfText returns the name of the client at an address in text, with or without a port. Other text, as a host's name, is
// the name of a client by itself.
func OfText(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	if a, err := netip.ParseAddr(addr); err == nil {
		return Of(a)
	}
	return addr
}
