package download

import "testing"

func TestContentRange(t *testing.T) {
	for _, tt := range []struct {
		header           string
		from, end, whole int64
		ok               bool
	}{
		{"bytes 0-9/10", 0, 10, 10, true}, {"bytes 5-9/*", 5, 10, -1, true}, {" bytes 5-5/6", 5, 6, 6, true},
		{"bytes 5-7/10", 5, 8, 10, true},
		{"", 0, 0, 0, false}, {"bytes 5-9", 0, 0, 0, false}, {"bytes 9-5/10", 0, 0, 0, false},
		{"bytes 0-10/10", 0, 0, 0, false}, {"bytes */10", 0, 0, 0, false},
		{"items 0-9/10", 0, 0, 0, false}, {"bytes -1-9/10", 0, 0, 0, false},
		{"bytes 0-9/99999999999999999999", 0, 0, 0, false}, {"bytes 0-9223372036854775807/*", 0, 0, 0, false},
	} {
		from, end, whole, ok := contentRange(tt.header)
		if from != tt.from || end != tt.end || whole != tt.whole || ok != tt.ok {
			t.Errorf("%q: got %d %d %d %v", tt.header, from, end, whole, ok)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Fuzz(func(t *testing.T, h string) {
		from, end, whole, ok := contentRange(h)
		if ok && (from < 0 || end <= from || whole >= 0 && end > whole) {
			t.Errorf("%q: got %d to %d of %d", h, from, end, whole)
		}
	})
}
