package admin

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"casemate/appliance/access"
)

var update = flag.Bool("update", false, "write the table of roles into docs/admin-api.md")

// TestRoleTable: the table in the documentation has every route, with what it asks for.
func TestRoleTable(t *testing.T) {
	const page, first = "../../docs/admin-api.md", "| requests | verb |"
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text, want := string(data), roleTable((&API{}).Routes())
	if strings.Contains(text, want) {
		return
	}
	before, table, found := strings.Cut(text, first)
	if !*update || !found {
		t.Fatalf("%s must have this table (go test ./appliance/admin -run TestRoleTable -update):\n%s", page, want)
	}
	_, after, _ := strings.Cut(table, "\n\n")
	if err := os.WriteFile(page, []byte(before+want+"\n"+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// roleTable returns the table of routes and roles for docs/admin-api.md: one row for the routes of a resource that ask
// for the same.
func roleTable(list []Route) string {
	var rows []string
	routes := map[string][]string{} // by row
	for _, r := range list {
		resource, _, _ := strings.Cut(strings.TrimPrefix(r.Path, "/v1/"), "/")
		row := resource + "\x00" + r.verdicts()
		if routes[row] == nil {
			rows = append(rows, row)
		}
		routes[row] = append(routes[row], r.Method+" "+strings.TrimPrefix(r.Path, "/v1"))
	}
	// Rows of one resource follow each other.
	slices.SortStableFunc(rows, func(x, y string) int {
		x, _, _ = strings.Cut(x, "\x00")
		y, _, _ = strings.Cut(y, "\x00")
		return strings.Compare(x, y)
	})
	var b strings.Builder
	b.WriteString("| requests | verb |")
	for _, role := range access.Roles() {
		fmt.Fprintf(&b, " %s |", role.Name)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(access.Roles())) + "\n")
	for _, row := range rows {
		_, verdicts, _ := strings.Cut(row, "\x00")
		fmt.Fprintf(&b, "| `%s` | %s\n", strings.Join(routes[row], "`, `"), verdicts)
	}
	return b.String()
}

// verdicts returns the cells of a route's row after the first: the verb, and what each role may.
func (r Route) verdicts() string {
	cells := []string{string(r.Verb)}
	switch {
	case r.Public != "":
		cells[0] = "no account needed"
	case r.Local != "":
		cells[0] += ", on the socket only"
	case r.Open:
		cells[0] += ", or no account"
	case r.Verb == "":
		cells[0] = "any account"
	}
	for _, role := range access.Roles() {
		mark := ""
		if r.MayOverHTTPS(role) {
			mark = "yes"
		}
		cells = append(cells, mark)
	}
	return strings.Join(cells, " | ") + " |"
}
