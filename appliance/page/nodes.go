package page

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// nodePages are the pages about who asks.
var nodePages = []entry{
	{path: "/nodes", title: "Nodes", nav: true, verb: "inspect", view: nodesPage},
	{path: "/node", title: "Node", verb: "inspect", view: nodePage},
}

// client is one that uses the bastions: GET /v1/clients.
type client struct {
	Client, Address, Name, Enrolled, Why string
	First, Last                          time.Time
	Protocols, Programs, Nodes           []string
	Misses                               int
	LastError                            *struct {
		Time time.Time
		What string
	} `json:"last_error"`
}

// use is an entry of the egress book: GET /v1/egress.
type use struct {
	Client, Kind, Name, Verdict, Class string
	Count                              uint64
	First, Last                        time.Time
}

// nodesShown is how many nodes a page shows: their rows are long.
const nodesShown = 50

// nodesPage lists who uses the bastions.
func nodesPage(c *call) (view, error) {
	q := c.query("q")
	path, command := "/v1/clients", "casemate client list"
	if q != "" {
		path, command = with(path, "q", q), command+" --match "+shellWord(q)
	}
	nodes, err := table(c, list[client]{
		Name: "nodes", Title: "Who asks", Path: path, Paged: true, Most: nodesShown,
		Head: []string{"Node", "Enrolled", "Last seen (UTC)", "Asks by", "Programs", "Misses", "Last error"},
		Row:  clientRow, Empty: "No node has used the bastions lately, or none matches the form above.",
	})
	if err != nil {
		return view{}, err
	}
	return view{Command: command, Live: []string{"clients"}, Template: "nodes", Data: q, Parts: []part{nodes}}, nil
}

// short shortens a text more than clip does: a row has many, and the page of the node has all of each.
func short(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// enrolled returns the cell that says whether a client is enrolled.
func (n client) enrolled() Cell {
	switch n.Enrolled {
	case "yes":
		return Cell{Text: "yes", Class: "good"}
	case "no":
		return Cell{Text: "no", Class: "bad", More: short(n.Why)}
	}
	return Cell{Text: short(n.Enrolled), More: short(n.Why)}
}

func (n client) lastError() Cell {
	if n.LastError == nil {
		return Cell{}
	}
	return Cell{Text: short(n.LastError.What), Class: "code", More: when(n.LastError.Time)}
}

// toClient returns a cell that links to what a page shows of a client.
func toClient(text, page, client string) Cell {
	cell := Cell{Text: text, Href: page + "?" + url.Values{"client": {client}}.Encode()}
	if len(cell.Href) > maxLink {
		cell.Href = ""
	}
	return cell
}

func clientRow(n client) []Cell {
	name := toClient(n.Client, "/node", n.Client)
	name.More = short(n.Name)
	misses := number(n.Misses)
	if n.Misses > 0 {
		misses = toClient(fmt.Sprint(n.Misses), "/missing", n.Client)
		misses.Class = "num"
	}
	return []Cell{name, n.enrolled(), at(n.Last), text(short(strings.Join(n.Protocols, " "))),
		text(short(strings.Join(n.Programs, " "))), misses, n.lastError()}
}

// nodeDetails is the data of the page of one node: GET /v1/clients/show.
type nodeDetails struct {
	client
	Doctor string
	Good   bool
	Bad    bool
}

// nodePage shows one node: whether it is enrolled, its misses, and the names that it used.
func nodePage(c *call) (view, error) {
	address := strings.TrimSpace(c.query("client"))
	var n nodeDetails
	if _, err := c.get(with("/v1/clients/show", "client", address), &n); err != nil {
		return view{}, err
	}
	n.Good, n.Bad = n.Enrolled == "yes", n.Enrolled == "no"
	misses, err := table(c, list[miss]{
		Name: "misses", Title: "What it did not get", Path: with("/v1/missing", "client", address),
		Paged: true, Most: 50,
		Command: "casemate missing --client " + shellWord(address),
		Head:    []string{"Name", "State", "Asked", "Last (UTC)", "Clients", "What supplies it"},
		Row:     func(m miss) []Cell { return missRow(c, m) }, Empty: "It got everything that it asked for.",
	})
	if err != nil {
		return view{}, err
	}
	names, err := table(c, list[use]{
		Name: "egress", Title: "Names that it used", Path: with("/v1/egress", "client", address), Field: "entries",
		Paged: true, Most: 50, Command: "casemate egress --client " + shellWord(address),
		Head: []string{"Name", "Kind", "Verdict", "Count", "Last (UTC)", "Class"},
		Row:  useRow, Empty: "It has used no names.",
	})
	if err != nil {
		return view{}, err
	}
	title := n.Client
	if n.Name != "" {
		title = n.Name + " (" + n.Client + ")"
	}
	return view{Title: "Node " + clip(title), Command: "casemate client show " + shellWord(address),
		Live: []string{"clients", "missed"}, Template: "node", Data: n, Parts: []part{misses, names}}, nil
}

func useRow(u use) []Cell {
	verdict := text(u.Verdict)
	switch u.Verdict {
	case "forwarded":
		verdict.Class = "warn"
	case "refused":
		verdict.Class = "bad"
	}
	return []Cell{code(u.Name), text(u.Kind), verdict, number(u.Count), at(u.Last), text(u.Class)}
}
