package missing

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPages: pages of any length together are the list that solve returns, whatever is filtered.
func TestPages(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b := open(t, Config{})
	for i := range 60 {
		kind := Kinds[i%3*2] // image, file, tls
		name := fmt.Sprintf("quay.io/a/b%d:1", i)
		switch kind {
		case File:
			name = fmt.Sprintf("https://dl.k8s.io/x%d", i)
		case TLS:
			name = fmt.Sprintf("x%d.example.com", i)
		}
		if i%5 == 0 && kind == TLS {
			name = fmt.Sprintf("x%d", i) // noise: a single label
		}
		client := netip.AddrFrom4([4]byte{10, 0, byte(i % 2), byte(i % 7)})
		b.note(Question{Kind: kind, Name: name, Client: client, User: []string{"", "ada"}[i%2]},
			now.Add(time.Duration(i/4)*time.Second)) // several in each moment
	}
	all, err := b.All()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	known := Known{
		Answered: func(e Entry) (string, bool) { asked++; return "base", strings.Contains(e.Name, "1") },
		Reach:    func(string) string { return "" }, Package: func(string) *Package { return nil }, Now: now,
	}
	want := solve(all, known)
	if !want[len(want)-1].Solved && want[len(want)-1].Noise == "" || len(want) != 60 {
		t.Fatal("the list has no noise at its end")
	}
	for _, by := range []Filter{
		{}, {Kind: File}, {Client: netip.MustParsePrefix("10.0.1.0/24")}, {User: "ada"}, {Text: "X2"},
		{Text: "nothing"},
	} {
		var lines []string
		for _, l := range want {
			if by.Match(l.Entry) {
				lines = append(lines, fmt.Sprint(l.Kind, l.Name, l.SolvedBy, l.Cure, l.Noise))
			}
		}
		for _, size := range []int{1, 7, 1000} {
			var got []string
			after := ""
			for page := 0; page < 100; page++ {
				found, err := Pages(all, by, known, after)
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for l, at := range found {
					got = append(got, fmt.Sprint(l.Kind, l.Name, l.SolvedBy, l.Cure, l.Noise))
					after = at
					if n++; n == size {
						break
					}
				}
				if n < size {
					break
				}
			}
			if !slices.Equal(got, lines) {
				t.Errorf("%+v by %d: got\n%q\nwant\n%q", by, size, got, lines)
			}
		}
	}
	asked = 0
	found, err := Pages(all, Filter{}, known, "")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range found {
		if n++; n == 3 {
			break
		}
	}
	if asked > 10 {
		t.Errorf("%d entries were looked up for 3", asked)
	}
	for _, bad := range []string{"x", "0 x image a", "9 1 image a", "-1 1 image a", "0 1 image"} {
		if _, err := Pages(all, Filter{}, known, bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzPosition: whatever is sent as a cursor, nothing panics, and what is accepted leads to a part of the list.
func FuzzPosition(f *testing.F) {
	f.Add("0 1767323045000000000 image quay.io/a/b:1")
	f.Add("2 -1 dns  x")
	f.Fuzz(func(t *testing.T, after string) {
		p, err := parsePosition(after)
		if err != nil {
			return
		}
		if again, err := parsePosition(p.String()); err != nil || again != p {
			t.Errorf("%q is read as %+v, and then as %+v: %v", after, p, again, err)
		}
		list := []Entry{{Kind: Image, Name: "b", Last: time.Unix(2, 0)},
			{Kind: Image, Name: "a", Last: time.Unix(1, 0)}, {Kind: DNS, Name: "n", Noise: SingleLabel}}
		if i := entriesAfter(list, p); i < 0 || i > len(list) {
			t.Errorf("%q leads to entry %d", after, i)
		}
	})
}
