package dnssrv

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// said makes an answer of sections in presentation form: answer, authority, additional.
func said(t testing.TB, rcode int, sections ...string) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Rcode: rcode, RecursionAvailable: true}}
	for i, s := range sections {
		for line := range strings.Lines(s) {
			if line = strings.TrimSpace(line); line != "" {
				to := []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra}[i]
				*to = append(*to, parsed(t, line))
			}
		}
	}
	return m
}

// short writes records in a line each, without TTLs of our own choice.
func short(rrs []dns.RR) (out []string) {
	for _, rr := range rrs {
		h := rr.Header()
		out = append(out, fmt.Sprintf("%s %d %s %s", h.Name, h.Ttl, dns.Type(h.Rrtype), rr.String()[len(h.String()):]))
	}
	return out
}

// Only the requested data of a resolver's answer is used.
func TestBailiwick(t *testing.T) {
	spec := threeNodes()
	spec.Records = []Record{
		{Name: "git.bank.example", Type: "A", Values: []string{"10.9.9.9"}},
		{Name: "back.bank.example", Type: "CNAME", Values: []string{"www.corp.example"}},
	}
	spec.Nodes = spec.Nodes[:1]
	at := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
	spec.Forward = []Forward{{Zone: "corp.example", Resolvers: at}, {Zone: "other.example", Resolvers: at}}
	tab := table(t, spec)
	soa := "corp.example. 900 SOA ns.corp.example. h.corp.example. 1 2 3 4 600"
	ours := "registry.k8s.io. 15 A 10.0.0.11"
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3)
	for _, c := range []struct {
		what  string
		asked string // WWW.corp.example. if empty
		qtype uint16 // A if 0
		resp  *dns.Msg

		rcode  int
		answer []string
		soa    string // with its TTL; "" is none
		next   string // the name that is asked for next, and the zone
		err    error
		miss   string
	}{
		{
			what:   "an address",
			resp:   said(t, 0, "www.corp.example. 60 A 192.0.2.1\nwww.corp.example. 60 A 192.0.2.2"),
			answer: []string{"WWW.corp.example. 60 A 192.0.2.1", "WWW.corp.example. 60 A 192.0.2.2"},
		},
		{
			what: "other names beside",
			resp: said(t, 0, "registry.k8s.io. 60 A 203.0.113.66\nwww.corp.example. 60 A 192.0.2.1\ncorp.example. 60 "+
				"A 203.0.113.66\nx.www.corp.example. 60 A 203.0.113.66\nbank.example. 60 CNAME evil.example.",
				"corp.example. 60 NS evil.example.\nexample. 60 NS evil.example.\n. 60 NS evil.example.\n"+soa,
				"evil.example. 60 A 203.0.113.66\nns.corp.example. 60 A 203.0.113.66\nwww.corp.example. 60 A "+
					"203.0.113.66\nregistry.k8s.io. 60 A 203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 A 192.0.2.1"},
		},
		{
			what: "other types and classes beside",
			resp: said(t, 0, "www.corp.example. 60 TXT x\nwww.corp.example. 60 CH A 192.0.2.9\nwww.corp.example. "+
				"60 A 192.0.2.1\nwww.corp.example. 60 RRSIG A 8 3 60 20300101000000 20200101000000 1 corp.example. "+
				"AAAA"),
			answer: []string{"WWW.corp.example. 60 A 192.0.2.1"},
		},
		{
			what: "only other names", resp: said(t, 0, "evil.example. 60 A 203.0.113.66"),
		},
		{
			what: "only in the additional section", resp: said(t, 0, "", "", "www.corp.example. 60 A 203.0.113.66"),
		},
		{
			what: "a chain",
			resp: said(t, 0, "b.corp.example. 50 A 192.0.2.1\nA.corp.example. 70 CNAME "+
				"b.corp.example.\nwww.corp.example. 60 CNAME a.Corp.example."),
			answer: []string{"WWW.corp.example. 60 CNAME a.Corp.example.", "a.Corp.example. 70 CNAME b.corp.example.",
				"b.corp.example. 50 A 192.0.2.1"},
		},
		{
			what: "a chain out of all zones",
			resp: said(t, 0, "www.corp.example. 60 CNAME edge.cdn.net.\nedge.cdn.net. 60 A 198.51.100.1\nevil.net. "+
				"60 A 203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 CNAME edge.cdn.net.", "edge.cdn.net. 60 A 198.51.100.1"},
		},
		{
			what:   "a chain into our names",
			resp:   said(t, 0, "www.corp.example. 60 CNAME registry.k8s.io.\nregistry.k8s.io. 60 A 203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 CNAME registry.k8s.io.", ours},
		},
		{
			what: "a chain through our names, denied by who does not know them", qtype: dns.TypeA,
			resp: said(t, dns.RcodeNameError, "www.corp.example. 60 CNAME a.corp.example.\na.corp.example. 60 "+
				"CNAME registry.k8s.io.", soa),
			answer: []string{"WWW.corp.example. 60 CNAME a.corp.example.", "a.corp.example. 60 CNAME registry.k8s.io.",
				ours},
		},
		{
			what: "a chain into our names without data", qtype: dns.TypeMX,
			resp:   said(t, 0, "www.corp.example. 60 CNAME registry.k8s.io.\nregistry.k8s.io. 60 MX 1 evil.example."),
			answer: []string{"WWW.corp.example. 60 CNAME registry.k8s.io."}, soa: "registry.k8s.io. 15",
		},
		{
			what:   "a chain to a name of the operator's",
			resp:   said(t, 0, "www.corp.example. 60 CNAME git.bank.example."),
			answer: []string{"WWW.corp.example. 60 CNAME git.bank.example.", "git.bank.example. 15 A 10.9.9.9"},
		},
		{
			what: "a chain into the own zone, where it is not",
			resp: said(t, 0, "www.corp.example. 60 CNAME nobody.casemate.internal.\nnobody.casemate.internal. 60 A "+
				"203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 CNAME nobody.casemate.internal."}, rcode: dns.RcodeNameError,
			soa: "casemate.internal. 15", miss: "nobody.casemate.internal.",
		},
		{
			what:   "a chain to localhost",
			resp:   said(t, 0, "www.corp.example. 60 CNAME x.localhost.\nx.localhost. 60 A 203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 CNAME x.localhost.", "x.localhost. 15 A 127.0.0.1"},
		},
		{
			what:   "a chain to a special name",
			resp:   said(t, 0, "www.corp.example. 60 CNAME x.invalid.\nx.invalid. 60 A 203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 CNAME x.invalid."}, rcode: dns.RcodeNameError, soa: "invalid. 15",
			miss: "x.invalid.",
		},
		{
			what: "a chain to a service of our names", qtype: dns.TypeSRV,
			resp: said(t, 0, "www.corp.example. 60 CNAME _http._tcp.registry.k8s.io.\n_http._tcp.registry.k8s.io. "+
				"60 SRV 1 1 1 evil.example."),
			answer: []string{"WWW.corp.example. 60 CNAME _http._tcp.registry.k8s.io."}, soa: "registry.k8s.io. 15",
		},
		{
			what:   "a chain into the zone of other resolvers",
			resp:   said(t, 0, "www.corp.example. 60 CNAME db.other.example.\ndb.other.example. 60 A 203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 CNAME db.other.example."}, next: "db.other.example. other.example.",
		},
		{
			what: "a chain through us and back",
			resp: said(t, 0, "www.corp.example. 60 CNAME back.bank.example."),
			answer: []string{"WWW.corp.example. 60 CNAME back.bank.example.",
				"back.bank.example. 15 CNAME www.corp.example."}, next: "www.corp.example. corp.example.",
		},
		{
			what:   "a chain that is not finished",
			resp:   said(t, 0, "www.corp.example. 60 CNAME a.corp.example."),
			answer: []string{"WWW.corp.example. 60 CNAME a.corp.example."}, next: "a.corp.example. corp.example.",
		},
		{
			what:   "a chain that ends without data",
			resp:   said(t, 0, "www.corp.example. 60 CNAME a.corp.example.", soa),
			answer: []string{"WWW.corp.example. 60 CNAME a.corp.example."}, soa: "corp.example. 15",
		},
		{
			what:   "a chain to what does not exist",
			resp:   said(t, dns.RcodeNameError, "www.corp.example. 60 CNAME a.corp.example.", soa),
			answer: []string{"WWW.corp.example. 60 CNAME a.corp.example."}, rcode: dns.RcodeNameError,
			soa: "corp.example. 15", miss: "www.corp.example.",
		},
		{
			what: "a loop", resp: said(t, 0, "www.corp.example. 60 CNAME a.corp.example.\na.corp.example. 60 CNAME "+
				"www.corp.example."),
			rcode: dns.RcodeServerFailure,
		},
		{
			what: "a loop of one", resp: said(t, 0, "www.corp.example. 60 CNAME www.corp.example."),
			rcode: dns.RcodeServerFailure,
		},
		{
			what: "two CNAMEs of a name",
			resp: said(t, 0, "www.corp.example. 60 CNAME a.corp.example.\nwww.corp.example. 60 CNAME "+
				"evil.example.\na.corp.example. 60 A 192.0.2.1\nevil.example. 60 A 203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 CNAME a.corp.example.", "a.corp.example. 60 A 192.0.2.1"},
		},
		{
			what: "the CNAME itself", qtype: dns.TypeCNAME,
			resp:   said(t, 0, "www.corp.example. 60 CNAME a.corp.example.\na.corp.example. 60 A 203.0.113.66"),
			answer: []string{"WWW.corp.example. 60 CNAME a.corp.example."},
		},
		{
			what: "a DNAME", asked: "x.Y.old.corp.example.",
			resp: said(t, 0, "old.corp.example. 60 DNAME new.corp.example.\nx.y.new.corp.example. 60 A "+
				"192.0.2.1\nz.old.corp.example. 60 A 203.0.113.66"),
			answer: []string{"x.Y.old.corp.example. 60 CNAME x.Y.new.corp.example.",
				"x.Y.new.corp.example. 60 A 192.0.2.1"},
		},
		{
			what: "a DNAME with its CNAME", asked: "x.old.corp.example.",
			resp: said(t, 0, "old.corp.example. 60 DNAME new.corp.example.\nx.old.corp.example. 0 CNAME "+
				"x.new.corp.example.\nx.new.corp.example. 60 A 192.0.2.1"),
			answer: []string{"x.old.corp.example. 0 CNAME x.new.corp.example.", "x.new.corp.example. 60 A 192.0.2.1"},
		},
		{
			what: "a DNAME into our names", asked: "registry.old.corp.example.",
			resp:   said(t, 0, "old.corp.example. 60 DNAME k8s.io."),
			answer: []string{"registry.old.corp.example. 60 CNAME registry.k8s.io.", ours},
		},
		{
			what: "a DNAME of the name itself, which is for those below", asked: "old.corp.example.",
			resp: said(t, 0, "old.corp.example. 60 DNAME new.corp.example.\nnew.corp.example. 60 A 203.0.113.66"),
		},
		{
			what: "two DNAMEs, the closer one counts", asked: "x.a.old.corp.example.",
			resp: said(t, 0, "old.corp.example. 60 DNAME far.example.\na.old.corp.example. 60 DNAME "+
				"near.example.\nx.near.example. 60 A 192.0.2.1"),
			answer: []string{"x.a.old.corp.example. 60 CNAME x.near.example.", "x.near.example. 60 A 192.0.2.1"},
		},
		{
			what: "a DNAME of the root", asked: "registry.", resp: said(t, 0, ". 60 DNAME k8s.io."),
			answer: []string{"registry. 60 CNAME registry.k8s.io.", ours},
		},
		{
			what: "a DNAME that grows", asked: "x.old.corp.example.",
			resp:  said(t, 0, "old.corp.example. 60 DNAME a.old.corp.example."),
			rcode: dns.RcodeServerFailure,
		},
		{
			what: "a DNAME that makes too long a name", asked: strings.Repeat(strings.Repeat("b", 63)+".", 2) +
				"old.corp.example.",
			resp: said(t, 0, "old.corp.example. 60 DNAME "+long), err: errLongName,
		},
		{
			what: "no data", resp: said(t, 0, "", soa), soa: "corp.example. 15",
		},
		{
			what: "no data, and no word of why", resp: said(t, 0),
		},
		{
			what: "not there", resp: said(t, dns.RcodeNameError, "", soa), rcode: dns.RcodeNameError,
			soa: "corp.example. 15", miss: "www.corp.example.",
		},
		{
			what: "not there, by the root", resp: said(t, dns.RcodeNameError, "", ". 5 SOA a. b. 1 2 3 4 86400"),
			rcode: dns.RcodeNameError, soa: ". 5", miss: "www.corp.example.",
		},
		{
			what: "not there, by a zone that has nothing to say of it",
			resp: said(t, dns.RcodeNameError, "", "evil.example. 60 SOA a. b. 1 2 3 4 5\nxcorp.example. 60 SOA a. "+
				"b. 1 2 3 4 5\nx.www.corp.example. 60 SOA a. b. 1 2 3 4 5\ncorp.example. 60 NS evil.example."),
			rcode: dns.RcodeNameError, miss: "www.corp.example.",
		},
		{
			what: "not there, and here it is", resp: said(t, dns.RcodeNameError, "www.corp.example. 60 A 192.0.2.1",
				soa), err: errContradict,
		},
		{
			what: "a referral", resp: said(t, 0, "", "corp.example. 60 NS ns.corp.example.",
				"ns.corp.example. 60 A 192.0.2.1"), err: errReferral,
		},
		{
			what: "a referral upwards", resp: said(t, 0, "", ". 60 NS a.root-servers.net."), err: errReferral,
		},
		{
			what: "TTLs", resp: said(t, 0, "www.corp.example. 604800 A 192.0.2.1\nwww.corp.example. 4294967295 A "+
				"192.0.2.2\nwww.corp.example. 0 A 192.0.2.3\nwww.corp.example. 2147483647 A 192.0.2.4"),
			answer: []string{"WWW.corp.example. 3600 A 192.0.2.1", "WWW.corp.example. 0 A 192.0.2.2",
				"WWW.corp.example. 0 A 192.0.2.3", "WWW.corp.example. 3600 A 192.0.2.4"},
		},
		{
			what: "a TTL of a CNAME", resp: said(t, 0,
				"www.corp.example. 604800 CNAME a.corp.example.\na.corp.example. 5 A 192.0.2.1"),
			answer: []string{"WWW.corp.example. 3600 CNAME a.corp.example.", "a.corp.example. 5 A 192.0.2.1"},
		},
		{
			what: "a negative answer for a short time", resp: said(t, 0, "", "corp.example. 900 SOA a. b. 1 2 3 4 7"),
			soa: "corp.example. 7",
		},
		{
			what: "signatures that are asked for", qtype: dns.TypeRRSIG,
			resp: said(t, 0, "www.corp.example. 60 RRSIG A 8 3 60 20300101000000 20200101000000 1 corp.example. "+
				"AAAA"),
			answer: []string{"WWW.corp.example. 60 RRSIG A 8 3 60 20300101000000 20200101000000 1 corp.example. AAAA"},
		},
		{
			what: "proofs of absence", resp: said(t, 0, "",
				soa+"\nwww.corp.example. 60 NSEC x.corp.example. TXT\ncorp.example. 60 RRSIG SOA 8 3 60 "+
					"20300101000000 20200101000000 1 corp.example. AAAA"),
			soa: "corp.example. 15",
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			asked, qtype := c.asked, c.qtype
			if asked == "" {
				asked = "WWW.corp.example."
			}
			if qtype == 0 {
				qtype = dns.TypeA
			}
			r := result{forward: true, zone: "corp.example.", next: asked}
			err := tab.take(&r, c.resp, qtype, netip.MustParseAddr("127.0.0.1"))
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if got := short(r.answer); !slices.Equal(got, c.answer) || r.rcode != c.rcode || len(r.extra) != 0 {
				t.Errorf("got %s\n%s\nand %v, want %s\n%s", dns.RcodeToString[r.rcode], strings.Join(got, "\n"),
					r.extra, dns.RcodeToString[c.rcode], strings.Join(c.answer, "\n"))
			}
			soa := ""
			for _, rr := range r.ns {
				soa += fmt.Sprintf("%s %d", rr.Header().Name, rr.Header().Ttl)
			}
			if soa != c.soa {
				t.Errorf("authority: got %q, want %q", soa, c.soa)
			}
			next := ""
			if r.forward {
				next = r.next + " " + r.zone
			}
			if next != c.next || r.miss != c.miss {
				t.Errorf("asks for %q and misses %q, want %q and %q", next, r.miss, c.next, c.miss)
			}
		})
	}
}

// A chain over two resolvers and ourselves, as clients see it.
func TestAChainOverSeveralResolvers(t *testing.T) {
	var corp, other *resolver
	reply := func(rrs ...string) func(q *dns.Msg, _ string) []*dns.Msg {
		return func(q *dns.Msg, _ string) []*dns.Msg {
			m := new(dns.Msg).SetReply(q)
			for _, rr := range rrs {
				if rr := parsed(t, rr); strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
					m.Answer = append(m.Answer, rr)
				}
			}
			return []*dns.Msg{m}
		}
	}
	corp = newResolver(t, reply("www.corp.example. 60 CNAME db.other.example.",
		"loop.corp.example. 60 CNAME loop.other.example.", "mirror.corp.example. 60 CNAME m.other.example."))
	other = newResolver(t, reply("db.other.example. 60 CNAME db2.other.example.", "db2.other.example. 60 A 192.0.2.1",
		"loop.other.example. 60 CNAME loop.corp.example.", "m.other.example. 60 CNAME registry.k8s.io."))
	r := startOn(t, "127.0.0.1:0", forwardTo(forwardTo(threeNodes(), "corp.example", corp), "other.example", other),
		patient(nil, false))
	for _, c := range []struct {
		name  string
		rcode int
		want  string
	}{
		{"WWW.corp.example", dns.RcodeSuccess, "CNAME db.other.example., CNAME db2.other.example., A 192.0.2.1"},
		{"Mirror.corp.example", dns.RcodeSuccess, "CNAME m.other.example., CNAME registry.k8s.io., A 10.0.0.11, A " +
			"10.0.0.12"},
		{"loop.corp.example", dns.RcodeServerFailure, ""},
	} {
		m := question(c.name, dns.TypeA)
		resp := r.ask(m)
		var got []string
		for _, rr := range resp.Answer {
			got = append(got, dns.Type(rr.Header().Rrtype).String()+" "+rr.String()[len(rr.Header().String()):])
		}
		if len(got) > 2 {
			slices.Sort(got[2:]) // the nodes' order is the client's
		}
		if resp.Rcode != c.rcode || strings.Join(got, ", ") != c.want || resp.Authoritative || resp.AuthenticatedData ||
			resp.Question[0] != m.Question[0] {
			t.Errorf("%s: want %s, got %v", c.name, c.want, resp)
		}
		if len(got) > 0 && resp.Answer[0].Header().Name != m.Question[0].Name {
			t.Errorf("%s: want the client's spelling, got %v", c.name, resp.Answer[0])
		}
	}
	if n := corp.udp.Load() + other.udp.Load(); n > 6+maxChain {
		t.Errorf("a loop took %d questions", n)
	}
	if got := r.misses(); len(got) != 0 {
		t.Errorf("misses: %v", got)
	}
}

// A useless answer is not passed on while another resolver may have a better one.
func TestUselessAnswersAreNotTheLast(t *testing.T) {
	for what, m := range map[string]*dns.Msg{
		"a referral":      said(t, 0, "", "example. 60 NS ns.example."),
		"a contradiction": said(t, dns.RcodeNameError, "www.example. 60 A 203.0.113.66"),
	} {
		first := newResolver(t, func(q *dns.Msg, _ string) []*dns.Msg {
			m := m.Copy()
			m.Id, m.Question = q.Id, q.Question
			return []*dns.Msg{m}
		})
		r := startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", first, newResolver(t, good("192.0.2.2"))),
			patient(nil, false))
		if got := values(r.ask(question("www.example", dns.TypeA)).Answer, dns.TypeA); !slices.Equal(got,
			[]string{"192.0.2.2"}) {
			t.Errorf("%s: got %v", what, got)
		}
		r = startOn(t, "127.0.0.1:0", forwardTo(threeNodes(), ".", first), patient(nil, false))
		q := question("www.example", dns.TypeA)
		q.SetEdns0(1232, false)
		resp := r.ask(q)
		if resp.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: got %v", what, resp)
		} else if why := resp.IsEdns0().Option[0].(*dns.EDNS0_EDE).ExtraText; !strings.Contains(why, "it ") {
			t.Errorf("%s: the reason is %q", what, why)
		}
	}
}
