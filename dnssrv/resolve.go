package dnssrv

import (
	"net/netip"

	"github.com/miekg/dns"
)

// maxChain bounds a chain of CNAMEs, the name asked for included, whoever said them; a loop is a chain that is too
// long. Unbound takes 12 names, BIND 17.
const maxChain = 16

// result is what the table knows about a question. When forward is true the last name of the chain, next, is for the
// resolvers of zone.
type result struct {
	rcode             int
	answer, ns, extra []dns.RR
	miss              string // the name that a client asked for and did not get; whether it is one, Table.wanted says
	perClient         bool   // another client may see another order

	forward bool
	zone    string
	next    string
	steps   int // names of the chain so far
}

// resolve answers a question of class IN from the table. qname comes as the client spelt it; owners are given back in
// that case, so that the case which resolvers scramble against forged answers stays (draft-vixie-dnsext-dns0x20).
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
		e := t.find(name)
		if e == nil {
			t.absent(r, qname, name, qtype)
			return
		}
		if qtype == dns.TypeANY {
			r.answer = append(r.answer, t.minimal(qname))
			return
		}
		if cname := e.rrs[dns.TypeCNAME]; cname != nil && qtype != dns.TypeCNAME {
			r.answer = append(r.answer, owned(cname[0], qname))
			qname = cname[0].(*dns.CNAME).Target
			continue
		}
		n := len(r.answer)
		if f, ok := family(qtype); ok && e.nodes {
			r.perClient = true
			r.answer = t.appendNodes(r.answer, qname, f, client)
		}
		for _, rr := range e.rrs[qtype] {
			r.answer = append(r.answer, owned(rr, qname))
		}
		if _, apex := t.apexes[name]; apex && qtype == dns.TypeSOA && len(e.rrs[qtype]) == 0 {
			soa := t.soa(name)
			soa.Hdr.Name = qname
			r.answer = append(r.answer, soa)
		}
		if len(r.answer) == n {
			r.ns = append(r.ns, t.soaFor(qname, name))
			return
		}
		t.additional(r, r.answer[n:], client)
		return
	}
	// A chain that does not end has no right answer (and no miss: the operator's own records are at fault).
	*r = result{rcode: dns.RcodeServerFailure}
}

// find returns what name holds, by itself or through a wildcard, which counts only directly below the closest name
// that exists (RFC 4592 §2.2.1).
func (t *Table) find(name string) *entry {
	if e, ok := t.names[name]; ok {
		return e
	}
	for exists := t.exists(name); !exists; exists = t.exists(name) {
		up, ok := parent(name)
		if !ok {
			return nil
		}
		if e, ok := t.names["*."+up]; ok {
			return e
		}
		name = up
	}
	return nil
}

func (t *Table) exists(name string) bool {
	if _, ok := t.names[name]; ok {
		return true
	}
	_, ok := t.inner[name]
	return ok
}

// absent answers for a name that we do not hold: forwarded, there without data, or denied at once.
func (t *Table) absent(r *result, qname, name string, qtype uint16) {
	if t.ourService(name) {
		r.ns = append(r.ns, t.soaFor(qname, name))
		return
	}
	if zone, ok := t.forwards(name); ok {
		if qtype == dns.TypeANY {
			// The one question whose only purpose left is amplification is not carried on (RFC 8482).
			r.answer = append(r.answer, t.minimal(qname))
			return
		}
		r.forward, r.zone, r.next = true, zone, qname
		return
	}
	r.ns = append(r.ns, t.soaFor(qname, name))
	if _, inner := t.inner[name]; inner {
		// registry.k8s.io exists, so k8s.io does: denying it would deny everything below it (RFC 8020). It is still a
		// name that was asked for in vain, unless it is a joint of our own zone.
		if !within(name, t.domain) {
			r.miss = name
		}
		return
	}
	r.rcode = dns.RcodeNameError
	r.miss = name
}

// soaFor returns the SOA for the authority section of a negative answer: of the closest of our zones, else of the
// root, as which we act for everything that does not exist in here.
func (t *Table) soaFor(qname, name string) dns.RR {
	for up, ok := name, true; ok; up, ok = parent(up) {
		if _, apex := t.apexes[up]; !apex {
			continue
		}
		soa := t.soa(up)
		if up == name {
			soa.Hdr.Name = qname
		}
		return soa
	}
	return t.soa(".")
}

// minimal is the one answer to ANY (RFC 8482 §4.2).
func (t *Table) minimal(qname string) dns.RR {
	return &dns.HINFO{Hdr: t.header(qname, dns.TypeHINFO), Cpu: "RFC8482"}
}

// additional adds the addresses of name servers and services that we hold ourselves.
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
		e := t.names[target]
		if e == nil {
			continue
		}
		if e.nodes {
			r.perClient = true
			r.extra = t.appendNodes(r.extra, target, v4, client)
			r.extra = t.appendNodes(r.extra, target, v6, client)
		}
		r.extra = append(r.extra, e.rrs[dns.TypeA]...)
		r.extra = append(r.extra, e.rrs[dns.TypeAAAA]...)
	}
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

// owned returns a copy of rr under another owner: the table's own records are shared by all answers.
func owned(rr dns.RR, owner string) dns.RR {
	rr = dns.Copy(rr)
	rr.Header().Name = owner
	return rr
}
