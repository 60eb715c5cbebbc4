package dnssrv

import (
	"encoding/hex"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// job is a question that must be forwarded.
type job struct {
	table  *Table
	req    *dns.Msg
	client netip.Addr
	limit  int
	res    result
	via    []byte // the sites that the question has gone through
}

// handle answers one packet. It returns the answer, in out or newly allocated; or a job, whose run returns the answer;
// or neither, and then the packet is dropped. It retains neither out nor in, and never blocks.
func (s *Server) handle(t *Table, out, in []byte, client netip.Addr, udp bool) ([]byte, *job) {
	// Too short to be answered, or an answer itself: answering answers makes loops.
	if len(in) < headerLen || in[2]&bitQR != 0 {
		s.stats.dropped.Add(1)
		return nil, nil
	}
	if t == nil {
		return s.echo(out, in, dns.RcodeServerFailure), nil
	}
	if !t.allowed(client) {
		// REFUSED rather than silence: an operator whose node cannot install must see why. It has no more bytes than
		// the question, so a forged source gains nothing.
		s.stats.refused.Add(1)
		return s.echo(out, in, dns.RcodeRefused), nil
	}
	if n, rcode, ok := t.fast(out, in, client, udp); ok {
		s.stats.fast.Add(1)
		s.stats.count(rcode)
		if rcode == dns.RcodeNameError {
			s.missPacked(t, out[:n], client)
		}
		s.seePacked(client, out[:n], rcode)
		return out[:n], nil
	}
	return s.slow(t, out, in, client, udp)
}

// slow answers every question that the fast path did not.
func (s *Server) slow(t *Table, out, in []byte, client netip.Addr, udp bool) ([]byte, *job) {
	if opcode := int(in[2]>>3) & 0xf; opcode != dns.OpcodeQuery {
		return s.echo(out, in, dns.RcodeNotImplemented), nil
	}
	// Exactly one question (RFC 9619), complete and not compressed (there is no earlier name to point to), no answers.
	// IXFR uses the authority section; OPT and TSIG are the only additional records allowed.
	if in[4] != 0 || in[5] != 1 || in[6]|in[7]|in[8] != 0 || in[9] > 1 || in[10] != 0 || in[11] > 2 ||
		questionEnd(in) == 0 {
		return s.header(out, in, dns.RcodeFormatError), nil
	}
	req := new(dns.Msg)
	if err := req.Unpack(in); err != nil || len(req.Question) != 1 || len(req.Ns) != int(in[9]) ||
		len(req.Extra) != int(in[11]) {
		// miekg/dns accepts a message with fewer records than its counts say; we do not.
		return s.header(out, in, dns.RcodeFormatError), nil
	}
	limit := dns.MaxMsgSize
	if udp {
		limit = dns.MinMsgSize
	}
	var opt *dns.OPT
	for _, rr := range req.Extra {
		switch rr := rr.(type) {
		case *dns.OPT:
			if opt != nil || rr.Hdr.Name != "." {
				return s.header(out, in, dns.RcodeFormatError), nil
			}
			opt = rr
			if udp {
				limit = udpLimit(rr.UDPSize())
			}
		case *dns.TSIG:
			// We share a key with no client (RFC 8945 §5.2).
			return s.echo(out, in, dns.RcodeNotAuth), nil
		}
	}
	if len(req.Extra) == 2 && opt == nil {
		return s.header(out, in, dns.RcodeFormatError), nil
	}

	q := req.Question[0]
	if opt != nil && opt.Version() != 0 {
		return s.pack(t, req, result{rcode: dns.RcodeBadVers}, nil, limit), nil
	}
	if rcode, no := refuses(q); no {
		return s.pack(t, req, result{rcode: rcode}, nil, limit), nil
	}
	r := t.resolve(q.Name, q.Qtype, client)
	if r.forward {
		if !req.RecursionDesired {
			// Data of other servers is given only to clients that ask for recursion (RFC 1034 §4.3.1).
			return s.pack(t, req, result{rcode: dns.RcodeRefused}, nil, limit), nil
		}
		j := &job{table: t, req: req, client: client, limit: limit, res: r, via: path(opt)}
		if b := s.cameBack(t, in, req, j); b != nil {
			return b, nil
		}
		s.see(client, q.Name, Forwarded)
		return nil, j
	}
	s.see(client, q.Name, verdictOf(r.rcode))
	if r.miss != "" {
		s.miss(t, client, r.miss, q.Qtype)
	}
	return s.pack(t, req, r, nil, limit), nil
}

// refuses reports whether a question is refused whatever its name is.
func refuses(q dns.Question) (rcode int, no bool) {
	switch {
	case q.Qclass != dns.ClassINET, q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		// version.bind and the like, in class CHAOS, too: the server does not identify itself.
		return dns.RcodeRefused, true
	case q.Qtype == 0, metaType(q.Qtype) && q.Qtype != dns.TypeANY:
		return dns.RcodeNotImplemented, true
	}
	return 0, false
}

func (s *Server) pack(t *Table, req *dns.Msg, r result, ede *dns.EDNS0_EDE, limit int) []byte {
	aa := r.rcode == dns.RcodeSuccess || r.rcode == dns.RcodeNameError
	return s.packWith(t, req, r, ede, limit, aa)
}

// packWith packs the answer to req, truncated to limit bytes.
func (s *Server) packWith(t *Table, req *dns.Msg, r result, ede *dns.EDNS0_EDE, limit int, aa bool) []byte {
	m := &dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id: req.Id, Response: true, Authoritative: aa, RecursionDesired: req.RecursionDesired,
			RecursionAvailable: len(t.forward) > 0,
			CheckingDisabled:   req.CheckingDisabled, Rcode: r.rcode,
		},
		Question: req.Question, Answer: r.answer, Ns: r.ns, Extra: r.extra,
	}
	var opts []dns.RR
	if asked := req.IsEdns0(); asked != nil {
		opts = []dns.RR{s.opt(t, asked, ede)}
		m.Extra = append(m.Extra[:len(m.Extra):len(m.Extra)], opts...)
	}
	m.Compress = true
	if m.Len() > limit {
		// Additional records go first, without setting TC: TC concerns the requested data (RFC 2181 §9).
		m.Extra = opts
		m.Truncate(limit)
		m.Compress = true
	}
	b, err := m.Pack()
	if err != nil {
		// A resolver's data that can be read but not packed again.
		s.log.Debug("dns answer cannot be packed", "name", m.Question[0].Name, "err", err)
		m.Answer, m.Ns, m.Extra, m.Rcode = nil, nil, opts, dns.RcodeServerFailure
		b, err = m.Pack()
	}
	if err != nil || len(b) > limit {
		s.stats.dropped.Add(1)
		return nil
	}
	if m.Truncated {
		s.stats.truncated.Add(1)
	}
	s.stats.count(m.Rcode)
	return b
}

// opt makes the OPT record of an answer: our size, no DO; the node's name and the reason of a failure for clients that
// request them.
func (s *Server) opt(t *Table, asked *dns.OPT, ede *dns.EDNS0_EDE) *dns.OPT {
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: maxUDP}}
	if t.node != "" && slices.ContainsFunc(asked.Option, func(o dns.EDNS0) bool {
		return o.Option() == dns.EDNS0NSID
	}) {
		opt.Option = append(opt.Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: hex.EncodeToString([]byte(t.node))})
	}
	if ede != nil {
		opt.Option = append(opt.Option, ede)
	}
	return opt
}

// header answers with only a header: the rest of the packet could not be read.
func (s *Server) header(out, in []byte, rcode int) []byte {
	s.stats.count(rcode)
	return bareHeader(out, in, rcode)
}

func bareHeader(out, in []byte, rcode int) []byte {
	n := copy(out, in[:headerLen])
	out[2] = bitQR | in[2]&^(bitQR|bitAA|0x02)
	out[3] = in[3]&bitCD | byte(rcode)
	clear(out[4:n])
	return out[:n]
}

// echo answers with the question as received and a response code.
func (s *Server) echo(out, in []byte, rcode int) []byte {
	s.stats.count(rcode)
	return mirror(out, in, rcode)
}

// mirror makes an answer of the header, the question as received, if it can be found, and an OPT record if the question
// had one (RFC 6891, 6.1.1). It is never longer than in.
func mirror(out, in []byte, rcode int) []byte {
	b := bareHeader(out, in, rcode)
	if in[4] != 0 || in[5] != 1 {
		return b
	}
	end := questionEnd(in)
	if end == 0 {
		return b
	}
	out[5] = 1
	n := copy(out[headerLen:], in[headerLen:end]) + headerLen
	if rest := in[end:]; in[6]|in[7]|in[8]|in[9]|in[10] == 0 && in[11] > 0 && len(rest) >= len(optRR) && rest[0] == 0 &&
		rest[1] == 0 && rest[2] == dnsTypeOPT {
		out[11] = 1
		n += copy(out[n:], optRR[:])
	}
	return out[:n]
}

// questionEnd returns the offset after the first question, or 0 if the question is incomplete.
func questionEnd(in []byte) int {
	off := headerLen
	for off < len(in) && off-headerLen < 255 {
		l := int(in[off])
		off += 1 + l
		if l > 63 {
			return 0
		}
		if l == 0 {
			if off+4 > len(in) {
				return 0
			}
			return off + 4
		}
	}
	return 0
}
