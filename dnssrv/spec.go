package dnssrv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Limits of an Update. They bound the size of answers and of the table, and are larger than a real site needs.
const (
	DefaultTTL   = 15 * time.Second
	maxTTL       = time.Hour
	maxRecordTTL = 7 * 24 * time.Hour
	maxNodes     = 16
	maxAddrs     = 16
	maxValues    = 64
	maxText      = 2048
	maxResolvers = 8
	// MaxResponseRate is the highest Base.ResponseRate: rates are counted in tenths of a microsecond.
	MaxResponseRate = 10_000
)

// Node is a member of the cluster.
type Node struct {
	Name string
	// Addrs are the node's addresses, v4 and v6, without zones.
	Addrs []netip.Addr
	// Healthy nodes are returned to clients.
	Healthy bool
}

// Record is an RRset that the operator set.
type Record struct {
	// Name may start with a wildcard label: *.apps.example.com (RFC 4592).
	Name string
	// Type is A, AAAA, CNAME, TXT or SRV.
	Type string
	// Values in presentation form: an address; a name; a text, taken literally, of at most 2048 bytes; "priority weight
	// port target".
	Values []string
	// TTL between 1s and 168h; 0 means Base.TTL.
	TTL time.Duration
}

// Forward lists the resolvers of one zone.
type Forward struct {
	// Zone is "." for all other names.
	Zone string
	// Resolvers are tried in this order, those that failed recently last. At most 8.
	Resolvers []netip.AddrPort
}

// ValidateRecord returns an error if rec cannot be in a table: the rule that it violates and the value.
func ValidateRecord(rec Record) error {
	_, _, err := rec.pack(1)
	return err
}

// pack returns the record's canonical owner name and its RRset. ttl is the one of the settings.
func (rec Record) pack(ttl uint32) (owner string, rrs set, err error) {
	owner, err = canonical(rec.Name, true)
	if err != nil {
		return "", set{}, fmt.Errorf("dns record: name %w", err)
	}
	fail := func(format string, args ...any) (string, set, error) {
		return "", set{}, fmt.Errorf("dns record %s %s: %w", trimDot(owner), strings.ToUpper(rec.Type),
			fmt.Errorf(format, args...))
	}
	if rec.TTL == 0 {
		rrs.flags = setTTL
	} else {
		if rec.TTL < time.Second || rec.TTL > maxRecordTTL {
			return fail("ttl must be between 1s and %s, got %q", maxRecordTTL, rec.TTL)
		}
		ttl = uint32(rec.TTL / time.Second)
	}
	if len(rec.Values) == 0 || len(rec.Values) > maxValues {
		return fail("must have between 1 and %d values, got %d", maxValues, len(rec.Values))
	}
	rrs.qtype = dns.StringToType[strings.ToUpper(rec.Type)]
	for _, v := range rec.Values {
		switch rrs.qtype {
		case dns.TypeA:
			a, err := netip.ParseAddr(v)
			if err != nil || !a.Is4() {
				return fail("value must be an IPv4 address, got %q", v)
			}
			rrs.add(ttl, a.AsSlice())
		case dns.TypeAAAA:
			a, err := netip.ParseAddr(v)
			if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
				return fail("value must be an IPv6 address without a zone, got %q", v)
			}
			rrs.add(ttl, a.AsSlice())
		case dns.TypeCNAME:
			target, err := canonical(v, false)
			if err != nil {
				return fail("value %w", err)
			}
			if len(rec.Values) > 1 {
				return fail("must have one value, got %d", len(rec.Values))
			}
			if target == owner {
				return fail("must not point to itself")
			}
			rrs.add(ttl, []byte(wireOf(target)))
		case dns.TypeTXT:
			if len(v) > maxText {
				return fail("value must have at most %d bytes, got %d", maxText, len(v))
			}
			rrs.add(ttl, texts(v))
		case dns.TypeSRV:
			f := strings.Fields(v)
			if len(f) != 4 {
				return fail(`value must be "priority weight port target", got %q`, v)
			}
			var rdata []byte
			for _, n := range f[:3] {
				u, err := strconv.ParseUint(n, 10, 16)
				if err != nil {
					return fail("priority, weight and port must be between 0 and 65535, got %q", v)
				}
				rdata = binary.BigEndian.AppendUint16(rdata, uint16(u))
			}
			target := "."
			if f[3] != "." { // "." says that the service is not offered (RFC 2782)
				if target, err = canonical(f[3], false); err != nil {
					return fail("target %w", err)
				}
			}
			rrs.add(ttl, append(rdata, wireOf(target)...))
		default:
			return "", set{}, fmt.Errorf("dns record %s: type must be A, AAAA, CNAME, TXT or SRV, got %q",
				trimDot(owner), rec.Type)
		}
	}
	return owner, rrs, nil
}

// texts packs a text as character-strings of at most 255 bytes (RFC 1035 §3.3.14).
func texts(v string) (rdata []byte) {
	for {
		n := min(len(v), 255)
		rdata = append(append(rdata, byte(n)), v[:n]...)
		if v = v[n:]; v == "" {
			return rdata
		}
	}
}

// canonical returns name in lower case with a trailing dot. Labels are letters, digits, hyphens and underscores:
// internationalised names are given in their ASCII form, and nothing needs escaping afterwards.
func canonical(name string, wildcard bool) (string, error) {
	s := strings.ToLower(strings.TrimSuffix(name, "."))
	if s == "" {
		return "", errors.New("must not be empty")
	}
	if len(s) > 253 {
		return "", fmt.Errorf("must have at most 253 bytes, got %d", len(s))
	}
	labels := strings.Split(s, ".")
	if wildcard && labels[0] == "*" {
		if len(labels) == 1 {
			return "", errors.New(`must not be "*" alone, which would answer for every name there is`)
		}
		labels = labels[1:]
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 {
			return "", fmt.Errorf("must have labels of 1 to 63 bytes, got %q", clip(name))
		}
		for i := range len(l) {
			c := l[i]
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' && i > 0 && i < len(l)-1) {
				return "", fmt.Errorf("must be made of letters, digits, hyphens and underscores (a wildcard as the "+
					"first label of a record), got %q", clip(name))
			}
		}
	}
	return s + ".", nil
}

// hostname is canonical for names of hosts: an address is not one.
func hostname(name string) (string, error) {
	if _, err := netip.ParseAddr(strings.TrimSuffix(name, ".")); err == nil {
		return "", fmt.Errorf("must be a name, not an address, got %q", name)
	}
	return canonical(name, false)
}

func trimDot(name string) string {
	if name == "." {
		return name
	}
	return strings.TrimSuffix(name, ".")
}

// clip shortens a value for an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// address checks one address of a node.
func address(a netip.Addr) (netip.Addr, error) {
	a = a.Unmap()
	if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return a, fmt.Errorf("must be a unicast address without a zone, got %q", a)
	}
	return a, nil
}

func forwardZone(f Forward) (string, []netip.AddrPort, error) {
	zone := "."
	if f.Zone != "." {
		var err error
		if zone, err = canonical(f.Zone, false); err != nil {
			return "", nil, fmt.Errorf("dns.forward: zone %w", err)
		}
	}
	if len(f.Resolvers) == 0 || len(f.Resolvers) > maxResolvers {
		return "", nil, fmt.Errorf("dns.forward: zone %s must have between 1 and %d resolvers, got %d", zone,
			maxResolvers, len(f.Resolvers))
	}
	var rs []netip.AddrPort
	for _, r := range f.Resolvers {
		if !r.IsValid() || r.Port() == 0 || r.Addr().IsUnspecified() || r.Addr().IsMulticast() {
			return "", nil, fmt.Errorf("dns.forward: resolver of zone %s must be a unicast address and a port, got %q",
				zone, r)
		}
		if r = netip.AddrPortFrom(r.Addr().Unmap(), r.Port()); !slices.Contains(rs, r) {
			rs = append(rs, r)
		}
	}
	return zone, rs, nil
}
