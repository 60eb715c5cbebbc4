package byterange

import (
	"net/http"
	"strings"
	"testing"
)

// TestRangesAreBounded: what http.ServeContent is asked for is at most 32 parts, none of which has another's bytes.
func TestRangesAreBounded(t *testing.T) {
	const size = 1000
	for _, c := range []struct{ asked, seen string }{
		{"", ""},
		{"bytes=0-4", "bytes=0-4"},
		{"bytes=10-,5-6", "bytes=10-,5-6"},
		{"bytes=0-0,0-0,0-0", "bytes=0-0"},
		{"bytes=0-4,5-9", "bytes=0-9"},
		{"bytes=5-9,0-4,20-30,25-", "bytes=0-9,20-999"},
		{"bytes=-10,990-", "bytes=990-999"},
		{"bytes=-5000,1-2", "bytes=0-999"},
		{"bytes=0-1, 1-99999999999999999 ,,", "bytes=0-999"},
		{"bytes=5000-6000,0-1,0-1", "bytes=0-1"},
		{"bytes=1000-", "bytes=1000-"},                                           // to be refused
		{"bytes=x", "bytes=x"},                                                   // likewise
		{"bytes=0-1,1-0", "bytes=0-1,1-0"},                                       // likewise
		{"bytes=0-1,0-99999999999999999999", "bytes=0-1,0-99999999999999999999"}, // likewise
		{"bytes=" + strings.Repeat("0-0,", 31) + "0-0", "bytes=0-0"},
		{"bytes=" + strings.Repeat("0-0,", 32) + "0-0", ""},
		{"bytes=" + strings.Repeat(",", 29998), ""},
		{"bytes=" + strings.Repeat("0-,", 29998), ""},
		{"lines=1-2", ""},
	} {
		r := &http.Request{Header: http.Header{"Range": {c.asked}}}
		if got := Bound(r, size).Header.Get("Range"); got != c.seen {
			t.Errorf("%.60q: %.60q, want %q", c.asked, got, c.seen)
		}
		if r.Header.Get("Range") != c.asked {
			t.Errorf("%.60q: the request itself was changed", c.asked)
		}
	}
}
