package dnssrv

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"casemate/dnssrv/dnstest"
)

// hotPackets are what nodes ask all day.
func hotPackets(t testing.TB) map[string][]byte {
	edns := question("registry.k8s.io", dns.TypeA)
	edns.SetEdns0(1232, true)
	edns.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	return map[string][]byte{
		"A":      packet(t, question("registry.k8s.io", dns.TypeA)),
		"AAAA":   packet(t, question("registry.k8s.io", dns.TypeAAAA)),
		"NODATA": packet(t, question("registry.k8s.io", dns.TypeHTTPS)),
		"EDNS":   packet(t, edns),
		"Record": packet(t, question("git.bank.example", dns.TypeA)),
		"Denied": packet(t, question("kubernetes.default.svc.cluster.local", dns.TypeA)),
		"Node":   packet(t, question("n1.casemate.internal", dns.TypeA)),
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	s, tab := New(Config{Seen: func([]Sighting) {}}), table(t, fuzzSpec())
	out := make([]byte, maxUDP)
	client := netip.MustParseAddr("10.0.0.50")
	for name, in := range hotPackets(t) {
		before := s.Stats().Fast
		if n := testing.AllocsPerRun(100, func() { s.handle(tab, out, in, client, true) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if s.Stats().Fast == before {
			t.Errorf("%s: not answered from packed bytes", name)
		}
	}
}

func BenchmarkPacket(b *testing.B) {
	s, tab := New(Config{Seen: func([]Sighting) {}}), table(b, fuzzSpec())
	out := make([]byte, maxUDP)
	client := netip.MustParseAddr("10.0.0.50")
	packets := hotPackets(b)
	packets["slow NXDOMAIN"] = packet(b, question("foo.docker.io", dns.TypeA))
	packets["slow CNAME"] = packet(b, question("www.bank.example", dns.TypeA))
	for name, in := range packets {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.handle(tab, out, in, client, true)
			}
		})
	}
}

// BenchmarkTable measures a change of health, with a thousand origins and records.
func BenchmarkTable(b *testing.B) {
	spec := threeNodes()
	for i := range 1000 {
		n := string([]byte{'a' + byte(i%26), 'a' + byte(i/26%26), 'a' + byte(i/676)})
		spec.Origins = append(spec.Origins, n+".example.io")
		spec.Records = append(spec.Records, Record{Name: n + ".bank.example", Type: "A", Values: []string{"192.0.2.1"}})
	}
	b.ReportAllocs()
	for b.Loop() {
		table(b, spec)
	}
}

// BenchmarkLoad asks over loopback sockets, 256 questions under way, client and server in one process.
func BenchmarkLoad(b *testing.B) {
	for name, in := range map[string][]byte{
		"A":        packet(b, question("registry.k8s.io", dns.TypeA)),
		"NXDOMAIN": packet(b, question("kubernetes.default.svc.cluster.local", dns.TypeA)),
	} {
		b.Run(name, func(b *testing.B) {
			spec := fuzzSpec()
			spec.Allow = threeNodes().Allow
			s := New(Config{})
			s.SetTable(table(b, spec))
			conns, err := dnstest.ListenUDP("127.0.0.1:0", 2)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			for _, c := range conns {
				wg.Go(func() { s.ServeUDP(ctx, c) })
			}
			const clients, window = 8, 32
			var load sync.WaitGroup
			b.ResetTimer()
			for range clients {
				load.Go(func() {
					c, err := net.Dial("udp", conns[0].LocalAddr().String())
					if err != nil {
						b.Error(err)
						return
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(time.Minute))
					buf := make([]byte, maxUDP)
					want := b.N/clients + 1
					for sent, got := 0, 0; got < want; {
						for ; sent < want && sent-got < window; sent++ {
							c.Write(in)
						}
						if _, err := c.Read(buf); err != nil {
							b.Error(err)
							return
						}
						got++
					}
				})
			}
			load.Wait()
			b.StopTimer()
			cancel()
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
		})
	}
}
