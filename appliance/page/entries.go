package page

import (
	"maps"
	"slices"
)

// entries are the pages, in the order of the navigation.
var entries = slices.Concat([]entry{
	{path: "/", title: "Overview", nav: true, view: overview},
	{path: "/enrolment", title: "Enrol a node", view: frontPage},
}, watching, administration)

// allActions are the actions of all pages, by name.
var allActions = merged(missingActions, dnsActions, certificateActions, memberActions, userActions, settingActions)

func merged(groups ...map[string]action) map[string]action {
	all := map[string]action{}
	for _, g := range groups {
		maps.Copy(all, g)
	}
	return all
}
