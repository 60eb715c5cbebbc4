package dnssrv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// caseGrace is how long an answer whose case differs from the question's is set aside: it may be forged, and the true
// answer may follow.
const caseGrace = 200 * time.Millisecond

var (
	errGarbled = errors.New("its answer cannot be read")
	errCut     = errors.New("its answer was cut and cannot be had over TCP")
	errCase    = errors.New("its answer repeats the question in another case")
)

func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

// ask sends one question to one resolver. If the answer suggests that the resolver does not support EDNS or mixed case,
// ask repeats the question without them and records which form worked.
func (f *forwarder) ask(
	ctx context.Context, r netip.AddrPort, q dns.Question, first dialect, by asker,
) (*dns.Msg, error) {
	use := first
	var fallback *dns.Msg // an empty answer, returned if the plainer question gets none
	for {
		packet, err := query(q, use, by.via)
		if err != nil {
			return nil, err
		}
		done := f.sent.add(packet, use.mixed, r, by.client)
		began := f.now()
		resp, err := try(ctx, r, packet, use)
		done()
		if err == nil {
			f.took(r, f.now().Sub(began))
		}
		if saysLoop(resp) {
			return resp, err // it understands us very well
		}
		if use.mixed && errors.Is(err, errCase) {
			use.mixed = false
			continue
		}
		if use.edns && ctx.Err() == nil && objects(resp, err, f.works(r)) {
			use.edns = false
			if err == nil && resp.Rcode == dns.RcodeSuccess {
				fallback = resp
			}
			continue
		}
		good := err == nil && (resp.Rcode == dns.RcodeSuccess || resp.Rcode == dns.RcodeNameError)
		switch {
		case !good && fallback != nil:
			return fallback, nil
		case good && (fallback == nil || !bare(resp)):
			f.learn(r, first, use)
		}
		return resp, err
	}
}

// try asks over UDP, from a socket made for this question: the kernel picks a random port and drops packets from other
// senders. If the answer was truncated, try asks over TCP.
func try(ctx context.Context, r netip.AddrPort, packet []byte, use dialect) (*dns.Msg, error) {
	resp, err := askUDP(ctx, r, packet, use.mixed)
	// Some middleboxes truncate at 512 bytes without setting TC. With an OPT record, ask repeats the question without
	// it.
	if err == nil && resp.Truncated || errors.Is(err, errGarbled) && !use.edns {
		if resp, err = askTCP(ctx, r, packet); err != nil {
			err = fmt.Errorf("%w: %w", errCut, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("resolver %s: %w", r, err)
	}
	return resp, nil
}

// query packs a question that has gone through the sites in via. The id is set when it is sent.
func query(q dns.Question, use dialect, via []byte) ([]byte, error) {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{RecursionDesired: true}, Question: []dns.Question{q}}
	if use.edns {
		m.SetEdns0(maxUDP, false)
		if len(via) > 0 {
			opt := m.IsEdns0()
			opt.Option = append(opt.Option, &dns.EDNS0_LOCAL{Code: loopOption, Data: via})
		}
	}
	packet, err := m.Pack()
	if err != nil {
		return nil, err
	}
	if use.mixed {
		var coins [256]byte
		rand.Read(coins[:])
		name := packet[headerLen : questionEnd(packet)-4]
		for i := 0; i < len(name); {
			l := int(name[i])
			for j := i + 1; j <= i+l; j++ {
				if c := name[j] | 0x20; c >= 'a' && c <= 'z' {
					name[j] = c ^ coins[j]&0x20
				}
			}
			i += 1 + l
		}
	}
	return packet, nil
}

func dial(ctx context.Context, network string, resolver netip.AddrPort) (net.Conn, func(), error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, resolver.String())
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(past) })
	return c, func() { stop(); c.Close() }, nil
}

func askUDP(ctx context.Context, resolver netip.AddrPort, packet []byte, mixed bool) (*dns.Msg, error) {
	c, done, err := dial(ctx, "udp", resolver)
	if err != nil {
		return nil, err
	}
	defer done()
	rand.Read(packet[:2])
	if _, err := c.Write(packet); err != nil {
		return nil, err
	}
	buf := make([]byte, maxQuery)
	doubtful := false
	for {
		n, err := c.Read(buf)
		if err != nil {
			if doubtful {
				return nil, errCase
			}
			return nil, err
		}
		resp, as := read(buf[:n], packet)
		switch {
		case as == foreign: // forged or late: the true answer may still come
		case as == garbled:
			return nil, errGarbled
		case as == otherCase && mixed:
			if doubtful {
				continue
			}
			doubtful = true
			c.SetReadDeadline(time.Now().Add(caseGrace))
			if ctx.Err() != nil {
				c.SetReadDeadline(past) // ctx may have ended just before, and its deadline was overwritten
			}
		default:
			return resp, nil
		}
	}
}

func askTCP(ctx context.Context, resolver netip.AddrPort, packet []byte) (*dns.Msg, error) {
	c, done, err := dial(ctx, "tcp", resolver)
	if err != nil {
		return nil, err
	}
	defer done()
	rand.Read(packet[:2])
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, buf); err != nil {
		return nil, err
	}
	resp, as := read(buf, packet)
	switch {
	case as == foreign:
		return nil, errors.New("answer does not belong to the question")
	case as == garbled:
		return nil, errGarbled
	case resp.Truncated:
		return nil, errors.New("answer was cut over TCP too")
	}
	return resp, nil
}

// reading classifies a packet from a resolver with regard to the question.
type reading int

const (
	foreign   reading = iota // not an answer to it
	garbled                  // an answer that cannot be read
	otherCase                // an answer whose question differs in case
	whole                    // an answer
)

// read reads an answer to packet (RFC 5452, 9.1). A truncated answer is returned without records: they must not be used
// (RFC 2181, 9).
func read(b, packet []byte) (*dns.Msg, reading) {
	if len(b) < headerLen || b[0] != packet[0] || b[1] != packet[1] || b[2]&bitQR == 0 ||
		b[2]>>3&0xf != dns.OpcodeQuery {
		return nil, foreign
	}
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Truncated: b[2]&bitTC != 0, Rcode: int(b[3] & 0xf)}}
	good := m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError
	if binary.BigEndian.Uint16(b[4:]) == 0 && !good {
		// A resolver that cannot read a question may answer with a header alone. Such an answer only makes ask repeat
		// the question.
		m.Truncated = false
		return m, whole
	}
	end := questionEnd(b)
	if binary.BigEndian.Uint16(b[4:]) != 1 || end == 0 {
		return nil, foreign
	}
	got, want := b[headerLen:end], packet[headerLen:questionEnd(packet)]
	as := whole
	if !bytes.Equal(got, want) {
		if !equalFold(got, want) {
			return nil, foreign
		}
		as = otherCase
	}
	if m.Truncated {
		return m, whole
	}
	m = new(dns.Msg)
	if m.Unpack(b) != nil || !counted(b, m) {
		return nil, garbled
	}
	if !good {
		as = whole // nothing in it is used
	}
	return m, as
}

// counted reports whether a message has as many records as its header says: miekg/dns accepts a message that ends
// early.
func counted(b []byte, m *dns.Msg) bool {
	for i, n := range []int{len(m.Answer), len(m.Ns), len(m.Extra)} {
		if int(binary.BigEndian.Uint16(b[6+2*i:])) != n {
			return false
		}
	}
	return true
}

// equalFold compares two questions, ignoring the case of their names (RFC 4343).
func equalFold(a, b []byte) bool {
	if len(a) != len(b) || len(a) < 4 || !bytes.Equal(a[len(a)-4:], b[len(b)-4:]) {
		return false
	}
	for i := range a[:len(a)-4] {
		x, y := a[i], b[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}
