package dnssrv

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Table holds every answer that needs no forwarding. It is immutable: whoever has one may read it without a lock.
type Table struct {
	domain string // canonical
	node   string
	ttl    uint32       // seconds
	live   [2][]*member // by family: healthy, or all if none is

	members map[string]bool // names of nodes

	names  map[string]*entry   // by canonical owner, wildcards under their literal name
	inner  map[string]struct{} // empty non-terminals: they exist, with no data (RFC 8020)
	apexes map[string]struct{} // what we act as the zone of; owners of SOAs

	special map[string]struct{} // special zones that are ours: neither forwarded nor missing; among apexes

	forward map[string][]netip.AddrPort // by canonical zone; resolvers that are not ourselves
	allow   []netip.Prefix
	cost    ticks // rateCost of Spec.ResponseRate

	// Packed answers, by lower-case wire name; see fast.go.
	hot    map[string]*hot
	marks  map[string]uint8
	denial packed

	conflicts []string
}

// member is a node with its addresses of one family, and those packed as answers to the name at offset 12.
type member struct {
	name   string
	seed   uint64
	addrs  []netip.Addr
	packed []byte
}

// entry is what a name holds.
type entry struct {
	nodes bool // A and AAAA are every live node's
	host  bool // a name that we stand for, even if the operator set other addresses: an origin, or a fixed name of the own zone
	rrs   map[uint16][]dns.RR
}

const v4, v6 = 0, 1

// NewTable checks spec and builds the answers. An error names the one item that is wrong; items that are right alone
// but contradict each other are settled by a fixed rule instead, so that no order of two writes can leave the cluster
// without a table: see [Table.Conflicts].
func NewTable(spec Spec) (*Table, error) {
	t := &Table{
		node:    spec.Node,
		members: make(map[string]bool),
		names:   make(map[string]*entry),
		inner:   make(map[string]struct{}),
		apexes:  make(map[string]struct{}),
		special: make(map[string]struct{}),
		forward: make(map[string][]netip.AddrPort),
	}
	var err error
	if t.domain, err = hostname(spec.Domain); err != nil {
		return nil, fmt.Errorf("dns table: domain %w", err)
	}
	if spec.Node != "" {
		if label, err := hostname(spec.Node); err != nil || len(label) > 64 {
			return nil, fmt.Errorf("dns table: node must be one label, got %q", clip(spec.Node))
		}
	}
	ttl := cmp.Or(spec.TTL, DefaultTTL)
	if ttl < time.Second || ttl > maxTTL {
		return nil, fmt.Errorf("dns.ttl must be between 1s and 1h, got %q", ttl)
	}
	t.ttl = uint32(ttl / time.Second)
	if spec.ResponseRate < 0 || spec.ResponseRate > MaxResponseRate {
		return nil, fmt.Errorf(
			"dns.response_rate must be between 0 (no limit) and %d, got %d", MaxResponseRate, spec.ResponseRate)
	}
	t.cost = rateCost(spec.ResponseRate)
	for _, p := range spec.Allow {
		if !p.IsValid() {
			return nil, fmt.Errorf("dns.allow must be a list of networks, got %q", p)
		}
		t.allow = append(t.allow, unmapPrefix(p).Masked())
	}
	if err := t.addNodes(spec.Nodes); err != nil {
		return nil, err
	}
	for _, o := range spec.Origins {
		name, err := hostname(o)
		if err != nil {
			return nil, fmt.Errorf("dns table: origin %w", err)
		}
		if loopback(name) {
			t.conflict("%s is the host that asks for it: it does not answer with our nodes' addresses", trimDot(name))
			continue
		}
		t.apexes[name] = struct{}{}
		e := t.entry(name)
		e.nodes, e.host = true, true
	}
	if err := t.addRecords(spec.Records); err != nil {
		return nil, err
	}
	if err := t.addForward(spec.Forward, spec.Nodes); err != nil {
		return nil, err
	}
	t.addSpecials()
	for name := range t.names {
		for up, ok := parent(name); ok; up, ok = parent(up) {
			if _, exists := t.names[up]; !exists {
				t.inner[up] = struct{}{}
			}
		}
	}
	slices.Sort(t.conflicts)
	return t, t.pack()
}

// Conflicts lists what in the Spec contradicts each other and how it was settled, one sentence each, for `status` and
// for refusing a change before it is written. The rules: fixed names of the own zone keep their place; an operator's A,
// AAAA or CNAME replaces the addresses that we would answer at that name; of a CNAME and other data at one name the
// other data stays (RFC 1034 §3.6.2); a resolver that is a node of this cluster is left out, because two nodes would
// forward to each other; localhost means the host that asks, and some special zones are never forwarded.
func (t *Table) Conflicts() []string { return slices.Clone(t.conflicts) }

func (t *Table) conflict(format string, args ...any) {
	t.conflicts = append(t.conflicts, fmt.Sprintf(format, args...))
}

func (t *Table) entry(name string) *entry {
	e := t.names[name]
	if e == nil {
		e = &entry{rrs: make(map[uint16][]dns.RR)}
		t.names[name] = e
	}
	return e
}

func (t *Table) add(rr dns.RR) {
	e := t.entry(rr.Header().Name)
	e.rrs[rr.Header().Rrtype] = append(e.rrs[rr.Header().Rrtype], rr)
}

func (t *Table) header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: t.ttl}
}

func (t *Table) addressRR(name string, a netip.Addr) dns.RR {
	if a.Is4() {
		return &dns.A{Hdr: t.header(name, dns.TypeA), A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: t.header(name, dns.TypeAAAA), AAAA: a.AsSlice()}
}

// addNodes makes the own zone: its fixed names, a name for each node, and the way back from addresses to nodes.
func (t *Table) addNodes(nodes []Node) error {
	if len(nodes) == 0 || len(nodes) > maxNodes {
		return fmt.Errorf("dns table: must have between 1 and %d nodes, got %d", maxNodes, len(nodes))
	}
	t.apexes[t.domain] = struct{}{}
	fixed := []string{t.domain, "registry." + t.domain, "files." + t.domain, "ns." + t.domain}
	for _, name := range fixed {
		e := t.entry(name)
		e.nodes, e.host = true, true
	}
	t.add(&dns.NS{Hdr: t.header(t.domain, dns.TypeNS), Ns: "ns." + t.domain})
	t.add(t.soa(t.domain))

	var all [2][]*member
	seen := make(map[string]bool)
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	for _, n := range nodes {
		label, err := hostname(n.Name)
		if err != nil {
			return fmt.Errorf("dns table: node name %w", err)
		}
		name, err := hostname(label + t.domain)
		if err != nil || strings.Count(label, ".") > 1 {
			return fmt.Errorf("dns table: node name must be one label, got %q", clip(n.Name))
		}
		if seen[name] {
			return fmt.Errorf("dns table: node name must be unique, got %q twice", n.Name)
		}
		seen[name] = true
		if len(n.Addrs) == 0 || len(n.Addrs) > maxAddrs {
			return fmt.Errorf("dns table: node %s must have between 1 and %d addresses, got %d", n.Name, maxAddrs, len(n.Addrs))
		}
		own := !slices.Contains(fixed, name)
		if !own {
			t.conflict("%s is a fixed name of the own zone: the node of that name has no name of its own", trimDot(name))
		}
		ms := [2]*member{}
		for _, a := range n.Addrs {
			if a, err = address(a); err != nil {
				return fmt.Errorf("dns table: address of node %s %w", n.Name, err)
			}
			f := v4
			if a.Is6() {
				f = v6
			}
			if ms[f] == nil {
				ms[f] = &member{name: name, seed: seedOf(name)}
			}
			if slices.Contains(ms[f].addrs, a) {
				continue
			}
			ms[f].addrs = append(ms[f].addrs, a)
			ms[f].packed = appendAddress(ms[f].packed, a, t.ttl)
			if own {
				t.members[name] = true
				t.add(t.addressRR(name, a))
			}
			rev, err := dns.ReverseAddr(a.String())
			if err != nil {
				return fmt.Errorf("dns table: address of node %s: %w", n.Name, err)
			}
			t.apexes[rev] = struct{}{}
			t.add(&dns.PTR{Hdr: t.header(rev, dns.TypePTR), Ptr: name})
		}
		for f, m := range ms {
			if m == nil {
				continue
			}
			all[f] = append(all[f], m)
			if n.Healthy {
				t.live[f] = append(t.live[f], m)
			}
		}
	}
	for f := range t.live {
		if len(t.live[f]) == 0 {
			// Nobody is known to be well: better a try than no address.
			t.live[f] = all[f]
		}
	}
	return nil
}

// addRecords lays the operator's records over origins and the own zone.
func (t *Table) addRecords(records []Record) error {
	type set struct {
		owner string
		rrs   []dns.RR
	}
	var sets []set
	seen := make(map[string]bool)
	for _, rec := range records {
		owner, rrs, err := rec.rrs(t.ttl)
		if err != nil {
			return err
		}
		key := owner + dns.Type(rrs[0].Header().Rrtype).String()
		if seen[key] {
			return fmt.Errorf("dns table: record %s %s must be given once, with all its values", trimDot(owner), strings.ToUpper(rec.Type))
		}
		seen[key] = true
		sets = append(sets, set{owner, rrs})
	}
	isCNAME := func(s set) bool { return s.rrs[0].Header().Rrtype == dns.TypeCNAME }
	// In an order that does not depend on the order given, CNAMEs last: they yield to other data.
	slices.SortFunc(sets, func(a, b set) int {
		if isCNAME(a) != isCNAME(b) {
			if isCNAME(a) {
				return 1
			}
			return -1
		}
		return cmp.Or(strings.Compare(a.owner, b.owner), cmp.Compare(a.rrs[0].Header().Rrtype, b.rrs[0].Header().Rrtype))
	})
	for _, s := range sets {
		rrtype := s.rrs[0].Header().Rrtype
		e := t.names[s.owner]
		switch {
		case loopback(s.owner):
			t.conflict("%s is the host that asks for it: the operator's %s is left out", trimDot(s.owner), dns.Type(rrtype))
			continue
		case rrtype == dns.TypeCNAME && (s.owner == t.domain || s.owner == "ns."+t.domain):
			t.conflict("%s must not be a CNAME, it is the own zone or its name server: the record is left out", trimDot(s.owner))
			continue
		case rrtype == dns.TypeCNAME && e != nil && (seen[s.owner+"A"] || seen[s.owner+"AAAA"] || seen[s.owner+"TXT"] || seen[s.owner+"SRV"] || e.rrs[dns.TypePTR] != nil):
			t.conflict("%s has a CNAME and other records: the CNAME is left out", trimDot(s.owner))
			continue
		case e != nil && e.nodes && (rrtype == dns.TypeA || rrtype == dns.TypeAAAA || rrtype == dns.TypeCNAME):
			t.conflict("%s would answer with our nodes' addresses: the operator's %s answers instead", trimDot(s.owner), dns.Type(rrtype))
			e.nodes = false
		case e != nil && !e.nodes && t.members[s.owner] && (rrtype == dns.TypeA || rrtype == dns.TypeAAAA || rrtype == dns.TypeCNAME):
			t.conflict("%s is a node and has its addresses: the operator's %s is left out", trimDot(s.owner), dns.Type(rrtype))
			continue
		}
		if !within(s.owner, t.domain) {
			apex := s.owner
			if rest, ok := strings.CutPrefix(apex, "*."); ok {
				apex = rest
			}
			t.apexes[apex] = struct{}{}
		}
		for _, rr := range s.rrs {
			t.add(rr)
		}
	}
	return nil
}

func (t *Table) addForward(forward []Forward, nodes []Node) error {
	for _, f := range forward {
		zone, resolvers, err := forwardZone(f)
		if err != nil {
			return err
		}
		if _, dup := t.forward[zone]; dup {
			return fmt.Errorf("dns.forward: zone %s must be given once", zone)
		}
		if zone == t.domain {
			t.conflict("%s is the own zone: it is not forwarded", trimDot(zone))
			continue
		}
		resolvers = slices.DeleteFunc(resolvers, func(r netip.AddrPort) bool {
			ours := r.Port() == 53 && slices.ContainsFunc(nodes, func(n Node) bool {
				return slices.ContainsFunc(n.Addrs, func(a netip.Addr) bool { return a.Unmap() == r.Addr() })
			})
			if ours {
				t.conflict("%s is a node of this cluster: it is left out of dns.forward for %s", r, zone)
			}
			return ours
		})
		// A zone whose resolvers were all left out stays: its names are SERVFAIL, not wrongly denied.
		t.forward[zone] = resolvers
	}
	return nil
}

// soa returns the SOA of one of our zones. The minimum is the TTL of negative answers (RFC 2308), so clients see a newly
// enabled origin within that time. The serial is constant because zone transfers are not offered.
func (t *Table) soa(zone string) *dns.SOA {
	return &dns.SOA{
		Hdr: t.header(zone, dns.TypeSOA), Ns: "ns." + t.domain, Mbox: "hostmaster." + t.domain,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: t.ttl,
	}
}

// allowed says whether a client may ask.
func (t *Table) allowed(client netip.Addr) bool {
	for _, p := range t.allow {
		if p.Contains(client) {
			return true
		}
	}
	return false
}

// forwards says which zone's resolvers know name, if any. Below the own zone or a special one only a longer zone
// counts.
func (t *Table) forwards(name string) (zone string, ok bool) {
	if len(t.forward) == 0 {
		return "", false
	}
	for z, up := name, true; up; z, up = parent(z) {
		if z == t.domain {
			return "", false
		}
		if _, ok := t.forward[z]; ok {
			return z, true
		}
		if _, ok := t.special[z]; ok {
			return "", false
		}
	}
	return "", false
}

// parent cuts the first label off. The root has none.
func parent(name string) (string, bool) {
	if name == "." {
		return "", false
	}
	i, end := dns.NextLabel(name, 0)
	if end {
		return ".", true
	}
	return name[i:], true
}

// within says whether name is zone or below it.
func within(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}

func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// seedOf is a fixed hash of a node's name (FNV-1a), the same on every node and in every version: the order of answers
// hangs on it.
func seedOf(name string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return mix(h)
}

// mix spreads every bit of x over all of it (the finisher of SplitMix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// order fills buf with the live nodes in the client's order: by the weight of (client, node), which is rendezvous
// hashing. When a node goes, the others keep their order for every client; and the clients that it served spread over
// all of them.
func order(ms []*member, client netip.Addr, buf *[maxNodes]*member) []*member {
	b := client.As16()
	hi, lo := be64(b[:8]), be64(b[8:])
	var weight [maxNodes]uint64
	for i, m := range ms {
		w := mix(mix(hi^m.seed) ^ lo)
		j := i
		for ; j > 0 && weight[j-1] < w; j-- {
			weight[j], buf[j] = weight[j-1], buf[j-1]
		}
		weight[j], buf[j] = w, m
	}
	return buf[:len(ms)]
}

func be64(b []byte) uint64 {
	_ = b[7]
	return uint64(b[0])<<56 | uint64(b[1])<<48 | uint64(b[2])<<40 | uint64(b[3])<<32 | uint64(b[4])<<24 | uint64(b[5])<<16 | uint64(b[6])<<8 | uint64(b[7])
}
