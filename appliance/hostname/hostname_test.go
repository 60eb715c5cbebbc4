package hostname

import (
	"strings"
	"testing"
)

func TestForms(t *testing.T) {
	long := strings.Repeat("a", 63)
	for s, want := range map[string][2]bool{ // a label, a host
		"n1": {true, false}, "a-b": {true, false}, long: {true, false}, long + "a": {false, false}, "": {false, false},
		"-a": {false, false}, "a-": {false, false}, "A": {false, false}, "a_b": {false, false}, "ä": {false, false},
		"a.b": {false, true}, "a..b": {false, false}, ".a": {false, false}, "a.": {false, false}, "A.b": {false, false},
		"10.0.0.1": {false, false}, "1.2.3": {false, true}, "::1": {false, false}, long + "." + long: {false, true},
		strings.Repeat("a.", 126) + "a": {false, true}, strings.Repeat("a.", 127) + "a": {false, false},
	} {
		if got := [2]bool{IsLabel(s), IsHost(s)}; got != want {
			t.Errorf("%q: a label and a host: %v, want %v", s, got, want)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a.example", "a.example", true}, {"x.a.example", "a.example", true}, {"xa.example", "a.example", false},
		{"example", "a.example", true}, {"b.example", "a.example", false}, {".a.example", "a.example", true},
	} {
		if Overlap(c.a, c.b) != c.want || Overlap(c.b, c.a) != c.want {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.want)
		}
	}
}
