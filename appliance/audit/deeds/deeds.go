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
	// Kind is the thing that changes, the first word of the event's verb. "": its changes are no events.
	Kind string
	// Why says why changes are no events.
	Why string
	// object names the thing; nil: the name below Dir.
	object func(below string) string
}

// Rules are the directories of the tree. A directory without a rule is told by its own name, so that nothing new stays
// out of the log because it was forgotten here.
var Rules = []Rule{
	{Dir: "registry/repositories", Kind: "image", object: image},
	{Dir: "files", Kind: "file", object: func(below string) string { return "https://" + strings.TrimSuffix(below, "?") }},
	{Dir: "packages/repositories", Kind: "repository", object: first},
	{Dir: "packages/keys", Kind: "repository-key"},
	{Dir: "pki/issued", Kind: "certificate"},
	{Dir: "pki", Kind: "ca"},
	{Dir: "origins", Kind: "origin"},
	{Dir: "users", Kind: "user"},
	{Dir: "names", Kind: "name", object: func(below string) string { return strings.ReplaceAll(below, "/", " ") }},
	{Dir: "settings", Kind: "setting"},
	{Dir: "secrets", Kind: "secret"},
	{Dir: "nodes", Kind: "node"},
	{Dir: "imports", Kind: "import", object: first},
	{Dir: "redirects", Kind: "redirect"},
	{Dir: "upstream/logins", Kind: "origin-login"},
	{Dir: "cluster/members", Kind: "member"},
	{Dir: "cluster/removed", Kind: "member"},
	{Dir: "cluster/tokens", Kind: "token"},
	{Dir: "cluster/ca", Kind: "nodes-ca"},
	{Dir: "cluster/keys", Kind: "sealing-key"},

	{Dir: "upstream/answers", Why: "says only when an origin has last confirmed what is stored"},
	{Dir: "upstream", Why: "what is fetched is told by the names of images and files"},
	{Dir: "missing", Why: "a copy of what clients asked for, written every few minutes"},
	{Dir: "egress", Why: "a copy of which names clients used, written every few minutes"},
	{Dir: "rotation", Why: "counts clients that have fetched a root, written every few minutes"},
	{Dir: "imports/pending", Why: "protects what is being read; nothing is visible until the import is published"},
	{Dir: "audit/segments", Why: "holds the events themselves"},
}

// Of returns the kind of thing that a name of the tree stands for, and which one it is. The kind is "" for bookkeeping.
func Of(name string) (kind, object string) {
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
	switch {
	case best == nil:
		kind, object, _ = strings.Cut(name, "/")
		return kind, object
	case best.object != nil:
		if object = best.object(below); object == "" {
			return "", ""
		}
		return best.Kind, object
	}
	return best.Kind, below
}

func first(below string) string {
	below, _, _ = strings.Cut(below, "/")
	return below
}

// image names a tag or a manifest. It returns "" for the registry's other names, which come and go with a manifest:
// layers, referrers, summaries.
func image(below string) string {
	repo, rest, ok := strings.Cut(below, "/_manifests")
	if !ok {
		if strings.Contains(below, "/_") {
			return ""
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
