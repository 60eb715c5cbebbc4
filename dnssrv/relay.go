package dnssrv

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxForwardedTTL bounds how long a resolver's answer outlives a change here: the name may become one of ours.
const maxForwardedTTL = uint32(time.Hour / time.Second)

var (
	errReferral   = errors.New("it refers to other servers: it resolves nothing itself")
	errContradict = errors.New("it denies a name and has data for it")
	errLongName   = errors.New("its DNAME makes a name that is too long")
)

// run asks the resolvers and returns the answer, in less than two seconds. answered reports that it comes from them.
func (s *Server) run(ctx context.Context, j *job) (b []byte, answered bool) {
	t, qtype := j.table, j.req.Question[0].Qtype
	r, err := s.relay(ctx, t, j.res, qtype, j.client, j.via)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errShed) {
			s.stats.forwardShed.Add(1)
			return s.fail(j, errShed.Error()), false
		}
		s.stats.forwardFailed.Add(1)
		if ctx.Err() == nil {
			s.miss(t, j.client, dns.CanonicalName(r.next), qtype)
		}
		if errors.Is(err, errLoop) {
			s.stats.forwardLooped.Add(1)
			_, why, _ := strings.Cut(err.Error(), loopText)
			return s.fail(j, loopText+why), false
		}
		return s.fail(j, err.Error()), false
	}
	if r.miss != "" {
		s.miss(t, j.client, r.miss, qtype)
	}
	return s.finish(j, r), true
}

// relay asks resolvers until the end of the chain is known. via are the sites that the question has gone through. On an
// error it returns the result whose next name they could not answer.
func (s *Server) relay(
	ctx context.Context, t *Table, r result, qtype uint16, client netip.Addr, via []byte,
) (result, error) {
	deadline := time.Now().Add(s.forward.timeout)
	here := s.siteIn(t)
	by := asker{client, append(slices.Clip(via), here[:]...)}
	for r.forward {
		asked := r
		take := func(from netip.AddrPort, resp *dns.Msg) error {
			next := asked
			mark := asked.trace.mark()
			asked.trace.answered(asked, from, resp)
			err := t.take(&next, resp, qtype, client)
			if err == nil {
				r = next
			} else {
				asked.trace.undo(mark, asked, from, err)
			}
			return err
		}
		q := dns.Question{Name: asked.next, Qtype: qtype, Qclass: dns.ClassINET}
		if err := s.forward.exchange(ctx, deadline, t.forward[asked.zone], q, by, take); err != nil {
			return asked, err
		}
	}
	return r, nil
}

// finish packs the result. Only parts of it may be ours, so it is not authoritative as a whole; AD is never set.
func (s *Server) finish(j *job, r result) []byte {
	if r.rcode == dns.RcodeServerFailure {
		return s.fail(j, "its CNAMEs do not come to an end")
	}
	return s.packWith(j.table, j.req, r, nil, j.limit, false)
}

// take adds to r the part of a resolver's answer that concerns r.next, following CNAMEs and DNAMEs from there (RFC
// 5452, 6). It ignores the rest: names that were not requested, additional records and name servers are useless to a
// stub and useful to a forger. It stops where another server is responsible, and then r says which: we answer our names
// ourselves, and the resolvers of another forward zone answer names below it. After an error r must not be used.
func (t *Table) take(r *result, resp *dns.Msg, qtype uint16, client netip.Addr) error {
	asked, zone, qname := r.next, r.zone, r.next
	r.forward = false
	r.answer = r.answer[:len(r.answer):len(r.answer)]
	for hops := 0; r.steps < maxChain; hops++ {
		r.steps++
		name := dns.CanonicalName(qname)
		if rrs := rrset(resp.Answer, name, qtype); len(rrs) > 0 {
			if resp.Rcode != dns.RcodeSuccess {
				return errContradict
			}
			if qtype == t.withheld {
				r.trace.add(t.withheldStep(name))
				var buf [256]byte
				r.ns = append(r.ns, t.soaFor(qname, packName(buf[:], name)))
				return nil
			}
			for _, rr := range rrs {
				t.withoutHints(rr)
				r.answer = append(r.answer, forwarded(rr, qname))
			}
			return nil
		}
		cname, err := hop(resp.Answer, name, qname)
		if err != nil {
			return err
		}
		if cname == nil {
			soa := t.negativeSOA(resp.Ns, name)
			switch {
			case resp.Rcode == dns.RcodeNameError:
				r.rcode, r.miss = dns.RcodeNameError, dns.CanonicalName(asked)
			case soa != nil: // NODATA
			case hops > 0:
				// Some resolvers do not follow a chain to its end, and the client is a stub that does not follow it
				// either.
				r.trace.add(t.forwardStep(name, zone))
				r.forward, r.next = true, qname
				return nil
			case refers(resp):
				return errReferral
			}
			if soa != nil {
				r.ns = append(r.ns, soa)
			}
			return nil
		}
		r.answer = append(r.answer, cname)
		qname = cname.Target
		if t.ours(dns.CanonicalName(qname)) {
			t.follow(r, qname, qtype, client)
			return nil
		}
		if z, ok := t.forwards(dns.CanonicalName(qname)); ok && z != zone {
			r.trace.add(t.forwardStep(dns.CanonicalName(qname), z))
			r.forward, r.zone, r.next = true, z, qname
			return nil
		}
	}
	r.trace.add(Step{What: StepEndless, Name: trimDot(dns.CanonicalName(qname))})
	*r = result{rcode: dns.RcodeServerFailure}
	return nil
}

// ours reports whether a name is answered here, whatever resolvers answer.
func (t *Table) ours(name string) bool {
	var buf [256]byte
	wire := packName(buf[:], name)
	if t.find(wire) != nil || t.ourService(name, wire) {
		return true
	}
	_, forward := t.forwards(name)
	return !forward && (within(name, t.domain) || t.inSpecial(wire))
}

// rrset picks the records of one name (canonical) and type. Signatures are omitted: we do not request them (DO), and a
// validator asks elsewhere.
func rrset(rrs []dns.RR, name string, qtype uint16) (out []dns.RR) {
	for _, rr := range rrs {
		if h := rr.Header(); h.Rrtype == qtype && h.Class == dns.ClassINET && dns.CanonicalName(h.Name) == name {
			out = append(out, rr)
		}
	}
	return out
}

// hop returns the CNAME of name, or the one synthesized from a DNAME above it (RFC 6672, 3.1), with the owner spelt as
// qname; nil if there is none. The DNAME itself is omitted: it concerns other names, too.
func hop(rrs []dns.RR, name, qname string) (*dns.CNAME, error) {
	if found := rrset(rrs, name, dns.TypeCNAME); len(found) > 0 {
		return forwarded(found[0], qname).(*dns.CNAME), nil
	}
	// The closest DNAME counts. One pass, because an answer may have thousands of records.
	var dname *dns.DNAME
	up := ""
	for _, rr := range rrs {
		d, ok := rr.(*dns.DNAME)
		if !ok || d.Hdr.Class != dns.ClassINET {
			continue
		}
		owner := dns.CanonicalName(d.Hdr.Name)
		if name != owner && (owner == "." || within(name, owner)) && len(owner) > len(up) {
			dname, up = d, owner
		}
	}
	if dname == nil {
		return nil, nil
	}
	target := strings.TrimSuffix(qname[:len(qname)-len(up)], ".") + "."
	if dname.Target != "." {
		target += dname.Target
	}
	if _, ok := dns.IsDomainName(target); !ok {
		return nil, errLongName
	}
	h := dns.RR_Header{Name: qname, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: dname.Hdr.Ttl}
	return forwarded(&dns.CNAME{Hdr: h, Target: target}, qname).(*dns.CNAME), nil
}

// forwarded copies a resolver's record, with the owner as the client spelt it and a bounded TTL.
func forwarded(rr dns.RR, owner string) dns.RR {
	h := rr.Header()
	h.Name, h.Ttl = owner, cappedTTL(h.Ttl, maxForwardedTTL)
	return rr
}

// cappedTTL bounds a TTL; a TTL with the highest bit set is 0 (RFC 2181, 8).
func cappedTTL(ttl, most uint32) uint32 {
	if ttl > 1<<31-1 {
		return 0
	}
	return min(ttl, most)
}

// negativeSOA picks the SOA of a negative answer: of a zone that contains name. Its TTL bounds how long the name stays
// denied (RFC 2308, 5); the bound is the same as for names that we deny ourselves, because the name may be enabled any
// time.
func (t *Table) negativeSOA(rrs []dns.RR, name string) dns.RR {
	for _, rr := range rrs {
		soa, ok := rr.(*dns.SOA)
		if !ok || soa.Hdr.Class != dns.ClassINET {
			continue
		}
		if owner := dns.CanonicalName(soa.Hdr.Name); owner == "." || within(name, owner) {
			soa.Hdr.Ttl = cappedTTL(min(soa.Hdr.Ttl, soa.Minttl), t.ttl)
			return soa
		}
	}
	return nil
}

// refers reports whether an answer without data is a referral, as from a server that does not recurse.
func refers(m *dns.Msg) bool {
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeNS {
			return !m.Authoritative
		}
	}
	return false
}

// fail answers a job with SERVFAIL, so that the client asks the next bastion, and gives the reason as an extended error
// (RFC 8914).
func (s *Server) fail(j *job, why string) []byte {
	// The longest name and this text fit into 512 bytes.
	why = why[:min(len(why), 200)]
	ede := &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNoReachableAuthority, ExtraText: why}
	return s.packWith(j.table, j.req, result{rcode: dns.RcodeServerFailure, answer: j.res.answer}, ede, j.limit, false)
}
