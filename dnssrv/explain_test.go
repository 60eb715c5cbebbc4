package dnssrv

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// moody answers in a way that depends on the length of the name.
func moody(t testing.TB) func(*dns.Msg, string) []*dns.Msg {
	return func(q *dns.Msg, network string) []*dns.Msg {
		m := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		switch n := len(name); {
		case n%5 == 0:
			return rcode(dns.RcodeNameError)(q, network)
		case n%5 == 1:
			return rcode(dns.RcodeServerFailure)(q, network)
		case n%5 == 2:
			m.Answer = []dns.RR{parsed(t, name+" 7 CNAME registry.k8s.io.")}
			return []*dns.Msg{m}
		}
		return good("192.0.2.1")(q, network)
	}
}

// explainers are servers with the tables of fuzzTables, whose resolver is up; nil: they have none.
func explainers(t testing.TB, up *resolver) (list []*Server) {
	for _, families := range []string{BothFamilies, OnlyIPv4, OnlyIPv6} {
		for _, rest := range []bool{false, true} {
			spec := fuzzSpec()
			spec.Families = families
			spec.Forward = nil
			if up != nil {
				spec = forwardTo(spec, "corp.example", up)
			}
			if up != nil && rest {
				spec = forwardTo(spec, ".", up)
			}
			s := New(Config{})
			patient(nil, false)(s)
			s.SetTable(table(t, spec))
			list = append(list, s)
		}
	}
	return list
}

// checkExplained compares an explanation with what a client gets over TCP.
func checkExplained(t *testing.T, s *Server, name string, qtype uint16, client netip.Addr) {
	t.Helper()
	tab := s.table.Load()
	got, err := s.Explain(t.Context(), Inquiry{name, dns.Type(qtype).String(), client})
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.Type(qtype), err)
	}
	// A question in the case in which an explanation has it.
	m := question(dns.CanonicalName(name), qtype)
	b, j := s.handle(tab, make([]byte, dns.MaxMsgSize), packet(t, m), client, false)
	if j != nil {
		b, _ = s.run(t.Context(), j)
	}
	want := unpacked(t, b)
	var records []string
	for _, rr := range want.Answer {
		records = append(records, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	if got.Rcode != rcodeText(want.Rcode) || !slices.Equal(got.Records, records) {
		t.Fatalf("%s %s for %s: explained as %s %q, answered %v", name, dns.Type(qtype), client, got.Rcode, got.Records,
			want)
	}
	if len(got.Steps) == 0 {
		t.Fatalf("%s %s: no reason", name, dns.Type(qtype))
	}
	for i, rr := range slices.Concat(want.Answer, want.Ns) {
		if rr.Header().Ttl < got.TTL && want.Rcode != dns.RcodeServerFailure || i == 0 && got.TTL > rr.Header().Ttl {
			t.Fatalf("%s %s: to be remembered for %d seconds, answered %v", name, dns.Type(qtype), got.TTL, want)
		}
	}
}

// What Explain returns is what clients get, for each name, type, client and table.
func TestExplainedAsAnswered(t *testing.T) {
	for _, s := range explainers(t, newResolver(t, moody(t))) {
		for _, name := range append(fuzzNames, "abcd.example.", "abcde.example.", "abcdef.example.", "abcdefg.example.",
			"h.corp.example.", "hh.corp.example.", "hhh.corp.example.", "hhhh.corp.example.") {
			for _, qtype := range fuzzTypes {
				if qtype == 0 {
					continue // it has no name
				}
				for _, client := range fuzzClients {
					checkExplained(t, s, name, qtype, client)
				}
			}
		}
		if st := s.Stats(); st.Misses != 0 {
			t.Errorf("want no miss counted, got %+v", st)
		}
	}
}

// FuzzExplain: any name is explained as it is answered, or refused with a sentence.
func FuzzExplain(f *testing.F) {
	for i, name := range fuzzNames {
		f.Add(name, uint16(fuzzTypes[i%len(fuzzTypes)]), uint8(i))
	}
	f.Add(`a\.b\032c.Corp.Example`, uint16(1), uint8(0))
	f.Add("x..y", uint16(1), uint8(0))
	f.Add(strings.Repeat("a.", 127), uint16(1), uint8(0))
	f.Add("ü", uint16(1), uint8(0))
	list := explainers(f, nil)
	f.Fuzz(func(t *testing.T, name string, qtype uint16, client uint8) {
		in := Inquiry{name, dns.Type(qtype).String(), fuzzClients[int(client)%len(fuzzClients)]}
		if _, err := in.question(); err != nil {
			return
		}
		s := list[int(client)%len(list)]
		checkExplained(t, s, name, qtype, in.Client)
	})
}

func TestExplainedReasons(t *testing.T) {
	up, dead := newResolver(t, good("192.0.2.1")), newResolver(t, rcode(dns.RcodeServerFailure))
	spec := fuzzSpec()
	spec.Forward = nil
	spec = forwardTo(spec, "corp.example", up)
	spec = forwardTo(spec, "bad.example", dead)
	spec.Records = append(spec.Records, Record{Name: "docker.io", Type: "A", Values: []string{"192.0.2.7"}})
	s := New(Config{Log: testLogger(t)})
	patient(nil, false)(s)
	if e, err := s.Explain(t.Context(), Inquiry{Name: "a.b", Type: "A"}); err != nil || e.Rcode != "SERVFAIL" ||
		e.Steps[0].What != StepNoTable {
		t.Errorf("without a table: got %+v, %v", e, err)
	}
	s.SetTable(table(t, spec))
	for _, c := range []struct {
		in    Inquiry
		rcode string
		want  []Step
	}{
		{Inquiry{"registry.k8s.io", "A", netip.MustParseAddr("192.0.2.99")}, "REFUSED", []Step{
			{What: StepStranger, Name: "192.0.2.99", Servers: []string{"10.0.0.0/8", "fd00::/8"}}}},
		{Inquiry{"Registry.k8s.io.", "a", netip.MustParseAddr("10.1.2.3")}, "NOERROR", []Step{
			{What: StepMayAsk, Name: "10.1.2.3", Servers: []string{"10.0.0.0/8"}},
			{What: StepNodes, Name: "registry.k8s.io", Types: []string{"TXT"}, Nodes: []string{"n1", "n2"},
				Down: []string{"n3"}}}},
		{Inquiry{Name: "casemate.internal", Type: "AAAA"}, "NOERROR", []Step{
			{What: StepNodes, Name: "casemate.internal", Zone: "casemate.internal", Types: []string{"NS"},
				Nodes: []string{"n1", "n2"}, Down: []string{"n3"}}}},
		{Inquiry{Name: "docker.io", Type: "A"}, "NOERROR", []Step{
			{What: StepConflict, Name: "docker.io",
				Text: "docker.io would answer with our nodes' addresses: the operator's A answers instead"},
			{What: StepRecord, Name: "docker.io", Zone: "docker.io", Types: []string{"A"}}}},
		{Inquiry{Name: "x.apps.bank.example", Type: "A"}, "NOERROR", []Step{
			{What: StepRecord, Name: "x.apps.bank.example", Owner: "*.apps.bank.example", Zone: "apps.bank.example",
				Types: []string{"A"}}}},
		{Inquiry{Name: "x.apps.bank.example", Type: "AAAA"}, "NOERROR", []Step{
			{What: StepNoData, Name: "x.apps.bank.example", Owner: "*.apps.bank.example", Zone: "apps.bank.example",
				Types: []string{"A"}}}},
		{Inquiry{Name: "www.bank.example", Type: "A"}, "NOERROR", []Step{
			{What: StepCNAME, Name: "www.bank.example", Zone: "www.bank.example", Target: "git.bank.example",
				Types: []string{"CNAME"}},
			{What: StepRecord, Name: "git.bank.example", Zone: "git.bank.example", Types: []string{"A", "TXT"}}}},
		{Inquiry{Name: "loop.bank.example", Type: "A"}, "SERVFAIL", nil},
		{Inquiry{Name: "n1.casemate.internal", Type: "A"}, "NOERROR", []Step{
			{What: StepOwn, Name: "n1.casemate.internal", Zone: "casemate.internal", Types: []string{"A", "AAAA"}}}},
		{Inquiry{Name: "k8s.io", Type: "A"}, "NOERROR", []Step{{What: StepParent, Name: "k8s.io"}}},
		{Inquiry{Name: "quay.io", Type: "A"}, "NXDOMAIN", []Step{{What: StepAbsent, Name: "quay.io"}}},
		{Inquiry{Name: "x.registry.k8s.io", Type: "A"}, "NXDOMAIN", []Step{
			{What: StepBelow, Name: "x.registry.k8s.io", Zone: "registry.k8s.io"}}},
		{Inquiry{Name: "_http._tcp.registry.k8s.io", Type: "SRV"}, "NOERROR", []Step{
			{What: StepService, Name: "_http._tcp.registry.k8s.io", Zone: "registry.k8s.io",
				Target: "registry.k8s.io"}}},
		{Inquiry{Name: "x.invalid", Type: "A"}, "NXDOMAIN", []Step{
			{What: StepSpecial, Name: "x.invalid", Zone: "invalid"}}},
		{Inquiry{Name: "registry.k8s.io.default.svc.cluster.local", Type: "A"}, "NXDOMAIN", []Step{
			{What: StepExpanded, Name: "registry.k8s.io.default.svc.cluster.local", Target: "registry.k8s.io"},
			{What: StepAbsent, Name: "registry.k8s.io.default.svc.cluster.local"}}},
		{Inquiry{Name: "host.corp.example", Type: "A"}, "NOERROR", []Step{
			{What: StepForward, Name: "host.corp.example", Zone: "corp.example", Servers: []string{up.addr.String()}},
			{What: StepAnswer, Name: "host.corp.example", Zone: "corp.example", Servers: []string{up.addr.String()},
				Text: "NOERROR"}}},
		{Inquiry{Name: "a.bad.example", Type: "A"}, "SERVFAIL", []Step{
			{What: StepForward, Name: "a.bad.example", Zone: "bad.example", Servers: []string{dead.addr.String()}},
			{What: StepFailed, Name: "a.bad.example", Zone: "bad.example",
				Text: fmt.Sprintf("dns forward a.bad.example.: resolver %s answers SERVFAIL", dead.addr)}}},
		{Inquiry{Name: "docker.io", Type: "ANY"}, "NOERROR", nil},
		{Inquiry{Name: "docker.io", Type: "AXFR"}, "REFUSED", []Step{
			{What: StepRefused, Name: "docker.io", Text: "AXFR"}}},
	} {
		e, err := s.Explain(t.Context(), c.in)
		if err != nil || e.Rcode != c.rcode {
			t.Errorf("%+v: want %s, got %+v, %v", c.in, c.rcode, e, err)
		}
		if c.want != nil && !reflect.DeepEqual(e.Steps, c.want) {
			t.Errorf("%+v: got steps\n%+v, want\n%+v", c.in, e.Steps, c.want)
		}
	}
	for _, in := range []Inquiry{{Name: "", Type: "A"}, {Name: "a..b", Type: "A"}, {Name: "a\x00b", Type: "A"},
		{Name: strings.Repeat("a", 64), Type: "A"}, {Name: strings.Repeat("a", 5000), Type: "A"},
		{Name: "a.b", Type: ""}, {Name: "a.b", Type: "TYPE65536"}, {Name: "a.b", Type: "TYPE+1"},
		{Name: "a.b", Type: "\x1b[1m"}} {
		if _, err := s.Explain(t.Context(), in); err == nil || strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("%+.20q: got %v", in, err)
		}
	}
}

func TestResolversAsTheyAreKnown(t *testing.T) {
	up, broken := newResolver(t, good("192.0.2.1")), newResolver(t, rcode(dns.RcodeRefused))
	gone := netip.MustParseAddrPort("127.0.0.1:1")
	spec := forwardTo(forwardTo(threeNodes(), "a.example", up), "b.example", broken)
	spec.Forward = append(spec.Forward, Forward{Zone: ".", Resolvers: []netip.AddrPort{gone}})
	s := New(Config{Log: testLogger(t)})
	patient(nil, false)(s)
	if got := s.Resolvers(); got != nil {
		t.Errorf("without a table: got %+v", got)
	}
	s.SetTable(table(t, spec))
	for i, r := range s.Resolvers() {
		if !r.Up || r.Answered+r.Failed != 0 || r.Zone != []string{".", "a.example", "b.example"}[i] {
			t.Errorf("before the first question: got %+v", r)
		}
	}
	for _, name := range []string{"x.a.example", "x.b.example", "x.example", "y.example"} {
		if _, err := s.Explain(t.Context(), Inquiry{Name: name, Type: "A"}); err != nil {
			t.Fatal(err)
		}
	}
	got := s.Resolvers()
	for i := range got {
		if (got[i].Latency > 0) != (got[i].Answered > 0) || got[i].LastAnswer.IsZero() != (got[i].Answered == 0) ||
			got[i].LastFailure.IsZero() != (got[i].LastError == "") {
			t.Errorf("got %+v", got[i])
		}
		got[i].Latency, got[i].LastAnswer, got[i].LastFailure = 0, time.Time{}, time.Time{}
	}
	want := []Resolver{
		{Zone: ".", Server: gone.String(), Failed: 2, LastError: "no server listens at this address and port"},
		{Zone: "a.example", Server: up.addr.String(), Up: true, Answered: 1},
		{Zone: "b.example", Server: broken.addr.String(), Up: true, Answered: 1, LastError: "it answers REFUSED"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}
