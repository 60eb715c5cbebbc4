package member

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"casemate/cluster/peer"
)

// Records and requests of older versions have one address.
func TestRecordAddresses(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`{"addr": "10.0.0.1:7443"}`, "10.0.0.1:7443"},
		{`{"addr": "10.0.0.1:7443", "addrs": ["10.0.0.1:7443", "[fd00::1]:7443"]}`, "10.0.0.1:7443 [fd00::1]:7443"},
		{`{}`, ""},
	} {
		var r Record
		if err := json.Unmarshal([]byte(tt.text), &r); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.Addresses(), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.text, got, tt.want)
		}
	}
}

func TestJoinRequestAddresses(t *testing.T) {
	const none = "the certificate request" // what is checked next
	for _, tt := range []struct {
		addr    string
		addrs   []string
		clients int // addresses for clients
		want    string
	}{
		{"10.0.0.1:7443", nil, 0, none},
		{"10.0.0.1:7443", []string{"10.0.0.1:7443", "[fd00::1]:7443"}, 2, none},
		{"", nil, 0, "must be host:port"},
		{"10.0.0.1:7443", []string{"10.0.0.1:7443", "fd00::1"}, 0, "must be host:port"},
		{"10.0.0.1", []string{"10.0.0.1:7443"}, 0, "must be host:port"},
		{"10.0.0.1:0", nil, 0, "must be host:port"},
		{"10.0.0.1:7443", slices.Repeat([]string{"10.0.0.1:7443"}, peer.MaxAddrs+1), 0, "at most 16 addresses"},
		{"10.0.0.1:7443", nil, maxClientAt + 1, "and 64 for clients"},
	} {
		req := joinRequest{Node: "n2", Addr: tt.addr, Addrs: tt.addrs, Advertise: make([]string, tt.clients)}
		_, err := req.check()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %v: %v, want %s", tt.addr, tt.addrs, err, tt.want)
		}
		if tt.want == none && !slices.Contains(req.Addrs, tt.addr) {
			t.Errorf("%s %v: the record would have %v", tt.addr, tt.addrs, req.Addrs)
		}
	}
}
