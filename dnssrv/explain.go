package dnssrv

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Inquiry is a question that [Server.Explain] answers.
type Inquiry struct {
	Name string `json:"name"` // with or without a trailing dot, in any case
	Type string `json:"type"` // such as AAAA or TYPE65
	// Client is who would ask; the zero value is some client that may ask.
	Client netip.Addr `json:"client"`
}

// Explanation is what a client would be answered, and why.
type Explanation struct {
	// Rcode is the response code: NOERROR, NXDOMAIN, SERVFAIL, REFUSED, NOTIMP.
	Rcode string `json:"rcode"`
	// Records is the answer section in presentation form (RFC 1035, 5.1), with single spaces. Cut is how many records
	// were left out, because all together are limited to 64 KiB.
	Records []string `json:"records,omitempty"`
	Cut     int      `json:"cut,omitempty"`
	// TTL is for how many seconds clients may remember the answer, a negative one as well; 0: they must not.
	TTL uint32 `json:"ttl,omitempty"`
	// Steps are the reasons, in the order of the decision.
	Steps []Step `json:"steps"`
}

// A Step is one reason of an answer. Readers have to skip the kinds that they do not know.
type Step struct {
	What StepKind `json:"what"`
	// Name is the name that the step is about, in lower case without the trailing dot.
	Name string `json:"name,omitempty"`
	// Zone is the closest enclosing zone of ours, or the zone of dns.forward; "." is the root.
	Zone string `json:"zone,omitempty"`
	// Owner is the name whose data answers, if it is another one: a wildcard.
	Owner string `json:"owner,omitempty"`
	// Target is the name that a CNAME leads to, the host that a service is about, or the name that a search list has
	// expanded.
	Target string `json:"target,omitempty"`
	// Types are the types of data that a name has.
	Types []string `json:"types,omitempty"`
	// Nodes are the nodes whose addresses are answered, Down those that are left out because they are not healthy.
	Nodes []string `json:"nodes,omitempty"`
	Down  []string `json:"down,omitempty"`
	// Servers are resolvers, by address and port.
	Servers []string `json:"servers,omitempty"`
	// Text is a response code, a sentence or an error.
	Text string `json:"text,omitempty"`
}

// StepKind is the kind of a [Step].
type StepKind string

// Kinds of steps. The comment says which fields they have besides Name.
const (
	StepNoTable  StepKind = "no-table"  // the server has no table yet
	StepStranger StepKind = "stranger"  // the client is not in Base.Allow; Servers are its networks
	StepRefused  StepKind = "refused"   // questions of this type are refused
	StepNodes    StepKind = "nodes"     // the addresses of the nodes: Nodes, Down, Owner; Zone is "" for an origin
	StepRecord   StepKind = "record"    // the operator's record: Owner, Types
	StepOwn      StepKind = "own"       // fixed data of ours: Owner, Types
	StepNoData   StepKind = "nodata"    // the name exists and has no data of the type: Owner, Types
	StepWithheld StepKind = "withheld"  // Base.Families leaves out these addresses: Text is its value
	StepCNAME    StepKind = "cname"     // a CNAME of the operator: Owner, Target
	StepMinimal  StepKind = "minimal"   // ANY is answered with one record
	StepService  StepKind = "service"   // services of a host of ours have no data: Target
	StepForward  StepKind = "forward"   // the resolvers of a zone are asked: Zone, Servers
	StepAnswer   StepKind = "answer"    // a resolver has answered: Servers, Text
	StepUnusable StepKind = "unusable"  // a resolver's answer is of no use: Servers, Text
	StepFailed   StepKind = "failed"    // no resolver has answered: Text
	StepParent   StepKind = "parent"    // the name exists only because of names below it
	StepAbsent   StepKind = "absent"    // the name does not exist, and no zone of ours is above it
	StepOwnZone  StepKind = "own-zone"  // the name does not exist in the own zone: Zone
	StepBelow    StepKind = "below"     // the name does not exist below a name of ours: Zone
	StepSpecial  StepKind = "special"   // the name is in a special zone: Zone
	StepExpanded StepKind = "expanded"  // a search list has made the name: Target
	StepEndless  StepKind = "endless"   // the chain of CNAMEs is too long or a loop
	StepConflict StepKind = "conflict"  // Text is a sentence about records that contradict others
	StepMayAsk   StepKind = "permitted" // the client is in Base.Allow
)

const (
	maxExplained = 64 << 10 // bytes of records in an explanation
	maxInquiry   = 1024     // bytes of a name in presentation form
)

// trace collects steps; a nil trace drops them.
type trace struct{ steps []Step }

func (tr *trace) add(st Step) {
	if tr != nil {
		tr.steps = append(tr.steps, st)
	}
}

// mark returns the state that undo returns to.
func (tr *trace) mark() int {
	if tr == nil {
		return 0
	}
	return len(tr.steps)
}

// answered records a resolver's answer to the end of the chain.
func (tr *trace) answered(r result, from netip.AddrPort, resp *dns.Msg) {
	if tr != nil {
		tr.add(Step{What: StepAnswer, Name: trimDot(dns.CanonicalName(r.next)), Zone: trimDot(r.zone),
			Servers: []string{from.String()}, Text: rcodeText(resp.Rcode)})
	}
}

// undo replaces what was recorded since mark, because the answer could not be used.
func (tr *trace) undo(mark int, r result, from netip.AddrPort, err error) {
	if tr != nil {
		tr.steps = append(tr.steps[:mark], Step{What: StepUnusable, Name: trimDot(dns.CanonicalName(r.next)),
			Zone: trimDot(r.zone), Servers: []string{from.String()}, Text: err.Error()})
	}
}

// Explain returns what a client would be answered over TCP if it asked now, and why. It decides by the same code as for
// clients, and asks the resolvers that a client's question would go to; but nothing is counted or reported as a miss.
// Limits of rates are left out. An error says what is wrong with the question.
func (s *Server) Explain(ctx context.Context, in Inquiry) (Explanation, error) {
	q, err := in.question()
	if err != nil {
		return Explanation{}, err
	}
	t, client := s.table.Load(), in.Client.Unmap()
	tr := new(trace)
	if t == nil {
		tr.add(Step{What: StepNoTable})
		return explained(result{rcode: dns.RcodeServerFailure}, tr), nil
	}
	if in.Client.IsValid() {
		st := Step{What: StepMayAsk, Name: client.String()}
		if !t.allowed(client) {
			st.What = StepStranger
		}
		for _, p := range t.allow {
			if st.What == StepStranger || p.Contains(client) {
				st.Servers = append(st.Servers, p.String())
			}
		}
		tr.add(st)
		if st.What == StepStranger {
			return explained(result{rcode: dns.RcodeRefused}, tr), nil
		}
	}
	if rcode, no := refuses(q); no {
		tr.add(Step{What: StepRefused, Name: trimDot(q.Name), Text: dns.Type(q.Qtype).String()})
		return explained(result{rcode: rcode}, tr), nil
	}
	r := result{trace: tr}
	t.follow(&r, q.Name, q.Qtype, client)
	if !r.forward {
		return explained(r, tr), nil
	}
	chain := r.answer
	if r, err = s.relay(ctx, t, r, q.Qtype, client, nil); err != nil {
		tr.add(Step{What: StepFailed, Name: trimDot(dns.CanonicalName(r.next)), Zone: trimDot(r.zone),
			Text: reasonOf(err)})
		r = result{rcode: dns.RcodeServerFailure}
	}
	if r.rcode == dns.RcodeServerFailure {
		r = result{rcode: r.rcode, answer: chain} // what fail answers
	}
	return explained(r, tr), nil
}

// question checks an Inquiry.
func (in Inquiry) question() (q dns.Question, err error) {
	q.Qclass = dns.ClassINET
	if len(in.Name) > maxInquiry {
		return q, fmt.Errorf("the name to explain must have at most 253 bytes, got %d", len(in.Name))
	}
	if in.Name == "" {
		return q, fmt.Errorf("the name to explain must not be empty")
	}
	q.Name = dns.CanonicalName(in.Name)
	if _, ok := dns.IsDomainName(q.Name); !ok || strings.ContainsFunc(q.Name, func(r rune) bool {
		return r < ' ' || r > '~'
	}) {
		return q, fmt.Errorf("the name to explain must be a name of DNS, got %q", clip(in.Name))
	}
	if !packs(q.Name) {
		return q, fmt.Errorf("the name to explain must have labels of 1 to 63 bytes and 253 bytes in all, got %q",
			clip(in.Name))
	}
	kind := strings.ToUpper(in.Type)
	var ok bool
	if q.Qtype, ok = dns.StringToType[kind]; ok {
		return q, nil
	}
	var n uint16
	if number, is := strings.CutPrefix(kind, "TYPE"); is && len(number) <= 5 {
		if _, err := fmt.Sscanf(number, "%d", &n); err == nil && fmt.Sprint(n) == number {
			q.Qtype = n
			return q, nil
		}
	}
	return q, fmt.Errorf("the type to explain must be a type of DNS records, such as A, AAAA, CNAME, TXT, SRV or PTR, "+
		"got %q", clip(in.Type))
}

// packs reports whether a name fits a question.
func packs(name string) bool {
	var buf [256]byte
	n, err := dns.PackDomainName(name, buf[:], 0, nil, false)
	return err == nil && n <= 255
}

// explained makes the explanation of a result.
func explained(r result, tr *trace) Explanation {
	e := Explanation{Rcode: rcodeText(r.rcode), Steps: tr.steps}
	size := 0
	for i, rr := range r.answer {
		text := strings.ReplaceAll(rr.String(), "\t", " ")
		if size += len(text); size > maxExplained {
			e.Cut = len(r.answer) - i
			break
		}
		e.Records = append(e.Records, text)
	}
	if r.rcode != dns.RcodeSuccess && r.rcode != dns.RcodeNameError {
		return e
	}
	for i, rr := range slices.Concat(r.answer, r.ns) {
		if ttl := rr.Header().Ttl; i == 0 || ttl < e.TTL {
			e.TTL = ttl
		}
	}
	return e
}

// explain records why a name is answered as follow does: e is the entry that find has found.
func (t *Table) explain(tr *trace, name string, wire []byte, e entry, qtype uint16) {
	st := Step{Name: trimDot(name)}
	_, _, zone := t.closest(wire)
	if zone >= 0 {
		st.Zone = trimDot(textOf(string(wire[zone:])))
	}
	if e == nil {
		t.explainAbsent(tr, st, name, wire, qtype)
		return
	}
	owner := string(wire)
	if !t.names.get(wire).has(isHere) {
		at, _, _ := t.closest(wire)
		owner = wildcard + string(wire[at:])
		st.Owner = trimDot(textOf(owner))
	}
	_, _, conflicts := t.merged(owner, operators(e))
	for _, c := range conflicts {
		tr.add(Step{What: StepConflict, Name: st.Name, Owner: st.Owner, Text: c})
	}
	answered := e.set(qtype)
	for s := range e.sets() {
		if s.flags&setLeftOut == 0 {
			st.Types = append(st.Types, dns.Type(s.qtype).String())
		}
	}
	f, address := family(qtype)
	switch cname := e.set(dns.TypeCNAME).unpack(name); {
	case qtype == dns.TypeANY:
		st.What = StepMinimal
	case len(cname) > 0 && qtype != dns.TypeCNAME:
		st.What, st.Target = StepCNAME, trimDot(cname[0].(*dns.CNAME).Target)
	case qtype == t.withheld:
		tr.add(t.withheldStep(name))
		return
	case address && e.has(isNodes):
		for _, m := range t.live[f] {
			st.Nodes = append(st.Nodes, strings.TrimSuffix(m.name, "."+t.domain))
		}
		if len(st.Nodes) == 0 {
			st.What, st.Types = StepNoData, []string{otherFamily(qtype)}
			break
		}
		st.What, st.Down = StepNodes, t.down(f)
		if !within(name, t.domain) {
			st.Zone = ""
		}
	case answered.n > 0 && answered.flags&setOurs != 0,
		qtype == dns.TypeSOA && answered.n == 0 && t.names.get(wire).has(isApex):
		st.What = StepOwn
	case answered.n > 0:
		st.What = StepRecord
	default:
		st.What = StepNoData
		if e.has(isNodes) {
			st.Types = append(st.Types, "A", "AAAA")
		}
	}
	tr.add(st)
}

func otherFamily(qtype uint16) string {
	if qtype == dns.TypeA {
		return "AAAA"
	}
	return "A"
}

// down returns the nodes with addresses of a family that are left out of answers.
func (t *frame) down(f int) (list []string) {
	for _, n := range t.nodes {
		has := slices.ContainsFunc(n.Addrs, func(a netip.Addr) bool { return a.Unmap().Is6() == (f == v6) })
		if !n.Healthy && has {
			list = append(list, n.Name)
		}
	}
	slices.Sort(list)
	return list
}

// explainAbsent records why a name that is not in the table is answered as absent does.
func (t *Table) explainAbsent(tr *trace, st Step, name string, wire []byte, qtype uint16) {
	host := serviceHost(wire)
	if t.ourService(name, wire) {
		st.What, st.Target = StepService, trimDot(textOf(string(host)))
		tr.add(st)
		return
	}
	if zone, ok := t.forwards(name); ok {
		if qtype == dns.TypeANY {
			st.What, st.Zone = StepMinimal, trimDot(zone)
			tr.add(st)
			return
		}
		tr.add(t.forwardStep(name, zone))
		return
	}
	if n := t.expandedFrom(host); n > 0 {
		tr.add(Step{What: StepExpanded, Name: st.Name, Target: trimDot(textOf(string(host[:n]) + "\x00"))})
	}
	switch {
	case t.names.get(wire).exists():
		st.What = StepParent
	case st.Zone == "":
		st.What = StepAbsent
	case t.inSpecial(wire):
		st.What = StepSpecial
	case within(name, t.domain):
		st.What = StepOwnZone
	default:
		st.What = StepBelow
	}
	tr.add(st)
}

func (t *frame) forwardStep(name, zone string) Step {
	st := Step{What: StepForward, Name: trimDot(name), Zone: trimDot(zone)}
	for _, r := range t.forward[zone] {
		st.Servers = append(st.Servers, r.String())
	}
	return st
}

func (t *frame) withheldStep(name string) Step {
	only := OnlyIPv4
	if t.withheld == dns.TypeA {
		only = OnlyIPv6
	}
	return Step{What: StepWithheld, Name: trimDot(name), Text: only}
}
