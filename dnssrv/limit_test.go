package dnssrv

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// judged asks s over UDP as client does, at a given time, and returns the answer; nil if none was sent.
func judged(t testing.TB, s *Server, client string, m *dns.Msg, now ticks) *dns.Msg {
	t.Helper()
	tab, in, buf := s.table.Load(), packet(t, m), make([]byte, maxUDP)
	a := netip.MustParseAddr(client)
	resp, j := s.handle(tab, buf, in, a, true)
	resp, j = s.limited(tab, buf, in, resp, j, a, netip.MustParseAddr("10.0.0.11"), now)
	if j != nil {
		return question(m.Question[0].Name, m.Question[0].Qtype) // it would be asked elsewhere
	}
	if resp == nil {
		return nil
	}
	out := new(dns.Msg)
	if resp[2]&bitTC == 0 {
		return out // other tests check its content
	}
	if err := out.Unpack(resp); err != nil {
		t.Fatal(err)
	}
	if out.Truncated && len(resp) > len(in) {
		t.Errorf("want no more than the question's %d bytes, got %d", len(in), len(resp))
	}
	if out.Truncated && (len(out.Answer) > 0 || out.Question[0] != m.Question[0] || out.Id != m.Id) {
		t.Errorf("want the question with TC, got %v", out)
	}
	return out
}

func limitedServer(t testing.TB, rate int, edit ...func(*Spec)) *Server {
	spec := threeNodes()
	spec.Allow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	spec.ResponseRate = rate
	spec.Records = []Record{{Name: "*.apps.bank.example", Type: "A", Values: []string{"10.9.9.9"}}}
	for _, e := range edit {
		e(&spec)
	}
	s := New(Config{})
	s.SetTable(table(t, spec))
	return s
}

const limitSeconds = int(limitBurst / 1e9)

// Each kind of answer has its own allowance, which is used up and refilled.
func TestResponseRate(t *testing.T) {
	const rate = 20
	name := func(text string) func(int) *dns.Msg {
		return func(i int) *dns.Msg {
			if strings.Contains(text, "%") {
				text := fmt.Sprintf(text, i)
				return question(text, dns.TypeA)
			}
			return question(text, dns.TypeA)
		}
	}
	for _, tt := range []struct {
		name string
		ask  func(i int) *dns.Msg
		from func(i int) string
		want int // at once
		drop bool
	}{
		{"the same data", name("registry.k8s.io"), nil, rate, false},
		{"the same data, spelt in many ways", func(i int) *dns.Msg {
			b := []byte("registry.k8s.io")
			for j := range 8 {
				if i>>j&1 != 0 {
					b[j] ^= 0x20
				}
			}
			return question(string(b), dns.TypeA)
		}, nil, rate, false},
		{"no data, of many types", func(i int) *dns.Msg {
			return question("registry.k8s.io", uint16(1000+i))
		}, nil, rate, false},
		{"denied names", name("n%d.example"), nil, variedTimes * rate, false},
		{"denied names, slow path", name("n%d.docker.io"), nil, variedTimes * rate, false},
		{"a wildcard's names", name("n%d.apps.bank.example"), nil, networkTimes * rate, false},
		{"errors", func(i int) *dns.Msg {
			m := question(fmt.Sprintf("n%d.example", i), dns.TypeA)
			m.Question[0].Qclass = dns.ClassCHAOS
			return m
		}, nil, rate, true},
		{"a network", name("registry.k8s.io"), func(i int) string { return fmt.Sprintf("192.0.2.%d", i%256) },
			networkTimes * rate, false},
		{"an IPv6 network", name("registry.k8s.io"), func(i int) string {
			return fmt.Sprintf("2001:db8:0:%x::%x", i%256, i)
		},
			networkTimes * rate, false},
		{"many networks", name("registry.k8s.io"), func(i int) string {
			return fmt.Sprintf("192.%d.%d.1", i%256, i/256)
		},
			1 << 20, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := limitedServer(t, rate)
			from := func(i int) string {
				if tt.from == nil {
					return "192.0.2.1"
				}
				return tt.from(i)
			}
			whole := func(n int, now ticks) (whole int) {
				for i := range n {
					m := judged(t, s, from(i), tt.ask(i), now)
					if m != nil && !m.Truncated {
						whole++
					} else if (m == nil) != tt.drop {
						t.Fatalf("want dropped %v, got %v", tt.drop, m)
					}
				}
				return whole
			}
			all := 3 * networkTimes * rate * limitSeconds
			if got, want := whole(all, 1), min(all, tt.want*limitSeconds); got != want {
				t.Errorf("at once: want %d answers of %d, got %d", want, all, got)
			}
			if got, want := whole(all, 1+ticksPerSecond), min(all, tt.want); got != want {
				t.Errorf("a second later: want %d more, got %d", want, got)
			}
			if st := s.Stats(); tt.want < 1<<20 && (st.Limited == 0) == (st.Withheld == 0) {
				t.Errorf("want what was limited counted, got %+v", st)
			}
		})
	}
}

func TestResponseRateLeavesOthers(t *testing.T) {
	const rate = 20
	s := limitedServer(t, rate)
	q := question("registry.k8s.io", dns.TypeA)
	for range 2 * rate * limitSeconds {
		judged(t, s, "192.0.2.1", q, 1)
	}
	if m := judged(t, s, "192.0.2.1", q, 1); !m.Truncated {
		t.Fatal("want the victim's answers limited")
	}
	for name, m := range map[string]*dns.Msg{
		"a neighbour":        judged(t, s, "192.0.2.2", q, 1),
		"another name":       judged(t, s, "192.0.2.1", question("docker.io", dns.TypeA), 1),
		"another type":       judged(t, s, "192.0.2.1", question("registry.k8s.io", dns.TypeAAAA), 1),
		"NODATA":             judged(t, s, "192.0.2.1", question("registry.k8s.io", dns.TypeHTTPS), 1),
		"this host":          judged(t, s, "10.0.0.11", q, 1),
		"a while afterwards": judged(t, s, "192.0.2.1", q, 2*ticksPerSecond),
	} {
		if m.Truncated {
			t.Errorf("%s: must not be limited", name)
		}
	}
	for range 100 * rate {
		for _, client := range []string{"127.0.0.1", "::1", "10.0.0.11"} {
			if m := judged(t, s, client, q, 1); m.Truncated {
				t.Fatalf("%s: this host itself must not be limited", client)
			}
		}
	}
	none := limitedServer(t, 0)
	for range 100 * rate {
		if m := judged(t, none, "192.0.2.1", q, 1); m.Truncated {
			t.Fatal("want no limit")
		}
	}
}

// Honest clients are not limited at the default rate: a network full of nodes that boot at the same moment, a node
// whose pods search with ndots:5, a site behind one address.
func TestResponseRateLeavesBootStorms(t *testing.T) {
	const rate = 1000 // appliance's default
	search := []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local", "bank.example"}
	hosts := []string{"registry.k8s.io", "docker.io", "dl.k8s.io"}
	for _, tt := range []struct {
		name         string
		nodes, times int // each asks for each host, with all searches, so many times
		from         func(node int) string
		seconds      int
	}{
		{"250 nodes boot at once", 250, 5, func(n int) string { return fmt.Sprintf("192.0.2.%d", 1+n) }, 1},
		{"a busy node's resolver", 1, 200, func(int) string { return "192.0.2.1" }, 7},
		{"200 nodes behind one address boot at once", 200, 10, func(int) string { return "192.0.2.1" }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := limitedServer(t, rate)
			for second := range tt.seconds {
				now := 1 + ticks(second)*ticksPerSecond
				for node := range tt.nodes {
					for range tt.times {
						for _, h := range hosts {
							for _, suffix := range search {
								if m := judged(t, s, tt.from(node), question(h+"."+suffix, dns.TypeA), now); m == nil ||
									m.Truncated {
									t.Fatalf("second %d, node %d: a search is limited: %v", second, node, m)
								}
							}
							for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
								if m := judged(t, s, tt.from(node), question(h, qtype), now); m == nil || m.Truncated {
									t.Fatalf("second %d, node %d: an answer is limited: %v", second, node, m)
								}
							}
						}
					}
				}
			}
		})
	}
}

// A client that was answered over TCP gets ten times as much, also where its network's allowance is used up.
func TestResponseRateKnowsWhoReceives(t *testing.T) {
	const rate = 20
	s := limitedServer(t, rate)
	q := question("registry.k8s.io", dns.TypeA)
	for i := range 2 * networkTimes * rate * limitSeconds {
		judged(t, s, fmt.Sprintf("192.0.2.%d", i%256), q, 1)
	}
	if m := judged(t, s, "192.0.2.1", q, 1); !m.Truncated {
		t.Fatal("want the network limited")
	}
	s.limit.prove(netip.MustParseAddr("192.0.2.1"), 1)
	whole := 0
	for range 2 * provenTimes * rate * limitSeconds {
		if m := judged(t, s, "192.0.2.1", q, 1); !m.Truncated {
			whole++
		}
	}
	if want := provenTimes * rate * limitSeconds; whole != want {
		t.Errorf("want %d answers, got %d", want, whole)
	}
	if m := judged(t, s, "192.0.2.3", q, 1); !m.Truncated {
		t.Error("another address has shown nothing")
	}
	if s.limit.proven(netip.MustParseAddr("192.0.2.1"), 2+ticks(provenFor/100)) {
		t.Error("an old answer over TCP must not count for ever")
	}
}

// The table has a fixed size: a client that asks from many addresses does not displace the busiest ones.
func TestResponseRateTableIsBounded(t *testing.T) {
	l := newLimiter()
	const cost, burst = 1000, 100_000
	busy := l.key(netip.MustParseAddr("192.0.2.1"), 1)
	for l.spend(busy, 1, cost, burst) {
	}
	for i := range 1 << 18 {
		l.spend(mix(uint64(i)), 1, cost, burst)
	}
	if l.spend(busy, 1, cost, burst) {
		t.Error("the busiest address was forgotten")
	}
	// Times wrap after 30 hours: a time long past must not look like the future.
	for _, later := range []ticks{burst + 1, timeMask / 2, timeMask - 1, timeMask + burst + 2, 3*timeMask + burst + 9} {
		l := newLimiter()
		for l.spend(busy, 1, cost, burst) {
		}
		n := 0
		for l.spend(busy, 1+later, cost, burst) {
			n++
		}
		if n != burst/cost {
			t.Errorf("after %d ticks: want all %d again, got %d", later, burst/cost, n)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	s := limitedServer(b, 1000)
	tab, in, out := s.table.Load(), packet(b, question("registry.k8s.io", dns.TypeA)), make([]byte, maxUDP)
	client := netip.MustParseAddr("192.0.2.1")
	resp, _ := s.handle(tab, out, in, client, true)
	b.ReportAllocs()
	now := ticks(1)
	for b.Loop() {
		now += ticksPerSecond / 1000
		if s.limit.judge(resp, client, netip.Addr{}, tab.cost, now) != sendIt {
			b.Fatal("limited")
		}
	}
}
