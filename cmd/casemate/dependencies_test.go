package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dependenciesPage reads docs/dependencies.md: the rooms of each module in its first table, and the modules of its
// second one, those of tests.
func dependenciesPage(t *testing.T) (rooms map[string][]string, tests map[string]bool) {
	t.Helper()
	page, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	rooms, tests = map[string][]string{}, map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if !strings.HasPrefix(line, "|") || !strings.Contains(cells[0], ".") {
			continue
		}
		for module := range strings.SplitSeq(cells[0], ", ") {
			switch len(cells) {
			case 3:
				rooms[module] = strings.Split(cells[1], ", ")
			case 2:
				tests[module] = true
			default:
				t.Errorf("docs/dependencies.md: %d columns: %s", len(cells), line)
			}
		}
	}
	return rooms, tests
}

// directModules are those that go.mod requires without "// indirect".
func directModules(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllSubmatch(text, -1) {
		list = append(list, string(m[1]))
	}
	return list
}

// TestDependenciesPage compares docs/dependencies.md with go.mod and with who imports what.
func TestDependenciesPage(t *testing.T) {
	rooms, tests := dependenciesPage(t)
	direct := directModules(t)
	for _, m := range direct {
		if rooms[m] == nil && !tests[m] {
			t.Errorf("docs/dependencies.md does not name %s, which go.mod requires", m)
		}
	}
	for m := range rooms {
		if !slices.Contains(direct, m) {
			t.Errorf("docs/dependencies.md names %s, which go.mod does not require directly", m)
		}
	}
	for m := range tests {
		if !slices.Contains(direct, m) {
			t.Errorf("docs/dependencies.md names %s among those of tests, which go.mod does not require directly", m)
		}
	}
	importers := map[string]map[string]bool{} // by module: packages, without "casemate/"
	for pkg, imports := range packages(t) {
		for _, imp := range imports {
			for _, m := range direct {
				if within(imp, m) {
					if importers[m] == nil {
						importers[m] = map[string]bool{}
					}
					importers[m][strings.TrimPrefix(pkg, "casemate/")] = true
				}
			}
		}
	}
	for m, list := range rooms {
		for _, room := range list {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(importers[m])), func(p string) bool {
				return within(p, room)
			}) {
				t.Errorf("docs/dependencies.md says that %s is used in %s: nothing there imports it", m, room)
			}
		}
		for p := range importers[m] {
			if !slices.ContainsFunc(list, func(room string) bool { return within(p, room) }) {
				t.Errorf("%s imports %s: docs/dependencies.md names only %s", p, m, strings.Join(list, ", "))
			}
		}
	}
	for m := range tests {
		if rooms[m] == nil && len(importers[m]) > 0 {
			t.Errorf("docs/dependencies.md says that %s is for tests, but packages import it: %v", m,
				slices.Sorted(maps.Keys(importers[m])))
		}
	}
}
