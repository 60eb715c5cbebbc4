// Package explain says in sentences why DNS answers as it does, and which command would change it. What is answered is
// decided by dnssrv, which this room asks nothing: it translates.
package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"casemate/appliance/address"
	"casemate/appliance/current"
	"casemate/appliance/hostname"
	"casemate/appliance/origin"
	"casemate/appliance/usage"
	"casemate/dnssrv"
)

// Answer is what a client would be answered, and why.
type Answer struct {
	Name string `json:"name"` // as it was asked for, without the trailing dot
	Type string `json:"type"`
	// Client is who would ask; absent: some client that may ask.
	Client string `json:"client,omitempty"`
	Rcode  string `json:"rcode"`
	// Records are the answer section, one record each in the form of a zone file; Cut is how many more there are.
	Records []string `json:"records"`
	Cut     int      `json:"cut,omitempty"`
	// TTL is for how many seconds clients may remember the answer.
	TTL uint32 `json:"ttl"`
	// Why are the reasons, a sentence each, in the order in which DNS decides.
	Why []string `json:"why"`
	// Cure is the command that would change a refusal, an NXDOMAIN or an empty answer.
	Cure string `json:"cure,omitempty"`
	// Forwarders are the resolvers that were asked, as this node knows them.
	Forwarders []Forwarder `json:"forwarders,omitempty"`
}

// Forwarder is a resolver of dns.forward, as this node knows it.
type Forwarder struct {
	Zone   string `json:"zone"`   // "." is every other name
	Server string `json:"server"` // address and port
	// Up is false after two questions in a row without an answer. One that was asked nothing is up.
	Up bool `json:"up"`
	// Answered and Failed are questions since the start of the node's DNS, or since it is in dns.forward.
	Answered    uint64    `json:"answered"`
	Failed      uint64    `json:"failed"`
	LastAnswer  time.Time `json:"last_answer,omitzero"`
	LastFailure time.Time `json:"last_failure,omitzero"`
	// LastError is what was wrong last: no answer, or one that is of no use, such as SERVFAIL.
	LastError string `json:"last_error,omitempty"`
	// LatencyMS is the usual time to an answer in milliseconds; absent: it has answered nothing.
	LatencyMS float64 `json:"latency_ms,omitempty"`
}

// Forwarders returns how resolvers are.
func Forwarders(list []dnssrv.Resolver) []Forwarder {
	out := []Forwarder{}
	for _, r := range list {
		out = append(out, Forwarder{
			Zone: r.Zone, Server: r.Server, Up: r.Up, Answered: r.Answered, Failed: r.Failed, LastAnswer: r.LastAnswer,
			LastFailure: r.LastFailure, LastError: r.LastError,
			LatencyMS: float64(r.Latency.Round(10*time.Microsecond)) / float64(time.Millisecond),
		})
	}
	return out
}

// Inquiry returns the question that an operator has typed: an address means its reverse name, no type means A or, of a
// reverse name, PTR. Errors are usage errors.
func Inquiry(name, kind, client string) (in dnssrv.Inquiry, err error) {
	if name == "" {
		return in, usage.Errorf("name is missing: the name to explain, like registry.k8s.io")
	}
	if pasted := origin.Pasted(name); pasted != "" {
		return in, usage.Errorf("the name to explain is a host name, without a scheme and a path: write %s, got %q",
			pasted, clip(name))
	}
	in.Type = "A"
	if a, err := address.Parse(name); err == nil {
		in.Name, in.Type = reverse(a), "PTR"
	} else if in.Name, err = hostname.Fold(name); err != nil {
		return in, usage.Errorf("the name to explain %w", err)
	}
	if name == "." {
		in.Name = "."
	}
	if kind != "" {
		in.Type = strings.ToUpper(kind)
	}
	if client != "" {
		if in.Client, err = address.Parse(client); err != nil {
			return in, usage.Errorf("the client %w", err)
		}
	}
	return in, nil
}

// reverse returns the name of an address (RFC 1035, 3.5; RFC 3596, 2.5).
func reverse(a netip.Addr) string {
	var labels []string
	if a.Is4() {
		for _, b := range a.AsSlice() {
			labels = append([]string{fmt.Sprint(b)}, labels...)
		}
		return strings.Join(append(labels, "in-addr.arpa"), ".")
	}
	for _, b := range a.AsSlice() {
		labels = append([]string{fmt.Sprintf("%x", b&0xf), fmt.Sprintf("%x", b>>4)}, labels...)
	}
	return strings.Join(append(labels, "ip6.arpa"), ".")
}

// Known is what explanations need besides what DNS says.
type Known struct {
	State *current.State
	// Allow is the text of the setting dns.allow.
	Allow string
	// Reach returns what makes a host resolve to the bastions, as lookup.Lookup.Enabling; "" if it does.
	Reach func(host string) string
}

// Of translates the explanation of in. resolvers are all of the node.
func Of(in dnssrv.Inquiry, e dnssrv.Explanation, resolvers []dnssrv.Resolver, k Known) Answer {
	a := Answer{
		Name: strings.TrimSuffix(in.Name, "."), Type: in.Type, Rcode: e.Rcode,
		Records: append([]string{}, e.Records...), Cut: e.Cut, TTL: e.TTL, Why: []string{},
	}
	if a.Name == "" {
		a.Name = "."
	}
	if in.Client.IsValid() {
		a.Client = in.Client.String()
	} else {
		a.why("This is for clients that may ask (dns.allow is %s); with a client's address it is checked whether that "+
			"one may, and the order of the bastions is the one that it gets.", k.Allow)
	}
	zones, cure := map[string]bool{}, ""
	for _, st := range e.Steps {
		if c := a.step(st, k); c != "" {
			cure = c
		}
		if st.What == dnssrv.StepForward {
			zones[st.Zone] = true
		}
		if st.What == dnssrv.StepExpanded {
			cure = ""
			break // what follows is as it must be
		}
	}
	if e.TTL > 0 {
		a.why("Clients may remember this answer for up to %s.", time.Duration(e.TTL)*time.Second)
	}
	if len(e.Records) == 0 || e.Rcode != "NOERROR" {
		a.Cure = cure
	}
	for _, f := range Forwarders(resolvers) {
		if zones[f.Zone] {
			a.Forwarders = append(a.Forwarders, f)
		}
	}
	return a
}

func (a *Answer) why(format string, args ...any) { a.Why = append(a.Why, fmt.Sprintf(format, args...)) }

// step adds the sentences of a step, and returns the command that would change the answer.
func (a *Answer) step(st dnssrv.Step, k Known) (cure string) {
	set := fmt.Sprintf("casemate name set %s %s", st.Name, exampleOf(a.Type))
	switch st.What {
	case dnssrv.StepNoTable:
		a.why("DNS has just started and does not have its table yet: it will in a moment.")
	case dnssrv.StepMayAsk:
		a.why("%s may ask: it is in %s (dns.allow).", st.Name, some(st.Servers))
	case dnssrv.StepStranger:
		a.why("%s may not ask: it is in none of the networks of dns.allow, %s.", st.Name, some(st.Servers))
		return fmt.Sprintf("casemate config set dns.allow %q", strings.TrimSpace(k.Allow+" "+st.Name))
	case dnssrv.StepRefused:
		a.why("DNS answers no questions of type %s, whatever the name is.", st.Text)
	case dnssrv.StepNodes:
		a.nodes(st, k)
	case dnssrv.StepRecord:
		a.why("%s is a DNS record of your own (%s)%s.", st.Name, some(st.Types), through(st))
	case dnssrv.StepOwn:
		a.why("%s is a name that Casemate has itself (%s)%s.", st.Name, some(kinds(st.Types)), through(st))
	case dnssrv.StepNoData:
		has := "no data at all"
		if len(st.Types) > 0 {
			has = "only " + some(kinds(st.Types))
		}
		a.why("%s exists and has no data of type %s, %s%s: the answer is empty, not NXDOMAIN.", st.Name, a.Type, has,
			through(st))
	case dnssrv.StepWithheld:
		a.why("dns.families is %s, so no answer contains addresses of type %s.", st.Text, a.Type)
		return "casemate config set dns.families both"
	case dnssrv.StepCNAME:
		a.why("%s is a DNS record of your own%s: a CNAME to %s, which is followed.", st.Name, through(st), st.Target)
	case dnssrv.StepMinimal:
		a.why("A question of type ANY gets one record that has no content (RFC 8482).")
	case dnssrv.StepService:
		a.why("%s is about the services of %s, which the bastions answer for. It has no data, so clients connect to "+
			"%s.", st.Name, st.Target, st.Target)
	case dnssrv.StepForward:
		a.forward(st)
	case dnssrv.StepAnswer:
		a.why("The resolver %s has just answered %s. DNS here remembers no resolver's answers.", some(st.Servers),
			st.Text)
		if st.Text == "NXDOMAIN" {
			return set
		}
	case dnssrv.StepUnusable:
		a.why("The answer of the resolver %s is of no use: %s.", some(st.Servers), st.Text)
	case dnssrv.StepFailed:
		a.why("No resolver has answered %s (%s), so clients ask the next bastion.", st.Name, st.Text)
	case dnssrv.StepParent:
		a.why("%s has no data of its own; it exists because names below it do, so the answer is empty.", st.Name)
		return set
	case dnssrv.StepAbsent:
		return a.absent(st, k, set)
	case dnssrv.StepOwnZone:
		a.why("%s is in the bastions' own zone %s, which has no such name.", st.Name, st.Zone)
		return set
	case dnssrv.StepBelow:
		a.why("%s is below %s. DNS answers that name as a zone of its own, which has no such name.", st.Name, st.Zone)
		return a.reach(st, k, set)
	case dnssrv.StepSpecial:
		a.why("%s is in %s, which means the same in every network, or nothing outside of this one: it is not "+
			"forwarded.", st.Name, st.Zone)
	case dnssrv.StepExpanded:
		a.why("%s is %s with the suffix of a search list. The client asks for %s next; this answer is as it must be.",
			st.Name, st.Target, st.Target)
	case dnssrv.StepEndless:
		a.why("The CNAMEs do not come to an end at %s: they form a loop, or there are more than 16.", st.Name)
		return fmt.Sprintf("casemate name delete %s CNAME", st.Name)
	case dnssrv.StepConflict:
		a.why("%s.", strings.TrimSuffix(st.Text, "."))
	}
	return ""
}

// nodes explains an answer with the addresses of bastions.
func (a *Answer) nodes(st dnssrv.Step, k Known) {
	o, is := k.State.Origins.Get(st.Name)
	switch {
	case st.Zone != "":
		a.why("%s is a name of the bastions themselves.", st.Name)
	case is && o.Host != st.Name:
		a.why("%s is an alias of the origin %s, which is enabled.", st.Name, o.Host)
	default:
		a.why("%s is an origin that is enabled.", st.Name)
	}
	down := func(node string) bool { return slices.Contains(st.Down, node) }
	switch {
	case len(st.Down) == 0:
		a.why("It is answered with the addresses of %s; all nodes are up.", some(st.Nodes))
	case !slices.ContainsFunc(st.Nodes, func(n string) bool { return !down(n) }):
		a.why("No node with such an address is up, so all of them are answered: %s.", some(st.Nodes))
	default:
		a.why("It is answered with the addresses of %s; left out because down: %s.", some(st.Nodes), some(st.Down))
	}
}

// forward explains that resolvers are asked.
func (a *Answer) forward(st dnssrv.Step) {
	zone := "the zone " + st.Zone
	if st.Zone == "." {
		zone = "all other names"
	}
	if len(st.Servers) == 0 {
		a.why("%s is forwarded (dns.forward for %s), and no resolver is left: those given are nodes of this cluster.",
			st.Name, zone)
		return
	}
	a.why("%s is no name that DNS here has; it is forwarded to %s (dns.forward for %s).", st.Name, some(st.Servers),
		zone)
}

// absent explains a name that nobody has.
func (a *Answer) absent(st dnssrv.Step, k Known, set string) string {
	switch o, known := k.State.Origins.Get(st.Name); {
	case known && o.Disabled != "":
		a.why("%s belongs to the origin %s, which is not enabled: %s.", st.Name, o.Host, o.Disabled)
	default:
		a.why("%s is not a DNS record of your own, not a name of the bastions and not an origin that is enabled.",
			st.Name)
	}
	a.why("No zone of dns.forward covers it, so it is denied at once.")
	return a.reach(st, k, set)
}

// reach returns what makes a name resolve to the bastions, or else to an address.
func (a *Answer) reach(st dnssrv.Step, k Known, set string) string {
	if hostname.Check(st.Name) != nil {
		return set
	}
	how := k.Reach(st.Name)
	if why, no := strings.CutPrefix(how, "none while it is "); no {
		a.why("It cannot be enabled while it is %s.", why)
		return set
	}
	if how == "" {
		return set
	}
	return "casemate " + how
}

// exampleOf returns the type of a record that would answer, with a value to be replaced.
func exampleOf(kind string) string {
	switch kind {
	case "AAAA":
		return "AAAA ADDRESS"
	case "CNAME":
		return "CNAME NAME"
	case "TXT":
		return "TXT TEXT"
	case "SRV":
		return `SRV "PRIORITY WEIGHT PORT TARGET"`
	}
	return "A ADDRESS"
}

// through names the wildcard that applies.
func through(st dnssrv.Step) string {
	if st.Owner == "" {
		return ""
	}
	return ", through the wildcard " + st.Owner
}

// kinds are types, or the one that every zone has.
func kinds(types []string) []string {
	if len(types) == 0 {
		return []string{"SOA"}
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// some lists the first few.
func some(list []string) string {
	const most = 8
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// clip shortens a value for an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
