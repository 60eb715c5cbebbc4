package page

import (
	"net/http"
	"slices"
)

// memberActions are the actions of the page about the cluster.
var memberActions = map[string]action{
	"join": {
		title: "Add a bastion", button: "Create a join token", verb: "administer", method: http.MethodPost,
		path: "/v1/tokens", back: "/cluster", command: "casemate token create", show: "join",
		note: "A token is good for one node. Install Casemate there, then run the line that is shown next.",
		fields: []field{{name: "ttl", label: "Valid for", optional: true,
			help: "Between 1m and 720h. Empty: one hour."}},
	},
	"member-address": {
		title: "Set a node's address", button: "Set the address", verb: "administer", method: http.MethodPut,
		path: "/v1/members/{name}/address", back: "/cluster", command: "casemate member address {name} {addr}",
		note: "Tell this node where another one is, after its addresses have changed and they no longer find each " +
			"other.",
		fields: []field{{name: "name", label: "Node"}, {name: "addr", label: "Address and port of its peer port",
			help: "Like 10.0.0.12:7443."}},
	},
	"member-remove": {
		title: "Remove a bastion", button: "Remove the node for good", verb: "administer", method: http.MethodDelete,
		path: "/v1/members/{name}", removes: true, back: "/cluster", command: "casemate member remove {name}",
		note: "The node stops, and never comes back under this name.",
		fields: []field{{name: "name", kind: "hidden"},
			{name: "force", label: "Also if it may be the only one with some content", kind: "check", optional: true,
				in: "query"}},
	},
}

// clusterPage shows the members of the cluster.
func clusterPage(c *call) (view, error) {
	nodes, err := table(c, list[member]{
		Name: "members", Title: "Bastions", Path: "/v1/members", Command: "casemate member list",
		Head: append(slices.Clone(membersHead), "Address"),
		Row:  func(m member) []Cell { return clusterRow(c, m) },
	})
	if err != nil {
		return view{}, err
	}
	return view{Command: "casemate member list", Live: []string{"tree"},
		Parts: []part{nodes, c.offers(actionLink("Add a bastion", "join"),
			actionLink("Set a node's address", "member-address"))}}, nil
}

func clusterRow(c *call, m member) []Cell {
	out := append(memberRow(m, c.p.cfg.Now()), code(m.Addr))
	if m.Self {
		out[0].More = "this node"
	}
	if m.Self {
		return append(out, Cell{})
	}
	return append(out, c.offer(actionLink("Remove", "member-remove", "name", m.Node)))
}
