package main

import (
	"fmt"
	"strings"
	"time"
)

// suiteRead describes a suite, or a repository without suites, in the summary.
type suiteRead struct {
	Name       string     `json:"name"` // URI and suite; of a .repo file its ID and URL
	Date       time.Time  `json:"date"` // of its Release file, or of its newest index
	ValidUntil *time.Time `json:"valid_until,omitempty"`
	Signers    []string   `json:"signers,omitempty"` // none: the signature was not checked
	Packages   int        `json:"packages"`          // that its indices list
	// Checked says that the signature of each collected package is checked.
	Checked bool `json:"packages_checked,omitempty"`
}

func (s suiteRead) sentence() string {
	text := fmt.Sprintf("%s of %s, %s listed", s.Name, s.Date.Format(time.DateOnly), count(s.Packages, "package"))
	if s.ValidUntil != nil {
		text += ", expires " + s.ValidUntil.Format(time.DateOnly)
	}
	switch {
	case len(s.Signers) == 0 && s.Checked:
		return text + ", each package signed"
	case len(s.Signers) == 0:
		return text + ", not signed by a known key"
	}
	return text + ", signed by " + strings.Join(s.Signers, " and ")
}

// describe adds to a summary what was found in repositories.
func (r *repositoryFlags) describe(c *created) {
	if r.found == nil {
		return
	}
	for _, s := range r.found.Suites {
		d := suiteRead{Name: s.Name, Date: s.Date, Signers: s.Signers, Packages: s.Packages, Checked: s.Checked}
		if !s.ValidUntil.IsZero() {
			d.ValidUntil = &s.ValidUntil
		}
		c.Suites = append(c.Suites, d)
	}
	for i := range c.Sizes {
		c.Sizes[i].Why = r.found.Packages[c.Sizes[i].Name].Why
	}
}

// showSizes prints the sizes of a dry run, with a column for the reasons if there are any.
func showSizes(t *table, sizes []nameSize) {
	reasons := false
	for _, n := range sizes {
		reasons = reasons || n.Why != ""
	}
	if !reasons {
		t.header("NAME", "SIZE")
	} else {
		t.header("NAME", "SIZE", "WHY")
	}
	for _, n := range sizes {
		cells := []any{n.Name, sizeOrUnknown(n.Size)}
		if n.Why != "" {
			cells = append(cells, n.Why)
		}
		t.row(cells...)
	}
}
