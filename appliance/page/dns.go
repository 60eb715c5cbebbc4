package page

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// dnsTypes are the types of records that an operator can set.
var dnsTypes = []string{"A", "AAAA", "CNAME", "TXT", "SRV"}

// dnsActions are the actions of the page about DNS.
var dnsActions = map[string]action{
	"name-set": {
		title: "Set a DNS record", button: "Set the record", verb: "operate", method: http.MethodPut,
		path: "/v1/names/{name}/{type}", back: "/dns", command: "casemate name set {name} {type} {values}",
		note: "It replaces the record of this name and type. *.NAME is a wildcard.",
		fields: []field{
			{name: "name", label: "Name", help: "Like api.cluster.example."},
			{name: "type", label: "Type", kind: "choice", choices: dnsTypes},
			{name: "values", label: "Values, one a line", kind: "lines", list: true,
				help: "Addresses, a name, a text, or PRIORITY WEIGHT PORT TARGET."},
			{name: "ttl", label: "Time to live", optional: true,
				help: "Like 1m, between 1s and 168h. Empty: the setting dns.ttl."},
		},
	},
	"name-delete": {
		title: "Delete a DNS record", button: "Delete the record", verb: "operate", method: http.MethodDelete,
		path: "/v1/names/{name}/{type}", removes: true, back: "/dns",
		command: "casemate name delete {name} {type}",
		fields:  []field{{name: "name", kind: "hidden"}, {name: "type", kind: "hidden"}},
	},
}

// explanation is GET /v1/explain.
type explanation struct {
	Name, Type, Client, Rcode string
	Records, Why              []string
	Cut                       int
	Cure                      string
	Forwarders                []forwarder
}

// forwarder is a resolver: GET /v1/forwarders.
type forwarder struct {
	Zone, Server     string
	Up               bool
	Answered, Failed uint64
	LastFailure      time.Time `json:"last_failure"`
	LastError        string    `json:"last_error"`
	LatencyMS        float64   `json:"latency_ms"`
}

// dnsName is a DNS record: GET /v1/names.
type dnsName struct {
	Name, Type, TTL string
	Values          []string
}

// explainForm is the data of the form that asks why DNS answers as it does.
type explainForm struct {
	Name, Type, Client, Wrong string
	Types                     []string
	Answer                    *explanation
	Good                      bool
}

// dnsPage explains answers, and shows the operator's records and the resolvers.
func dnsPage(c *call) (view, error) {
	v := view{Command: "casemate name list", Live: []string{"tree"}}
	if c.may("inspect") {
		f := explainForm{Name: strings.TrimSpace(c.query("name")), Type: c.query("type"),
			Client: strings.TrimSpace(c.query("client")),
			Types:  []string{"A", "AAAA", "CNAME", "TXT", "SRV", "PTR", "MX", "NS", "SOA", "HTTPS"}}
		if f.Name != "" {
			v.Live = nil // resolvers are asked each time
			v.Command = "casemate name explain " + shellWord(f.Name)
			q := url.Values{"name": {f.Name}}
			if f.Type != "" {
				q.Set("type", f.Type)
				v.Command += " --type " + shellWord(f.Type)
			}
			if f.Client != "" {
				q.Set("client", f.Client)
				v.Command += " --client " + shellWord(f.Client)
			}
			var a explanation
			if _, err := c.get("/v1/explain?"+q.Encode(), &a); err == nil {
				f.Answer, f.Type, f.Good = &a, a.Type, a.Rcode == "NOERROR"
			} else if e, ok := sentenceOf(err); ok {
				f.Wrong = e
			} else {
				return view{}, err
			}
		}
		v.Template, v.Data = "explain", f
	}
	names, err := table(c, list[dnsName]{
		Name: "names", Title: "DNS records of your own", Path: "/v1/names", Paged: true,
		Command: "casemate name list", Head: []string{"Name", "Type", "Values", "Time to live"},
		Row: func(n dnsName) []Cell { return nameRow(c, n) }, Empty: "No DNS records are set.",
	})
	if err != nil {
		return view{}, err
	}
	v.Parts = append(v.Parts, names, c.offers(actionLink("Set a record", "name-set")))
	if c.may("inspect") {
		forwarders, err := table(c, list[forwarder]{
			Name: "forwarders", Title: "Resolvers that other names are forwarded to", Path: "/v1/forwarders",
			Command: "casemate name forwarders",
			Head:    []string{"Zone", "Resolver", "State", "Answered", "Failed", "Latency", "Last error", "At (UTC)"},
			Row:     forwarderRow, Empty: "The setting dns.forward is not set: names that are not here do not exist.",
		})
		if err != nil {
			return view{}, err
		}
		v.Parts = append(v.Parts, forwarders,
			c.offers(actionLink("Change dns.forward", "setting-set", "key", "dns.forward")))
	}
	return v, nil
}

func nameRow(c *call, n dnsName) []Cell {
	ttl := n.TTL
	if ttl == "" {
		ttl = "dns.ttl"
	}
	row := []Cell{code(n.Name), text(n.Type), code(strings.Join(n.Values, " ")), text(ttl)}
	links := c.offer(actionLink("Change", "name-set", "name", n.Name, "type", n.Type, "values",
		strings.Join(n.Values, "\n"), "ttl", n.TTL),
		actionLink("Delete", "name-delete", "name", n.Name, "type", n.Type))
	if c.may("inspect") {
		q := url.Values{"name": {n.Name}, "type": {n.Type}}
		if l := (link{Href: "/dns?" + q.Encode(), Text: "Explain"}); len(l.Href) <= maxLink {
			links.Links = append([]link{l}, links.Links...)
		}
	}
	return append(row, links)
}

func forwarderRow(f forwarder) []Cell {
	zone, state, latency := f.Zone, Cell{Text: "up", Class: "good"}, ""
	if zone == "." {
		zone = "every other name"
	}
	switch {
	case !f.Up:
		state = Cell{Text: "down", Class: "bad"}
	case f.Answered+f.Failed == 0:
		state = text("not asked yet")
	}
	if f.LatencyMS > 0 {
		latency = fmt.Sprintf("%.1f ms", f.LatencyMS)
	}
	return []Cell{text(zone), code(f.Server), state, number(f.Answered), number(f.Failed),
		{Text: latency, Class: "num"}, text(f.LastError), at(f.LastFailure)}
}
