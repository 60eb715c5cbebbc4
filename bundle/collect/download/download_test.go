package download

import "testing"

func TestContentRange(t *testing.T) {
	for _, tt := range []struct {
		header      string
		from, whole int64
		ok          bool
	}{
		{"bytes 0-9/10", 0, 10, true}, {"bytes 5-9/*", 5, -1, true}, {" bytes 5-5/6", 5, 6, true},
		{"", 0, 0, false}, {"bytes 5-9", 0, 0, false}, {"bytes 9-5/10", 0, 0, false}, {"bytes 0-10/10", 0, 0, false},
		{"bytes */10", 0, 0, false},
		{"items 0-9/10", 0, 0, false}, {"bytes -1-9/10", 0, 0, false}, {"bytes 0-9/99999999999999999999", 0, 0, false},
	} {
		if from, whole, ok := contentRange(tt.header); from != tt.from || whole != tt.whole || ok != tt.ok {
			t.Errorf("%q: got %d %d %v", tt.header, from, whole, ok)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Fuzz(func(t *testing.T, h string) {
		if from, whole, ok := contentRange(h); ok && (from < 0 || whole >= 0 && from >= whole) {
			t.Errorf("%q: got %d of %d", h, from, whole)
		}
	})
}
