package peer

import (
	"fmt"
	"testing"
	"time"
)

// Processor time that outsiders cost is bounded for each address and for all, and members are apart from it.
func TestOutsidersPayForTheirTime(t *testing.T) {
	now := time.Unix(1e9, 0)
	tl := toll{now: func() time.Time { return now }}
	count := func(from string, member bool) (n int) {
		for n < 100_000 && tl.admit(from, member) {
			n++
		}
		return n
	}
	each := int(tollBurst / tollFloor)
	if n := count("a", false); n != each {
		t.Errorf("one address: %d connections at once, want %d", n, each)
	}
	now = now.Add(time.Second)
	if n := count("a", false); n != each/int(tollBurst/time.Second*tollEach+10) {
		t.Errorf("a second later %d more, want %d", n, each/10)
	}
	if !tl.admit("b", false) {
		t.Error("another address is refused")
	}
	tl.charge("b", tollBurst, false) // one that took as long as a request with a giant key
	if tl.admit("b", false) {
		t.Error("what was dear does not count")
	}
	for i := range 10 {
		count(fmt.Sprint("few ", i), false)
	}
	if !tl.admit("honest", false) {
		t.Error("an address that has cost nothing is refused for what ten others have cost")
	}
	all := 0
	for i := range 1000 {
		all += count(fmt.Sprint("crowd ", i), false)
	}
	if most := 2 * int(tollAllOnce/tollFloor); all >= most {
		t.Errorf("a thousand addresses: %d connections at once, the most is %d", all, most)
	}
	if tl.admit("c", false) {
		t.Error("there is no bound for all")
	}
	if n := count("member", true); n != 8*each {
		t.Errorf("a member has %d connections at once, want %d", n, 8*each)
	}
	now = now.Add(time.Minute)
	if !tl.admit("a", false) || !tl.admit("c", false) || !tl.admit("member", true) {
		t.Error("time does not pay")
	}
	// What turns out to be a member's handshake costs nothing.
	for range 100 * each {
		if !tl.admit("new member", false) {
			t.Fatal("handshakes of a member are refused")
		}
		tl.charge("new member", -tollFloor, false)
	}
	// Addresses are not remembered without end.
	for i := range 3 * maxTolled {
		tl.admit(fmt.Sprint("many ", i), false)
		if i%100 == 0 {
			now = now.Add(time.Second)
		}
	}
	if tl.by.Len() > maxTolled {
		t.Errorf("%d addresses are remembered", tl.by.Len())
	}
}
