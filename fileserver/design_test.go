package fileserver

import (
	"os"
	"strings"
	"testing"
)

// TestDesignPage runs what DESIGN.md says: its names and its redirects.
func TestDesignPage(t *testing.T) {
	page, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	names, redirects := 0, 0
	s := New(Config{})
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if cells := strings.Split(line, "`"); strings.HasPrefix(line, "| `https://") && len(cells) == 5 {
			names++
			if key, err := s.Key(cells[1]); err != nil || key != cells[3] {
				t.Errorf("the key of %s is %q, %v; the page says %q", cells[1], key, err, cells[3])
			}
		}
		if from, to, ok := strings.Cut(line, " = "); ok && strings.HasPrefix(line, "https://") {
			redirects++
			if err := CheckRedirect(from, to); err != nil {
				t.Error(err)
			}
		}
	}
	if names != 5 || redirects != 4 {
		t.Errorf("%d names and %d redirects on the page", names, redirects)
	}
}
