package admin

import (
	"os"
	"strings"
	"testing"
)

// TestRoleTable: the table in the documentation has every route, with what it asks for.
func TestRoleTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/admin-api.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := RoleTable((&API{}).Routes()); !strings.Contains(string(text), want) {
		t.Errorf("docs/admin-api.md must have this table:\n%s", want)
	}
}
