package dnssrv

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// Who gets a place, and whose it is. The steps are: "a" opens a connection of client a, "a*" opens one that is busy
// from then on, "a." answers a question of a's oldest one. Clients in capitals share an IPv6 network, others are IPv4.
// What is wanted is "+" (a place was free), "-" (none), or the client whose connection was closed, with its number.
func TestPlaces(t *testing.T) {
	for _, tt := range []struct {
		name, steps, want string
	}{
		{"room", "a a b c", "+ + + +"},
		{"a newcomer replaces the oldest of the client with most", "a a a b b c d", "+ + + + + + a1"},
		{"of two that have as many, the oldest", "a b b a c c d", "+ + + + + + a1"},
		{"a recently used one stays", "a a a b b c a. d", "+ + + + + + a2"},
		{"all have one", "a b c d e f g", "+ + + + + + a1"},
		{"all have one, a was of use", "a b c d e f a. g", "+ + + + + + b1"},
		{"idle ones go first", "a* a* a* b b c d", "+ + + + + + b1"},
		{"all are busy: the client with most", "a* a* a* b* b* c* d", "+ + + + + + a1"},
		{"all are busy with one each: no client has too many", "a* b* c* d* e* f* g", "+ + + + + + -"},
		{"a client with as many as all others replaces its own", "a a b b c c a", "+ + + + + + a1"},
		{"a busy client does not displace idle ones of a client with fewer", "a* a* a* b c d a", "+ + + + + + -"},
		{"a client's own bound", "a a a a a", "+ + + + a1"},
		{"a client's own bound, all busy", "a* a* a* a* a", "+ + + + -"},
		{"an IPv6 network's bound", "A B C D E F", "+ + + + A1 B1"},
		{"an IPv6 network's bound does not concern others", "A B C D b c d", "+ + + + + + A1"},
		{"in an IPv6 network, the client with most", "A B B C D", "+ + + + B1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newConns()
			c.max, c.perClient, c.perNetwork = 6, 4, 4
			var got []string
			var closed string
			places := make(map[string][]*slot)
			for _, step := range strings.Fields(tt.steps) {
				who, busy := strings.CutSuffix(step, "*")
				who, used := strings.CutSuffix(who, ".")
				if used {
					c.served(places[who][0])
					continue
				}
				client := netip.AddrFrom4([4]byte{10, 0, 0, who[0]})
				if who < "a" {
					client = netip.MustParseAddr(fmt.Sprintf("fd00::%x", who[0]))
				}
				id, result := fmt.Sprint(who, len(places[who])+1), "+"
				p, evicted := c.acquire(client, func() { closed = id })
				switch {
				case p == nil:
					result = "-"
				case evicted:
					result = closed
				}
				got = append(got, result)
				if p == nil {
					continue
				}
				if busy {
					p.busy.Add(1)
				}
				places[who] = append(places[who], p)
			}
			if len(c.open) > c.max {
				t.Errorf("%d places are taken", len(c.open))
			}
			if !slices.Equal(got, strings.Fields(tt.want)) {
				t.Errorf("want %s, got %s", tt.want, strings.Join(got, " "))
			}
		})
	}
}
