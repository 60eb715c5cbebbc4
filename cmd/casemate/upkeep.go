package main

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
)

type gcReport struct {
	Blobs  int64 `json:"blobs"`
	Bytes  int64 `json:"bytes"`
	Kept   int64 `json:"kept"`
	DryRun bool  `json:"dry_run"`
}

func gcCommand(o *options) *cobra.Command {
	var dry, now bool
	cmd := &cobra.Command{
		Use: "gc", Short: "delete unreferenced blobs online", Args: cobra.NoArgs,
		Long: `Delete the blobs that no image, file or other name refers to. Casemate keeps
serving and accepting content meanwhile. Blobs that were pushed in the last
hour are kept, because a manifest that refers to them may follow.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			if dry {
				query.Set("dry_run", "true")
			}
			if now {
				query.Set("now", "true")
			}
			var r gcReport
			if err := o.client().call(cmd.Context(), "POST", "gc", query, nil, &r); err != nil {
				return err
			}
			return o.print(cmd, r, func(t *table) {
				verb := "deleted"
				if r.DryRun {
					verb = "would delete"
				}
				t.line(fmt.Sprintf("%s %s, %s; %d %s kept", verb, count(r.Blobs, "blob"), size(r.Bytes), r.Kept,
					are(r.Kept)))
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "report what would be deleted and change nothing")
	cmd.Flags().BoolVar(&now, "now", false,
		"also delete blobs of the last hour; a push in progress may have to be repeated")
	o.prints(cmd, gcReport{})
	return cmd
}

type scrubReport struct {
	Checked        int64    `json:"checked"`
	Bytes          int64    `json:"bytes"`
	Damaged        []string `json:"damaged"`
	Missing        []string `json:"missing"`
	FormerRepaired int      `json:"mended"`
	Repaired       int      `json:"repaired"` // the same number
}

func scrubCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "scrub", Short: "verify every blob on this node's disk", Args: cobra.NoArgs,
		Long: `Read every blob on this node's disk and compare it with its digest. A blob that
is damaged or missing here is fetched from another node.

Exit code 0: every blob is intact. 3: some are damaged or missing, and no other
node has them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r scrubReport
			if err := o.client().call(cmd.Context(), "POST", "scrub", nil, nil, &r); err != nil {
				return err
			}
			r.Repaired = r.FormerRepaired
			err := o.print(cmd, r, func(t *table) {
				t.line(fmt.Sprintf("%s, %s: %d damaged, %d not here",
					count(r.Checked, "blob"), size(r.Bytes), len(r.Damaged), len(r.Missing)))
				if r.Repaired > 0 {
					t.line(fmt.Sprintf("%s repaired with the bytes of another node", count(r.Repaired, "more blob")))
				}
				for _, d := range r.Damaged {
					t.line(d + " is damaged")
				}
				for _, d := range r.Missing {
					t.line(d + " is not here")
				}
			})
			if err == nil && len(r.Damaged)+len(r.Missing) > 0 {
				err = fmt.Errorf("import or push the damaged and missing blobs again to repair them: %w", errDiffers)
			}
			return err
		},
	}
	o.prints(cmd, scrubReport{})
	return cmd
}
