package config

import (
	"net/netip"
	"slices"

	"casemate/appliance/address"
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

// PeerListen returns the addresses on which this node listens for peers.
func (c *Config) PeerListen() []netip.AddrPort {
	if len(c.Listen.Peer) > 0 {
		return c.Listen.Peer
	}
	return c.AdvertisedAt(portPeer)
}

// PeerDial returns the addresses that other nodes dial for this one, whose peer port is bound to bound. For a wildcard
// they are the advertised addresses that it covers: those of IPv4, or for [::] all.
func (c *Config) PeerDial(bound []netip.AddrPort) (list []string) {
	for _, b := range bound {
		at := []netip.AddrPort{b}
		if b.Addr().IsUnspecified() {
			at = slices.DeleteFunc(c.AdvertisedAt(b.Port()), func(a netip.AddrPort) bool {
				return b.Addr().Is4() && !a.Addr().Is4()
			})
		}
		for _, a := range at {
			if !slices.Contains(list, a.String()) {
				list = append(list, a.String())
			}
		}
	}
	return list
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
	at, err := address.ParseHostPort(s, portPeer)
	if err != nil {
		return "", usage.Errorf("a member's address %w", err)
	}
	return at, nil
}
