package page

import (
	"maps"
	"slices"
)

// entries are the pages, in the order of the navigation.
var entries = slices.Concat([]entry{
	{path: "/", title: "Overview", nav: true, view: overview},
	{path: "/enrolment", title: "Enrol a node", view: frontPage},
}, missingPages, content, []entry{
	{path: "/imports", title: "Imports", nav: true, verb: "list", view: importsPage},
	{path: "/imports/import", title: "Import", verb: "list", view: importPage},
	{path: "/imports/diff", title: "Staged import", verb: "list", view: diffPage},
}, nodePages, administration)

// allActions are the actions of all pages, by name.
var allActions = merged(missingActions, contentActions, importActions, dnsActions, certificateActions, memberActions,
	userActions, settingActions)

func merged(groups ...map[string]action) map[string]action {
	all := map[string]action{}
	for _, g := range groups {
		maps.Copy(all, g)
	}
	return all
}
