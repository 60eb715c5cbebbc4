package pki

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"
)

// LabDomain is the zone of rehearsals. The root of one says so in its name, permits most public names, and is refused
// as the issuer of another cluster.
const LabDomain = "rehearsal.casemate.internal"

// LabZones are the public zones that the root of a rehearsal permits.
func LabZones() []string {
	return []string{"com", "net", "org", "io", "dev", "sh", "cloud", "run", "app", "gov", "edu", "eu", "de", "fr", "uk",
		"nl", "ch", "at", "ie", "us", "ca", "jp", "co", "ai", "info", "me", "tech", "rs", "xyz", "aws", "goog"}
}

// Spec is the purpose of a root: what it may ever be used for.
type Spec struct {
	// Domain is the cluster's own zone.
	Domain string
	// Node is the name of the node that makes the CA; its addresses are Addrs.
	Node string
	// Public are the zones of public registries and download hosts that the root permits. Nil: PublicZones.
	Public []string
	// Addrs are the advertised addresses, permitted even where they are public ones; of IPv6 their networks (/64).
	Addrs []netip.Addr
	// Permit and Exclude are zones ("corp.example", all names below it included), CIDRs or addresses. Exclusions cannot
	// be removed from this root.
	Permit, Exclude []string
	// CRLURL is Config.CRLURL.
	CRLURL string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// constraints checks the Spec for contradictions and returns the root's constraints.
func (s Spec) constraints() (constraints, error) {
	var k constraints
	domain, err := canonical(s.Domain)
	if err != nil {
		return k, fmt.Errorf("domain: %w", err)
	}
	if _, err := netip.ParseAddr(domain); err == nil {
		return k, mistakef("domain %s is an address: it must be a zone", domain)
	}
	public := s.Public
	if public == nil {
		public = PublicZones()
	}
	for _, p := range public {
		z, cidr, err := parseZone(p)
		if err != nil {
			return k, fmt.Errorf("public zone %w", err)
		}
		if cidr.IsValid() {
			return k, mistakef("public zone %s is an address range: it must be a zone", p)
		}
		if within(z, domain) {
			return k, mistakef("domain %s holds the public zone %s: choose a domain of your own", domain, z)
		}
		k.zones = append(k.zones, z)
	}
	if err := k.exclude(s.Exclude, domain); err != nil {
		return k, err
	}
	if err := k.permit(s.Permit, public); err != nil {
		return k, err
	}
	for _, a := range s.Addrs {
		if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return k, mistakef("advertised address %s cannot be in a certificate", a)
		}
		a = a.Unmap()
		for _, no := range k.noRanges {
			if no.Contains(a) {
				return k, mistakef("advertised address %s is in exclude %s: drop one of the two", a, no)
			}
		}
		k.ranges = append(k.ranges, networks([]netip.Addr{a})...)
	}
	k.zones = append(k.zones, domain)
	k.ranges = append(k.ranges, privateRanges()...)
	return k.tidy(), nil
}

// exclude adds excluded zones, CIDRs and addresses. domain is the cluster's own zone, in canonical form.
func (k *constraints) exclude(list []string, domain string) error {
	for _, e := range list {
		z, cidr, err := parseZone(e)
		switch {
		case err != nil:
			return fmt.Errorf("exclude %w", err)
		case cidr.IsValid():
			k.noRanges = append(k.noRanges, cidr)
		case within(domain, z):
			return mistakef("exclude %s forbids the domain %s itself: exclude less or choose another domain", z, domain)
		default:
			k.noZones = append(k.noZones, z)
		}
	}
	return nil
}

// permit adds permitted zones, CIDRs and addresses. One that is excluded, or wider than a public zone, is a mistake.
func (k *constraints) permit(list, public []string) error {
	for _, p := range list {
		z, cidr, err := parseZone(p)
		if err != nil {
			return fmt.Errorf("permit %w", err)
		}
		if cidr.IsValid() {
			if cidr.Bits() < 8 {
				return mistakef("permit %s is most of the internet: permit the ranges you need", cidr)
			}
			for _, no := range k.noRanges {
				if no.Bits() <= cidr.Bits() && no.Contains(cidr.Addr()) {
					return mistakef("permit %s is in exclude %s: drop one of the two", cidr, no)
				}
			}
			k.ranges = append(k.ranges, cidr)
			continue
		}
		for _, no := range k.noZones {
			if within(z, no) {
				return mistakef("permit %s is in exclude %s: drop one of the two", z, no)
			}
		}
		for _, pub := range public {
			if pub != z && within(pub, z) {
				return mistakef("permit %s is wider than the public zone %s below it: permit the zones you need",
					z, pub)
			}
		}
		k.zones = append(k.zones, z)
	}
	return nil
}

// drop removes a permitted or excluded entry. The own domain must stay.
func (k *constraints) drop(entry, domain string) error {
	z, cidr, err := parseZone(entry)
	if err != nil {
		return fmt.Errorf("drop %w", err)
	}
	if z == domain {
		return mistakef("drop %s: the own domain must stay", z)
	}
	before := len(k.zones) + len(k.noZones) + len(k.ranges) + len(k.noRanges)
	sameZone := func(s string) bool { return !cidr.IsValid() && s == z }
	sameRange := func(p netip.Prefix) bool { return p == cidr }
	k.zones, k.noZones = slices.DeleteFunc(k.zones, sameZone), slices.DeleteFunc(k.noZones, sameZone)
	k.ranges, k.noRanges = slices.DeleteFunc(k.ranges, sameRange), slices.DeleteFunc(k.noRanges, sameRange)
	if before == len(k.zones)+len(k.noZones)+len(k.ranges)+len(k.noRanges) {
		return mistakef("drop %s: the root in use has no such entry, casemate ca -o json lists them", entry)
	}
	return nil
}

// Permits returns nil if a root made from this Spec would permit the host name or address. Otherwise the error gives
// the reason (ErrNotPermitted) or the contradiction in the Spec.
func (s Spec) Permits(name string) error {
	k, err := s.constraints()
	if err != nil {
		return err
	}
	n, err := canonical(name)
	if err != nil {
		return err
	}
	return k.allows(n)
}

func (s Spec) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// issuerConstraints returns the constraints of an intermediate: the nodes' addresses and exactly names, minus the
// root's exclusions. Names that the root does not permit are an error. A wildcard counts as the zone that it covers.
func issuerConstraints(root constraints, names []string, addrs []netip.Addr) (constraints, error) {
	k := constraints{noZones: slices.Clone(root.noZones), noRanges: slices.Clone(root.noRanges)}
	add := func(name string) error {
		if err := root.allows(name); err != nil {
			return err
		}
		if a, err := netip.ParseAddr(name); err == nil {
			k.ranges = append(k.ranges, netip.PrefixFrom(a, a.BitLen()))
		} else {
			k.zones = append(k.zones, trimStar(name))
		}
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return k, err
		}
	}
	for _, a := range addrs {
		if err := add(a.String()); err != nil {
			return k, fmt.Errorf("node %w", err)
		}
	}
	return k.tidy(), nil
}

func trimStar(name string) string {
	if len(name) > 2 && name[:2] == "*." {
		return name[2:]
	}
	return name
}

func canonicals(names []string) ([]string, error) {
	out := make([]string, 0, len(names))
	for _, n := range names {
		c, err := canonical(n)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Init makes a root and an intermediate for the enabled names, in one batch. A Spec that contradicts itself, and an
// enabled name that it does not permit (ErrNotPermitted), are refused with a sentence that names them; a tree that has
// a CA already is fs.ErrExist. Nothing is written then.
func Init(ctx context.Context, tree Tree, sealer Sealer, spec Spec, enabled []string) error {
	k, err := spec.constraints()
	if err != nil {
		return err
	}
	if err := checkNode(spec.Node); err != nil {
		return err
	}
	names, err := canonicals(enabled)
	if err != nil {
		return fmt.Errorf("enabled %w", err)
	}
	domain, _ := canonical(spec.Domain)
	addrs := unmapped(spec.Addrs)
	ik, err := issuerConstraints(k, append([]string{domain}, names...), addrs)
	if err != nil {
		return err
	}
	if _, err := tree.Stat(stateName); err == nil {
		return fmt.Errorf("the cluster has a CA already: %w", fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now := spec.now()
	root, rootKey, err := makeRoot(k, domain, spec.CRLURL, now)
	if err != nil {
		return err
	}
	iss, err := makeIssuer(root, rootKey, ik, domain, spec.CRLURL, now)
	if err != nil {
		return err
	}
	err = tree.Update(ctx, func(b Batch) error {
		b.Expect(stateName, 0)
		if err := root.put(b, sealer, rootKey); err != nil {
			return err
		}
		if err := iss.put(b, sealer, names); err != nil {
			return err
		}
		if spec.CRLURL != "" {
			if err := root.putRootList(b, rootKey, nil, nil, now, now.Add(rootListLife)); err != nil {
				return err
			}
		}
		if spec.Node != "" {
			if err := putJSON(b, "node/"+spec.Node, addrs); err != nil {
				return err
			}
		}
		return putState(b, state{Root: root.ref, Issuer: iss.id})
	})
	if err != nil {
		// The update may have failed and happened nevertheless: then the tree has the key that was just made.
		if s, _, serr := readState(tree); serr == nil && s.Issuer == iss.id {
			return nil
		}
		return fmt.Errorf("write the CA: %w", err)
	}
	return nil
}

func unmapped(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.Unmap())
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
