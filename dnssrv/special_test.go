package dnssrv

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// evil answers every question with an address: the answer shows that it was asked.
func evil(q *dns.Msg, network string) []*dns.Msg { return good("203.0.113.66")(q, network) }

func TestLocalhostIsAnsweredHere(t *testing.T) {
	up := newResolver(t, evil)
	for what, spec := range map[string]Spec{"no forwarding": threeNodes(),
		"forwarding": forwardTo(threeNodes(), ".", up)} {
		r := start(t, spec)
		for _, network := range []string{"udp", "tcp"} {
			for _, name := range []string{"localhost", "LocalHost", "api.localhost", "a.b.c.localhost"} {
				resp := r.over(network, question(name, dns.TypeA))
				if got := values(resp.Answer, dns.TypeA); !slices.Equal(got, []string{"127.0.0.1"}) ||
					resp.Answer[0].Header().Name != dns.Fqdn(name) || !resp.Authoritative {
					t.Errorf("%s: %s: got %v", what, name, resp)
				}
				if got := values(r.over(network, question(name, dns.TypeAAAA)).Answer, dns.TypeAAAA); !slices.Equal(got,
					[]string{"::1"}) {
					t.Errorf("%s: %s AAAA: got %v", what, name, got)
				}
				for _, qtype := range []uint16{dns.TypeMX, dns.TypeHTTPS, dns.TypeTXT, dns.TypeNS, dns.TypeDS,
					dns.TypeSRV, dns.TypeCAA} {
					if resp := r.over(network, question(name, qtype)); soaOf(t, resp) == "" ||
						resp.Rcode != dns.RcodeSuccess {
						t.Errorf("%s: %s %s: want NODATA, got %v", what, name, dns.Type(qtype), resp)
					}
				}
			}
			for _, rev := range []string{"1.0.0.127.in-addr.arpa.", mustReverse(t, "::1")} {
				if got := values(r.over(network, question(rev, dns.TypePTR)).Answer, dns.TypePTR); !slices.Equal(got,
					[]string{"localhost."}) {
					t.Errorf("%s: %s: got %v", what, rev, got)
				}
			}
		}
		if got := r.misses(); len(got) != 0 {
			t.Errorf("%s: misses: %v", what, got)
		}
	}
	if n := up.udp.Load() + up.tcp.Load(); n != 0 {
		t.Errorf("%d questions were forwarded", n)
	}
}

func TestLocalhostCannotBeTaken(t *testing.T) {
	spec := threeNodes()
	spec.Origins = append(spec.Origins, "localhost")
	spec.Records = []Record{
		{Name: "localhost", Type: "A", Values: []string{"192.0.2.1"}},
		{Name: "x.localhost", Type: "CNAME", Values: []string{"docker.io"}},
		{Name: "*.localhost", Type: "AAAA", Values: []string{"fd00::7"}},
	}
	spec.Forward = []Forward{
		{Zone: "dev.localhost", Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}},
		{Zone: "invalid", Resolvers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}},
	}
	r := start(t, spec)
	if got := r.table.Load().Conflicts(); len(got) != 6 {
		t.Errorf("want 6 conflicts, got:\n%s", strings.Join(got, "\n"))
	}
	for _, name := range []string{"localhost", "x.localhost", "y.localhost", "x.dev.localhost"} {
		if got := values(r.ask(question(name, dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
			[]string{"127.0.0.1"}) {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if resp := r.ask(question("x.invalid", dns.TypeA)); resp.Rcode != dns.RcodeNameError {
		t.Errorf("x.invalid: got %v", resp)
	}
}

// What is special is denied with the SOA of the special zone, is no miss, and is forwarded only as the table of special
// zones says.
func TestSpecialZones(t *testing.T) {
	const nx, nodata = dns.RcodeNameError, dns.RcodeSuccess
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		soa   string
		cover bool // a resolver of "." answers instead
		named bool // one of the zone itself does
	}{
		{"x.invalid", dns.TypeA, nx, "invalid.", false, false},
		{"INVALID", dns.TypeA, nx, "invalid.", false, false},
		{"facebookcorewwwi.onion", dns.TypeAAAA, nx, "onion.", false, false},
		{"x.alt", dns.TypeA, nx, "alt.", false, false},
		{"_dns.resolver.arpa", dns.TypeSVCB, nodata, "resolver.arpa.", false, false},
		{"resolver.arpa", dns.TypeA, nodata, "resolver.arpa.", false, false},
		{"2.0.0.127.in-addr.arpa", dns.TypePTR, nx, "127.in-addr.arpa.", false, false},
		{"1.2.3.0.in-addr.arpa", dns.TypePTR, nx, "0.in-addr.arpa.", false, false},
		{"1.2.0.192.in-addr.arpa", dns.TypePTR, nx, "2.0.192.in-addr.arpa.", false, false},
		{"255.255.255.255.in-addr.arpa", dns.TypePTR, nodata, "255.255.255.255.in-addr.arpa.", false, false},
		{mustReverse(t, "::"), dns.TypePTR, nodata, mustReverse(t, "::"), false, false},
		{mustReverse(t, "2001:db8::1"), dns.TypePTR, nx, "8.b.d.0.1.0.0.2.ip6.arpa.", false, false},
		{"www.test", dns.TypeA, nx, "test.", false, true},
		{"test", dns.TypeA, nx, "test.", false, true},
		{"nas.home.arpa", dns.TypeA, nx, "home.arpa.", false, true},
		{"home.arpa", dns.TypeNS, nodata, "home.arpa.", false, true},
		{"x.default.service.arpa", dns.TypeSRV, nx, "service.arpa.", false, true},
		{"9.8.7.10.in-addr.arpa", dns.TypePTR, nx, "10.in-addr.arpa.", true, true},
		{"10.in-addr.arpa", dns.TypeSOA, nodata, "10.in-addr.arpa.", true, true},
		{"1.0.16.172.in-addr.arpa", dns.TypePTR, nx, "16.172.in-addr.arpa.", true, true},
		{"1.0.31.172.in-addr.arpa", dns.TypePTR, nx, "31.172.in-addr.arpa.", true, true},
		{"1.1.168.192.in-addr.arpa", dns.TypePTR, nx, "168.192.in-addr.arpa.", true, true},
		{"1.1.64.100.in-addr.arpa", dns.TypePTR, nx, "64.100.in-addr.arpa.", true, true},
		{"1.1.127.100.in-addr.arpa", dns.TypePTR, nx, "127.100.in-addr.arpa.", true, true},
		{"1.1.254.169.in-addr.arpa", dns.TypePTR, nx, "254.169.in-addr.arpa.", true, true},
		{mustReverse(t, "fd12::1"), dns.TypePTR, nx, "d.f.ip6.arpa.", true, true},
		{mustReverse(t, "fe80::1"), dns.TypePTR, nx, "8.e.f.ip6.arpa.", true, true},
		{mustReverse(t, "febf::1"), dns.TypePTR, nx, "b.e.f.ip6.arpa.", true, true},
		// Not special: the neighbours.
		{"1.0.15.172.in-addr.arpa", dns.TypePTR, nx, ".", true, true},
		{"1.0.32.172.in-addr.arpa", dns.TypePTR, nx, ".", true, true},
		{"1.1.63.100.in-addr.arpa", dns.TypePTR, nx, ".", true, true},
		{"1.1.128.100.in-addr.arpa", dns.TypePTR, nx, ".", true, true},
		{mustReverse(t, "fc00::1"), dns.TypePTR, nx, ".", true, true},
		{"dc.corp.local", dns.TypePTR, nx, ".", true, true}, // many Active Directory domains end so
		{"www.example", dns.TypePTR, nx, ".", true, true},
	} {
		resolvers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
		ask := func(what, forward string) bool {
			spec := threeNodes()
			if forward != "" {
				spec.Forward = []Forward{{Zone: forward, Resolvers: resolvers}}
			}
			s := New(Config{Log: testLogger(t), Miss: func(netip.Addr, string, string) {}})
			tab := table(t, spec)
			b, j := s.handle(tab, make([]byte, maxUDP), packet(t, question(c.name, c.qtype)),
				netip.MustParseAddr("127.0.0.1"), true)
			if len(s.misses) != 0 {
				t.Errorf("%s %s: is a miss", c.name, what)
			}
			if j != nil {
				return true
			}
			resp := unpacked(t, b)
			if c.qtype == dns.TypeSOA && resp.Rcode == dns.RcodeSuccess && len(resp.Answer) == 1 {
				resp.Ns, resp.Answer = resp.Answer, nil
			}
			if got := strings.ToLower(soaOf(t, resp)); resp.Rcode != c.rcode || got != c.soa {
				t.Errorf("%s %s: want %s of %s, got %v", c.name, what, dns.RcodeToString[c.rcode], c.soa, resp)
			}
			return false
		}
		if ask("without forwarding", "") {
			t.Errorf("%s: forwarded to nobody", c.name)
		}
		if got := ask("with all forwarded", "."); got != c.cover {
			t.Errorf("%s: forwarded to the resolver of all: %v", c.name, got)
		}
		if c.soa == "." {
			continue
		}
		if got := ask("with its zone forwarded", c.soa); got != c.named {
			t.Errorf("%s: forwarded to the resolver of %s: %v", c.name, c.soa, got)
		}
	}
}

// A zone below a special one may have a resolver; and names of ours in a special zone stay ours, misses included.
func TestInsideSpecialZones(t *testing.T) {
	up := newResolver(t, good("192.0.2.1"))
	spec := forwardTo(threeNodes(), "lab.test", up)
	spec = forwardTo(spec, "1.10.in-addr.arpa", up)
	spec.Domain = "mirror.test"
	spec.Origins = append(spec.Origins, "registry.test")
	spec.Records = []Record{{Name: "git.test", Type: "A", Values: []string{"192.0.2.7"}}}
	r := start(t, spec)
	for name, want := range map[string]string{"x.lab.test": "192.0.2.1", "lab.test": "192.0.2.1",
		"x.1.10.in-addr.arpa": "192.0.2.1", "git.test": "192.0.2.7", "n1.mirror.test": "10.0.0.11"} {
		if got := values(r.ask(question(name, dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: want %s, got %v", name, want, got)
		}
	}
	for name, soa := range map[string]string{"x.mirror.test": "mirror.test.", "x.registry.test": "registry.test.",
		"other.test": "test."} {
		if resp := r.ask(question(name, dns.TypeA)); resp.Rcode != dns.RcodeNameError || soaOf(t, resp) != soa {
			t.Errorf("%s: got %v", name, resp)
		}
	}
	if got := r.misses(); len(got) != 2 || slices.Contains(got, "other.test/A") {
		t.Errorf("misses: got %v", got)
	}
}

// _http._tcp.host and the like have no data at a host that we answer for, whichever resolver has the rest.
func TestServicesOfOurHosts(t *testing.T) {
	up, own := newResolver(t, evil), newResolver(t, good("192.0.2.9"))
	spec := threeNodes()
	spec.Records = []Record{
		{Name: "docker.io", Type: "A", Values: []string{"192.0.2.1"}}, // still a host that we answer for
		{Name: "git.bank.example", Type: "A", Values: []string{"192.0.2.2"}},
		{Name: "_https._tcp.dl.k8s.io", Type: "SRV", Values: []string{"0 5 443 dl.k8s.io"}},
	}
	names := []string{
		"_http._tcp.registry.k8s.io", "_HTTPS._tcp.Registry.K8S.io", "_tcp.registry.k8s.io",
		"_443._tcp.registry.k8s.io", "_8443._https.registry.k8s.io",
		"_dmarc.registry.k8s.io", "_acme-challenge.registry.k8s.io", "_a._b._c._d.registry.k8s.io",
		"_http._tcp.docker.io", "_http._tcp.casemate.internal",
		"_oci._tcp.registry.casemate.internal", "_http._tcp.dl.k8s.io", "_tcp.dl.k8s.io",
		"_https._tcp.ns.casemate.internal",
	}
	for what, spec := range map[string]Spec{"no forwarding": spec,
		"forwarding": forwardTo(forwardTo(spec, ".", up), "docker.io", up)} {
		r := start(t, spec)
		for _, name := range names {
			for _, qtype := range []uint16{dns.TypeSRV, dns.TypeTXT, dns.TypeURI, dns.TypeTLSA, dns.TypeSVCB,
				dns.TypeHTTPS, dns.TypeCAA, dns.TypeCNAME, dns.TypeDNAME, dns.TypeNAPTR, dns.TypeA, dns.TypeAAAA,
				dns.TypeANY, 65280} {
				if resp := r.ask(question(name, qtype)); resp.Rcode != dns.RcodeSuccess || soaOf(t, resp) == "." ||
					!resp.Authoritative {
					t.Errorf("%s: %s %s: want NODATA, got %v", what, name, dns.Type(qtype), resp)
				}
			}
		}
		if got := values(r.ask(question("_https._tcp.dl.k8s.io", dns.TypeSRV)).Answer, dns.TypeSRV); len(got) != 1 {
			t.Errorf("%s: the operator's record is gone: %v", what, got)
		}
		if what == "no forwarding" {
			// Hosts that are only the operator's keep RFC 4592's NXDOMAIN. It is no miss: nothing is missing.
			for _, name := range []string{"_http._tcp.git.bank.example", "_http._tcp.n1.casemate.internal"} {
				if resp := r.ask(question(name, dns.TypeSRV)); resp.Rcode != dns.RcodeNameError {
					t.Errorf("%s: got %v", name, resp)
				}
			}
		}
		if got := r.misses(); len(got) != 0 {
			t.Errorf("%s: misses: %v", what, got)
		}
	}
	if n := up.udp.Load(); n != 0 {
		t.Errorf("%d questions were forwarded", n)
	}
	// A zone below our host that has a resolver belongs to that resolver.
	r := start(t, forwardTo(spec, "_tcp.registry.k8s.io", own))
	if got := values(r.ask(question("_http._tcp.registry.k8s.io", dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
		[]string{"192.0.2.9"}) {
		t.Errorf("the resolver below was not asked: %v", got)
	}
}

func TestWhatIsAMiss(t *testing.T) {
	spec := threeNodes()
	spec.Records = []Record{{Name: "git.bank.example", Type: "A", Values: []string{"192.0.2.2"}}, {
		Name: "*.apps.bank.example", Type: "A", Values: []string{"192.0.2.3"}}}
	tab := table(t, spec)
	for _, c := range []struct {
		name  string
		qtype uint16
		want  bool
	}{
		{"quay.io.", dns.TypeA, true},
		{"quay.io.", dns.TypeAAAA, true},
		{"quay.io.", dns.TypeTXT, true},
		{"_ldap._tcp.corp.example.", dns.TypeSRV, true}, // the operator can set it
		{"foo.docker.io.", dns.TypeA, true},
		{"k8s.io.", dns.TypeA, true},
		{"docker.", dns.TypeA, true},
		{".", dns.TypeA, true},
		{"xdocker.io.", dns.TypeA, true},
		{"kubernetes.default.svc.cluster.local.", dns.TypeA, true},
		// What is asked beside an address, or about the zone.
		{"quay.io.", dns.TypeHTTPS, false},
		{"quay.io.", dns.TypeSVCB, false},
		{"quay.io.", dns.TypeCAA, false},
		{"_443._tcp.quay.io.", dns.TypeTLSA, false},
		{"io.", dns.TypeDS, false},
		{"io.", dns.TypeDNSKEY, false},
		{"k8s.io.", dns.TypeNS, false},
		{"k8s.io.", dns.TypeSOA, false},
		{"quay.io.", dns.TypeDNAME, false},
		{"quay.io.", dns.TypeANY, false},
		{"8.8.8.8.in-addr.arpa.", dns.TypePTR, false},
		// Search lists.
		{"registry.k8s.io.cluster.local.", dns.TypeA, false},
		{"registry.k8s.io.default.svc.cluster.local.", dns.TypeAAAA, false},
		{"git.bank.example.corp.example.", dns.TypeA, false},
		{"n1.casemate.internal.corp.example.", dns.TypeA, false},
		{"_http._tcp.registry.k8s.io.corp.example.", dns.TypeSRV, false},
		{"localhost.localdomain.", dns.TypeA, false},
		{"localhost.svc.cluster.local.", dns.TypeA, false},
		// Services of existing hosts.
		{"_http._tcp.docker.io.", dns.TypeSRV, false},
		{"_http._tcp.git.bank.example.", dns.TypeSRV, false},
		{"_http._tcp.x.apps.bank.example.", dns.TypeSRV, false},
		{"_http._tcp.quay.io.", dns.TypeSRV, true},
		// Special names.
		{"x.localhost.", dns.TypeTXT, false},
		{"x.test.", dns.TypeA, false},
		{"nas.home.arpa.", dns.TypeA, false},
	} {
		if got := tab.wanted([]byte(wireOf(c.name)), c.qtype); got != c.want {
			t.Errorf("%s %s: a miss: %v, want %v", c.name, dns.Type(c.qtype), got, c.want)
		}
	}
}

// Names that are no misses are reported as noise, and take no room from misses.
func TestNoiseIsToldWhileThereIsRoom(t *testing.T) {
	tab := table(t, threeNodes())
	client := netip.MustParseAddr("10.0.0.9")
	tell := func(netip.Addr, string, string) {}
	for _, c := range []struct {
		cfg           Config
		misses, noise int
	}{
		{Config{Miss: tell, Noise: tell}, 1, 1}, {Config{Miss: tell}, 1, 0}, {Config{Noise: tell}, 0, 1}, {
			Config{}, 0, 0},
	} {
		s := New(c.cfg)
		s.miss(tab, client, "www.nowhere.example.", dns.TypeA)
		s.miss(tab, client, "registry.k8s.io.svc.cluster.local.", dns.TypeA)
		if n := len(s.misses); n != c.misses+c.noise {
			t.Errorf("%d are told, want %d", n, c.misses+c.noise)
		}
		if st := s.Stats(); st.Misses != uint64(c.misses) || st.MissesLost != 0 {
			t.Errorf("%+v", st)
		}
	}
	s := New(Config{Miss: tell, Noise: tell})
	for range 2 * cap(s.misses) {
		s.miss(tab, client, "1.2.3.10.in-addr.arpa.", dns.TypePTR)
	}
	if n := len(s.misses); n != cap(s.misses)/2 {
		t.Errorf("noise takes %d places of %d", n, cap(s.misses))
	}
	for range cap(s.misses) {
		s.miss(tab, client, "www.nowhere.example.", dns.TypeA)
	}
	if st := s.Stats(); int(st.Misses) != cap(s.misses)/2 || int(st.MissesLost) != cap(s.misses)/2 {
		t.Errorf("%+v", st)
	}
}

// A flood of one client fills the queue, and another client's misses are reported nevertheless.
func TestAFloodLosesItsOwnMisses(t *testing.T) {
	got := map[netip.Addr]int{}
	tell := func(client netip.Addr, _, _ string) { got[client]++ }
	s := New(Config{Miss: tell})
	tab := table(t, threeNodes())
	flood, honest := netip.MustParseAddr("10.0.0.66"), netip.MustParseAddr("10.0.0.1")
	for s.missCount(flood) == s.missCount(honest) { // one in 512
		honest = honest.Next()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it reports what is queued and returns
	for round := 1; round <= 3; round++ {
		for i := range 14_000 {
			if s.miss(tab, flood, fmt.Sprintf("x%d.forged.example.", i), dns.TypeA); i%3000 == 0 {
				s.miss(tab, honest, "www.nowhere.example.", dns.TypeA)
			}
		}
		s.reportMisses(ctx)
		if got[honest] != 5*round || got[flood] > round*(cap(s.misses)+fewMisses) ||
			got[flood] < round*cap(s.misses)/2 {
			t.Errorf("round %d: %v", round, got)
		}
		for i := range s.missCounts { // as after a pause
			s.missCounts[i].Store(0)
		}
	}
	if st := s.Stats(); st.Misses+st.MissesLost != 3*14_005 {
		t.Errorf("%+v", st)
	}
	for range 2 * cap(s.misses) {
		s.miss(tab, flood, "www.nowhere.example.", dns.TypeA)
	}
	for range 100 {
		s.miss(tab, honest, "www.nowhere.example.", dns.TypeA)
	}
	if n := len(s.fewMisses); n != fewMisses {
		t.Errorf("%d of 100 have found a place, want %d", n, fewMisses)
	}
}
