package dnsquery

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

var (
	four  = netip.MustParseAddr("192.0.2.7")
	six   = netip.MustParseAddr("2001:db8::7")
	asked = Query{ID: 7, Name: "registry.example.com", Type: A}
)

// TestRoundTrip: what one side packs the other one reads, and answers with the addresses of the family.
func TestRoundTrip(t *testing.T) {
	for _, c := range []struct {
		q    Query
		want []netip.Addr
	}{
		{asked, []netip.Addr{four}},
		{Query{8, "Registry.Example.com.", AAAA}, []netip.Addr{six}},
		{Query{9, "registry.example.com", dnsmessage.TypeMX}, nil},
	} {
		for _, size := range []int{0, 1232} {
			msg, err := c.q.Pack(size)
			if err != nil {
				t.Fatal(err)
			}
			if id, ok := ID(msg); id != c.q.ID || !ok {
				t.Errorf("%+v: the ID is %d", c.q, id)
			}
			got, ok := Parse(msg)
			if !ok || got.ID != c.q.ID || got.Type != c.q.Type ||
				strings.TrimSuffix(got.Name, ".") != strings.TrimSuffix(c.q.Name, ".") {
				t.Fatalf("%+v is read as %+v", c.q, got)
			}
			if _, ok := c.q.Read(msg); ok {
				t.Errorf("%+v is its own answer", c.q)
			}
			reply, err := got.Reply(Success, []netip.Addr{four, six}, 5)
			if err != nil {
				t.Fatal(err)
			}
			a, ok := c.q.Read(reply)
			if !ok || a.RCode != Success || a.Truncated || !slices.Equal(a.Addrs, c.want) {
				t.Errorf("%+v: got %+v, %v", c.q, a, ok)
			}
			if _, ok := Parse(reply); ok {
				t.Errorf("the answer to %+v is a question", c.q)
			}
			denied, err := got.Reply(NameError, nil, 5)
			if err != nil {
				t.Fatal(err)
			}
			if a, ok := c.q.Read(denied); !ok || a.RCode != NameError || len(a.Addrs) > 0 {
				t.Errorf("%+v: got %+v, %v", c.q, a, ok)
			}
		}
	}
	for _, name := range []string{strings.Repeat("a", 300), strings.Repeat("a", 64), "a..b"} {
		if _, err := (Query{Name: name, Type: A}).Pack(0); err == nil || !strings.Contains(err.Error(), "host name") {
			t.Errorf("%.20s: %v", name, err)
		}
	}
}

// TestRead: which messages answer a question.
func TestRead(t *testing.T) {
	question, err := asked.question()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(m *dnsmessage.Message)
		ok     bool
	}{
		"the answer":       {func(*dnsmessage.Message) {}, true},
		"a question":       {func(m *dnsmessage.Message) { m.Response = false }, false},
		"another ID":       {func(m *dnsmessage.Message) { m.ID++ }, false},
		"another type":     {func(m *dnsmessage.Message) { m.Questions[0].Type = AAAA }, false},
		"another class":    {func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }, false},
		"another name":     {func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("b.") }, false},
		"two questions":    {func(m *dnsmessage.Message) { m.Questions = append(m.Questions, question) }, false},
		"without question": {func(m *dnsmessage.Message) { m.Questions = nil }, false},
		"an error without question": {func(m *dnsmessage.Message) { m.Questions, m.RCode = nil, Refused },
			true},
	} {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: asked.ID, Response: true},
			Questions: []dnsmessage.Question{question}}
		c.change(&m)
		msg, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := asked.Read(msg); ok != c.ok || ok && a.RCode != m.RCode {
			t.Errorf("%s: %+v, %v", name, a, ok)
		}
	}
	many := slices.Repeat([]netip.Addr{four}, 1000)
	msg, err := asked.Reply(Success, many, 1)
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := asked.Read(msg); !ok || len(a.Addrs) != maxAddresses {
		t.Errorf("%d addresses of 1000", len(a.Addrs))
	}
	if a, ok := asked.Read(msg[:len(msg)-1]); !ok || len(a.Addrs) != maxAddresses {
		t.Errorf("%d addresses of 1000, damaged behind them", len(a.Addrs))
	}
}

// TestReverseName: of both families, and what its question brings.
func TestReverseName(t *testing.T) {
	for a, want := range map[string]string{
		"10.0.2.255":         "255.2.0.10.in-addr.arpa",
		"::ffff:10.0.2.25":   "25.2.0.10.in-addr.arpa",
		"2001:db8::567:89ab": "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", // RFC 3596
	} {
		if got := ReverseName(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
	if got := ReverseName(netip.Addr{}); got != "" {
		t.Errorf("no address: %s", got)
	}
	q := Query{7, "7.2.0.192.in-addr.arpa", PTR}
	name, err := dnsmessage.NewName("7.2.0.192.in-addr.arpa.")
	if err != nil {
		t.Fatal(err)
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, Response: true},
		Questions: []dnsmessage.Question{{Name: name, Type: PTR, Class: dnsmessage.ClassINET}}}
	for range 100 {
		target, err := dnsmessage.NewName("node.example.")
		if err != nil {
			t.Fatal(err)
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{Body: &dnsmessage.PTRResource{PTR: target},
			Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET}})
	}
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	a, ok := q.Read(msg)
	if !ok || len(a.Names) != maxAddresses || a.Names[0] != "node.example" || a.Addrs != nil {
		t.Errorf("got %+v, %v", a, ok)
	}
	if a, ok := (Query{7, "7.2.0.192.in-addr.arpa", A}).Read(msg); ok {
		t.Errorf("another question takes %+v", a)
	}
}

// TestTCP: messages follow each other, and the end of a connection is told from a break.
func TestTCP(t *testing.T) {
	stream := AppendTCP(AppendTCP(nil, []byte("one")), nil)
	r := bytes.NewReader(stream)
	for _, want := range []string{"one", ""} {
		if got, err := ReadTCP(r); string(got) != want || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if _, err := ReadTCP(r); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	for n := 1; n < 5; n++ {
		if _, err := ReadTCP(bytes.NewReader(stream[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// FuzzMessage: a message is taken for the answer only if it has the ID, and nothing panics.
func FuzzMessage(f *testing.F) {
	question, err := asked.Pack(1232)
	if err != nil {
		f.Fatal(err)
	}
	found, err := asked.Reply(Success, []netip.Addr{four}, 1)
	if err != nil {
		f.Fatal(err)
	}
	denied, err := asked.Reply(NameError, nil, 1)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{question, found, denied} {
		f.Add(b)
		f.Add(b[:len(b)-2])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if a, ok := asked.Read(msg); ok {
			if binary.BigEndian.Uint16(msg) != asked.ID || msg[2]&0x80 == 0 {
				t.Errorf("taken: %x", msg)
			}
			for _, ip := range a.Addrs {
				if !ip.Is4() {
					t.Errorf("a question for IPv4 brought %s", ip)
				}
			}
			if len(a.Addrs) > maxAddresses {
				t.Errorf("%d addresses", len(a.Addrs))
			}
		}
		if q, ok := Parse(msg); ok {
			if reply, err := q.Reply(Success, []netip.Addr{four, six}, 1); err == nil {
				if _, ok := q.Read(reply); !ok {
					t.Errorf("%+v: its answer is none", q)
				}
			}
		}
		if got, err := ReadTCP(bytes.NewReader(AppendTCP(nil, msg))); len(msg) < 1<<16 &&
			(err != nil || !bytes.Equal(got, msg)) {
			t.Errorf("by TCP: %x, %v", got, err)
		}
	})
}
