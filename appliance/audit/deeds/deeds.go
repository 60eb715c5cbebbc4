// Package deeds says what a change of a name in the tree means to people: which names are content, settings or rights,
// whose every change is an event of the audit log, and which are the nodes' own bookkeeping.
package deeds

import (
	"strings"
)

// A Rule is for the names below a directory of the tree.
type Rule struct {
	// Dir is the directory; the rule with the longest one applies.
	Dir string
	// Set and Remove are the verbs of events in which a name is written, and removed. "": such a change is no event.
	Set, Remove string
	// Why says why changes are no events.
	Why string
	// object names the thing; nil: the name below Dir.
	object func(below string) string
}

// Rules are the directories of the tree. A directory without a rule is told by its own name, so that nothing new stays
// out of the log because it was forgotten here.
var Rules = []Rule{
	{Dir: "registry/repositories", Set: "image.push", Remove: "image.delete", object: image},
	{Dir: "files", Set: "file.put", Remove: "file.delete",
		object: func(below string) string { return "https://" + strings.TrimSuffix(below, "?") }},
	{Dir: "packages/repositories", Set: "repository.set", Remove: "repository.remove", object: first},
	{Dir: "packages/keys", Set: "repository.key", Remove: "repository.key"},
	{Dir: "pki/issued", Set: "certificate.issue", Remove: "certificate.forget"},
	{Dir: "pki", Set: "ca.set", Remove: "ca.remove"},
	{Dir: "origins", Set: "origin.set", Remove: "origin.remove"},
	{Dir: "users", Set: "user.set", Remove: "user.remove"},
	{Dir: "access/users", Set: "role.set", Remove: "role.remove"},
	{Dir: "access/groups", Set: "role.set", Remove: "role.remove",
		object: func(below string) string { return "group:" + below }},
	{Dir: "access/keys", Set: "apikey.create", Remove: "apikey.revoke"},
	{Dir: "names", Set: "name.set", Remove: "name.delete",
		object: func(below string) string { return strings.ReplaceAll(below, "/", " ") }},
	{Dir: "settings", Set: "setting.set", Remove: "setting.reset"},
	{Dir: "secrets", Set: "secret.set", Remove: "secret.remove"},
	{Dir: "nodes", Set: "node.address", Remove: "node.remove"},
	{Dir: "imports", Set: "import.publish", Remove: "import.remove", object: first},
	{Dir: "redirects", Set: "redirect.set", Remove: "redirect.remove"},
	{Dir: "upstream/logins", Set: "upstream.login", Remove: "upstream.logout"},
	{Dir: "cluster/members", Set: "member.set", Remove: "member.remove"},
	{Dir: "cluster/removed", Set: "member.remove", Remove: "member.forget"},
	{Dir: "cluster/tokens", Set: "token.create", Remove: "token.expire", object: nothing},
	{Dir: "cluster/ca", Set: "member.ca", Remove: "member.ca"},
	{Dir: "cluster/keys", Set: "member.keys", Remove: "member.keys"},

	{Dir: "upstream/answers", Why: "says only when an origin has last confirmed what is stored"},
	{Dir: "upstream", Why: "what is fetched is told by the names of images and files"},
	{Dir: "access/used", Why: "says only when an API key was last used"},
	{Dir: "missing", Why: "a copy of what clients asked for, written every few minutes"},
	{Dir: "egress", Why: "a copy of which names clients used, written every few minutes"},
	{Dir: "clients", Why: "a copy of which clients use a node, written every few minutes"},
	{Dir: "pulls", Why: "a copy of when clients last read images and files, written once an hour"},
	{Dir: "rotation", Why: "counts clients that have fetched a root, written every few minutes"},
	{Dir: "imports/pending", Why: "protects what is being read; nothing is visible until the import is published"},
	{Dir: "audit", Remove: "audit.remove",
		Why: "holds the events themselves, their hashes, and how far they were forwarded"},
}

// Of returns the verb for a change of a name of the tree, and what it is done to, by the name that people know. The
// verb is "" for bookkeeping.
func Of(name string, removed bool) (verb, object string) {
	var best *Rule
	var below string
	for i := range Rules {
		r := &Rules[i]
		if best != nil && len(r.Dir) < len(best.Dir) {
			continue
		}
		if rest, ok := strings.CutPrefix(name, r.Dir); ok && (rest == "" || rest[0] == '/') {
			best, below = r, strings.TrimPrefix(rest, "/")
		}
	}
	if best == nil {
		best = &Rule{}
		best.Dir, below, _ = strings.Cut(name, "/")
		best.Set, best.Remove = best.Dir+".set", best.Dir+".remove"
	}
	object = below
	if best.object != nil {
		if object = best.object(below); object == hidden {
			return "", ""
		}
	}
	if removed {
		return best.Remove, object
	}
	return best.Set, object
}

// hidden is the object of a name that is bookkeeping in a directory whose other names are not.
const hidden = "\x00"

func first(below string) string {
	below, _, _ = strings.Cut(below, "/")
	return below
}

func nothing(string) string { return "" }

// image names a tag or a manifest. It returns "" for the registry's other names, which come and go with a manifest:
// layers, referrers, summaries.
func image(below string) string {
	repo, rest, ok := strings.Cut(below, "/_manifests")
	if !ok {
		if strings.Contains(below, "/_") {
			return hidden
		}
		return below // the whole repository
	}
	parts := strings.Split(strings.TrimPrefix(rest, "/"), "/")
	switch {
	case len(parts) >= 2 && parts[0] == "tags":
		return repo + ":" + parts[1]
	case len(parts) >= 3 && parts[0] == "revisions":
		return repo + "@" + parts[1] + ":" + parts[2]
	}
	return repo
}
