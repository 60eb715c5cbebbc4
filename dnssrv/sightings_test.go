package dnssrv

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
)

func wire(t testing.TB, name string) []byte {
	t.Helper()
	b := make([]byte, 256)
	n, err := dns.PackDomainName(name, b, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func genuine(netip.Addr) bool { return false }

// TestSightings: questions are counted by client, name and verdict, and each report has what came since the last.
func TestSightings(t *testing.T) {
	var got []string
	s := newSightings(func(list []Sighting) {
		for _, x := range list {
			got = append(got, fmt.Sprint(x.Client, " ", x.Name, " ", x.Verdict, " ", x.Count))
		}
	})
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1:2:3:4")
	for range 3 {
		s.see(one, wire(t, "a.example."), Answered, genuine)
	}
	s.see(netip.MustParseAddr("::ffff:10.0.0.1"), wire(t, "a.example."), Answered, genuine)
	s.see(one, wire(t, "A.Example."), Refused, genuine)
	s.see(two, wire(t, "a.example."), Answered, genuine)
	s.see(netip.MustParseAddr("fd00::9"), wire(t, "a.example."), Answered, genuine)
	s.see(two, wire(t, "forged.example."), Answered, func(netip.Addr) bool { return true })
	want := []string{"10.0.0.1 a.example 0 4", "10.0.0.1 a.example 2 1", "fd00:: a.example 0 2"}
	for range 3 { // the tables alternate
		got = nil
		s.flush()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		s.see(one, wire(t, "b.example."), Forwarded, genuine)
		want = []string{"10.0.0.1 b.example 1 1"}
	}
	s.flush()
	got = nil
	s.flush()
	if got != nil {
		t.Errorf("nothing came, got %q", got)
	}
}

// TestSightingsAreBounded: a client with many names leaves places for others.
func TestSightingsAreBounded(t *testing.T) {
	n, names := 0, map[string]bool{}
	s := newSightings(func(list []Sighting) {
		n = len(list)
		for _, x := range list {
			names[x.Name] = true
		}
	})
	for i := range 20000 {
		s.see(netip.MustParseAddr("10.6.6.6"), wire(t, fmt.Sprintf("n%d.example.", i)), Refused, genuine)
	}
	s.see(netip.MustParseAddr("10.0.0.1"), wire(t, "honest.example."), Answered, genuine)
	s.flush()
	if n > sightedShare+1 || !names["honest.example"] || s.lost.Load() == 0 {
		t.Errorf("%d sightings, honest %v, %d lost", n, names["honest.example"], s.lost.Load())
	}
}

// BenchmarkSee is what counting costs a question that was counted before.
func BenchmarkSee(b *testing.B) {
	s := newSightings(func([]Sighting) {})
	client, key := netip.MustParseAddr("10.0.0.1"), wire(b, "registry.k8s.io.")
	b.ReportAllocs()
	for b.Loop() {
		s.see(client, key, Answered, genuine)
	}
}
