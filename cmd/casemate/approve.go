package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"casemate/appliance/content"
)

// importDiff shows what a staged import would do. With files it is the older name of import --dry-run.
func importDiff(o *options) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use: "diff NAME", Short: "show what the approval of a staged import would do", Args: cobra.MinimumNArgs(1),
		Long: `Show what the approval of a staged import would do, name by name, and the digest of
it that the approval names. If the names show other content by then, the digest is
another one.

With the names of files it reports what importing these would change, as "casemate
import --dry-run" does.`,
		Example:           "  casemate import diff kubespray-2.31",
		ValidArgsFunction: o.complete(theImports),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] != "-" {
				if _, err := os.Stat(args[0]); errors.Is(err, fs.ErrNotExist) {
					return o.stagedDiff(cmd, args[0])
				}
			}
			f.request.DryRun = true
			return o.runImport(cmd, f, args)
		},
	}
	f.add(cmd)
	cmd.Flags().VisitAll(func(f *pflag.Flag) { f.Hidden = true }) // they are for files
	o.printsTimes(cmd, content.Effect{})
	return cmd
}

func (o *options) stagedDiff(cmd *cobra.Command, name string) error {
	var e content.Effect
	if err := o.client().call(cmd.Context(), "GET", "approvals/"+seg(name), nil, nil, &e); err != nil {
		return o.suggest(cmd, err, theImports, name)
	}
	return o.print(cmd, e, func(t *table) {
		showRecord(t, &e.Record)
		t.line("expires", t.when(e.KeptUntil))
		t.line("diff", e.Diff)
		unchanged := func(c content.Change) bool { return c.What == content.ChangeNone }
		if shown := slices.DeleteFunc(slices.Clone(e.Changes), unchanged); len(shown) > 0 {
			showChanges(t, shown)
		}
	})
}

func importApprove(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "approve NAME", Short: "publish an import that somebody else has staged", Args: cobra.ExactArgs(1),
		Long: `Publish a staged import (setting import.approvals): all its names appear at the same
moment. It takes the role approver, and somebody other than who has imported it.

The approval names what was seen: --diff is the digest that "casemate import diff"
shows. It is refused if the import would do something else by now, and if the
import has expired.`,
		Example: "  casemate import approve kubespray-2.31 --diff sha256:" +
			"0f343b0931126a20f133d67c2b018a3b5b5f1c8a6e5b1c7a1c5b9a4e0f3c2d1e",
	}
	o.publishes(cmd, func(name string) string { return "approvals/" + seg(name) })
	return cmd
}

func importPublish(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "publish NAME", Short: "publish an import that you have staged", Args: cobra.ExactArgs(1),
		Long: `Publish an import that you have staged with "casemate import --hold": all its names
appear at the same moment. Where the setting import.approvals is on, somebody else
has to approve it instead (casemate import approve).

--diff is the digest that "casemate import diff" shows. The import is not published
if it would do something else by now, and if it has expired.`,
		Example: "  casemate import publish kubespray-2.31 --diff sha256:" +
			"0f343b0931126a20f133d67c2b018a3b5b5f1c8a6e5b1c7a1c5b9a4e0f3c2d1e",
	}
	o.publishes(cmd, func(name string) string { return "imports/" + seg(name) + "/publish" })
	return cmd
}

// publishes makes cmd publish a staged import, by a request to the path, as somebody has seen it.
func (o *options) publishes(cmd *cobra.Command, path func(name string) string) {
	diff := cmd.Flags().String("diff", "", "`DIGEST` that import diff has shown")
	cmd.ValidArgsFunction = o.complete(theImports)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *diff == "" {
			return usageError{fmt.Errorf("import %s needs --diff DIGEST, which casemate import diff %s shows",
				cmd.Name(), args[0])}
		}
		var res content.Result
		in := map[string]string{"diff": *diff}
		if err := o.client().call(cmd.Context(), "POST", path(args[0]), nil, in, &res); err != nil {
			return o.suggest(cmd, err, theImports, args[0])
		}
		return o.print(cmd, res, func(t *table) { showResult(t, &res) })
	}
	o.printsTimes(cmd, content.Result{})
}

func importReject(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "reject NAME", Short: "drop an import that somebody else has staged", Args: cobra.ExactArgs(1),
		Long: `Drop a staged import; nothing of it was visible. Its content can be imported again.
"casemate gc" frees the disk space.`,
		ValidArgsFunction: o.complete(theImports),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "approvals/" + seg(args[0]) + "/reject"
			if err := o.client().call(cmd.Context(), "POST", path, nil, nil, nil); err != nil {
				return o.suggest(cmd, err, theImports, args[0])
			}
			return o.changed(cmd, "import", args[0], "rejected")
		},
	}
	o.prints(cmd, change{})
	return cmd
}
