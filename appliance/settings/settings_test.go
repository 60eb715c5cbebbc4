package settings

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"casemate/appliance/origin"
	"casemate/appliance/usage"
)

func TestDefaultsOfTheSettings(t *testing.T) {
	s, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Domain != "casemate.internal" || s.TTL != 15*time.Second || len(s.Origins) != len(origin.Builtin()) ||
		len(s.Forward) != 0 ||
		!s.AllowConnected || len(s.Allow) == 0 || !s.Anonymous || !s.LocalFallback || s.AliasArch != "" ||
		len(s.Redirects) != 0 {
		t.Fatalf("got %+v", s)
	}
}

func TestSettingsSayTheRuleAndWhatTheyGot(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"dns.ttl", "0s", `setting dns.ttl must be between 1s and 1h, got "0s"`},
		{"dns.response_rate", "-1", `setting dns.response_rate must be between 0 (no limit) and 10000, got "-1"`},
		{"dns.response_rate", "10001", `setting dns.response_rate must be between 0 (no limit) and 10000, got "10001"`},
		{"dns.response_rate", "many", `setting dns.response_rate must be between 0 (no limit) and 10000, got "many"`},
		{"dns.families", "ipv5", `setting dns.families must be both, ipv4 or ipv6, got "ipv5"`},
		{"dns.families", "", `setting dns.families must be both, ipv4 or ipv6, got ""`},
		{"dns.ttl", "soon", `setting dns.ttl must be between 1s and 1h, got "soon"`},
		{"domain", "internal", `setting domain must be a host name with a dot, of letters, digits and hyphens, got "internal"`},
		{"domain", "docker.io", `setting domain must not overlap an origin`},
		{"domain", "x.quay.io", `setting domain must not overlap an origin`},
		{"origins", "default quay.io", `setting origins must have each host once, got quay.io twice`},
		{"origins", "nodot", `got "nodot"`},
		{"dns.forward", "10.0.0.300",
			`setting dns.forward must be addresses of resolvers or ZONE=ADDRESS, got "10.0.0.300"`},
		{"dns.forward", "corp.example=", `must have a resolver after =, got "corp.example="`},
		{"dns.forward", "a b", `got "a"`},
		{"dns.forward", "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4,1.1.1.5,1.1.1.6,1.1.1.7,1.1.1.8,1.1.1.9",
			`at most 8 resolvers for a zone, got 9`},
		{"dns.allow", "", "must allow at least one network"},
		{"dns.allow", "10.0.0.0/33", `must be CIDRs, private or connected, got "10.0.0.0/33"`},
		{"registry.anonymous", "push", `must be pull or none, got "push"`},
		{"registry.local_fallback", "yes", `must be on or off, got "yes"`},
		{"files.alias_arch", "AMD 64", `must be an architecture like amd64`},
		{"files.redirects", "https://a.example/b", `without spaces around =>, got "https://a.example/b"`},
		{"kubernetes.version", "1.32.5", `must be a version like v1.32.5, or empty, got "1.32.5"`},
		{"kubernetes.version", "v1.32.5\nx", `must be a version like v1.32.5`},
		{"scrub.interval", "1h", `setting scrub.interval must be off, or between 1d and 365d, got "1h"`},
		{"scrub.interval", "never", `must be off, or between 1d and 365d, got "never"`},
		{"scrub.interval", "d", `got "d"`},
		{"scrub.interval", "366d", `got "366d"`},
		{"pki.overlap", "7", `setting pki.overlap must be off, or between 1d and 365d, got "7"`},
		{"sessions.lifetime", "4m", `setting sessions.lifetime must be between 5m and 12h, got "4m"`},
		{"sessions.lifetime", "off", `setting sessions.lifetime must be between 5m and 12h, got "off"`},
		{"sessions.idle", "59s", `setting sessions.idle must be off, or between 1m and 12h, got "59s"`},
		{"sessions.idle", "-15m", `setting sessions.idle must be off, or between 1m and 12h, got "-15m"`},
		{"nonsense", "1", `there is no setting "nonsense", the settings are domain, origins, dns.ttl`},
		{"files.redirects", strings.Repeat("x", 5000), `must have at most 4096 bytes, got 5000`},
	} {
		_, err := Parse(map[string]string{c.key: c.value})
		var mistake *usage.Error
		if !errors.As(err, &mistake) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: got %v, want %q", c.key, c.value, err, c.want)
		}
	}
}

// TestRedirectPairs: several pairs in any notation are either parsed or refused with the reason; none becomes one
// pair with another target.
func TestRedirectPairs(t *testing.T) {
	const a,
		b = "https://update.k3s.io/v1-release/channels/stable=>https://github.com/k3s-io/k3s/releases/tag/v1.31.5+k3s1",
		"https://update.rke2.io/v1-release/channels/stable=>https://github.com/rancher/rke2/releases/tag/v1.31.5+rke2r1"
	for v, n := range map[string]int{a: 1, a + " " + b: 2, a + "\n\t" + b + " ": 2, "": 0,
		"https://a.example/x=>https://b.example/y,z": 1, "https://a.example/x=>https://b.example/y?a=%3D%3E": 1,
		"https://a.example/*=>https://b.example/* https://a.example/=>https://b.example/x": 2} {
		s, err := Parse(map[string]string{"files.redirects": v})
		if err != nil || len(s.Redirects) != n {
			t.Errorf("%q: %v, %v", v, s.Redirects, err)
		}
	}
	for _, c := range []struct{ value, want string }{
		{a + "," + b, "is several targets: separate pairs by spaces"},
		{a + ", " + b, "is several targets: separate pairs by spaces"},
		{a + ";" + b, "is several targets: separate pairs by spaces"},
		{a + "; " + b, "is several targets: separate pairs by spaces"},
		{a + b, "is several targets: separate pairs by spaces"},
		{a + "=>" + b, "is several targets: separate pairs by spaces"},
		{a + " ," + b, "invalid"},
		{"https://a.example/x=>https://b.example/y,https://c.example/z", "is several targets"},
		{"https://a.example/x=>https://b.example/y,text:z", "is several targets"},
		{"https://a.example/x=>text:v1.32.0,https://a.example/y=>text:v1", "is several targets"},
		{"https://a.example/x=>text:v1.32.0, https://a.example/y=>text:v1", "is several targets"},
		{"https://a.example/x => https://b.example/y", `without spaces around =>, got "https://a.example/x"`},
		{"https://a.example/x=> https://b.example/y", `without spaces around =>, got "https://a.example/x=>"`},
		{"https://a.example/x =>https://b.example/y", `without spaces around =>, got "https://a.example/x"`},
		{"=>https://b.example/y", "without spaces around =>"},
		{"https://a.example/x=https://b.example/y", "must be FROM=>TO pairs"},
		{"https://a.example/x->https://b.example/y", "must be FROM=>TO pairs"},
		{"https://a.example/x==>https://b.example/y https://a.example/x==>https://b.example/z", "twice"},
		{a + " " + strings.Replace(a, "v1.31.5", "v1.32.1", 1), "must have each address once"},
		{a + " http://UPDATE.k3s.io:80/v1-release//channels/stable=>text:x", "must have each address once"},
		{"https://a.example/x=>https://a.example/x", "it leads to itself"},
		{"https://a.example/x=>/x", "it leads to itself"},
		{"https://a.example/x=>https://b.example/*",
			"a * is allowed only at the end of a target, and only if the address " +
				"ends in /*"},
		{"https://a.example/x*=>https://b.example/y", "a * is allowed only after the last slash"},
		{"https://a.example/*/x=>https://b.example/y", "a * is allowed only after the last slash"},
		{"https://a.example/*=>https://b.example/*/x", "a * is allowed only at the end"},
		{"https://a.example/x#y=>https://b.example/y", "fragment"},
		{"https://a.example/x=>https://u:secret@b.example/y", "user or a password"},
	} {
		if _, err := Parse(map[string]string{"files.redirects": c.value}); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.value, err, c.want)
		}
	}
}

func TestForwardingByZone(t *testing.T) {
	s, err := Parse(map[string]string{"dns.forward": "10.0.0.1,10.0.0.2 Corp.Example.=10.3.3.3:5353 fd00::53"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Forward) != 2 || s.Forward[0].Zone != "." || len(s.Forward[0].Resolvers) != 3 ||
		s.Forward[1].Zone != "corp.example" ||
		s.Forward[1].Resolvers[0] != netip.MustParseAddrPort("10.3.3.3:5353") ||
		s.Forward[0].Resolvers[2] != netip.MustParseAddrPort("[fd00::53]:53") {
		t.Fatalf("got %+v", s.Forward)
	}
	at53 := func(a netip.AddrPort) bool { return a.Port() == 53 }
	if err := s.RefuseSelf([]netip.Addr{netip.MustParseAddr("10.0.0.2")}, at53); err == nil ||
		!strings.Contains(err.Error(), "10.0.0.2:53") {
		t.Errorf("got %v", err)
	}
	if err := s.RefuseSelf([]netip.Addr{netip.MustParseAddr("10.3.3.3")}, at53); err != nil {
		t.Errorf("another port of the same host is another resolver: %v", err)
	}
}

// What kubeadm and people ask for: kubeadm without a version asks for stable-1, and for the series of its own if that
// says a newer one.
func TestTheNewestKubernetesIsASetting(t *testing.T) {
	s, err := Parse(map[string]string{"kubernetes.version": "v1.32.5"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stable", "stable-1", "stable-1.32", "latest", "latest-1", "latest-1.32"} {
		if got := s.Defaults["https://dl.k8s.io/release/"+name+".txt"]; got != "text:v1.32.5" {
			t.Errorf("%s.txt: %q", name, got)
		}
	}
	if len(s.Defaults) != 6 {
		t.Errorf("%d answers", len(s.Defaults))
	}
	if s, err = Parse(nil); err != nil || s.Defaults != nil {
		t.Errorf("without it: %v, %v", s.Defaults, err)
	}
}

// The help of a setting that is a number or a duration names its unit.
func TestSettingsNameTheirUnit(t *testing.T) {
	for key, unit := range map[string]string{
		"dns.ttl": "duration from 1s to 1h", "dns.response_rate": "answers a second",
		"scrub.interval": "days, like 30d", "audit.retain": "days, like 400d", "pki.overlap": "days, like 7d",
		"upstream.fresh": "duration from 1m to 720h", "import.approvals": "how many people",
		"import.approve_within": "days, like 14d", "sessions.lifetime": "duration from 5m to 12h",
	} {
		for _, d := range defs {
			if d.key == key && !strings.Contains(d.help, unit) {
				t.Errorf("%s: its help does not say %q: %s", key, unit, d.help)
			}
		}
	}
	for _, d := range defs {
		if named := map[string]bool{"dns.ttl": true, "dns.response_rate": true, "scrub.interval": true,
			"audit.retain": true,
			"pki.overlap":  true, "upstream.fresh": true, "import.approvals": true,
			"import.approve_within": true, "sessions.lifetime": true}[d.key]; !named &&
			strings.Trim(d.dflt, "0123456789") != d.dflt {
			t.Errorf("%s: a setting with the default %s needs a unit in its help, and a line in this test",
				d.key, d.dflt)
		}
	}
}

// A setting that would leave our names without any address is refused.
func TestFamiliesNeedANode(t *testing.T) {
	four, six := netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("fd00::11")
	mapped := netip.MustParseAddr("::ffff:10.0.0.12")
	for _, c := range []struct {
		families string
		nodes    []netip.Addr
		ok       bool
	}{
		{"both", []netip.Addr{six}, true}, {"both", nil, true},
		{"ipv4", []netip.Addr{four}, true}, {"ipv4", []netip.Addr{six, four}, true}, {"ipv4", []netip.Addr{six}, false},
		{"ipv4", []netip.Addr{mapped}, true},
		{"ipv6", []netip.Addr{six, four}, true}, {"ipv6", []netip.Addr{four}, false},
		{"ipv6", []netip.Addr{mapped}, false},
	} {
		s, err := Parse(map[string]string{"dns.families": c.families})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.RefuseFamilies(c.nodes); (err == nil) != c.ok {
			t.Errorf("%s with nodes %v: %v", c.families, c.nodes, err)
		}
	}
}
