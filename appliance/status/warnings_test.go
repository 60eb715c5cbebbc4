package status

import (
	"strings"
	"testing"

	"casemate/registry"
)

// TestWarningsOfUploads: who has as many unfinished uploads as one may stands in status.
func TestWarningsOfUploads(t *testing.T) {
	got := uploadWarnings(registry.Uploads{Open: 20, Most: 40, Share: 10, Users: []registry.UserUploads{
		{User: "eve", Open: 10, Ended: 3}, {User: "ann", Open: 9}, {User: "bob", Open: 1, Ended: 1}, {
			User: "", Open: 20}}})
	if len(got) != 2 || !strings.Contains(got[0], "eve has 10 unfinished uploads") ||
		!strings.Contains(got[0], "3 so far") || !strings.Contains(got[1], "bob has 1") {
		t.Errorf("%q", got)
	}
}
