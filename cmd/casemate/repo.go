package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// repository is a repository of packages.
type repository struct {
	Format        string    `json:"format"`
	URL           string    `json:"url"`
	Suite         string    `json:"suite,omitempty"`
	Codename      string    `json:"codename,omitempty"`
	Origin        string    `json:"origin,omitempty"`
	Components    []string  `json:"components"`
	Architectures []string  `json:"architectures"`
	Date          time.Time `json:"date,omitzero"`
	ValidUntil    time.Time `json:"valid_until,omitzero"`
	SignedBy      []struct {
		KeyID       string `json:"key_id"`
		Fingerprint string `json:"fingerprint,omitempty"`
	} `json:"signed_by"`
	Import   string `json:"import,omitempty"`
	Packages int    `json:"packages"`
}

func repoCommand(o *options) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "list the repositories of packages", Args: cobra.NoArgs,
		Long: `List the apt and RPM repositories whose metadata is stored: suite, date, until
when apt accepts it, which keys have signed it, and how many package files are
stored. The signatures are not verified here: they were verified when the
repository was collected, and are verified by the nodes.`,
		Example: "  casemate repo list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []repository
			if err := o.client().call(cmd.Context(), "GET", "repositories", nil, nil, &all); err != nil {
				return err
			}
			header := []any{"FORMAT", "URL", "SUITE", "DATE", "VALID UNTIL", "PACKAGES", "SIGNED BY", "IMPORT"}
			return o.printRows(cmd, all, "no repositories of packages are stored", header, func(t *table) {
				for _, r := range all {
					t.row(r.Format, r.URL, r.Suite, dateOr(t, r.Date, ""), dateOr(t, r.ValidUntil, "always"),
						r.Packages, r.signers(), r.Import)
				}
			})
		},
	}
	o.printsTimes(list, []repository{})
	return group("repo", "manage repositories of operating-system packages", repoAdd(o), list, repoRemove(o),
		repoKey(o))
}

// dateOr is a time in a table, or a word for none.
func dateOr(t *table, at time.Time, none string) any {
	if at.IsZero() {
		return none
	}
	return t.when(at)
}

func (r repository) signers() string {
	var keys []string
	for _, s := range r.SignedBy {
		keys = append(keys, s.KeyID)
	}
	if keys == nil {
		return "not signed"
	}
	return strings.Join(keys, " ")
}
