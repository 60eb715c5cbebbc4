package page

import (
	"net/http"
	"strings"
	"time"
)

// roleNames are the built-in roles, in the order of GET /v1/roles. A test compares them.
var roleNames = []string{"reader", "pusher", "importer", "approver", "auditor", "operator", "admin"}

// oneRole makes the value of roles of the name of a role.
func oneRole(name string) any { return []map[string]string{{"role": name}} }

// userActions are the actions of the pages about accounts.
var userActions = map[string]action{
	"user-add": {
		title: "Add a user", button: "Add the user", verb: "manage", method: http.MethodPost, path: "/v1/users",
		back: "/users", command: "casemate user add {name} --role {roles}",
		fields: []field{{name: "name", label: "Name"}, {name: "password", label: "Password", kind: "password"},
			{name: "roles", label: "Role", kind: "choice", choices: roleNames, value: oneRole,
				help: "Further roles, and limits to prefixes, with “Give a role” afterwards."}},
	},
	"password": {
		title: "Change a password", button: "Change the password", method: http.MethodPut, path: "/v1/users/{name}",
		back: "/account", command: "casemate user passwd {name}",
		note:   "Logins and tokens of this user end.",
		fields: []field{{name: "name", label: "User"}, {name: "password", label: "New password", kind: "password"}},
	},
	"user-remove": {
		title: "Remove a user", button: "Remove the user", verb: "manage", method: http.MethodDelete,
		path: "/v1/users/{name}", removes: true, back: "/users", command: "casemate user remove {name}",
		fields: []field{{name: "name", kind: "hidden"}},
	},
	"role-grant": {
		title: "Give a role", button: "Give the role", verb: "manage", method: http.MethodPost,
		path: "/v1/accounts/{name}/roles", back: "/users", command: "casemate role grant {name} {role}",
		note: "To a user, or to a group of a directory (group:NAME).",
		fields: []field{{name: "name", label: "User or group"},
			{name: "role", label: "Role", kind: "choice", choices: roleNames},
			{name: "images", label: "Only images below, one a line", kind: "lines", list: true, optional: true,
				help: "Readers and pushers can be limited: team is team and everything below it."},
			{name: "files", label: "Only files below, one a line", kind: "lines", list: true, optional: true,
				help: "URLs without the scheme, like dl.example.com/tools."}},
	},
	"role-revoke": {
		title: "Take a role", button: "Take the role", verb: "manage", method: http.MethodDelete,
		path: "/v1/accounts/{name}/roles/{role}", removes: true, back: "/users",
		command: "casemate role revoke {name} {role}",
		fields:  []field{{name: "name", kind: "hidden"}, {name: "role", kind: "hidden"}},
	},
	"key-create": {
		title: "Create an API key", button: "Create the key", verb: "manage", method: http.MethodPost,
		path: "/v1/apikeys", back: "/users", command: "casemate apikey create {name} --role {roles}", show: "newkey",
		note: "For a program. The key is shown once: only a hash of it is stored.",
		fields: []field{{name: "name", label: "Name"},
			{name: "roles", label: "Role", kind: "choice", choices: roleNames, value: oneRole},
			{name: "ttl", label: "Valid for", optional: true, help: "Like 12h or 2160h. Empty: until it is revoked."}},
	},
	"key-revoke": {
		title: "Revoke an API key", button: "Revoke the key", method: http.MethodDelete, path: "/v1/apikeys/{name}",
		removes: true, back: "/account", command: "casemate apikey revoke {name}",
		fields: []field{{name: "name", kind: "hidden"}},
	},
}

// grant is a role of an account, with the prefixes that it is limited to.
type grant struct {
	Role          string
	Images, Files []string
}

func (g grant) String() string {
	if len(g.Images)+len(g.Files) == 0 {
		return g.Role
	}
	return g.Role + " of " + strings.Join(append(append([]string{}, g.Images...), g.Files...), " ")
}

func grantsText(list []grant) string {
	var all []string
	for _, g := range list {
		all = append(all, g.String())
	}
	return strings.Join(all, ", ")
}

// account is a user, or a group of a directory: GET /v1/accounts.
type account struct {
	Name    string
	Roles   []grant
	Changed time.Time
}

// apiKey is GET /v1/apikeys.
type apiKey struct {
	Name, Owner, By        string
	Roles                  []grant
	Created, Expires, Used time.Time
}

// role is GET /v1/roles.
type role struct {
	Name, What string
	Verbs      []string
}

// usersPage shows accounts, API keys and roles.
func usersPage(c *call) (view, error) {
	accounts, err := table(c, list[account]{
		Name: "accounts", Title: "Users and groups", Path: "/v1/accounts", Command: "casemate user list", Most: 50,
		Head: []string{"Name", "Roles", "Password set (UTC)"}, Empty: "There are no users.",
		Row: func(a account) []Cell { return accountRow(c, a) },
	})
	if err != nil {
		return view{}, err
	}
	keys, err := table(c, list[apiKey]{
		Name: "keys", Title: "API keys and logins", Path: "/v1/apikeys", Command: "casemate apikey list", Most: 50,
		Head:  []string{"Name", "May", "Made by", "Created (UTC)", "Expires (UTC)", "Used (UTC)"},
		Empty: "There are none.",
		Row:   func(k apiKey) []Cell { return keyRow(c, k, c.may("manage") || k.Owner == c.who.Name) },
	})
	if err != nil {
		return view{}, err
	}
	roles, err := table(c, list[role]{
		Name: "roles", Title: "Roles", Path: "/v1/roles", Command: "casemate role list",
		Head: []string{"Role", "What", "May"},
		Row: func(r role) []Cell {
			return []Cell{{Text: r.Name, Class: "word"}, text(r.What), text(strings.Join(r.Verbs, ", "))}
		},
	})
	if err != nil {
		return view{}, err
	}
	return view{Command: "casemate user list", Live: []string{"tree"}, Parts: []part{
		accounts, c.offers(actionLink("Add a user", "user-add"), actionLink("Give a role", "role-grant")),
		keys, c.offers(actionLink("Create an API key", "key-create")), roles,
	}}, nil
}

func accountRow(c *call, a account) []Cell {
	roles := text(grantsText(a.Roles))
	if len(a.Roles) == 0 {
		roles = Cell{Text: "none", Class: "warn"}
	}
	var links []link
	if c.may("manage") {
		links = append(links, actionLink("Give a role", "role-grant", "name", a.Name))
		seen := map[string]bool{}
		for _, g := range a.Roles {
			if !seen[g.Role] {
				seen[g.Role] = true
				links = append(links, actionLink("Take "+clip(g.Role), "role-revoke", "name", a.Name, "role", g.Role))
			}
		}
		if !a.Changed.IsZero() { // a user, not a group
			links = append(links, actionLink("Password", "password", "name", a.Name),
				actionLink("Remove", "user-remove", "name", a.Name))
		}
	}
	return []Cell{text(a.Name), roles, at(a.Changed), c.offer(links...)}
}

func keyRow(c *call, k apiKey, may bool) []Cell {
	what := text(grantsText(k.Roles))
	if k.Owner != "" {
		what = Cell{Text: "login of " + k.Owner}
	}
	expires, now := at(k.Expires), c.p.cfg.Now()
	switch {
	case k.Expires.IsZero():
		expires = text("never")
	case now.After(k.Expires):
		expires.Class = "bad"
	}
	row := []Cell{text(k.Name), what, text(k.By), at(k.Created), expires, at(k.Used)}
	if !may {
		return append(row, Cell{})
	}
	return append(row, c.offer(actionLink("Revoke", "key-revoke", "name", k.Name)))
}

// accountPage shows whoever has logged in what the account may do.
func accountPage(c *call) (view, error) {
	var who struct {
		Name, How string
		Roles     []grant
		Groups    []string
		Verbs     []string
		Expires   time.Time
	}
	if _, err := c.get("/v1/whoami", &who); err != nil {
		return view{}, err
	}
	data := map[string]any{"Name": who.Name, "Roles": grantsText(who.Roles), "Groups": strings.Join(who.Groups, ", "),
		"Verbs": strings.Join(who.Verbs, ", "), "Expires": who.Expires}
	return view{Command: "casemate whoami", Template: "account", Data: data, Parts: []part{
		c.offers(actionLink("Change the password", "password", "name", who.Name))}}, nil
}
