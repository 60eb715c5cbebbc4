package peer

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"casemate/cluster/blob/blobtest"
)

func TestAlternate(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"10.0.0.1:1", "10.0.0.1:1"},
		{"10.0.0.1:1 10.0.0.2:1 [fd00::1]:1 [fd00::2]:1", "10.0.0.1:1 [fd00::1]:1 10.0.0.2:1 [fd00::2]:1"},
		{"[fd00::1]:1 [fd00::2]:1 10.0.0.1:1", "[fd00::1]:1 10.0.0.1:1 [fd00::2]:1"},
		{"[::ffff:10.0.0.1]:1 10.0.0.2:1 [fd00::1]:1", "[::ffff:10.0.0.1]:1 [fd00::1]:1 10.0.0.2:1"},
		{"n1:1 10.0.0.1:1 n2:1 [fd00::1]:1", "n1:1 10.0.0.1:1 [fd00::1]:1 n2:1"},
	} {
		if got := strings.Join(alternate(strings.Fields(tt.in)), " "); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.in, got, tt.want)
		}
	}
}

// An address that says nothing costs the stagger, one that refuses costs nothing; each attempt begins in its turn, and
// none outlives the first that succeeds.
func TestFirst(t *testing.T) {
	for _, tt := range []struct {
		addrs, want string // an address begins with what it does: answers, refuses, or silent
		after       time.Duration
		tried       int
	}{
		{"answers1 answers2", "answers1", 0, 1},
		{"silent1 answers2 answers3", "answers2", dialStagger, 2},
		{"refuses1 answers2", "answers2", 0, 2},
		{"silent1 silent2 answers3", "answers3", 2 * dialStagger, 3},
		{"silent1 refuses2 answers3", "answers3", dialStagger, 3},
		{"refuses1 refuses2", "!refuses1", 0, 2},
		{"silent1 refuses2", "!silent1", handshakeTime, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), handshakeTime)
			defer cancel()
			var tried atomic.Int32
			began := time.Now()
			conn, at, err := first(ctx, strings.Fields(tt.addrs), func(ctx context.Context, addr string) (net.Conn,
				error) {
				tried.Add(1)
				switch {
				case strings.HasPrefix(addr, "answers"):
					c, _ := net.Pipe()
					return c, nil
				case strings.HasPrefix(addr, "silent"):
					<-ctx.Done()
				}
				return nil, errors.New(addr)
			})
			if err != nil {
				at = "!" + err.Error()
			}
			if at != tt.want || (conn == nil) != (err != nil) || time.Since(began) != tt.after ||
				int(tried.Load()) != tt.tried {
				t.Errorf("%s: %s after %s and %d attempts, want %s after %s and %d", tt.addrs, at, time.Since(began),
					tried.Load(), tt.want, tt.after, tt.tried)
			}
		})
	}
}

// The address that worked last comes first, and the others follow with families in turns.
func TestWorkedLastComesFirst(t *testing.T) {
	p := &Port{cfg: Config{Node: "n1", Members: fake{records: records{
		"n2": {"10.0.0.2:1", "10.0.1.2:1", "[fd00::2]:1"},
	}}}}
	p.addresses.open(Config{FS: blobtest.New(1), Log: quiet(), AddressFile: "/addresses"})
	p.addresses.asked["n2"] = time.Now() // its name is not looked up now
	for _, tt := range []struct{ worked, want string }{
		{"", "10.0.0.2:1 [fd00::2]:1 10.0.1.2:1"},
		{"[fd00::2]:1", "[fd00::2]:1 10.0.0.2:1 10.0.1.2:1"},
		{"10.0.1.2:1", "10.0.1.2:1 [fd00::2]:1 10.0.0.2:1"},
		{"10.9.9.9:1", "10.0.0.2:1 [fd00::2]:1 10.0.1.2:1"}, // nobody says that it is there any more
	} {
		p.answered("n2", tt.worked)
		if got := p.addressesOf("n2"); !slices.Equal(got, strings.Fields(tt.want)) {
			t.Errorf("after %s: %v, want %s", tt.worked, got, tt.want)
		}
	}
}

// What nodes report is bounded, and an older version reports and passes on the first address only.
func TestHear(t *testing.T) {
	members := records{"n2": {"10.0.0.2:1"}}
	p := &Port{cfg: Config{Node: "n1", Members: fake{records: members}}, log: quiet()}
	p.addresses.open(Config{FS: blobtest.New(1), Log: quiet(), AddressFile: "/addresses"})
	heard := func() string {
		all, firsts := p.gossip()
		if firsts["n2"] != "" && firsts["n2"] != all["n2"][0] {
			t.Errorf("of %v the first is %s", all["n2"], firsts["n2"])
		}
		return strings.Join(all["n2"], " ")
	}
	p.hear("n2", []string{"10.0.0.2:1"})
	if got := heard(); got != "" {
		t.Errorf("what the record says is passed on: %s", got)
	}
	p.hear("n2", []string{"nonsense", "10.0.0.2:1", "[fd00::2]:1", "[fd00::2]:1"})
	if got := heard(); got != "10.0.0.2:1 [fd00::2]:1" {
		t.Errorf("heard %s", got)
	}
	p.listenTo(nil, map[string]string{"n2": "10.9.9.9:1"})
	if got := heard(); got != "10.0.0.2:1 [fd00::2]:1" {
		t.Errorf("what another node says takes precedence: %s", got)
	}
	delete(p.addresses.heard, "n2")
	p.listenTo(map[string][]string{"n2": {"10.0.0.3:1", "[fd00::3]:1"}}, map[string]string{"n2": "10.0.0.3:1"})
	if got := heard(); got != "10.0.0.3:1 [fd00::3]:1" {
		t.Errorf("heard of %s", got)
	}
	members["n2"] = []string{"10.0.0.3:1", "[fd00::3]:1"}
	if got := heard(); got != "" || len(p.addresses.heard) != 0 {
		t.Errorf("the record has them: %s", got)
	}
	p.hear("n2", slices.Repeat([]string{"10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"}, 100))
	var many []string
	for i := range 100 {
		many = append(many, net.JoinHostPort("10.0.0.2", "1"+string(rune('0'+i%10))+string(rune('0'+i/10))))
	}
	p.hear("n2", many)
	if n := len(p.addresses.heard["n2"]); n != MaxAddrs {
		t.Errorf("%d addresses are kept", n)
	}
	p.hear("n9", []string{"10.0.0.9:1"})
	p.hear("n1", []string{"10.0.0.9:1"})
	if len(p.addresses.heard) != 1 {
		t.Errorf("heard of %v", p.addresses.heard)
	}
}
