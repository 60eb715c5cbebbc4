package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"casemate/appliance/dnsquery"
)

const askAgain = time.Second // a question by UDP is sent again after that

// query is a question for the addresses of one family, and its answer.
type query struct {
	dnsquery.Query
	answered bool
	answer   dnsquery.Answer
}

// take reads a message, and reports whether it answers the question. Other messages change nothing.
func (q *query) take(msg []byte) bool {
	a, ok := q.Read(msg)
	if ok {
		q.answered, q.answer = true, a
	}
	return ok
}

// resolve asks one resolver for the addresses of a host. net.Resolver would read this machine's /etc/hosts, which may
// give an origin's name our own address. The error is a net.DNSError with IsNotFound if the resolver says that the name
// has no address.
func (u *Upstream) resolve(ctx context.Context, resolver netip.AddrPort, host string) ([]netip.Addr, error) {
	var list []*query
	for _, family := range []dnsquery.Type{dnsquery.A, dnsquery.AAAA} {
		list = append(list, &query{Query: dnsquery.Query{ID: uint16(rand.Uint32()), Name: host, Type: family}})
	}
	if err := u.askUDP(ctx, resolver, list); err != nil {
		return nil, err
	}
	for _, q := range list {
		if !q.answer.Truncated {
			continue
		}
		if err := u.askTCP(ctx, resolver, q); err != nil {
			return nil, err
		}
	}
	var addrs []netip.Addr
	absent := true
	for _, q := range list {
		addrs = append(addrs, q.answer.Addrs...)
		absent = absent && q.answered && (q.answer.RCode == dnsquery.Success || q.answer.RCode == dnsquery.NameError)
	}
	switch {
	case len(addrs) > 0:
		return addrs, nil
	case absent:
		return nil, &net.DNSError{Err: "it has no address", Name: host, Server: resolver.String(), IsNotFound: true}
	}
	for _, q := range list {
		if q.answered && q.answer.RCode != dnsquery.Success {
			return nil, fmt.Errorf("it answers %s", strings.TrimPrefix(q.answer.RCode.String(), "RCode"))
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
			some = some || len(q.answer.Addrs) > 0
			if q.answered {
				continue
			}
			left++
			msg, err := q.Pack(0) // an answer of more than 512 bytes comes by TCP
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
					some = some || len(q.answer.Addrs) > 0
				}
			}
		}
		if left == 0 || some {
			return nil
		}
	}
}

// askTCP asks a question by TCP.
func (u *Upstream) askTCP(ctx context.Context, resolver netip.AddrPort, q *query) error {
	conn, err := u.connect(ctx, "tcp", resolver.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	msg, err := q.Pack(0)
	if err != nil {
		return err
	}
	if _, err := conn.Write(dnsquery.AppendTCP(nil, msg)); err != nil {
		return err
	}
	answer, err := dnsquery.ReadTCP(conn)
	if err != nil {
		return err
	}
	if !q.take(answer) {
		return errors.New("its answer by TCP belongs to another question")
	}
	return nil
}
