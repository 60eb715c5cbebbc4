package pki

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Flags returns the flags of casemate ca rotate for the change.
func (g Change) Flags() string {
	var list []string
	for _, of := range []struct {
		flag    string
		entries []string
	}{{"--permit", g.Permit}, {"--exclude", g.Exclude}, {"--drop", g.Drop}} {
		for _, e := range of.entries {
			list = append(list, of.flag+" "+e)
		}
	}
	if g.Own {
		list = append(list, "--leave-issuer")
	}
	return strings.Join(list, " ")
}

// Widening is the smallest Change of the root in use that permits names, with public IPv6 addresses in networks and
// host names in zones that can be registered (files.corp.example needs corp.example), unless that would permit a public
// suffix or a zone that contains a public zone. It is empty if the root permits them all.
func (c *CA) Widening(names ...string) Change {
	s, err := c.current()
	if err != nil {
		return Change{}
	}
	return s.widening(names)
}

func (s *snapshot) widening(names []string) Change {
	var g Change
	add := func(list *[]string, entry string) {
		if !slices.Contains(*list, entry) {
			*list = append(*list, entry)
		}
	}
	k := s.root.constraints()
	for _, n := range names {
		n, err := canonical(n)
		if err != nil || s.root.allows(n) == nil {
			continue
		}
		n = trimStar(n)
		if a, err := netip.ParseAddr(n); err == nil {
			for _, no := range k.noRanges {
				if no.Contains(a) {
					add(&g.Drop, no.String())
				}
			}
			if p := networks([]netip.Addr{a})[0]; !p.IsSingleIP() {
				n = p.String()
			}
			add(&g.Permit, n)
			continue
		}
		for _, no := range k.noZones {
			if within(n, no) || within(no, n) {
				add(&g.Drop, no)
			}
		}
		if slices.ContainsFunc(k.zones, func(z string) bool { return within(n, z) }) {
			continue
		}
		zone, err := publicsuffix.EffectiveTLDPlusOne(n)
		free := constraints{noZones: slices.DeleteFunc(slices.Clone(k.noZones), func(no string) bool {
			return slices.Contains(g.Drop, no)
		})}
		if err != nil || free.permit([]string{zone}, PublicZones()) != nil {
			zone = n
		}
		add(&g.Permit, zone)
	}
	return g
}

// cured adds the command that permits the names to an error that is ErrNotPermitted.
func (s *snapshot) cured(err error, names ...string) error {
	if !errors.Is(err, ErrNotPermitted) {
		return err
	}
	flags := s.widening(names).Flags()
	if flags == "" {
		return err
	}
	what := "makes a root that permits it"
	if s.root.ref.Enterprise {
		what = "leaves the enterprise's CA certificate for a root of our own that permits it"
	}
	return fmt.Errorf("%w: casemate ca rotate %s %s", err, flags, what)
}
