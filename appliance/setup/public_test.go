package setup

import (
	"net/netip"
	"strings"
	"testing"

	"casemate/appliance/settings"
	"casemate/pki"
)

// Init with a public IPv6 address says what a site needs, as commands that can be run, unless it was given already.
func TestPublicNotes(t *testing.T) {
	allow := "casemate config set dns.allow "
	rotate := "casemate ca rotate --permit "
	for _, tt := range []struct {
		what, addrs, permit, allow string
		want                       []string // parts of the notes, one each
	}{
		{"private addresses", "10.0.0.11 fd00::11", "", "", nil},
		{"a public IPv4 address", "198.51.100.11", "", "", nil},
		{"a public address", "10.0.0.11 2001:db8:1:2::11", "", "",
			[]string{allow + "private,connected,2001:db8:1::/48", rotate + "2001:db8:1::/48"}},
		{"two of a site", "2001:db8:1:2::11 2001:db8:1:3::11", "", "",
			[]string{allow + "private,connected,2001:db8:1::/48", rotate + "2001:db8:1::/48"}},
		{"two sites", "2001:db8:1::11 2001:db8:2::11", "", "",
			[]string{allow, rotate + "2001:db8:1::/48", allow, rotate + "2001:db8:2::/48"}},
		{"permitted", "2001:db8:1::11", "2001:db8::/32", "", []string{allow + "private,connected,2001:db8:1::/48"}},
		{"allowed", "2001:db8:1::11", "", "private 2001:db8::/32", []string{rotate + "2001:db8:1::/48"}},
		{"others are allowed", "2001:db8:1::11", "2001:db8:1::/48", "private, 2001:db8:9::/48",
			[]string{allow + "private,2001:db8:9::/48,2001:db8:1::/48"}},
		{"both", "2001:db8:1::11", "2001:db8:1::/48", "2001:db8:1::/48", nil},
	} {
		var addrs []netip.Addr
		for _, a := range strings.Fields(tt.addrs) {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		values := map[string]string{}
		if tt.allow != "" {
			values["dns.allow"] = tt.allow
		}
		set, err := settings.Parse(values)
		if err != nil {
			t.Fatal(err)
		}
		spec := pki.Spec{Domain: set.Domain, Addrs: addrs, Permit: strings.Fields(tt.permit)}
		notes := publicNotes(addrs, set, spec, tt.allow)
		ok := len(notes) == len(tt.want)
		for i := range min(len(notes), len(tt.want)) {
			ok = ok && strings.Contains(notes[i], tt.want[i])
		}
		if !ok {
			t.Errorf("%s: got %q, want %q", tt.what, notes, tt.want)
		}
		for _, n := range notes { // the value that is printed can be set
			if _, value, found := strings.Cut(n, allow); found {
				if _, err := settings.Parse(map[string]string{"dns.allow": value}); err != nil {
					t.Errorf("%s: %v", tt.what, err)
				}
			}
		}
	}
}
