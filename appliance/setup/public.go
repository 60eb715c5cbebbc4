package setup

import (
	"fmt"
	"net/netip"
	"strings"

	"casemate/appliance/config"
	"casemate/appliance/settings"
	"casemate/pki"
)

// usualSite is the usual prefix length of what one site has of the public IPv6 addresses (RFC 6177).
const usualSite = 48

// publicNotes returns notes about advertised IPv6 addresses that are public or temporary: by default DNS answers a
// public network only on the host's own subnets, and certificates are permitted only there. allow is the text of
// dns.allow that was given, "" for the default.
func publicNotes(advertise []netip.Addr, set *settings.Settings, spec pki.Spec, allow string) (notes []string) {
	seen := map[netip.Prefix]bool{}
	for _, a := range advertise {
		if config.Temporary(a) {
			notes = append(notes, fmt.Sprintf("%s is a temporary address (RFC 8981), which the host will soon replace "+
				"by another: name a lasting one with advertise (or --advertise) and start again", a))
		}
		if !a.Is6() || !a.IsGlobalUnicast() || a.IsPrivate() {
			continue
		}
		site, _ := a.Prefix(usualSite)
		if seen[site] {
			continue
		}
		seen[site] = true
		if !allows(set, site) {
			notes = append(notes, fmt.Sprintf("%s is a public address, and DNS refuses clients with public addresses "+
				"outside of this host's subnets; to allow a site with a /%d (write your own prefix): "+
				"casemate config set dns.allow %s", a, usualSite, allowWith(allow, site)))
		}
		if !permits(spec, site) {
			notes = append(notes, fmt.Sprintf("of %s the root permits the network of %s alone; for bastions in other "+
				"networks of the site: start again with an empty data directory and --permit %s, or later: "+
				"casemate ca rotate --permit %s", site, a, site, site))
		}
	}
	return notes
}

// allows reports whether DNS answers every client in a range.
func allows(set *settings.Settings, all netip.Prefix) bool {
	for _, p := range set.Allow {
		if p.Bits() <= all.Bits() && p.Contains(all.Addr()) {
			return true
		}
	}
	return false
}

// allowWith is the text of dns.allow that allows a range, too.
func allowWith(text string, more netip.Prefix) string {
	if text == "" {
		text = settings.Default("dns.allow")
	}
	list := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ,\t\n", r) })
	return strings.Join(append(list, more.String()), ",")
}

// permits reports whether a root made from spec permits the first and the last address of a range.
func permits(spec pki.Spec, all netip.Prefix) bool {
	last := all.Addr().As16()
	for i := all.Bits() / 8; i < len(last); i++ {
		last[i] = 0xff
	}
	return spec.Permits(all.Addr().String()) == nil && spec.Permits(netip.AddrFrom16(last).String()) == nil
}
