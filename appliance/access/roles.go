package access

import (
	"slices"
	"strings"
)

// A Verb is a kind of action that is allowed or refused.
type Verb string

// The verbs, from what every account may do to what only an administrator may.
const (
	Pull       Verb = "pull"       // read images and files as clients do
	List       Verb = "list"       // see what is stored and what clients missed, and the state of the nodes
	Push       Verb = "push"       // store images, files and packages
	Delete     Verb = "delete"     // delete images, files and packages
	Import     Verb = "import"     // import bundles, and undo imports
	Approve    Verb = "approve"    // publish the imports of somebody else
	Inspect    Verb = "inspect"    // see accounts, settings, certificates, clients, the egress book and the audit log
	Operate    Verb = "operate"    // change names, origins, certificates, repositories; collect garbage
	Manage     Verb = "manage"     // manage users, roles and API keys that may do no more than oneself
	Administer Verb = "administer" // change settings, the CA, members; take backups
)

// verbs are all verbs in the order of the documentation.
var verbs = []struct {
	verb Verb
	what string
}{
	{Pull, "read images where `registry.anonymous` is `none`"},
	{List, "see what is stored and what clients missed, and the state of the nodes"},
	{Push, "store images, files and packages"},
	{Delete, "delete images, files and packages"},
	{Import, "import, and undo imports"},
	{Approve, "publish what somebody else has imported"},
	{Inspect, "see users, keys, settings, certificates, clients, the egress book and the audit log"},
	{Operate, "change names, origins, certificates, package repositories; collect garbage"},
	{Manage, "manage users, roles and API keys that may do no more than oneself"},
	{Administer, "change settings, the CA and members; take backups"},
}

// A Role is a named set of verbs. Roles are built in.
type Role struct {
	Name  string
	What  string
	Verbs []Verb
	// Limits says that the role can be limited to prefixes of images and files.
	Limits bool
}

// roles is the table that decides, with the least first.
var roles = []Role{
	{"reader", "pulls", []Verb{Pull, List}, true},
	{"pusher", "pushes and deletes", []Verb{Pull, List, Push, Delete}, true},
	{"importer", "brings bundles in", []Verb{Pull, List, Import}, false},
	{"approver", "publishes the imports of others", []Verb{Pull, List, Approve}, false},
	{"auditor", "sees everything and changes nothing", []Verb{Pull, List, Inspect}, false},
	{"operator", "runs the content and the names", []Verb{Pull, List, Push, Delete, Import, Inspect, Operate, Manage},
		false},
	{"admin", "may do everything", []Verb{Pull, List, Push, Delete, Import, Approve, Inspect, Operate, Manage,
		Administer}, false},
}

// Roles returns the built-in roles, the least first. Callers must not change them.
func Roles() []Role { return roles }

func roleOf(name string) (Role, bool) {
	i := slices.IndexFunc(roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return roles[i], true
}

// roleNames lists the roles for an error.
func roleNames() string {
	var names []string
	for _, r := range roles {
		names = append(names, r.Name)
	}
	return strings.Join(names, ", ")
}
