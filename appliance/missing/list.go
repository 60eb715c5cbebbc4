package missing

import (
	"slices"
	"strings"
)

// Images returns the images among entries as a list that bundle create takes: one reference a line, sorted, each once. What was asked for by a
// digest that belongs to no manifest (a layer) stands there by its digest all the same: the collector says so when it finds no image.
func Images(entries []Entry) []string { return names(entries, Image) }

// Files returns the files among entries as a list that bundle create takes: one URL a line, sorted, each once.
func Files(entries []Entry) []string {
	return slices.DeleteFunc(names(entries, File), func(n string) bool { return !strings.HasPrefix(n, "https://") && !strings.HasPrefix(n, "http://") })
}

func names(entries []Entry, kind string) []string {
	list := []string{}
	for _, e := range entries {
		if e.Kind == kind {
			list = append(list, e.Name)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
