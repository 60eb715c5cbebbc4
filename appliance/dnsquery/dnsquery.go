// Package dnsquery has one question of DNS for the addresses of a name, or for the names of an address, and its answer,
// as messages (RFC 1035). It is for who asks without the resolver of the system, and for who answers a few names
// without the server's library. It sends nothing.
//
// It promises: a message is read as the answer only if it has the ID of the question and repeats it. The addresses of
// an answer are of the family that was asked for, and at most 64. No message causes a panic.
package dnsquery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// maxAddresses limits the addresses, and the names, that are read from an answer.
const maxAddresses = 64

// Type is the type of a record, RCode the status of an answer.
type (
	Type  = dnsmessage.Type
	RCode = dnsmessage.RCode
)

// Types and codes that callers use.
const (
	A    = dnsmessage.TypeA
	AAAA = dnsmessage.TypeAAAA
	PTR  = dnsmessage.TypePTR

	Success   = dnsmessage.RCodeSuccess
	NameError = dnsmessage.RCodeNameError // the name does not exist (NXDOMAIN)
	Refused   = dnsmessage.RCodeRefused
)

// Query is a question of class IN.
type Query struct {
	ID   uint16
	Name string // complete, with or without the last dot: no search domain is added
	Type Type
}

// Answer is what was answered. An answer without addresses may have other records.
type Answer struct {
	RCode     RCode
	Truncated bool // the whole answer can be had by TCP
	Addrs     []netip.Addr
	// Names are those of a question for PTR, at most 64, without the last dot. They may have any bytes.
	Names []string
}

func (q Query) question() (dnsmessage.Question, error) {
	name, err := dnsmessage.NewName(strings.TrimSuffix(q.Name, ".") + ".")
	if err != nil {
		return dnsmessage.Question{}, fmt.Errorf("%.300q is not a host name: %w", q.Name, err)
	}
	return dnsmessage.Question{Name: name, Type: q.Type, Class: dnsmessage.ClassINET}, nil
}

// Pack returns the question as a message that asks for recursion. udpSize is the size in bytes of the largest answer
// by UDP that is accepted (EDNS0, RFC 6891); 0: 512 bytes, without EDNS0, which not every resolver knows.
func (q Query) Pack(udpSize int) ([]byte, error) {
	asked, err := q.question()
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, RecursionDesired: true},
		Questions: []dnsmessage.Question{asked}}
	if udpSize > 0 {
		var opt dnsmessage.ResourceHeader
		if err := opt.SetEDNS0(udpSize, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		m.Additionals = []dnsmessage.Resource{{Header: opt, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("%.300q is not a host name: %w", q.Name, err)
	}
	return b, nil
}

// ID returns the ID of a message, false if it is too short to have one.
func ID(msg []byte) (id uint16, ok bool) {
	if len(msg) < 2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(msg), true
}

// Read reads a message, and reports whether it answers the question. Of a damaged answer it returns what comes before
// the damage.
func (q Query) Read(msg []byte) (a Answer, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != q.ID {
		return a, false
	}
	asked, err := p.AllQuestions()
	switch {
	case err != nil || len(asked) > 1:
		return a, false
	case len(asked) == 0:
		if h.RCode == Success { // only errors are sent without the question
			return a, false
		}
	case asked[0].Type != q.Type || asked[0].Class != dnsmessage.ClassINET ||
		!strings.EqualFold(asked[0].Name.String(), strings.TrimSuffix(q.Name, ".")+"."):
		return a, false
	}
	a.RCode, a.Truncated = h.RCode, h.Truncated
	for len(a.Addrs) < maxAddresses && len(a.Names) < maxAddresses {
		rh, err := p.AnswerHeader()
		if err != nil {
			break
		}
		if rh.Type == PTR && q.Type == PTR {
			r, err := p.PTRResource()
			if err != nil {
				break
			}
			a.Names = append(a.Names, strings.TrimSuffix(r.PTR.String(), "."))
			continue
		}
		addr, err := address(&p, rh.Type)
		if err != nil {
			break
		}
		if rh.Type == q.Type && addr.IsValid() {
			a.Addrs = append(a.Addrs, addr)
		}
	}
	return a, true
}

// address reads one record; of another type than A and AAAA, such as an alias on the way to them, it returns no
// address.
func address(p *dnsmessage.Parser, t Type) (netip.Addr, error) {
	switch t {
	case A:
		r, err := p.AResource()
		return netip.AddrFrom4(r.A), err
	case AAAA:
		r, err := p.AAAAResource()
		return netip.AddrFrom16(r.AAAA), err
	}
	return netip.Addr{}, p.SkipAnswer()
}

// Parse reads a message of a client, and reports whether it is a question of class IN.
func Parse(msg []byte) (q Query, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return q, false
	}
	asked, err := p.Question()
	if err != nil || asked.Class != dnsmessage.ClassINET {
		return q, false
	}
	return Query{h.ID, asked.Name.String(), asked.Type}, true
}

// Reply returns the answer to the question: those of the addresses that are of its family, which may be remembered for
// ttl seconds.
func (q Query) Reply(code RCode, addrs []netip.Addr, ttl uint32) ([]byte, error) {
	asked, err := q.question()
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RCode: code, RecursionDesired: true,
		RecursionAvailable: true}, Questions: []dnsmessage.Question{asked}}
	for _, a := range addrs {
		var body dnsmessage.ResourceBody
		switch a = a.Unmap(); {
		case a.Is4() && q.Type == A:
			body = &dnsmessage.AResource{A: a.As4()}
		case a.Is6() && q.Type == AAAA:
			body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{Body: body,
			Header: dnsmessage.ResourceHeader{Name: asked.Name, Class: dnsmessage.ClassINET, TTL: ttl}})
	}
	return m.Pack()
}

// ReverseName returns the name whose PTR records are the names of an address: 1.0.0.10.in-addr.arpa, and of IPv6 below
// ip6.arpa (RFC 3596 section 2.5). "" if a is invalid.
func ReverseName(a netip.Addr) string {
	a = a.Unmap()
	if !a.IsValid() {
		return ""
	}
	raw := a.AsSlice()
	slices.Reverse(raw)
	var b strings.Builder
	if a.Is4() {
		for _, octet := range raw {
			fmt.Fprintf(&b, "%d.", octet)
		}
		return b.String() + "in-addr.arpa"
	}
	for _, octet := range raw {
		fmt.Fprintf(&b, "%x.%x.", octet&0xf, octet>>4)
	}
	return b.String() + "ip6.arpa"
}

// AppendTCP appends a message as it is sent by TCP: its length in two bytes, and the message (RFC 1035, 4.2.2).
func AppendTCP(b, msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(msg))), msg...)
}

// ReadTCP reads one message that AppendTCP has written. io.EOF: there is none.
func ReadTCP(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, msg); errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return msg, nil
}
