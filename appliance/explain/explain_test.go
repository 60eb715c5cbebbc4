package explain

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"casemate/appliance/current"
	"casemate/appliance/origin"
	"casemate/dnssrv"
)

func known() Known {
	removed := origin.Origin{Host: "gone.example", Disabled: origin.Removed}
	set := origin.NewSet([]origin.Origin{{Host: "docker.io", Aliases: []string{"registry-1.docker.io"}}, removed})
	return Known{State: &current.State{Origins: set}, Allow: "private", Reach: func(host string) string {
		if strings.HasPrefix(host, "forbidden.") {
			return "none while it is not permitted by the root"
		}
		return "origin add " + host
	}}
}

func TestInquiry(t *testing.T) {
	for _, c := range []struct{ name, kind, client, want string }{
		{"Registry.k8s.io.", "", "", "registry.k8s.io A invalid IP"},
		{"bücher.example", "aaaa", "10.0.0.1", "xn--bcher-kva.example AAAA 10.0.0.1"},
		{".", "ns", "", ". NS invalid IP"},
		{"10.0.0.11", "", "", "11.0.0.10.in-addr.arpa PTR invalid IP"},
		{"2001:db8::1", "", "::ffff:10.0.0.1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2" +
			".ip6.arpa PTR 10.0.0.1"},
		{"", "", "", "name is missing"},
		{"https://quay.io/x", "", "", "write quay.io"},
		{"a.example", "", "fe80::1%eth0", "the client must be an address without a zone"},
		{"a\xff.example", "", "", "the name to explain must be a host name"},
	} {
		in, err := Inquiry(c.name, c.kind, c.client)
		got := in.Name + " " + in.Type + " " + in.Client.String()
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != c.want || err != nil && !strings.Contains(got, c.want) {
			t.Errorf("%q %q %q: got %q, want %q", c.name, c.kind, c.client, got, c.want)
		}
	}
}

// Each kind of step has its sentence, and some have a cure.
func TestSentences(t *testing.T) {
	s := func(kind dnssrv.StepKind, edit func(*dnssrv.Step)) dnssrv.Step {
		st := dnssrv.Step{What: kind, Name: "a.example"}
		if edit != nil {
			edit(&st)
		}
		return st
	}
	for _, c := range []struct {
		step      dnssrv.Step
		why, cure string
	}{
		{s(dnssrv.StepNoTable, nil), "just started", ""},
		{s(dnssrv.StepMayAsk, func(st *dnssrv.Step) { st.Servers = []string{"10.0.0.0/8"} }),
			"may ask: it is in 10.0.0.0/8", ""},
		{s(dnssrv.StepStranger, func(st *dnssrv.Step) {
			st.Name, st.Servers = "192.0.2.1", strings.Split("a,b,c,d,e,f,g,h,i,j", ",")
		}), "a, b, c, d, e, f, g, h and 2 more", `casemate config set dns.allow "private 192.0.2.1"`},
		{s(dnssrv.StepRefused, func(st *dnssrv.Step) { st.Text = "AXFR" }), "no questions of type AXFR", ""},
		{s(dnssrv.StepNodes, func(st *dnssrv.Step) {
			st.Name, st.Nodes, st.Down = "registry-1.docker.io", []string{"n1"}, []string{"n2"}
		}), "an alias of the origin docker.io", ""},
		{s(dnssrv.StepNodes, func(st *dnssrv.Step) { st.Nodes, st.Down = []string{"n1"}, []string{"n2"} }),
			"the addresses of n1; left out because down: n2", ""},
		{s(dnssrv.StepNodes, func(st *dnssrv.Step) { st.Nodes, st.Down = []string{"n1"}, []string{"n1"} }),
			"No node with such an address is up", ""},
		{s(dnssrv.StepNodes, func(st *dnssrv.Step) { st.Zone = "x" }), "a name of the bastions themselves", ""},
		{s(dnssrv.StepRecord, func(st *dnssrv.Step) { st.Types, st.Owner = []string{"A"}, "*.example" }),
			"of your own (A), through the wildcard *.example", ""},
		{s(dnssrv.StepOwn, nil), "a name that Casemate has itself (SOA)", ""},
		{s(dnssrv.StepNoData, func(st *dnssrv.Step) { st.Types = []string{"A", "A", "TXT"} }), "only A, TXT: the", ""},
		{s(dnssrv.StepWithheld, func(st *dnssrv.Step) { st.Text = "ipv6" }), "dns.families is ipv6",
			"casemate config set dns.families both"},
		{s(dnssrv.StepCNAME, func(st *dnssrv.Step) { st.Target = "b.example" }), "a CNAME to b.example", ""},
		{s(dnssrv.StepMinimal, nil), "RFC 8482", ""},
		{s(dnssrv.StepService, func(st *dnssrv.Step) { st.Target = "docker.io" }), "the services of docker.io", ""},
		{s(dnssrv.StepForward, func(st *dnssrv.Step) { st.Zone, st.Servers = ".", []string{"10.0.0.53:53"} }),
			"forwarded to 10.0.0.53:53 (dns.forward for all other names)", ""},
		{s(dnssrv.StepForward, func(st *dnssrv.Step) { st.Zone = "example" }), "no resolver is left", ""},
		{s(dnssrv.StepAnswer, func(st *dnssrv.Step) { st.Servers, st.Text = []string{"10.0.0.53:53"}, "NXDOMAIN" }),
			"10.0.0.53:53 has just answered NXDOMAIN", "casemate name set a.example A ADDRESS"},
		{s(dnssrv.StepUnusable, func(st *dnssrv.Step) { st.Text = "it refers" }), "of no use: it refers", ""},
		{s(dnssrv.StepFailed, func(st *dnssrv.Step) { st.Text = "no answer in time" }), "(no answer in time)", ""},
		{s(dnssrv.StepParent, nil), "names below it do", "casemate name set a.example A ADDRESS"},
		{s(dnssrv.StepAbsent, nil), "not an origin that is enabled", "casemate origin add a.example"},
		{s(dnssrv.StepAbsent, func(st *dnssrv.Step) { st.Name = "gone.example" }), "not enabled: removed",
			"casemate origin add gone.example"},
		{s(dnssrv.StepAbsent, func(st *dnssrv.Step) { st.Name = "forbidden.example" }), "cannot be enabled while",
			"casemate name set forbidden.example A ADDRESS"},
		{s(dnssrv.StepAbsent, func(st *dnssrv.Step) { st.Name = "_dmarc.a.example" }), "denied at once",
			"casemate name set _dmarc.a.example A ADDRESS"},
		{s(dnssrv.StepOwnZone, func(st *dnssrv.Step) { st.Zone = "example" }), "own zone example",
			"casemate name set a.example A ADDRESS"},
		{s(dnssrv.StepBelow, func(st *dnssrv.Step) { st.Zone = "example" }), "a.example is below example",
			"casemate origin add a.example"},
		{s(dnssrv.StepSpecial, func(st *dnssrv.Step) { st.Zone = "invalid" }), "in invalid, which", ""},
		{s(dnssrv.StepExpanded, func(st *dnssrv.Step) { st.Target = "a" }), "is a with the suffix of a search list",
			""},
		{s(dnssrv.StepEndless, nil), "do not come to an end", "casemate name delete a.example CNAME"},
		{s(dnssrv.StepConflict, func(st *dnssrv.Step) { st.Text = "one and another" }), "one and another.", ""},
		{s("later", nil), "", ""},
	} {
		in := dnssrv.Inquiry{Name: c.step.Name, Type: "A", Client: netip.MustParseAddr("10.0.0.1")}
		a := Of(in, dnssrv.Explanation{Rcode: "NXDOMAIN", Steps: []dnssrv.Step{c.step}}, nil, known())
		if !strings.Contains(strings.Join(a.Why, "\n"), c.why) || a.Cure != c.cure || c.why == "" && len(a.Why) > 0 {
			t.Errorf("%+v: got %q, cure %q", c.step, a.Why, a.Cure)
		}
		for _, why := range a.Why {
			if !strings.HasSuffix(why, ".") {
				t.Errorf("%q is no sentence", why)
			}
		}
	}
}

func TestForwardersThatWereAsked(t *testing.T) {
	list := []dnssrv.Resolver{{Zone: "a.example", Server: "10.0.0.1:53", Latency: 1234567 * time.Nanosecond},
		{Zone: "b.example", Server: "10.0.0.2:53"}}
	a := Of(dnssrv.Inquiry{Name: "x.a.example", Type: "A"}, dnssrv.Explanation{Rcode: "NOERROR", TTL: 60,
		Records: []string{"x"}, Steps: []dnssrv.Step{{What: dnssrv.StepForward, Zone: "a.example"}}}, list, known())
	if len(a.Forwarders) != 1 || a.Forwarders[0].Server != "10.0.0.1:53" || a.Forwarders[0].LatencyMS != 1.23 {
		t.Errorf("got %+v", a.Forwarders)
	}
	if !slices.Contains(a.Why, "Clients may remember this answer for up to 1m0s.") || a.Client != "" {
		t.Errorf("got %+v", a)
	}
}
