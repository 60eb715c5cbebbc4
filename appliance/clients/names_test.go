package clients

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"casemate/appliance/dnsquery"
	"casemate/cluster/waittest"
	"casemate/dnssrv"
)

// TestReverse: who is asked for the names of an address.
func TestReverse(t *testing.T) {
	site, corp, bastion := netip.MustParseAddrPort("10.0.0.53:53"), netip.MustParseAddrPort("10.1.0.53:53"),
		netip.MustParseAddrPort("10.0.0.11:53")
	all := dnssrv.Forward{Zone: ".", Resolvers: []netip.AddrPort{bastion, site}}
	ten := dnssrv.Forward{Zone: "1.10.in-addr.arpa", Resolvers: []netip.AddrPort{corp}}
	six := dnssrv.Forward{Zone: "d.f.ip6.arpa.", Resolvers: []netip.AddrPort{corp}}
	public := dnssrv.Forward{Zone: "113.0.203.in-addr.arpa", Resolvers: []netip.AddrPort{corp}}
	for _, c := range []struct {
		addr    string
		forward []dnssrv.Forward
		want    netip.AddrPort // the zero AddrPort: nobody
	}{
		{"10.1.2.3", nil, netip.AddrPort{}},
		{"10.1.2.3", []dnssrv.Forward{all}, site},
		{"10.1.2.3", []dnssrv.Forward{all, ten}, corp},
		{"10.11.2.3", []dnssrv.Forward{ten}, netip.AddrPort{}},
		{"::ffff:10.1.2.3", []dnssrv.Forward{ten}, corp},
		{"100.64.0.1", []dnssrv.Forward{all}, site},
		{"fd00::1", []dnssrv.Forward{all}, site},
		{"fd00::1", []dnssrv.Forward{all, six}, corp},
		{"fe80::1", []dnssrv.Forward{all}, site},
		// The resolver of all names may be outside of the site, and is told no public address.
		{"203.0.113.7", []dnssrv.Forward{all}, netip.AddrPort{}},
		{"203.0.113.7", []dnssrv.Forward{all, public}, corp},
		{"2a00::1", []dnssrv.Forward{all}, netip.AddrPort{}},
		{"127.0.0.1", []dnssrv.Forward{all}, netip.AddrPort{}},
		{"::1", []dnssrv.Forward{all}, netip.AddrPort{}},
		{"0.0.0.0", []dnssrv.Forward{all}, netip.AddrPort{}},
	} {
		got := Reverse(c.forward, addr(c.addr), func(a netip.Addr) bool { return a == bastion.Addr() })
		if len(got) > 1 || len(got) == 0 && c.want.IsValid() || len(got) == 1 && got[0] != c.want {
			t.Errorf("%s: %v, want %v", c.addr, got, c.want)
		}
	}
	if got := Reverse([]dnssrv.Forward{all}, netip.Addr{}, func(netip.Addr) bool { return false }); got != nil {
		t.Errorf("of no address: %v", got)
	}
}

// resolver answers questions for PTR with names; "" is dropped.
func resolver(t *testing.T, names map[string]string) (at netip.AddrPort, asked func() int) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			q, ok := dnsquery.Parse(buf[:size])
			if !ok || q.Type != dnsquery.PTR {
				t.Errorf("asked %x", buf[:size])
				continue
			}
			mu.Lock()
			n++
			mu.Unlock()
			name, known := names[strings.TrimSuffix(q.Name, ".")]
			reply, err := q.Reply(dnsquery.Success, nil, 1)
			if err != nil {
				t.Error(err)
			}
			if known { // a record, RFC 1035 section 4.1.3
				binary.BigEndian.PutUint16(reply[6:], 1)
				reply = append(reply, 0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 60)
				var data []byte
				for label := range strings.SplitSeq(name, ".") {
					data = append(append(data, byte(len(label))), label...)
				}
				reply = binary.BigEndian.AppendUint16(reply, uint16(len(data)+1))
				reply = append(append(reply, data...), 0)
			}
			conn.WriteTo(reply, from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return netip.MustParseAddrPort(conn.LocalAddr().String()), func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// TestNames: names come from the bastions' records or a resolver, are asked for once, and never waited for.
func TestNames(t *testing.T) {
	at, asked := resolver(t, map[string]string{
		"2.0.0.10.in-addr.arpa": "Worker-2.Example", "3.0.0.10.in-addr.arpa": "<b>.example",
	})
	now := begin
	var mu sync.Mutex
	n := NewNames(NamesConfig{
		Own: func(addrs map[netip.Addr]bool) map[netip.Addr]string {
			own := map[netip.Addr]string{}
			if addrs[addr("10.0.0.1")] {
				own[addr("10.0.0.1")] = "n1.casemate.internal"
			}
			return own
		},
		Resolvers: func(a netip.Addr) []netip.AddrPort {
			if a == addr("10.0.0.5") {
				return nil
			}
			return []netip.AddrPort{at}
		},
		Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	list := []Client{{Client: "10.0.0.1"}, {Client: "10.0.0.2"}, {Client: "10.0.0.3"}, {Client: "10.0.0.4"},
		{Client: "10.0.0.5"}, {Client: "2001:db8::/64"}, {Client: "fd00::/64", Address: "fd00::9"}}
	want := []string{"n1.casemate.internal", "worker-2.example", "", "", "", "", ""}
	known := func(a string) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		_, ok := n.known[addr(a)]
		return ok
	}
	for _, c := range list {
		if got := n.Of(c); got != "" {
			t.Errorf("%s is known at once: %s", c.Client, got)
		}
	}
	waittest.Until(t, "all are looked up", func() bool {
		for _, a := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "fd00::9"} {
			if !known(a) {
				return false
			}
		}
		return true
	})
	for i, c := range list {
		if got := n.Of(c); got != want[i] {
			t.Errorf("%s: %q, want %q", c.Client, got, want[i])
		}
	}
	if got := asked(); got != 4 {
		t.Errorf("the resolver was asked %d times, want 4", got)
	}
	if n.Changed() != 2 {
		t.Errorf("%d names have changed", n.Changed())
	}
	mu.Lock()
	now = now.Add(noneFor + time.Second)
	mu.Unlock()
	n.Of(list[1])
	n.Of(list[3])
	waittest.Until(t, "what had no name is asked for again", func() bool { return asked() == 5 })
	for i := range maxNames + 100 {
		n.learn(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), "x")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) > maxNames {
		t.Errorf("%d names are remembered", len(n.known))
	}
}
