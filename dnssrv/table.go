package dnssrv

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Table has every answer that needs no forwarding. It is immutable: it can be read without a lock.
type Table struct {
	*frame
	names     names // who is asked for, with what the operator set
	conflicts []string
}

// frame is the part of a table that does not grow with the operator's records. It is immutable.
type frame struct {
	domain string // canonical
	node   string
	site   site
	ttl    uint32       // seconds
	live   [2][]*member // by family: the healthy nodes, or all if none is healthy
	nodes  []Node       // as given, for explanations

	withheld uint16 // A or AAAA: the addresses that no answer contains; 0: answers contain both

	members map[string]bool // node names

	own map[string]*fixed // our entries that do not depend on the operator's records, by wire name

	special map[string]struct{} // special zones that are ours: neither forwarded nor reported as missing

	forward map[string][]netip.AddrPort // by canonical zone; without resolvers that are this cluster's nodes
	zones   map[string]struct{}         // the same zones, by wire name
	longest int                         // of zones, in bytes
	allow   []netip.Prefix
	cost    ticks // rateCost of Base.ResponseRate

	soa packedSOA

	conflicts []string
}

// member is a node with its addresses of one family, packed as answers to the name at offset 12 as well.
type member struct {
	name   string
	seed   uint64
	addrs  []netip.Addr
	packed []byte
}

// fixed is the entry of a name of ours; for flags see [entry].
type fixed struct {
	flags byte
	sets  []set // by type
}

func (f *fixed) equal(g *fixed) bool {
	return f == g || f != nil && g != nil && f.flags == g.flags &&
		slices.EqualFunc(f.sets, g.sets, func(a, b set) bool {
			return a.qtype == b.qtype && bytes.Equal(a.rrs, b.rrs)
		})
}

const v4, v6 = 0, 1

// newFrame checks its arguments and builds our part of the table. An error names the one item that is wrong. Items that
// are valid alone but contradict each other are settled by a fixed rule instead, so that no order of two writes can
// leave the cluster without a table: see [Server.Apply].
func newFrame(b Base, nodes []Node, origins []string) (*frame, error) {
	t := &frame{
		node:    b.Node,
		nodes:   nodes,
		site:    siteOf(b.Site),
		members: make(map[string]bool),
		own:     make(map[string]*fixed),
		special: make(map[string]struct{}),
		forward: make(map[string][]netip.AddrPort),
		zones:   make(map[string]struct{}),
	}
	var err error
	if t.domain, err = hostname(b.Domain); err != nil {
		return nil, fmt.Errorf("dns table: domain %w", err)
	}
	if b.Node != "" {
		if label, err := hostname(b.Node); err != nil || len(label) > 64 {
			return nil, fmt.Errorf("dns table: node must be one label, got %q", clip(b.Node))
		}
	}
	ttl := cmp.Or(b.TTL, DefaultTTL)
	if ttl < time.Second || ttl > maxTTL {
		return nil, fmt.Errorf("dns.ttl must be between 1s and 1h, got %q", ttl)
	}
	t.ttl = uint32(ttl / time.Second)
	if b.ResponseRate < 0 || b.ResponseRate > MaxResponseRate {
		return nil, fmt.Errorf(
			"dns.response_rate must be between 0 (no limit) and %d, got %d", MaxResponseRate, b.ResponseRate)
	}
	t.cost = rateCost(b.ResponseRate)
	if t.withheld, err = withheldType(b.Families); err != nil {
		return nil, err
	}
	for _, p := range b.Allow {
		if !p.IsValid() {
			return nil, fmt.Errorf("dns.allow must be a list of networks, got %q", p)
		}
		t.allow = append(t.allow, unmapPrefix(p).Masked())
	}
	if err := t.addNodes(nodes); err != nil {
		return nil, err
	}
	t.checkFamilies(nodes)
	for _, o := range origins {
		name, err := hostname(o)
		if err != nil {
			return nil, fmt.Errorf("dns table: origin %w", err)
		}
		if loopback(name) {
			t.conflict("%s always means the client's own host: it does not answer with our nodes' addresses",
				trimDot(name))
			continue
		}
		t.entry(name).flags |= isHere | isApex | isNodes | isHost
	}
	if err := t.addForward(b.Forward, nodes); err != nil {
		return nil, err
	}
	t.addSpecials()
	for zone := range t.forward {
		wire := wireOf(zone)
		t.zones[wire] = struct{}{}
		t.longest = max(t.longest, len(wire))
	}
	for _, f := range t.own {
		slices.SortFunc(f.sets, func(a, b set) int { return cmp.Compare(a.qtype, b.qtype) })
	}
	t.soa = t.packSOA()
	return t, nil
}

func (t *frame) conflict(format string, args ...any) {
	t.conflicts = append(t.conflicts, fmt.Sprintf(format, args...))
}

func (t *frame) entry(name string) *fixed {
	wire := wireOf(name)
	f := t.own[wire]
	if f == nil {
		f = new(fixed)
		t.own[wire] = f
	}
	return f
}

// add adds a record of ours.
func (t *frame) add(name string, qtype uint16, rdata []byte) {
	f := t.entry(name)
	f.flags |= isHere
	i := slices.IndexFunc(f.sets, func(s set) bool { return s.qtype == qtype })
	if i < 0 {
		i = len(f.sets)
		f.sets = append(f.sets, set{qtype: qtype, flags: setOurs})
	}
	f.sets[i].add(t.ttl, rdata)
}

func (t *frame) addAddress(name string, a netip.Addr) {
	qtype := dns.TypeA
	if a.Is6() {
		qtype = dns.TypeAAAA
	}
	t.add(name, qtype, a.AsSlice())
}

func (t *frame) header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: t.ttl}
}

func (t *frame) addressRR(name string, a netip.Addr) dns.RR {
	if a.Is4() {
		return &dns.A{Hdr: t.header(name, dns.TypeA), A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: t.header(name, dns.TypeAAAA), AAAA: a.AsSlice()}
}

// addNodes makes the own zone: its fixed names, a name for each node, and the reverse names of its addresses.
func (t *frame) addNodes(nodes []Node) error {
	if len(nodes) == 0 || len(nodes) > maxNodes {
		return fmt.Errorf("dns table: must have between 1 and %d nodes, got %d", maxNodes, len(nodes))
	}
	fixed := []string{t.domain, "registry." + t.domain, "files." + t.domain, "packages." + t.domain,
		"ns." + t.domain}
	for _, name := range fixed {
		t.entry(name).flags |= isHere | isNodes | isHost
	}
	t.entry(t.domain).flags |= isApex
	t.add(t.domain, dns.TypeNS, []byte(wireOf("ns."+t.domain)))

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
			return fmt.Errorf("dns table: node %s must have between 1 and %d addresses, got %d", n.Name, maxAddrs,
				len(n.Addrs))
		}
		own := !slices.Contains(fixed, name)
		if !own {
			t.conflict("%s is a fixed name of the own zone: the node of that name has no name of its own",
				trimDot(name))
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
				t.addAddress(name, a)
			}
			rev, err := dns.ReverseAddr(a.String())
			if err != nil {
				return fmt.Errorf("dns table: address of node %s: %w", n.Name, err)
			}
			t.entry(rev).flags |= isApex
			t.add(rev, dns.TypePTR, []byte(wireOf(name)))
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
			// No node is known to be healthy: an attempt is better than no address.
			t.live[f] = all[f]
		}
	}
	return nil
}

// merged combines the operator's RRsets with ours at an owner (wire name). It returns the flags, all RRsets, with the
// unanswered ones marked, and the conflicts.
func (t *frame) merged(owner string, sets []set) (flags byte, all []set, conflicts []string) {
	ours := t.own[owner]
	if ours != nil {
		flags, all = ours.flags, slices.Clone(ours.sets)
	}
	if len(sets) == 0 {
		return flags, all, nil
	}
	name := textOf(owner)
	conflict := func(format string, args ...any) { conflicts = append(conflicts, fmt.Sprintf(format, args...)) }
	if len(sets) > 1 {
		// The order does not depend on the order given, with CNAMEs last: they yield to other data.
		last := func(s set) int {
			if s.qtype == dns.TypeCNAME {
				return 1
			}
			return 0
		}
		sets = slices.SortedFunc(slices.Values(sets), func(a, b set) int {
			return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(a.qtype, b.qtype))
		})
	}
	for i, s := range sets {
		s.flags &^= setLeftOut
		address := s.qtype == dns.TypeA || s.qtype == dns.TypeAAAA || s.qtype == dns.TypeCNAME
		switch {
		case loopback(name):
			conflict("%s always means the client's own host: the operator's %s is left out", trimDot(name),
				dns.Type(s.qtype))
			s.flags |= setLeftOut
		case s.qtype == dns.TypeCNAME && (name == t.domain || name == "ns."+t.domain):
			conflict("%s must not be a CNAME, it is the own zone or its name server: the record is left out",
				trimDot(name))
			s.flags |= setLeftOut
		case s.qtype == dns.TypeCNAME && (i > 0 || ours.has(dns.TypePTR)):
			conflict("%s has a CNAME and other records: the CNAME is left out", trimDot(name))
			s.flags |= setLeftOut
		case flags&isNodes != 0 && address:
			conflict("%s would answer with our nodes' addresses: the operator's %s answers instead", trimDot(name),
				dns.Type(s.qtype))
			flags &^= isNodes
		case t.members[name] && address:
			conflict("%s is a node and has its addresses: the operator's %s is left out", trimDot(name),
				dns.Type(s.qtype))
			s.flags |= setLeftOut
		}
		all = append(all, s)
		if s.flags&setLeftOut == 0 {
			flags |= isHere
			if !strings.HasPrefix(owner, wildcard) && !within(name, t.domain) {
				flags |= isApex
			}
		}
	}
	return flags, all, conflicts
}

func (f *fixed) has(qtype uint16) bool {
	return f != nil && slices.ContainsFunc(f.sets, func(s set) bool { return s.qtype == qtype })
}

func (t *frame) addForward(forward []Forward, nodes []Node) error {
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
		// A zone without remaining resolvers stays: its names are SERVFAIL, not wrongly denied.
		t.forward[zone] = resolvers
	}
	return nil
}

// packedSOA is the SOA of our zones, without the owner. The minimum is the TTL of negative answers (RFC 2308), so
// clients see a newly enabled origin within that time. The serial is constant because zone transfers are not offered.
type packedSOA struct {
	tail []byte
	// mailbox is the offset of the pointer to the domain; domain is the offset of the domain.
	mailbox, domain int
}

const soaPrimary, soaMailbox = "ns", "hostmaster"

func (t *frame) packSOA() packedSOA {
	b := []byte{0, byte(dns.TypeSOA), 0, byte(dns.ClassINET)}
	b = binary.BigEndian.AppendUint32(b, t.ttl)
	b = append(b, 0, 0)
	begin := len(b)
	b = append(append(b, byte(len(soaPrimary))), soaPrimary...)
	p := packedSOA{domain: len(b)}
	b = append(b, wireOf(t.domain)...)
	b = append(append(b, byte(len(soaMailbox))), soaMailbox...)
	p.mailbox = len(b)
	b = append(b, 0, 0)
	for _, n := range []uint32{soaSerial, soaRefresh, soaRetry, soaExpire, t.ttl} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	binary.BigEndian.PutUint16(b[begin-2:], uint16(len(b)-begin))
	p.tail = b
	return p
}

const soaSerial, soaRefresh, soaRetry, soaExpire = 1, 3600, 600, 86400

// put appends the SOA of the zone that begins zone bytes into the question's name (-1: of the root) to the n bytes of
// the answer and returns its new length, or false if that exceeds limit.
func (p *packedSOA) put(out []byte, n, limit, zone int) (int, bool) {
	if n+2+len(p.tail) > limit {
		return n, false
	}
	if zone < 0 {
		out[n] = 0
		n++
	} else {
		binary.BigEndian.PutUint16(out[n:], 0xc000|uint16(headerLen+zone))
		n += 2
	}
	copy(out[n:], p.tail)
	binary.BigEndian.PutUint16(out[n+p.mailbox:], 0xc000|uint16(n+p.domain))
	return n + len(p.tail), true
}

// soaRR is the same record for the slow path.
func (t *frame) soaRR(zone string) *dns.SOA {
	return &dns.SOA{
		Hdr: t.header(zone, dns.TypeSOA), Ns: soaPrimary + "." + t.domain, Mbox: soaMailbox + "." + t.domain,
		Serial: soaSerial, Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: t.ttl,
	}
}

// allowed reports whether a client may ask.
func (t *frame) allowed(client netip.Addr) bool {
	for _, p := range t.allow {
		if p.Contains(client) {
			return true
		}
	}
	return false
}

// forwards returns the zone whose resolvers know name, if any. Below the own zone or a special one only a longer zone
// counts.
func (t *frame) forwards(name string) (zone string, ok bool) {
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

// parent removes the first label. The root has no parent.
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

// within reports whether name is zone or below it.
func within(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}

func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// seedOf returns a fixed hash of a node's name (FNV-1a), the same on every node and in every version: the order of
// answers depends on it.
func seedOf(name string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return mix(h)
}

// mix distributes every bit of x over all of it (the finisher of SplitMix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// order fills buf with the live nodes in the client's order: by the weight of (client, node), which is rendezvous
// hashing. When a node fails, the others retain their order for every client, and the clients of the failed node are
// distributed over all others.
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
	return uint64(b[0])<<56 | uint64(b[1])<<48 | uint64(b[2])<<40 | uint64(b[3])<<32 | uint64(b[4])<<24 | uint64(
		b[5])<<16 | uint64(b[6])<<8 | uint64(b[7])
}
