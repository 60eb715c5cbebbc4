package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	askAgain     = time.Second // a question by UDP is sent again after that
	maxAddresses = 64          // of a name
)

// query is a question for the addresses of one family, and its answer.
type query struct {
	id        uint16
	question  dnsmessage.Question
	answered  bool
	truncated bool
	rcode     dnsmessage.RCode
	addrs     []netip.Addr
}

// newQuery returns a question for a complete name: no search domain is added.
func newQuery(host string, kind dnsmessage.Type) (*query, error) {
	name, err := dnsmessage.NewName(strings.TrimSuffix(host, ".") + ".")
	if err != nil {
		return nil, fmt.Errorf("%.300q is not a host name: %w", host, err)
	}
	return &query{id: uint16(rand.Uint32()),
		question: dnsmessage.Question{Name: name, Type: kind, Class: dnsmessage.ClassINET}}, nil
}

// pack returns the question as a message (RFC 1035, 4.1). It is without EDNS, which not every resolver knows: an
// answer of more than 512 bytes comes by TCP.
func (q *query) pack() ([]byte, error) {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.id, RecursionDesired: true},
		Questions: []dnsmessage.Question{q.question}}
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("%s is not a host name: %w", q.question.Name, err)
	}
	return b, nil
}

// take reads a message, and reports whether it answers the question. Other messages change nothing.
func (q *query) take(msg []byte) bool {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != q.id {
		return false
	}
	asked, err := p.AllQuestions()
	if err != nil || len(asked) != 1 || asked[0].Type != q.question.Type || asked[0].Class != q.question.Class ||
		!strings.EqualFold(asked[0].Name.String(), q.question.Name.String()) {
		return false
	}
	q.answered, q.truncated, q.rcode, q.addrs = true, h.Truncated, h.RCode, nil
	for len(q.addrs) < maxAddresses {
		rh, err := p.AnswerHeader()
		if err != nil {
			break
		}
		switch {
		case rh.Type == dnsmessage.TypeA && q.question.Type == dnsmessage.TypeA:
			r, err := p.AResource()
			if err != nil {
				return true
			}
			q.addrs = append(q.addrs, netip.AddrFrom4(r.A))
		case rh.Type == dnsmessage.TypeAAAA && q.question.Type == dnsmessage.TypeAAAA:
			r, err := p.AAAAResource()
			if err != nil {
				return true
			}
			q.addrs = append(q.addrs, netip.AddrFrom16(r.AAAA))
		default: // an alias on the way to the addresses
			if p.SkipAnswer() != nil {
				return true
			}
		}
	}
	return true
}

// resolve asks one resolver for the addresses of a host. net.Resolver would read this machine's /etc/hosts, which may
// give an origin's name our own address. The error is a net.DNSError with IsNotFound if the resolver says that the name
// has no address.
func (u *Upstream) resolve(ctx context.Context, resolver netip.AddrPort, host string) ([]netip.Addr, error) {
	var list []*query
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		q, err := newQuery(host, kind)
		if err != nil {
			return nil, err
		}
		list = append(list, q)
	}
	if err := u.askUDP(ctx, resolver, list); err != nil {
		return nil, err
	}
	for _, q := range list {
		if !q.truncated {
			continue
		}
		if err := u.askTCP(ctx, resolver, q); err != nil {
			return nil, err
		}
	}
	var addrs []netip.Addr
	absent := true
	for _, q := range list {
		addrs = append(addrs, q.addrs...)
		absent = absent && q.answered && (q.rcode == dnsmessage.RCodeSuccess || q.rcode == dnsmessage.RCodeNameError)
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil
	case absent:
		return nil, &net.DNSError{Err: "it has no address", Name: host, Server: resolver.String(), IsNotFound: true}
	}
	for _, q := range list {
		if q.answered && q.rcode != dnsmessage.RCodeSuccess {
			return nil, fmt.Errorf("it answers %s", strings.TrimPrefix(q.rcode.String(), "RCode"))
		}
	}
	return nil, errors.New("no answer in time")
}

// askUDP sends questions until all are answered, or one has brought addresses and the other stays without an answer:
// some resolvers drop questions for IPv6.
func (u *Upstream) askUDP(ctx context.Context, resolver netip.AddrPort, list []*query) error {
	conn, err := u.connect(ctx, "udp", resolver.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, 64<<10)
	for {
		left, some := 0, false
		for _, q := range list {
			some = some || len(q.addrs) > 0
			if q.answered {
				continue
			}
			left++
			msg, err := q.pack()
			if err != nil {
				return err
			}
			if _, err := conn.Write(msg); err != nil {
				return err
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(askAgain)); err != nil {
			return err
		}
		for left > 0 {
			n, err := conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			for _, q := range list {
				if !q.answered && q.take(buf[:n]) {
					left--
					some = some || len(q.addrs) > 0
				}
			}
		}
		if left == 0 || some {
			return nil
		}
	}
}

// askTCP asks a question by TCP, where a message follows its length in two bytes (RFC 1035, 4.2.2).
func (u *Upstream) askTCP(ctx context.Context, resolver netip.AddrPort, q *query) error {
	conn, err := u.connect(ctx, "tcp", resolver.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	msg, err := q.pack()
	if err != nil {
		return err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)); err != nil {
		return err
	}
	size := make([]byte, 2)
	if _, err := io.ReadFull(conn, size); err != nil {
		return err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return err
	}
	if !q.take(buf) {
		return errors.New("its answer by TCP belongs to another question")
	}
	return nil
}
