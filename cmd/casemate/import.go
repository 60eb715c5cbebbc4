package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/bundle/signing"
)

// importFlags are the flags of import and import diff.
type importFlags struct {
	request handover.Request
	keys    []string
	quiet   bool
	verbose bool
}

func (f *importFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.request.Name, "name", "", "`NAME` of the import (default: made from the first file's name)")
	flags.StringArrayVar(&f.keys, "key", nil, trustedKey)
	flags.StringVar(&f.request.Repository, "repository", "",
		"`REPOSITORY` of images that have no name, like registry.k8s.io/pause")
	flags.StringVar(&f.request.PythonIndex, "python-index", "",
		"`URL` of the index that clients ask for the Python packages in the files, like https://HOST/simple/ "+
			"(default: /simple/ of the bastions' own name for packages)")
	flags.BoolVar(&f.request.Partial, "partial", false,
		"leave out and list the names that cannot be imported, instead of importing nothing; exit code 3")
	flags.BoolVar(&f.verbose, "verbose", false, "list every file that is left out")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	cmd.MarkFlagFilename("key", "pub", "pem")
}

func importCommand(o *options) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use: "import FILE…", Short: "import bundles and other archives into the cluster, all or nothing",
		Long: `Import what has crossed the gap into the cluster: bundles (whole, or their parts in
any order), OCI layouts, docker-archives (docker save, podman save), hauls,
directories and tars of HOST/PATH files (wget -x), Kubespray's offline tarballs,
Python packages (pip download, pip wheel), and the image tarballs of k3s and RKE2,
also compressed. The format is detected.
FILE may be a directory, or - for standard input. Write a file that has the name
of a subcommand with its path: ./list.

All names of the import appear at the same moment, after every byte is stored;
until then clients see what was there before. An import that was interrupted
resumes when the same command is run again. Parts of a split bundle may come one by
one: the last one makes the bundle appear.

Names that are not valid here, and names with two different contents, are all
reported, and nothing is imported. With --partial the rest is imported, they are
listed with their reasons, and the exit code is 3. With --dry-run the changes are
listed name by name, and nothing is changed. With --hold everything is stored, and
nothing is visible until you have looked at it (import diff) and published it
(import publish).`,
		Example: `  casemate import /media/usb/cluster.tar --dry-run
  casemate import /media/usb/cluster.tar.0* --key office.pub
  ssh collector cat cluster.tar | casemate import - --name cluster`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("casemate import needs a file, or one of: approve, diff, list, publish, " +
					"reject, remove, show (see casemate import --help)")}
			}
			if near := nearCommands(cmd, args[0]); near != nil {
				if _, err := os.Stat(args[0]); errors.Is(err, fs.ErrNotExist) {
					return usageError{fmt.Errorf("there is no file %s%s (see casemate import --help)", args[0],
						didYouMean(near))}
				}
			}
			return o.runImport(cmd, f, args)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.request.DryRun, "dry-run", false, "report what would change and change nothing")
	o.printsTimes(cmd, content.Result{})
	cmd.Flags().BoolVar(&f.request.Hold, "hold", false,
		"stage the import, to look at it with import diff before import publish")
	cmd.AddCommand(importDiff(o), importList(o), importShow(o), importRemove(o), importApprove(o), importReject(o),
		importPublish(o))
	return cmd
}

// runImport sends the files to the daemon and prints the result.
func (o *options) runImport(cmd *cobra.Command, f importFlags, paths []string) error {
	req := f.request
	if req.Hold && req.DryRun {
		return usageError{errors.New("--hold and --dry-run exclude each other: a dry run stores nothing")}
	}
	keys, err := publicKeys("--key", f.keys)
	if err != nil {
		return err
	}
	for _, key := range keys {
		req.Keys = append(req.Keys, signing.KeyName(key))
	}
	if first := slices.Index(paths, "-"); first >= 0 {
		switch {
		case slices.Contains(paths[first+1:], "-"):
			return usageError{errors.New("standard input (-) can be named only once")}
		case term.IsTerminal(int(os.Stdin.Fd())):
			return usageError{errors.New("standard input (-) is a terminal: name a file, or send one in with a pipe")}
		}
	}
	m := newMeter(cmd, f.quiet)
	g := m.start("opening", -1)
	progress := func(p handover.Progress) { g.set(p.Phase, p.Done, p.Total) }
	result, err := o.handOver(cmd.Context(), req, paths, progress)
	m.close()
	var refused *handover.Error
	switch {
	case errors.As(err, &refused):
		return &apiError{refused.Status, refused.Message}
	case errors.Is(err, context.Canceled) && cmd.Context().Err() != nil:
		return errors.New("interrupted: nothing of it is visible; run the same command again to resume it")
	case err != nil:
		return err
	}
	var res content.Result
	if err := json.Unmarshal(result, &res); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	err = o.print(cmd, res, func(t *table) {
		showResult(t, &res)
		if f.verbose {
			for _, l := range res.LeftOut {
				t.line("left out", l.Name, l.Why)
			}
		}
	})
	if n := len(res.Refused); err == nil && n > 0 {
		err = fmt.Errorf("%s could not be imported: %w", count(n, "name"), errDiffers)
	}
	return err
}

// handOver has the files imported: it passes them to the local daemon, or sends them to a server.
func (o *options) handOver(ctx context.Context, req handover.Request, paths []string,
	progress func(handover.Progress)) (json.RawMessage, error) {
	c := o.client()
	if c.wrong != nil {
		return nil, c.wrong
	}
	if c.server != nil {
		return c.sendImport(ctx, req, paths, progress)
	}
	if req.Hold { // a daemon of an older version would publish the import at once
		err := c.call(ctx, "GET", "approvals", nil, nil, nil)
		if e := new(apiError); errors.As(err, &e) && e.status == http.StatusNotFound {
			return nil, errors.New("the daemon is of an older version, which cannot hold an import: restart it")
		} else if err != nil {
			return nil, err
		}
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	return handover.Run(ctx, conn, req, paths, progress)
}

// showResult prints the result of an import: first a summary, then the details for an approval.
func showResult(t *table, res *content.Result) {
	t.line(res.Message)
	for _, l := range res.Refused {
		t.line("refused", l.Name, l.Why)
	}
	showRecord(t, &res.Record)
	for l := range strings.Lines(res.Checkpoint) {
		t.line("checkpoint", strings.TrimSuffix(l, "\n"))
	}
	switch res.State {
	case content.Unchanged:
		t.line("written", "nothing: it was here already")
	case content.Staged:
		if res.NeedsApproval {
			t.line("visible", "nothing, until somebody else approves it: casemate import diff "+res.Name)
		} else {
			t.line("visible", "nothing, until it is published: casemate import diff "+res.Name)
		}
	case content.Incomplete:
		t.line("parts", fmt.Sprintf("%d of %d are here, missing: %s; nothing is visible until they are imported too",
			len(res.Have), res.Parts, numbers(res.Missing)))
	case content.Planned:
		t.line("needs", size(res.Need)+" of disk at the most")
		unchanged := func(c content.Change) bool { return c.What == content.ChangeNone }
		if shown := slices.DeleteFunc(slices.Clone(res.Changes), unchanged); len(shown) > 0 {
			showChanges(t, shown)
		}
	}
}

func showChanges(t *table, list []content.Change) {
	t.line()
	t.line("CHANGE", "NAME", "DIGEST", "NOW")
	for _, c := range list {
		t.line(c.What, c.Name, c.To, c.From)
	}
}

func showRecord(t *table, r *content.Record) {
	t.line("name", r.Name)
	t.line("kind", r.Kind)
	t.line("from", strings.Join(r.Sources, ", "))
	t.line("id", r.ID)
	if r.Signer == "" {
		t.line("signed by", "nobody")
	} else {
		t.line("signed by", r.Signer)
	}
	t.line("time", strings.TrimSuffix(t.when(r.Time)+" on "+r.Node, " on "))
	if r.Maker != "" {
		t.line("imported by", r.Maker)
	}
	if r.Approver != "" {
		t.line("approved by", r.Approver)
	}
	t.line("brings", fmt.Sprintf("%s: %d new, %d changed, %d unchanged",
		howMany(r.Images, r.Manifests, r.Files), r.New, r.Changed, r.Unchanged))
	t.line("content", fmt.Sprintf("%s, %s; %s of it new here", count(r.Blobs, "blob"), size(r.Bytes), size(r.BytesNew)))
	for _, group := range []struct {
		label, why string
		hosts      []string
	}{
		{"origins", "answered for from now on", r.Origins.Enabled},
		{"not enabled", "stored; the CA's root permits no certificate for it: not permitted", r.Origins.NotPermitted},
		{"not enabled", "stored; it was removed by hand: casemate origin add answers for it again", r.Origins.Removed},
		{"not enabled", "stored; it cannot be an origin", r.Origins.Refused},
	} {
		for _, h := range group.hosts {
			t.line(group.label, h+": "+group.why)
		}
	}
	for _, n := range r.Notes {
		t.line("note", n)
	}
	if r.Cut > 0 {
		t.line("note", count(r.Cut, "more line")+" "+are(r.Cut)+" not kept")
	}
}

// numbers prints sorted numbers as ranges: "1-3, 7".
func numbers(list []int) string {
	var parts []string
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		if i == j {
			parts = append(parts, fmt.Sprint(list[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", list[i], list[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ", ")
}

func importList(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "list the imports, complete or not", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []content.Import
			if err := o.client().call(cmd.Context(), "GET", "imports", nil, nil, &list); err != nil {
				return err
			}
			header := []any{"NAME", "TIME", "KIND", "IMAGES", "FILES", "SIZE", "SIGNED BY", "STATE"}
			return o.printRows(cmd, list, "no imports", header, func(t *table) {
				for _, i := range list {
					signer := cmp.Or(i.Signer, "nobody")
					t.row(i.Name, t.when(i.Time), i.Kind, i.Images, i.Files, size(i.Bytes), signer,
						cmp.Or(stateOf(t, i), "imported"))
				}
			})
		},
	}
	o.printsTimes(cmd, []content.Import{})
	return cmd
}

// stateOf describes the state of an import that is not complete or not fully visible.
func stateOf(t *table, i content.Import) string {
	switch {
	case i.Running:
		return "is being imported now"
	case i.State == content.Staged && !i.NeedsApproval:
		return fmt.Sprintf("staged by %s: waits until %s to be published: casemate import diff %s",
			i.Maker, t.when(i.KeptUntil), i.Name)
	case i.State == content.Staged:
		return fmt.Sprintf("staged by %s: waits until %s for the approval of somebody else: casemate import diff %s",
			i.Maker, t.when(i.KeptUntil), i.Name)
	case i.State == content.Incomplete && len(i.Missing) > 0:
		return "not complete, missing parts: " + numbers(i.Missing)
	case i.State == content.Incomplete:
		return fmt.Sprintf("not complete: import the same again to resume; what was read, %s, is kept until %s",
			size(i.BytesNew), t.when(i.KeptUntil))
	}
	return ""
}

func importShow(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "show one import and the names that it brought", Args: cobra.ExactArgs(1),
		ValidArgsFunction: o.complete(theImports),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d content.Details
			if err := o.client().call(cmd.Context(), "GET", "imports/"+seg(args[0]), nil, nil, &d); err != nil {
				return o.suggest(cmd, err, theImports, args[0])
			}
			return o.print(cmd, d, func(t *table) {
				showRecord(t, &d.Record)
				if s := stateOf(t, d.Import); s != "" {
					t.line("state", s)
				} else if !d.Intact {
					t.line("state", "some of its names were deleted by hand; importing the same again restores them")
				}
				if len(d.Names) == 0 {
					return
				}
				t.line()
				t.line("KIND", "NAME", "DIGEST", "NOTE")
				for _, n := range d.Names {
					note := ""
					if n.Behind != "" && d.State == content.Imported {
						note = "hidden by " + n.Behind
					}
					t.line(n.Kind, n.Name.Name, n.Digest, note)
				}
			})
		},
	}
	o.printsTimes(cmd, content.Details{})
	return cmd
}

func importRemove(o *options) *cobra.Command {
	var d *deletion
	cmd := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"delete"}, Args: cobra.ExactArgs(1),
		Short: "undo an import; earlier content reappears",
		Long: `Undo an import as a whole, at one moment. Names that only this import brought
disappear; names that an older import or a push had set before show that content
again. Origins that the import enabled stay. "casemate gc" frees the disk space.`,
		ValidArgsFunction: o.complete(theImports),
		RunE: func(cmd *cobra.Command, args []string) error {
			var r content.Removed
			done, err := d.call(cmd, "DELETE", "imports/"+seg(args[0]), nil, nil, &r)
			if !done || err != nil {
				return o.suggest(cmd, err, theImports, args[0])
			}
			return o.print(cmd, r, func(t *table) {
				t.line(fmt.Sprintf("import %s is removed: %s vanished, %d %s what was there before, %d %s",
					r.Name, count(len(r.Vanished), "name"), len(r.Back), verb(len(r.Back), "show"), r.Kept,
					verb(r.Kept, "stay")))
				if len(r.Vanished)+len(r.Back) > 0 {
					t.line()
				}
				t.header("CHANGE", "KIND", "NAME", "DIGEST", "FROM")
				for _, n := range r.Vanished {
					t.row("vanished", n.Kind, n.Name)
				}
				for _, n := range r.Back {
					t.row("back", n.Kind, n.Name.Name, n.Digest, n.By)
				}
			})
		},
	}
	d = o.deletes(cmd)
	o.prints(cmd, content.Removed{})
	return cmd
}

// verb returns the verb for a number of things.
func verb(n int, many string) string {
	if n == 1 {
		return many + "s"
	}
	return many
}
