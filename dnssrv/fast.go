package dnssrv

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

// Sizes of messages in bytes.
const (
	headerLen = 12
	// maxUDP fits every path without fragmentation (DNS flag day 2020, RFC 9715).
	maxUDP = 1232
	// maxQuery is the longest query that is read over UDP; real ones with padding stay below 512.
	maxQuery = 4096
)

// Bits of the third and fourth byte of a header.
const (
	bitQR, bitAA, bitTC, bitRD = 0x80, 0x04, 0x02, 0x01
	bitRA, bitAD, bitCD        = 0x80, 0x20, 0x10
)

// optRR is the OPT record of our answers (RFC 6891): size 1232 bytes, version 0, no DO, no options.
var optRR = [11]byte{2: dnsTypeOPT, 3: maxUDP >> 8, 4: maxUDP & 0xff}

const dnsTypeOPT = 41

// coldType reports whether a type is left to the slow path: types that occur only in questions, types that a zone's
// apex has, and types whose answers carry additional addresses.
func coldType(qtype uint16) bool {
	switch qtype {
	case 0, dns.TypeSOA, dns.TypeNS, dns.TypeCNAME, dns.TypeSRV:
		return true
	}
	return metaType(qtype)
}

// metaType reports whether a type occurs in questions and messages only, never as data (RFC 6895 §3.1).
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

// questionName writes the name of the first question to key, in lower-case wire form. It returns nil if the question is
// incomplete.
func questionName(key *[256]byte, in []byte) []byte {
	off := headerLen
	for {
		if off >= len(in) {
			return nil
		}
		l := int(in[off])
		if l > 63 || off+1+l > len(in) || off+1+l-headerLen > 255 {
			return nil
		}
		key[off-headerLen] = byte(l)
		off++
		if l == 0 {
			return key[:off-headerLen]
		}
		for end := off + l; off < end; off++ {
			c := in[off]
			if c >= 'A' && c <= 'Z' {
				c |= 0x20
			}
			key[off-headerLen] = c
		}
	}
}

// fast answers in into out if it is a plain question for a name in the table, or for one that does not exist, and
// returns the answer's length and rcode. It allocates nothing and retains neither buffer. Everything unusual is left to
// the slow path, which must give the same answer. A plain question has class IN, no compression, and at most one other
// record, an OPT of version 0 with no options but cookies and padding; its name is no CNAME, empty non-terminal,
// service or forward zone. limit is the transport's: over UDP 512 to 1232 bytes, as the client announced, otherwise
// len(out).
func (t *Table) fast(out, in []byte, client netip.Addr, udp bool) (n, rcode int, ok bool) {
	if len(in) < headerLen+5 || in[2]&^bitRD != 0 || in[3]&^(bitAD|bitCD) != 0 {
		return 0, 0, false
	}
	if in[4] != 0 || in[5] != 1 || in[6]|in[7]|in[8]|in[9]|in[10] != 0 || in[11] > 1 {
		return 0, 0, false
	}
	var buf [256]byte
	name := questionName(&buf, in)
	off := headerLen + len(name)
	qend := off + 4
	if name == nil || qend > len(in) || in[off+2] != 0 || in[off+3] != dns.ClassINET {
		return 0, 0, false
	}
	qtype := binary.BigEndian.Uint16(in[off:])
	if coldType(qtype) {
		return 0, 0, false
	}
	h := t.names.get(name)
	zone := -1 // the offset of the zone in name, if known
	if !h.has(isHere) {
		if h.exists() {
			return 0, 0, false
		}
		at, up, z := t.closest(name)
		if h, zone = t.wild(name[at:], up), z; h == nil {
			if name[0] != 0 && name[1] == '_' || t.forwarded(name) {
				return 0, 0, false
			}
			rcode = dns.RcodeNameError
		}
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
	an := 0
	if f, addr := family(qtype); addr && qtype != t.withheld && h.has(isNodes) {
		var buf [maxNodes]*member
		for _, m := range order(t.live[f], client, &buf) {
			if n+len(m.packed) > limit {
				return 0, 0, false
			}
			n += copy(out[n:], m.packed)
			an += len(m.addrs)
		}
	}
	if an == 0 && h != nil {
		for b := h[entryHeader:]; len(b) > 0; {
			var s set
			s, b = cutSet(b)
			switch {
			case s.flags&setLeftOut != 0:
			case s.qtype == dns.TypeCNAME:
				return 0, 0, false
			case s.qtype == qtype && qtype != t.withheld:
				if n+len(s.rrs) > limit {
					return 0, 0, false
				}
				n += copy(out[n:], s.rrs)
				an = s.n
			}
		}
	}
	ns := 0
	if an == 0 {
		if zone < 0 && h.has(isApex) {
			zone = 0
		} else if zone < 0 && h != nil {
			_, _, zone = t.closest(name)
		}
		if n, ok = t.soa.put(out, n, limit, zone); !ok {
			return 0, 0, false
		}
		ns = 1
	}
	putCounts(out, an, ns, 0)
	if edns {
		n += copy(out[n:], optRR[:])
		out[11] = 1
	}
	out[2] = bitQR | bitAA | in[2]&bitRD
	out[3] = in[3]&bitCD | byte(rcode)
	if len(t.forward) > 0 {
		out[3] |= bitRA
	}
	return n, rcode, true
}

// forwarded reports whether name is in a zone of dns.forward.
func (t *frame) forwarded(name []byte) bool {
	for up, ok := name, len(t.zones) > 0; ok; up, ok = parentOf(up) {
		if len(up) > t.longest {
			continue
		}
		if _, is := t.zones[string(up)]; is {
			return true
		}
	}
	return false
}

func putCounts(out []byte, an, ns, ar int) {
	binary.BigEndian.PutUint16(out[6:], uint16(an))
	binary.BigEndian.PutUint16(out[8:], uint16(ns))
	binary.BigEndian.PutUint16(out[10:], uint16(ar))
}

// plainOPT reads an OPT record that fills b to its end and has no unknown options, and returns the client's UDP size.
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

// udpLimit returns the size of the longest answer for a client that announces size bytes.
func udpLimit(size uint16) int {
	return min(max(int(size), dns.MinMsgSize), maxUDP)
}
