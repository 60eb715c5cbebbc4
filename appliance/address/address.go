// Package address reads IP addresses, ranges of them and HOST:PORT as people type them: in flags, in the node's config
// and in settings.
//
// An IPv6 address may be in brackets, in upper case and with zeros; an IPv4-mapped one is the IPv4 address. A zone
// (fe80::1%eth0) is refused, because it has a meaning on one host only. Errors begin with "must be" and end with what
// was typed, so that the caller puts the name of its flag or key before them.
package address

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// maxHost limits the length of a host name (RFC 1035, 2.3.4).
const maxHost = 253

// ErrZone reports an address with a zone.
var ErrZone = errors.New("must be an address without a zone, which has a meaning on one host only")

// Parse reads an IP address.
func Parse(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(unbracket(s))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("must be an IP address, got %q", s)
	}
	if a.Zone() != "" {
		return netip.Addr{}, zoned(s)
	}
	return a.Unmap(), nil
}

// ParsePort reads an IP address with a port. An address without one gets the port usual; 0: the port is required.
func ParsePort(s string, usual uint16) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		a, aerr := Parse(s)
		if aerr == nil && usual != 0 {
			return netip.AddrPortFrom(a, usual), nil
		}
		if strings.Contains(s, "%") && aerr != nil {
			return netip.AddrPort{}, aerr
		}
		return netip.AddrPort{}, wantPort(s, usual)
	}
	a, err := netip.ParseAddr(host)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil {
		return netip.AddrPort{}, wantPort(s, usual)
	}
	if a.Zone() != "" {
		return netip.AddrPort{}, zoned(s)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// ParsePrefix reads a range in CIDR notation, or an address as the range of itself. Bits after the prefix stay.
func ParsePrefix(s string) (netip.Prefix, error) {
	addr, bits, cidr := strings.Cut(s, "/")
	if !cidr {
		a, err := Parse(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	if strings.Contains(addr, "%") {
		return netip.Prefix{}, zoned(s)
	}
	p, err := netip.ParsePrefix(unbracket(addr) + "/" + bits)
	if err != nil || p.Addr().Is4In6() && p.Bits() < 96 {
		return netip.Prefix{}, fmt.Errorf("must be a range like 10.0.0.0/8 or fd00::/8, got %q", s)
	}
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

// ParseHostPort reads HOST, ADDRESS, HOST:PORT or ADDRESS:PORT and returns host:port for dialing. Without a port it is
// usual. An IPv6 address without brackets that ends with the usual port (fd00::11:7443) may be meant with or without
// it, and is refused.
func ParseHostPort(s string, usual uint16) (string, error) {
	colon := strings.LastIndexByte(s, ':')
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() && s[colon+1:] == fmt.Sprint(usual) {
		if before, err := Parse(s[:colon]); err == nil {
			return "", fmt.Errorf("must be unambiguous: write [%s]:%d or [%s], got %q", before, usual, a, s)
		}
	}
	if a, err := ParsePort(s, usual); err == nil && a.Port() != 0 {
		return a.String(), nil
	} else if strings.ContainsAny(s, "%[]") || strings.Count(s, ":") > 1 {
		if err == nil {
			err = wantHost(s, usual)
		}
		return "", err
	}
	host, port, found := strings.Cut(s, ":")
	if !found {
		port = fmt.Sprint(usual)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || !isHost(host) {
		return "", wantHost(s, usual)
	}
	return host + ":" + port, nil
}

// NeedsZone reports an address that has a meaning only together with an interface of one host: IPv6 link-local.
func NeedsZone(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.IsLinkLocalUnicast() }

// isHost reports whether a resolver may be asked for s. Digits with dots are an address with a mistake.
func isHost(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	return s != "" && len(s) <= maxHost && strings.Trim(s, letters) == "" && strings.Trim(s, "0123456789.") != ""
}

// unbracket removes brackets that enclose s.
func unbracket(s string) string {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		return s[1 : len(s)-1]
	}
	return s
}

func zoned(s string) error {
	return fmt.Errorf("%w, got %q", ErrZone, s)
}

func wantPort(s string, usual uint16) error {
	if usual != 0 {
		return fmt.Errorf("must be an IP address, with a port or without, like 10.0.0.11:%d or [fd00::11]:%d, got %q",
			usual, usual, s)
	}
	return fmt.Errorf("must be an IP address and a port, like 10.0.0.11:443 or [fd00::1]:443, got %q", s)
}

func wantHost(s string, usual uint16) error {
	return fmt.Errorf("must be a host or an IP address, with a port or without, like 10.0.0.11, [fd00::11]:%d or "+
		"n1.corp.example, got %q", usual, s)
}
