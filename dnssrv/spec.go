package dnssrv

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Limits on what a Spec may hold. They bound the size of answers and of the table, not what a real site needs.
const (
	DefaultTTL   = 15 * time.Second
	maxTTL       = time.Hour
	maxRecordTTL = 7 * 24 * time.Hour
	maxNodes     = 16
	maxAddrs     = 16
	maxValues    = 64
	maxText      = 2048
	maxResolvers = 8
	// MaxResponseRate is the highest Spec.ResponseRate: rates are counted in tenths of a microsecond.
	MaxResponseRate = 10_000
)

// Spec is what an answer table is built from. Names are given with or without a trailing dot, in any case.
type Spec struct {
	// Domain is the own zone, such as casemate.internal.
	Domain string
	// Node is this node's name. It is told to clients that ask for it (NSID, RFC 5001), and to nobody else.
	Node string
	// Nodes are the members of the cluster, at least one and at most 16. Node.Name becomes <name>.<domain>.
	Nodes []Node
	// Origins are the overridden names: origins and their aliases. Each is answered as a zone of its own, with nothing
	// below it.
	Origins []string
	// Records are set by the operator. Where one has the name of an origin or of the own zone's fixed names and is an
	// A, AAAA or CNAME, the operator's wins; see [Table.Conflicts].
	Records []Record
	// TTL of everything that we make up, positive and negative; 0 means DefaultTTL; between 1s and 1h.
	TTL time.Duration
	// Forward says which resolvers know what is not ours. The longest matching zone counts. Empty: NXDOMAIN at once.
	Forward []Forward
	// ResponseRate is how many answers a second that say the same one address gets over UDP before it is sent to TCP,
	// up to 10000; five seconds' worth may come at once. Its NXDOMAIN answers may be ten times as many, all answers to
	// its network (/24, /56) twenty times. 0: no limit.
	ResponseRate int
	// Allow are the clients that may ask. Empty allows nobody.
	Allow []netip.Prefix
}

// Node is a member of the cluster.
type Node struct {
	Name string
	// Addrs are the node's addresses, v4 and v6, without zones.
	Addrs []netip.Addr
	// Healthy nodes are those that clients are sent to.
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
	// TTL between 1s and 168h; 0 means Spec.TTL.
	TTL time.Duration
}

// Forward names the resolvers of one zone.
type Forward struct {
	// Zone is "." for all the rest.
	Zone string
	// Resolvers are tried in this order, those that lately failed last. At most 8.
	Resolvers []netip.AddrPort
}

// ValidateRecord says whether rec can stand in a table, and if not, the rule and what it got.
func ValidateRecord(rec Record) error {
	_, _, err := rec.rrs(1)
	return err
}

// rrs returns the record's canonical owner name and its resource records.
func (rec Record) rrs(ttl uint32) (owner string, rrs []dns.RR, err error) {
	owner, err = canonical(rec.Name, true)
	if err != nil {
		return "", nil, fmt.Errorf("dns record: name %w", err)
	}
	fail := func(format string, args ...any) (string, []dns.RR, error) {
		return "", nil, fmt.Errorf("dns record %s %s: %w", trimDot(owner), strings.ToUpper(rec.Type), fmt.Errorf(format, args...))
	}
	if rec.TTL != 0 {
		if rec.TTL < time.Second || rec.TTL > maxRecordTTL {
			return fail("ttl must be between 1s and %s, got %q", maxRecordTTL, rec.TTL)
		}
		ttl = uint32(rec.TTL / time.Second)
	}
	if len(rec.Values) == 0 || len(rec.Values) > maxValues {
		return fail("must have between 1 and %d values, got %d", maxValues, len(rec.Values))
	}
	rrtype := dns.StringToType[strings.ToUpper(rec.Type)]
	seen := make(map[string]bool)
	for _, v := range rec.Values {
		h := dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
		var rr dns.RR
		switch rrtype {
		case dns.TypeA:
			a, err := netip.ParseAddr(v)
			if err != nil || !a.Is4() {
				return fail("value must be an IPv4 address, got %q", v)
			}
			rr = &dns.A{Hdr: h, A: a.AsSlice()}
		case dns.TypeAAAA:
			a, err := netip.ParseAddr(v)
			if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
				return fail("value must be an IPv6 address without a zone, got %q", v)
			}
			rr = &dns.AAAA{Hdr: h, AAAA: a.AsSlice()}
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
			rr = &dns.CNAME{Hdr: h, Target: target}
		case dns.TypeTXT:
			if len(v) > maxText {
				return fail("value must have at most %d bytes, got %d", maxText, len(v))
			}
			rr = &dns.TXT{Hdr: h, Txt: texts(v)}
		case dns.TypeSRV:
			f := strings.Fields(v)
			if len(f) != 4 {
				return fail(`value must be "priority weight port target", got %q`, v)
			}
			var n [3]uint16
			for i := range n {
				u, err := strconv.ParseUint(f[i], 10, 16)
				if err != nil {
					return fail("priority, weight and port must be between 0 and 65535, got %q", v)
				}
				n[i] = uint16(u)
			}
			target := "."
			if f[3] != "." { // "." says that the service is not offered (RFC 2782)
				if target, err = canonical(f[3], false); err != nil {
					return fail("target %w", err)
				}
			}
			rr = &dns.SRV{Hdr: h, Priority: n[0], Weight: n[1], Port: n[2], Target: target}
		default:
			return "", nil, fmt.Errorf("dns record %s: type must be A, AAAA, CNAME, TXT or SRV, got %q", trimDot(owner), rec.Type)
		}
		// An RRset holds a value once (RFC 2181 §5).
		if key := rr.String(); !seen[key] {
			seen[key] = true
			rrs = append(rrs, rr)
		}
	}
	return owner, rrs, nil
}

// texts splits a text into character-strings of at most 255 bytes (RFC 1035 §3.3.14), escaped as miekg/dns keeps them.
func texts(v string) []string {
	var out []string
	for {
		n := min(len(v), 255)
		out = append(out, strings.ReplaceAll(v[:n], `\`, `\\`))
		if v = v[n:]; v == "" {
			return out
		}
	}
}

// canonical returns name in lower case with a trailing dot. Labels are letters, digits, hyphens and underscores:
// internationalised names are given in their ASCII form, and nothing needs escaping from here on.
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
				return "", fmt.Errorf("must be made of letters, digits, hyphens and underscores (a wildcard as the first label of a record), got %q", clip(name))
			}
		}
	}
	return s + ".", nil
}

// hostname is canonical for names that hosts bear: an address is not one.
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

// clip keeps an error short, whatever was given.
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
		return "", nil, fmt.Errorf("dns.forward: zone %s must have between 1 and %d resolvers, got %d", zone, maxResolvers, len(f.Resolvers))
	}
	var rs []netip.AddrPort
	for _, r := range f.Resolvers {
		if !r.IsValid() || r.Port() == 0 || r.Addr().IsUnspecified() || r.Addr().IsMulticast() {
			return "", nil, fmt.Errorf("dns.forward: resolver of zone %s must be a unicast address and a port, got %q", zone, r)
		}
		if r = netip.AddrPortFrom(r.Addr().Unmap(), r.Port()); !slices.Contains(rs, r) {
			rs = append(rs, r)
		}
	}
	return zone, rs, nil
}
