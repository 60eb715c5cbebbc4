package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameserver answers DNS on loopback, by UDP and TCP at one port. answer returns nil for no answer.
func nameserver(t *testing.T, answer func(q dnsmessage.Message, tcp bool) []byte) netip.AddrPort {
	t.Helper()
	// At an address of its own: at 127.0.0.1 the port that is free for TCP may be taken for UDP.
	l, err := net.Listen("tcp", "127.53.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(buf[:n]) == nil {
				if b := answer(q, false); b != nil {
					conn.WriteTo(b, from)
				}
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			size := make([]byte, 2)
			io.ReadFull(c, size)
			buf := make([]byte, binary.BigEndian.Uint16(size))
			io.ReadFull(c, buf)
			var q dnsmessage.Message
			if q.Unpack(buf) == nil {
				b := answer(q, true)
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
			}
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); conn.Close(); wg.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// reply answers a question with addresses of its family, behind an alias.
func reply(q dnsmessage.Message, rcode dnsmessage.RCode, addrs ...string) dnsmessage.Message {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RCode: rcode}, Questions: q.Questions}
	at := dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET}
	alias := dnsmessage.MustNewName("alias.example.net.")
	m.Answers = []dnsmessage.Resource{{Header: at, Body: &dnsmessage.CNAMEResource{CNAME: alias}}}
	at.Name = alias
	for _, text := range addrs {
		ip := netip.MustParseAddr(text)
		switch {
		case ip.Is4() && q.Questions[0].Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: at, Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && q.Questions[0].Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers,
				dnsmessage.Resource{Header: at, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	return m
}

func packed(t *testing.T, m dnsmessage.Message) []byte {
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

// TestResolve: names are resolved by the given resolver and by nothing else, over TCP where UDP has no room.
func TestResolve(t *testing.T) {
	const host = "registry.example.com"
	ok, both := dnsmessage.RCodeSuccess, []string{"192.0.2.7", "2001:db8::7"}
	var mu sync.Mutex
	seen := map[dnsmessage.Type]int{}
	for _, c := range []struct {
		name   string
		host   string
		answer func(q dnsmessage.Message, tcp bool) []byte
		want   []string
		err    string // part of it; "absent": the resolver says that there is none
	}{
		{"both families", host, func(q dnsmessage.Message, _ bool) []byte {
			return packed(t, reply(q, ok, both...))
		}, both, ""},
		{"a name that /etc/hosts has", "localhost", func(q dnsmessage.Message, _ bool) []byte {
			return packed(t, reply(q, ok, "192.0.2.8"))
		}, []string{"192.0.2.8"}, ""},
		{"truncated", host, func(q dnsmessage.Message, tcp bool) []byte {
			m := reply(q, ok, both...)
			if m.Truncated = !tcp; !tcp {
				m.Answers = nil
			}
			return packed(t, m)
		}, both, ""},
		{"the first packet is lost", host, func(q dnsmessage.Message, _ bool) []byte {
			mu.Lock()
			defer mu.Unlock()
			if seen[q.Questions[0].Type]++; seen[q.Questions[0].Type] == 1 {
				return nil
			}
			return packed(t, reply(q, ok, both...))
		}, both, ""},
		{"no answer for IPv6", host, func(q dnsmessage.Message, _ bool) []byte {
			if q.Questions[0].Type == dnsmessage.TypeAAAA {
				return nil
			}
			return packed(t, reply(q, ok, both...))
		}, both[:1], ""},
		{"NXDOMAIN", host, func(q dnsmessage.Message, _ bool) []byte {
			return packed(t, reply(q, dnsmessage.RCodeNameError))
		}, nil, "absent"},
		{"no address", host, func(q dnsmessage.Message, _ bool) []byte {
			return packed(t, reply(q, ok))
		}, nil, "absent"},
		{"SERVFAIL", host, func(q dnsmessage.Message, _ bool) []byte {
			return packed(t, reply(q, dnsmessage.RCodeServerFailure))
		}, nil, "ServerFailure"},
		{"TCP for another question", host, func(q dnsmessage.Message, tcp bool) []byte {
			m := reply(q, ok, both...)
			m.Truncated = !tcp
			if tcp {
				m.ID++
			}
			return packed(t, m)
		}, nil, "another question"},
		{"an empty label", "a..example.com", nil, nil, "not a host name"},
		{"a long name", strings.Repeat("a.", 200), nil, nil, "not a host name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			at := nameserver(t, c.answer)
			u := New(Config{Settings: func() *Settings { return &Settings{On: true} }})
			defer u.Close()
			got, err := u.resolve(t.Context(), at, c.host)
			var dns *net.DNSError
			absent := errors.As(err, &dns) && dns.IsNotFound
			if (err != nil) != (c.err != "") || absent != (c.err == "absent") ||
				err != nil && !absent && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			var want []netip.Addr
			for _, text := range c.want {
				want = append(want, netip.MustParseAddr(text))
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestResolveEnds: a resolver that never answers is left when the context ends.
func TestResolveEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	at := nameserver(t, func(dnsmessage.Message, bool) []byte { cancel(); return nil })
	u := New(Config{Settings: func() *Settings { return &Settings{On: true} }})
	defer u.Close()
	if got, err := u.resolve(ctx, at, "registry.example.com"); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, %v", got, err)
	}
}
