package dnssrv

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// A special zone has names that mean the same in every network, or that nobody outside this one can know. Asking a
// resolver for them is of no use, tells it what this network does, and lets it answer what only we may
// (https://www.iana.org/assignments/special-use-domain-names).
type special struct {
	zone string
	// forward says when a resolver is asked all the same.
	forward forwarding
}

type forwarding int

const (
	never   forwarding = iota // whatever dns.forward says
	byName                    // a resolver of this zone itself
	byCover                   // a resolver of this zone or of one above it, "." included
)

// specials are, with two exceptions, the zones that Unbound and BIND serve by default. The first exception: private
// ranges go to the resolver of "." if there is one, as in BIND with "forward only". That resolver is the site's own,
// and Kerberos and SSH fail where addresses have no names. The second is .local (RFC 6762, 22.1), which is not here:
// too many Active Directory domains end in it.
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

// numbered are the special zones that are a run of labels.
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

// reverseZone is the zone of an IPv6 address's first nibbles.
func reverseZone(addr string, nibbles int) string {
	rev, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err) // only constants are asked for
	}
	return rev[2*(32-nibbles):]
}

// loopback says whether name is localhost or below it: such names mean the host that asks (RFC 6761, 6.3), whatever
// anybody sets.
func loopback(name string) bool { return within(name, "localhost.") }

// addSpecials makes the special zones that no resolver answers for. It comes after everything that an operator can set.
func (t *frame) addSpecials() {
	for _, s := range specials {
		if within(s.zone, t.domain) {
			continue
		}
		if s.forward == never {
			for zone := range t.forward {
				if within(zone, s.zone) {
					t.conflict("%s lies in the special zone %s: it is not forwarded", trimDot(zone), trimDot(s.zone))
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

// inSpecial says whether the closest zone around name is a special one.
func (t *Table) inSpecial(name []byte) bool {
	_, _, zone := t.closest(name)
	return zone >= 0 && t.names.get(name[zone:]).has(isSpecial)
}

// serviceHost cuts leading labels with an underscore off: the host that _http._tcp.host says something about (RFC
// 8552).
func serviceHost(name []byte) []byte {
	for name[0] != 0 && name[1] == '_' {
		name, _ = parentOf(name)
	}
	return name
}

// ourService says whether name is about the services of a host that we stand for. It has no data then: what the host's
// real owner would say sends clients elsewhere (apt follows _http._tcp.host). A zone below the host that has a resolver
// of its own is that resolver's.
func (t *Table) ourService(name string, wire []byte) bool {
	host := serviceHost(wire)
	if len(host) == len(wire) || !t.names.get(host).has(isHost) {
		return false
	}
	zone, forward := t.forwards(name)
	return !(forward && len(wireOf(zone)) > len(host)) // both are ends of name
}

// wanted says whether a question without an answer tells of something that is missing here.
func (t *Table) wanted(name []byte, qtype uint16) bool {
	switch qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeTXT, dns.TypeSRV, dns.TypeMX, dns.TypeNAPTR:
	default:
		// All others are asked beside an address (HTTPS, SVCB, CAA, TLSA), by validators and tools that look for the
		// zone (DS, DNSKEY, NS, SOA), or out of curiosity (PTR, ANY).
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

// expanded says whether name is one that we hold with the suffix of a search list behind it: with ndots:5, clients ask
// for registry.k8s.io.default.svc.cluster.local before registry.k8s.io.
func (t *Table) expanded(name []byte) bool {
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
		// Most labels are no top-level domain of a name of ours, and the few that are asked for are at hand in the
		// processor's cache, as whole names are not.
		if labels == 1 && string(head[:i+1]) == localhost ||
			labels > 1 && t.names.get(head[last:i+1]).exists() && t.names.get(head[:i+1]).has(isHere) {
			return true
		}
		head[i] = next
	}
	return false
}

const localhost = "\x09localhost\x00"
