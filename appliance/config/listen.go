package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"casemate/appliance/service"
	"casemate/appliance/usage"
)

// The ports that a node listens on unless its config says otherwise.
const (
	portHTTP  = 80
	portHTTPS = 443
	portDNS   = 53
	portPeer  = 7443
)

// AdvertisedAt returns the advertised addresses with a port.
func (c *Config) AdvertisedAt(port uint16) []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range c.Advertise {
		list = append(list, netip.AddrPortFrom(a, port))
	}
	return list
}

// PeerListen returns the address on which this node listens for peers.
func (c *Config) PeerListen() netip.AddrPort {
	if c.Listen.Peer.IsValid() {
		return c.Listen.Peer
	}
	return c.AdvertisedAt(portPeer)[0]
}

// PeerDial returns the address that other nodes dial for this one, whose peer port is bound to bound: for a wildcard,
// the first advertised address.
func (c *Config) PeerDial(bound netip.AddrPort) string {
	if bound.Addr().IsUnspecified() && len(c.Advertise) > 0 {
		bound = netip.AddrPortFrom(c.Advertise[0], bound.Port())
	}
	return bound.String()
}

// HasDNSPort reports whether DNS listens on a's port, if a is an address of this node.
func (c *Config) HasDNSPort(a netip.AddrPort) bool {
	if len(c.Listen.DNS) == 0 {
		return a.Port() == portDNS
	}
	return slices.Contains(c.Listen.DNS, a)
}

// Units returns the part of the config that systemd's units need.
func (c *Config) Units() service.Config {
	u := service.Config{Data: c.Data, HTTP: c.Listen.HTTP, HTTPS: c.Listen.HTTPS, DNS: c.Listen.DNS}
	if len(u.HTTP) == 0 {
		u.HTTP = c.AdvertisedAt(portHTTP)
	}
	if len(u.HTTPS) == 0 {
		u.HTTPS = c.AdvertisedAt(portHTTPS)
	}
	if len(u.DNS) == 0 {
		u.DNS = c.AdvertisedAt(portDNS)
	}
	return u
}

// PeerAddr adds the usual port to an address without one.
func PeerAddr(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, portPeer).String(), nil
	}
	if !strings.Contains(s, ":") {
		s += fmt.Sprint(":", portPeer)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || port == "" {
		return "", usage.Errorf("a member's address must be host, address or address:port, got %q", s)
	}
	return s, nil
}
