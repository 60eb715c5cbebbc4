package dnssrv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Sizes of messages in bytes.
const (
	headerLen = 12
	// maxUDP is what fits every path without fragments (DNS flag day 2020, RFC 9715).
	maxUDP = 1232
	// maxQuery is the longest query that is read over UDP; real ones with padding stay below 512.
	maxQuery = 4096
)

// Bits of the third and fourth byte of a header.
const (
	bitQR, bitAA, bitTC, bitRD = 0x80, 0x04, 0x02, 0x01
	bitRA, bitAD, bitCD        = 0x80, 0x20, 0x10
)

// optRR is the OPT record of our answers (RFC 6891): we take 1232 bytes, version 0, no DO, no options.
var optRR = [11]byte{2: dnsTypeOPT, 3: maxUDP >> 8, 4: maxUDP & 0xff}

const dnsTypeOPT = 41

// hot is a name whose answers are packed.
type hot struct {
	nodes  bool // A and AAAA are the live nodes'
	sets   []packed
	nodata packed // every type that is neither in sets nor answered with nodes
}

// packed is what follows the question of an answer. Names in it point back to the question at offset 12, which has the
// client's spelling.
type packed struct {
	qtype      uint16
	an, ns, ar uint16
	tail       []byte
}

// pack builds the hot names, by asking resolve what it would answer. Names whose answers are not for every client the
// same, or that lead elsewhere, stay cold.
func (t *Table) pack() error {
	t.hot = make(map[string]*hot, len(t.names))
	if err := t.packMarks(); err != nil {
		return err
	}
	for name, e := range t.names {
		if e.rrs[dns.TypeCNAME] != nil {
			continue
		}
		var wire [256]byte
		n, err := dns.PackDomainName(name, wire[:], 0, nil, false)
		if err != nil {
			return fmt.Errorf("dns table: pack %s: %w", name, err)
		}
		h := &hot{nodes: e.nodes}
		// HTTPS stands for all types that the name lacks: the operator cannot set it.
		if h.nodata, _, err = t.packSet(name, dns.TypeHTTPS); err != nil {
			return err
		}
		whole := true
		for qtype := range e.rrs {
			if coldType(qtype) {
				continue
			}
			p, ok, err := t.packSet(name, qtype)
			if err != nil {
				return err
			}
			whole = whole && ok
			h.sets = append(h.sets, p)
		}
		if whole {
			t.hot[string(wire[:n])] = h
		}
	}
	return nil
}

// Marks on names.
const (
	markExists = 1 << iota // the name is there, if only because of what is below it
	markBelow              // names below it are answered otherwise than by denying them as the root
)

// packMarks notes which names may not be denied from packed bytes, and packs the denial. Its names are not compressed:
// they would point to where they stand, which the question's length decides.
func (t *Table) packMarks() error {
	t.marks = make(map[string]uint8)
	mark := func(name string, m uint8) error {
		var wire [256]byte
		n, err := dns.PackDomainName(name, wire[:], 0, nil, false)
		if err != nil {
			return fmt.Errorf("dns table: pack %s: %w", name, err)
		}
		t.marks[string(wire[:n])] |= m
		return nil
	}
	for name := range t.names {
		if err := mark(name, markExists); err != nil {
			return err
		}
		if parent, ok := strings.CutPrefix(name, "*."); ok {
			if err := mark(parent, markBelow); err != nil {
				return err
			}
		}
	}
	for name := range t.inner {
		if err := mark(name, markExists); err != nil {
			return err
		}
	}
	for name := range t.apexes {
		if err := mark(name, markBelow); err != nil {
			return err
		}
	}
	for zone := range t.forward {
		if err := mark(zone, markBelow); err != nil {
			return err
		}
	}
	var b [512]byte
	n, err := dns.PackRR(t.soa("."), b[:], 0, nil, false)
	if err != nil {
		return fmt.Errorf("dns table: pack SOA: %w", err)
	}
	t.denial = packed{ns: 1, tail: bytes.Clone(b[:n])}
	return nil
}

// denied says whether a name is nothing to us: neither there nor below anything of ours or of a resolver's.
func (t *Table) denied(key []byte) bool {
	if t.marks[string(key)] != 0 || t.marks["\x00"]&markBelow != 0 {
		return false
	}
	for len(key) > 1 {
		key = key[1+int(key[0]):]
		if t.marks[string(key)]&markBelow != 0 {
			return false
		}
	}
	return true
}

// packSet packs the answer to one question; ok is false if it depends on the client.
func (t *Table) packSet(name string, qtype uint16) (p packed, ok bool, err error) {
	r := t.resolve(name, qtype, netip.Addr{})
	m := dns.Msg{Compress: true, Question: []dns.Question{{Name: name, Qtype: qtype, Qclass: dns.ClassINET}}, Answer: r.answer, Ns: r.ns, Extra: r.extra}
	b, err := m.Pack()
	if err != nil {
		return packed{}, false, fmt.Errorf("dns table: pack %s %s: %w", name, dns.Type(qtype), err)
	}
	end := headerLen + len(name) + 1 + 4
	return packed{
		qtype: qtype, an: uint16(len(r.answer)), ns: uint16(len(r.ns)), ar: uint16(len(r.extra)), tail: b[end:],
	}, !r.perClient, nil
}

// coldType says which types the packed answers leave to the whole machinery: those that are questions only, and those
// that a zone's apex has.
func coldType(qtype uint16) bool {
	return qtype == 0 || qtype == dns.TypeSOA || qtype == dns.TypeNS || qtype == dns.TypeCNAME || metaType(qtype)
}

// metaType says whether a type is one of questions and messages, not of data (RFC 6895 §3.1).
func metaType(qtype uint16) bool {
	return qtype == dns.TypeOPT || qtype >= 128 && qtype <= 255
}

// appendAddress packs an address record of the name at offset 12.
func appendAddress(b []byte, a netip.Addr, ttl uint32) []byte {
	rrtype := byte(dns.TypeA)
	if a.Is6() {
		rrtype = byte(dns.TypeAAAA)
	}
	b = append(b, 0xc0, headerLen, 0, rrtype, 0, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	raw := a.AsSlice()
	b = binary.BigEndian.AppendUint16(b, uint16(len(raw)))
	return append(b, raw...)
}

// fast answers in into out if it is a plain question for a hot name, or for one that is nothing to us, and gives the
// answer's length and rcode. It allocates nothing and keeps neither. Whatever is the least bit unusual is left to the
// slow path, which must give the same answer: one question, class IN, no compression, no other record than an OPT of
// version 0 with no options but cookies and padding. limit is the transport's: 512 to 1232 over UDP as the client said,
// else len(out).
func (t *Table) fast(out, in []byte, client netip.Addr, udp bool) (n, rcode int, ok bool) {
	if len(in) < headerLen+5 || in[2]&^bitRD != 0 || in[3]&^(bitAD|bitCD) != 0 {
		return 0, 0, false
	}
	if in[4] != 0 || in[5] != 1 || in[6]|in[7]|in[8]|in[9]|in[10] != 0 || in[11] > 1 {
		return 0, 0, false
	}
	var key [256]byte
	off := headerLen
	for {
		if off >= len(in) {
			return 0, 0, false
		}
		l := int(in[off])
		if l > 63 || off+1+l > len(in) || off+1+l-headerLen > 255 {
			return 0, 0, false
		}
		key[off-headerLen] = byte(l)
		off++
		if l == 0 {
			break
		}
		for end := off + l; off < end; off++ {
			c := in[off]
			if c >= 'A' && c <= 'Z' {
				c |= 0x20
			}
			key[off-headerLen] = c
		}
	}
	qend := off + 4
	if qend > len(in) || in[off+2] != 0 || in[off+3] != dns.ClassINET {
		return 0, 0, false
	}
	qtype := binary.BigEndian.Uint16(in[off:])
	if coldType(qtype) {
		return 0, 0, false
	}
	name := key[:off-headerLen]
	h := t.hot[string(name)]
	if h == nil {
		if !t.denied(name) {
			return 0, 0, false
		}
		rcode = dns.RcodeNameError
	}

	limit := len(out)
	edns := in[11] == 1
	if edns {
		size, ok := plainOPT(in[qend:])
		if !ok {
			return 0, 0, false
		}
		if udp {
			limit = min(limit, udpLimit(size))
		}
		limit -= len(optRR)
	} else if qend != len(in) {
		return 0, 0, false
	} else if udp {
		limit = min(limit, dns.MinMsgSize)
	}
	if qend > limit {
		return 0, 0, false
	}

	n = copy(out, in[:qend])
	var p *packed
	if h == nil {
		p = &t.denial
	} else if f, addr := family(qtype); addr && h.nodes {
		var buf [maxNodes]*member
		an := 0
		for _, m := range order(t.live[f], client, &buf) {
			if n+len(m.packed) > limit {
				return 0, 0, false
			}
			n += copy(out[n:], m.packed)
			an += len(m.addrs)
		}
		if an > 0 {
			putCounts(out, an, 0, 0)
		} else {
			p = &h.nodata
		}
	} else {
		p = &h.nodata
		for i := range h.sets {
			if h.sets[i].qtype == qtype {
				p = &h.sets[i]
				break
			}
		}
	}
	if p != nil {
		if n+len(p.tail) > limit {
			return 0, 0, false
		}
		n += copy(out[n:], p.tail)
		putCounts(out, int(p.an), int(p.ns), int(p.ar))
	}
	if edns {
		n += copy(out[n:], optRR[:])
		binary.BigEndian.PutUint16(out[10:], binary.BigEndian.Uint16(out[10:])+1)
	}
	out[2] = bitQR | bitAA | in[2]&bitRD
	out[3] = in[3]&bitCD | byte(rcode)
	if len(t.forward) > 0 {
		out[3] |= bitRA
	}
	return n, rcode, true
}

func putCounts(out []byte, an, ns, ar int) {
	binary.BigEndian.PutUint16(out[6:], uint16(an))
	binary.BigEndian.PutUint16(out[8:], uint16(ns))
	binary.BigEndian.PutUint16(out[10:], uint16(ar))
}

// plainOPT reads an OPT record that fills b to its end and asks for nothing, and gives the client's UDP size.
func plainOPT(b []byte) (size uint16, ok bool) {
	if len(b) < len(optRR) || b[0] != 0 || b[1] != 0 || b[2] != dnsTypeOPT || b[5] != 0 || b[6] != 0 {
		return 0, false
	}
	size = binary.BigEndian.Uint16(b[3:])
	if int(binary.BigEndian.Uint16(b[9:])) != len(b)-len(optRR) {
		return 0, false
	}
	for b = b[len(optRR):]; len(b) > 0; {
		if len(b) < 4 {
			return 0, false
		}
		code, l := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if code != dns.EDNS0COOKIE && code != dns.EDNS0PADDING || 4+l > len(b) {
			return 0, false
		}
		b = b[4+l:]
	}
	return size, true
}

// udpLimit is the longest answer for a client that takes size bytes.
func udpLimit(size uint16) int {
	return min(max(int(size), dns.MinMsgSize), maxUDP)
}
