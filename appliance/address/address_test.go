package address

import (
	"net/netip"
	"strings"
	"testing"
)

// Each form that people type, for each of the four readers; "!" is a part of the error.
func TestForms(t *testing.T) {
	text := func(v interface{ String() string }, err error) string {
		if err != nil {
			return "!" + err.Error()
		}
		return v.String()
	}
	for _, tt := range []struct{ typed, addr, port, prefix, host string }{
		{"10.0.0.11", "10.0.0.11", "10.0.0.11:7443", "10.0.0.11/32", "10.0.0.11:7443"},
		{"10.0.0.11:8443", "!IP address", "10.0.0.11:8443", "!IP address", "10.0.0.11:8443"},
		{"[10.0.0.11]", "10.0.0.11", "10.0.0.11:7443", "10.0.0.11/32", "10.0.0.11:7443"},
		{"fd00::11", "fd00::11", "[fd00::11]:7443", "fd00::11/128", "[fd00::11]:7443"},
		{"[fd00::11]", "fd00::11", "[fd00::11]:7443", "fd00::11/128", "[fd00::11]:7443"},
		{"[fd00::11]:8443", "!IP address", "[fd00::11]:8443", "!IP address", "[fd00::11]:8443"},
		{"FD00:0:0:0::0011", "fd00::11", "[fd00::11]:7443", "fd00::11/128", "[fd00::11]:7443"},
		{"[FD00:0::11]:7443", "!IP address", "[fd00::11]:7443", "!IP address", "[fd00::11]:7443"},
		{"::ffff:10.0.0.11", "10.0.0.11", "10.0.0.11:7443", "10.0.0.11/32", "10.0.0.11:7443"},
		{"[::ffff:10.0.0.11]:8443", "!IP address", "10.0.0.11:8443", "!IP address", "10.0.0.11:8443"},
		{"fd00::11:7443", "fd00::11:7443", "[fd00::11:7443]:7443", "fd00::11:7443/128",
			"!write [fd00::11]:7443 or [fd00::11:7443]"},
		{"[fd00::11:7443]", "fd00::11:7443", "[fd00::11:7443]:7443", "fd00::11:7443/128", "[fd00::11:7443]:7443"},
		{"fd00::7443", "fd00::7443", "[fd00::7443]:7443", "fd00::7443/128", "[fd00::7443]:7443"},
		{"fe80::1%eth0", "!without a zone", "!without a zone", "!without a zone", "!without a zone"},
		{"[fe80::1%eth0]", "!without a zone", "!without a zone", "!without a zone", "!without a zone"},
		{"[fe80::1%eth0]:53", "!IP address", "!without a zone", "!IP address", "!without a zone"},
		{"fe80::1%eth0/64", "!without a zone", "!without a zone", "!without a zone", "!without a zone"},
		{"fe80::1", "fe80::1", "[fe80::1]:7443", "fe80::1/128", "[fe80::1]:7443"},
		{"fd00::/8", "!IP address", "!IP address", "fd00::/8", "!IP address"},
		{"[FD00::]/8", "!IP address", "!IP address", "fd00::/8", "!IP address"},
		{"::ffff:10.0.0.0/104", "!IP address", "!IP address", "10.0.0.0/8", "!IP address"},
		{"::ffff:0:0/90", "!IP address", "!IP address", "!a range", "!IP address"},
		{"10.0.0.0/33", "!IP address", "!IP address", "!a range", "!a host"},
		{"[fd00::11", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"fd00::11]", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"[fd00::11]:", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"[fd00::11]:x", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"[fd00::11]:99999", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"[fd00::11]7443", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"[fd00::11]:0", "!IP address", "[fd00::11]:0", "!IP address", "!a host"},
		{"[]:53", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"fd00::11::1", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"n1", "!IP address", "!IP address", "!IP address", "n1:7443"},
		{"n1.corp.example:8443", "!IP address", "!IP address", "!IP address", "n1.corp.example:8443"},
		{"[n1]:7443", "!IP address", "!IP address", "!IP address", "!IP address"},
		{"n1:", "!IP address", "!IP address", "!IP address", "!a host"},
		{":7443", "!IP address", "!IP address", "!IP address", "!a host"},
		{"10.0.0", "!IP address", "!IP address", "!IP address", "!a host"},
		{"https://10.0.0.11", "!IP address", "!IP address", "!a range", "!a host"},
		{"a b", "!IP address", "!IP address", "!IP address", "!a host"},
		{"", "!IP address", "!IP address", "!IP address", "!a host"},
	} {
		host, err := ParseHostPort(tt.typed, 7443)
		if err != nil {
			host = "!" + err.Error()
		}
		for _, of := range []struct{ what, got, want string }{
			{"Parse", text(Parse(tt.typed)), tt.addr},
			{"ParsePort", text(ParsePort(tt.typed, 7443)), tt.port},
			{"ParsePrefix", text(ParsePrefix(tt.typed)), tt.prefix},
			{"ParseHostPort", host, tt.host},
		} {
			part, wrong := strings.CutPrefix(of.want, "!")
			if wrong && (!strings.HasPrefix(of.got, "!must be ") || !strings.Contains(of.got, part)) ||
				!wrong && of.got != of.want {
				t.Errorf("%s of %q: got %s, want %s", of.what, tt.typed, of.got, of.want)
			}
		}
	}
}

// Where there is no usual port, one must be typed.
func TestPortRequired(t *testing.T) {
	for _, typed := range []string{"10.0.0.11", "fd00::11", "[fd00::11]", "fd00::11:443"} {
		if a, err := ParsePort(typed, 0); err == nil || !strings.Contains(err.Error(), "and a port, like") {
			t.Errorf("%s: %s, %v", typed, a, err)
		}
	}
	if a, err := ParsePort("[fd00::11]:0", 0); err != nil || a.Port() != 0 {
		t.Errorf("%s, %v", a, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"[fd00::1]:53", "fe80::1%eth0", "::ffff:1.2.3.4/104", "n1:1", "[]", "%", ":", "[%]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := Parse(s); err == nil && (a.Zone() != "" || a.Is4In6()) {
			t.Errorf("Parse(%q) = %s", s, a)
		}
		if p, err := ParsePrefix(s); err == nil && !p.IsValid() {
			t.Errorf("ParsePrefix(%q) = %s", s, p)
		}
		if a, err := ParsePort(s, 53); err == nil && netip.MustParseAddrPort(a.String()) != a {
			t.Errorf("ParsePort(%q) = %s", s, a)
		}
		if h, err := ParseHostPort(s, 53); err == nil {
			if again, err := ParseHostPort(h, 53); err != nil || again != h {
				t.Errorf("ParseHostPort(%q) = %q, and of that %q, %v", s, h, again, err)
			}
		}
	})
}
