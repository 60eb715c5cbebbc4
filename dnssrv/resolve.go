package dnssrv

import (
	"net/netip"

	"github.com/miekg/dns"
)

// maxChain bounds a chain of CNAMEs, including the requested name, whatever their source; a loop counts as a chain that
// is too long. Unbound accepts 12 names, BIND 17.
const maxChain = 16

// result is the answer of the table to a question. If forward is true, the resolvers of zone must be asked for next,
// the last name of the chain.
type result struct {
	rcode             int
	answer, ns, extra []dns.RR
	// the name that a client asked for and did not get; Table.wanted decides whether it is a miss
	miss string

	forward bool
	zone    string
	next    string
	steps   int // names of the chain so far

	trace *trace // receives the reasons; nil: nobody wants them
}

// resolve answers a question of class IN from the table. qname is spelt as the client spelt it, and so are the owners
// in the answer: resolvers randomize the case against forged answers (draft-vixie-dnsext-dns0x20).
func (t *Table) resolve(qname string, qtype uint16, client netip.Addr) result {
	var r result
	t.follow(&r, qname, qtype, client)
	return r
}

// follow adds to r what the table knows about qname, the end of the chain so far.
func (t *Table) follow(r *result, qname string, qtype uint16, client netip.Addr) {
	for r.steps < maxChain {
		r.steps++
		name := dns.CanonicalName(qname)
		var buf [256]byte
		wire := packName(buf[:], name)
		e := t.find(wire)
		if r.trace != nil {
			t.explain(r.trace, name, wire, e, qtype)
		}
		if e == nil {
			t.absent(r, qname, name, wire, qtype)
			return
		}
		if qtype == dns.TypeANY {
			r.answer = append(r.answer, t.minimal(qname))
			return
		}
		if cname := e.set(dns.TypeCNAME).unpack(qname); len(cname) > 0 && qtype != dns.TypeCNAME {
			r.answer = append(r.answer, cname...)
			qname = cname[0].(*dns.CNAME).Target
			continue
		}
		n := len(r.answer)
		r.answer = t.appendData(r.answer, e, qname, qtype, client)
		if qtype == dns.TypeSOA && t.names.get(wire).has(isApex) {
			r.answer = append(r.answer, t.soaRR(qname))
		}
		if len(r.answer) == n {
			r.ns = append(r.ns, t.soaFor(qname, wire))
			return
		}
		t.additional(r, r.answer[n:], client)
		return
	}
	// An endless chain has no right answer (and is no miss: the operator's own records are wrong).
	r.trace.add(Step{What: StepEndless, Name: trimDot(dns.CanonicalName(qname))})
	*r = result{rcode: dns.RcodeServerFailure}
}

// packName packs a canonical name, of at most 255 bytes on the wire, into buf.
func packName(buf []byte, name string) []byte {
	n, err := dns.PackDomainName(name, buf, 0, nil, false)
	if err != nil {
		// No message that was unpacked has such a name, and no record that was validated.
		return append(buf[:0], 0)
	}
	return buf[:n]
}

// find returns the entry of name, its own or that of a wildcard, which applies only directly below the closest encloser
// (RFC 4592 §2.2.1).
func (t *Table) find(name []byte) entry {
	h := t.names.get(name)
	if h.has(isHere) {
		return h
	}
	if h.exists() {
		return nil
	}
	at, up, _ := t.closest(name)
	return t.wild(name[at:], up)
}

// wild returns the entry of the wildcard below a name whose entry is h.
func (t *Table) wild(name []byte, h entry) entry {
	if !h.has(isWild) {
		return nil
	}
	var buf [260]byte
	return t.names.get(append(append(buf[:0], wildcard...), name...))
}

// closest returns the offset in name of its closest encloser, which may be the root, and that name's entry; and the
// offset of our closest zone that contains name, -1 if there is none. It searches from the root, so that a name far
// from all of ours costs little.
func (t *Table) closest(name []byte) (at int, h entry, zone int) {
	var begins [128]uint8
	n := 0
	for i := 0; ; i += 1 + int(name[i]) {
		begins[n] = uint8(i)
		if name[i] == 0 {
			break
		}
		n++
	}
	at, zone = int(begins[n]), -1
	for ; n >= 0; n-- {
		i := int(begins[n])
		end := t.names.get(name[i:])
		if end.has(isApex) {
			zone = i
		}
		if !end.exists() {
			break
		}
		at, h = i, end
	}
	return at, h, zone
}

// absent answers for a name that is not in the table: forwarded, NODATA, or denied at once.
func (t *Table) absent(r *result, qname, name string, wire []byte, qtype uint16) {
	if t.ourService(name, wire) {
		r.ns = append(r.ns, t.soaFor(qname, wire))
		return
	}
	if zone, ok := t.forwards(name); ok {
		if qtype == dns.TypeANY {
			// ANY, which is used mostly for amplification, is not forwarded (RFC 8482).
			r.answer = append(r.answer, t.minimal(qname))
			return
		}
		r.forward, r.zone, r.next = true, zone, qname
		return
	}
	r.ns = append(r.ns, t.soaFor(qname, wire))
	if t.names.get(wire).exists() {
		// registry.k8s.io exists, so k8s.io does: denying it would deny everything below it (RFC 8020). Yet it is a
		// name that a client did not get, unless it is an empty non-terminal of our own zone.
		if !within(name, t.domain) {
			r.miss = name
		}
		return
	}
	r.rcode = dns.RcodeNameError
	r.miss = name
}

// soaFor returns the SOA for the authority section of a negative answer: that of our closest zone, or else of the root,
// which we act for where a name does not exist here.
func (t *Table) soaFor(qname string, name []byte) dns.RR {
	_, _, zone := t.closest(name)
	switch {
	case zone == 0:
		return t.soaRR(qname)
	case zone > 0:
		return t.soaRR(textOf(string(name[zone:])))
	}
	return t.soaRR(".")
}

// minimal is the one answer to ANY (RFC 8482 §4.2).
func (t *Table) minimal(qname string) dns.RR {
	return &dns.HINFO{Hdr: t.header(qname, dns.TypeHINFO), Cpu: "RFC8482"}
}

// additional adds the addresses of name servers and services that are in the table.
func (t *Table) additional(r *result, rrs []dns.RR, client netip.Addr) {
	for _, rr := range rrs {
		var target string
		switch rr := rr.(type) {
		case *dns.NS:
			target = rr.Ns
		case *dns.SRV:
			target = rr.Target
		default:
			continue
		}
		var buf [256]byte
		e := t.names.get(packName(buf[:], target))
		r.extra = t.appendData(r.extra, e, target, dns.TypeA, client)
		r.extra = t.appendData(r.extra, e, target, dns.TypeAAAA, client)
	}
}

// appendData adds what a name has of a type: addresses of the nodes if it stands for them, and its own records.
func (t *Table) appendData(rrs []dns.RR, e entry, name string, qtype uint16, client netip.Addr) []dns.RR {
	if qtype == t.withheld {
		return rrs
	}
	if f, ok := family(qtype); ok && e.has(isNodes) {
		rrs = t.appendNodes(rrs, name, f, client)
	}
	return append(rrs, e.set(qtype).unpack(name)...)
}

func (t *Table) appendNodes(rrs []dns.RR, name string, family int, client netip.Addr) []dns.RR {
	var buf [maxNodes]*member
	for _, m := range order(t.live[family], client, &buf) {
		for _, a := range m.addrs {
			rrs = append(rrs, t.addressRR(name, a))
		}
	}
	return rrs
}

func family(qtype uint16) (int, bool) {
	switch qtype {
	case dns.TypeA:
		return v4, true
	case dns.TypeAAAA:
		return v6, true
	}
	return 0, false
}

// unpack returns the records of the set, under owner.
func (s set) unpack(owner string) (rrs []dns.RR) {
	if s.n == 0 {
		return nil
	}
	// The owner that all records point to: any name will do.
	msg := append(make([]byte, headerLen+1, headerLen+1+len(s.rrs)), s.rrs...)
	for off := headerLen + 1; off < len(msg); {
		rr, next, err := dns.UnpackRR(msg, off)
		if err != nil {
			break // we have packed it
		}
		rr.Header().Name = owner
		rrs, off = append(rrs, rr), next
	}
	return rrs
}
