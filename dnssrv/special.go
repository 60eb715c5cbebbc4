package dnssrv

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// A special zone has names that mean the same in every network, or that only this network can know. Asking a resolver
// for them is useless, reveals what this network does, and lets the resolver answer what only we may
// (https://www.iana.org/assignments/special-use-domain-names).
type special struct {
	zone string
	// forward says when a resolver is asked nevertheless.
	forward forwarding
}

type forwarding int

const (
	never   forwarding = iota // whatever dns.forward says
	byName                    // a resolver of this zone itself
	byCover                   // a resolver of this zone or of one above it, "." included
)

// specials are the zones that Unbound and BIND serve by default, with two exceptions. First, private ranges are
// forwarded to the resolver of "." if there is one, as in BIND with "forward only": that resolver belongs to the site,
// and Kerberos and SSH fail where addresses have no names. Second, .local (RFC 6762, 22.1) is absent: too many Active
// Directory domains end in it.
var specials = append([]special{
	{"localhost.", never},               // RFC 6761, 6.3
	{"127.in-addr.arpa.", never},        // loopback, RFC 6303, 4.2
	{reverseZone("::1", 32), never},     // RFC 6303, 4.3
	{"invalid.", never},                 // RFC 6761, 6.4
	{"onion.", never},                   // RFC 7686, 2
	{"alt.", never},                     // RFC 9476, 3.1
	{"resolver.arpa.", never},           // RFC 9462, 8.2
	{"0.in-addr.arpa.", never},          // RFC 6303, 4.2
	{"2.0.192.in-addr.arpa.", never},    // documentation
	{"100.51.198.in-addr.arpa.", never}, // documentation
	{"113.0.203.in-addr.arpa.", never},  // documentation
	{"255.255.255.255.in-addr.arpa.", never},
	{reverseZone("::", 32), never},        // RFC 6303, 4.3
	{reverseZone("2001:db8::", 8), never}, // documentation
	{"test.", byName},                     // RFC 6761, 6.2
	{"home.arpa.", byName},                // RFC 8375, 4
	{"service.arpa.", byName},             // RFC 9665, 10
	{"10.in-addr.arpa.", byCover},         // RFC 6303, 4.1
	{"168.192.in-addr.arpa.", byCover},    // RFC 6303, 4.1
	{"254.169.in-addr.arpa.", byCover},    // link-local, RFC 6303, 4.2
	{"d.f.ip6.arpa.", byCover},            // RFC 6303, 4.4
	{"8.e.f.ip6.arpa.", byCover},          // link-local, RFC 6303, 4.5
	{"9.e.f.ip6.arpa.", byCover},
	{"a.e.f.ip6.arpa.", byCover},
	{"b.e.f.ip6.arpa.", byCover},
}, numbered()...)

// numbered returns the special zones that are a range of labels.
func numbered() (out []special) {
	for i := 16; i < 32; i++ {
		out = append(out, special{netip.AddrFrom4([4]byte{172, byte(i)}).String(), byCover}) // RFC 6303, 4.1
	}
	for i := 64; i < 128; i++ {
		out = append(out, special{netip.AddrFrom4([4]byte{100, byte(i)}).String(), byCover}) // RFC 7793
	}
	for i := range out {
		labels := strings.Split(out[i].zone, ".")
		out[i].zone = labels[1] + "." + labels[0] + ".in-addr.arpa."
	}
	return out
}

// reverseZone returns the zone of the first nibbles of an IPv6 address.
func reverseZone(addr string, nibbles int) string {
	rev, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err) // callers pass constants only
	}
	return rev[2*(32-nibbles):]
}

// loopback reports whether name is localhost or below it: such names mean the client's own host (RFC 6761, 6.3),
// whatever is configured.
func loopback(name string) bool { return within(name, "localhost.") }

// addSpecials adds the special zones that no resolver answers for. It must run after everything that an operator can
// set.
func (t *frame) addSpecials() {
	for _, s := range specials {
		if within(s.zone, t.domain) {
			continue
		}
		if s.forward == never {
			for zone := range t.forward {
				if within(zone, s.zone) {
					t.conflict("%s is in the special zone %s: it is not forwarded", trimDot(zone), trimDot(s.zone))
					delete(t.forward, zone)
				}
			}
		}
		_, named := t.forward[s.zone]
		_, covered := t.forwards(s.zone)
		if named || covered && s.forward == byCover {
			continue
		}
		t.special[s.zone] = struct{}{}
		f := t.entry(s.zone)
		f.flags |= isApex | isSpecial
		if strings.HasSuffix(s.zone, ".arpa.") {
			f.flags |= isHere // a zone's apex exists; the others are top-level domains that do not
		}
	}
	if _, ok := t.special["localhost."]; ok {
		for _, name := range []string{"localhost.", "*.localhost."} {
			t.addAddress(name, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
			t.addAddress(name, netip.IPv6Loopback())
		}
		for _, rev := range []string{"1.0.0.127.in-addr.arpa.", reverseZone("::1", 32)} {
			t.add(rev, dns.TypePTR, []byte(wireOf("localhost.")))
		}
	}
	if _, ok := t.special["resolver.arpa."]; ok {
		// "We have no designated resolver" is NODATA (RFC 9462, 4).
		t.entry("*.resolver.arpa.").flags |= isHere
	}
}

// inSpecial reports whether the closest zone around name is a special one.
func (t *Table) inSpecial(name []byte) bool {
	_, _, zone := t.closest(name)
	return zone >= 0 && t.names.get(name[zone:]).has(isSpecial)
}

// serviceHost removes leading labels with an underscore: it returns the host that _http._tcp.host is about (RFC 8552).
func serviceHost(name []byte) []byte {
	for name[0] != 0 && name[1] == '_' {
		name, _ = parentOf(name)
	}
	return name
}

// ourService reports whether name is about the services of a host that we answer for. Such a name has no data: the data
// of the host's real owner would send clients elsewhere (apt follows _http._tcp.host). A zone below the host that has a
// resolver belongs to that resolver.
func (t *Table) ourService(name string, wire []byte) bool {
	host := serviceHost(wire)
	if len(host) == len(wire) || !t.names.get(host).has(isHost) {
		return false
	}
	zone, forward := t.forwards(name)
	return !(forward && len(wireOf(zone)) > len(host)) // both are suffixes of name
}

// wanted reports whether a question without an answer indicates that something is missing here.
func (t *Table) wanted(name []byte, qtype uint16) bool {
	switch qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeTXT, dns.TypeSRV, dns.TypeMX, dns.TypeNAPTR:
	default:
		// Other types are requested beside an address (HTTPS, SVCB, CAA, TLSA), by validators and tools that look for
		// the zone (DS, DNSKEY, NS, SOA), or out of curiosity (PTR, ANY).
		return false
	}
	if t.inSpecial(name) {
		return false
	}
	host := serviceHost(name)
	if len(host) != len(name) && t.find(host) != nil {
		return false
	}
	return !t.expanded(host)
}

// expanded reports whether name is one of the table's names followed by the suffix of a search list: with ndots:5,
// clients ask for registry.k8s.io.default.svc.cluster.local before registry.k8s.io.
func (t *Table) expanded(name []byte) bool { return t.expandedFrom(name) > 0 }

// expandedFrom returns how many bytes of name are the name of the table that it is made of, without the root; 0 if
// there is none.
func (t *Table) expandedFrom(name []byte) int {
	var head [256]byte
	copy(head[:], name)
	for i, labels := 0, 1; name[i] != 0; labels++ {
		last := i
		i += 1 + int(name[i])
		next := head[i]
		if next == 0 {
			break // the name itself
		}
		head[i] = 0
		// Most labels are no top-level domain of our names, and the few frequent ones are in the processor's cache,
		// unlike whole names.
		if labels == 1 && string(head[:i+1]) == localhost ||
			labels > 1 && t.names.get(head[last:i+1]).exists() && t.names.get(head[:i+1]).has(isHere) {
			return i
		}
		head[i] = next
	}
	return 0
}

const localhost = "\x09localhost\x00"
