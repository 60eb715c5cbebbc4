package main

import (
	"cmp"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"casemate/appliance/audit"
	"casemate/appliance/audit/proof"
)

func auditCommand(o *options) *cobra.Command {
	return group("audit", "see who did what, and prove that this log is unchanged", auditListCommand(o),
		auditCheckpointCommand(o), auditVerifyCommand(o), auditExportCommand(o), auditForwardCommand(o),
		auditKeyCommand(o))
}

func auditListCommand(o *options) *cobra.Command {
	var since, until, actor, verb, object string
	var limit int
	var before uint64
	cmd := &cobra.Command{
		Use: "list", Short: "list the newest events of the audit log", Args: cobra.NoArgs,
		Long: `List the newest events of the audit log, the newest last: every change of content,
settings, rights and members, every login, and what was refused.

ACTOR is an account, key/NAME for an API key, a user of the host (socket), or
node/NAME for what a node did by itself. A change that was refused, or a login that
failed, has its reason in OUTCOME. Values that are secret are not recorded.`,
		Example: `  casemate audit list --since 2026-01-31 --verb image
  casemate audit list --object registry.k8s.io/pause -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"limit": {strconv.Itoa(limit)}}
			for key, value := range map[string]string{
				"since": since, "until": until, "actor": actor, "verb": verb, "object": object,
			} {
				if value != "" {
					query.Set(key, value)
				}
			}
			if before > 0 {
				query.Set("before", strconv.FormatUint(before, 10))
			}
			var p audit.Page
			if err := o.client().call(cmd.Context(), "GET", "audit", query, nil, &p); err != nil {
				return err
			}
			err := o.printRows(cmd, p, "no events",
				[]any{"N", "TIME", "ACTOR", "FROM", "VERB", "OBJECT", "OLD", "NEW", "OUTCOME"}, func(t *table) {
					for _, e := range p.Events {
						t.row(e.N, t.when(e.Time), actorOf(e), cmp.Or(e.From, "-"), e.Verb,
							cmp.Or(e.Object, "-"), cmp.Or(e.Old, "-"), cmp.Or(e.New, "-"), cmp.Or(e.Outcome, "done"))
					}
				})
			if err == nil && p.Before > 0 && !o.json() {
				fmt.Fprintf(cmd.ErrOrStderr(), "there are older events: --before %d lists them\n", p.Before)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "only events since this `TIME|IMPORT`: 2026-01-31, 2026-01-31T15:04:05Z, or "+
		"when an import was made")
	f.StringVar(&until, "until", "", "only events before this `TIME`")
	f.StringVar(&actor, "actor", "", "only what this `ACTOR` did")
	f.StringVar(&verb, "verb", "", "only this `VERB`, like image.push; or, like image, all of one kind")
	f.StringVar(&object, "object", "", "only objects that contain this `TEXT`")
	f.IntVar(&limit, "limit", audit.DefaultLimit, "list the newest `N`")
	f.Uint64Var(&before, "before", 0, "only events with a smaller number than `N`")
	o.printsTimes(cmd, audit.Page{})
	return cmd
}

// actorOf is who did it, and how it was proved.
func actorOf(e proof.Event) string {
	actor := cmp.Or(e.Actor, "-")
	if e.How != "" && e.How != "node" && e.How != "key" {
		actor += " (" + e.How + ")"
	}
	return actor
}
