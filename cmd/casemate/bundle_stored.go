package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"casemate/appliance/admin"
	"casemate/appliance/content"
	"casemate/bundle"
	"casemate/bundle/collect"
	"casemate/bundle/format"
)

// storedFlags select content of this cluster for a bundle.
type storedFlags struct {
	from, everything bool
	rehearsals       []string // directories
	imports          []string
	fetching         []string // names of flags that only matter when something is fetched
}

func (s *storedFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&s.from, "from-cluster", false, "on a bastion: make the bundle of what is stored there, and fetch "+
		"nothing")
	f.StringArrayVar(&s.imports, "import", nil,
		"with --from-cluster: what the import `NAME` brought (casemate import list); may be repeated")
	f.StringArrayVar(&s.rehearsals, "rehearsal", nil,
		"make the bundle of what the rehearsal in `DIRECTORY` has fetched, with its transcript; may be repeated")
	cmd.MarkFlagDirname("rehearsal")
	f.BoolVar(&s.everything, "everything", false, "with --from-cluster: everything that clients get")
}

// fetches runs add, and remembers that the flags that it adds only matter when something is fetched.
func (s *storedFlags) fetches(cmd *cobra.Command, add func()) {
	before := map[string]bool{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { before[f.Name] = true })
	add()
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !before[f.Name] {
			s.fetching = append(s.fetching, f.Name)
		}
	})
}

// check refuses flags that do not go together.
func (s *storedFlags) check(cmd *cobra.Command) error {
	if len(s.rehearsals) > 0 {
		if s.from || s.everything || len(s.imports) > 0 {
			return usageError{errors.New("--rehearsal includes everything that was rehearsed: leave out " +
				"--from-cluster, --everything and --import")}
		}
		s.from, s.everything = true, true
	}
	if !s.from {
		if s.everything || len(s.imports) > 0 {
			return usageError{errors.New("--import and --everything select what is stored on a bastion: add " +
				"--from-cluster")}
		}
		return nil
	}
	wrong := ""
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains(s.fetching, f.Name) {
			wrong = cmp.Or(wrong, f.Name)
		}
	})
	if wrong != "" {
		return usageError{fmt.Errorf("--%s is for content that is fetched, and nothing is fetched here: select "+
			"packages with the --import that brought them, or with --everything", wrong)}
	}
	return nil
}

// createStored makes a bundle of what this cluster has.
func (o *options) createStored(cmd *cobra.Command, s storedFlags, lists *listFlags, to target, opt collect.Options,
	w format.WriteOptions, quiet bool) error {
	if err := to.check(opt.DryRun, w.Split > 0); err != nil {
		return err
	}
	if lists.any() && s.everything {
		return usageError{errors.New("--everything includes what lists select: give one of them")}
	}
	if len(s.rehearsals) > 0 {
		r, done, err := o.openRehearsals(cmd, s.rehearsals)
		if err != nil {
			return err
		}
		defer done()
		stored, err := r.contents(cmd.Context())
		if err != nil {
			return err
		}
		return o.writeStored(cmd, stored, r.blob, to, opt, w, quiet)
	}
	req := admin.BundleRequest{Everything: s.everything, Imports: s.imports}
	if lists.any() || !s.everything && len(s.imports) == 0 {
		if err := o.inside(cmd.Context(), lists); err != nil {
			return err
		}
		wanted, _, err := lists.wanted(cmd)
		if err != nil {
			return err
		}
		req.CheckRequest = content.CheckRequest{Wanted: *wanted, Platforms: lists.platforms}
	}
	var stored content.Exported
	if err := o.client().call(cmd.Context(), "POST", "bundle", nil, req, &stored); err != nil {
		return err
	}
	return o.writeStored(cmd, &stored, o.client().blob, to, opt, w, quiet)
}

// writeStored writes the bundle of stored content, whose blobs are read by open.
func (o *options) writeStored(cmd *cobra.Command, stored *content.Exported,
	open func(ctx context.Context, digest string) (io.ReadCloser, error), to target, opt collect.Options,
	w format.WriteOptions, quiet bool) error {
	ix := stored.Index
	ix.Since = opt.Since
	for i := range ix.Blobs {
		ix.Blobs[i].Omitted = opt.Have != nil && opt.Have(ix.Blobs[i].Digest)
	}
	absent := notStored(stored.Findings)
	if len(absent) > 0 && !opt.KeepGoing {
		for _, a := range absent {
			fmt.Fprintln(cmd.ErrOrStderr(), "absent:", strings.TrimPrefix(a.Where+": "+a.Name+": "+a.Why, ": "))
		}
		return fmt.Errorf("%s %s not stored here, and there is no bundle: --partial writes it without them: %w",
			count(len(absent), "selected name"), are(len(absent)), errDiffers)
	}
	addAbsent(ix, absent)
	res := summarize(ix, opt.DryRun, w.Key)
	res.Notes, res.Absent = notNil(stored.Notes), absent
	if !opt.DryRun {
		m := newMeter(cmd, quiet)
		err := to.write(cmd.Context(), m, res, ix, func(digest string) (io.ReadCloser, error) {
			return open(cmd.Context(), digest)
		}, w)
		m.close()
		if err != nil {
			return interrupted(cmd.Context(), err, "run the same command again to resume")
		}
	}
	return o.printCreated(cmd, res, "are not stored here")
}

// blob reads a blob of the cluster.
func (c *client) blob(ctx context.Context, digest string) (io.ReadCloser, error) {
	resp, err := c.do(ctx, "GET", "blobs/"+seg(digest), nil, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// notStored returns the findings as names that the bundle does not contain.
func notStored(findings []content.Finding) (list []absentName) {
	for _, f := range findings {
		why := sentence(f)
		if why == "" {
			why = "it is not stored here"
		}
		list = append(list, absentName{Name: f.Name, Where: f.Where, Why: why})
	}
	return list
}

// addAbsent adds names to those that an index declares absent, each once.
func addAbsent(ix *bundle.Index, list []absentName) {
	for _, a := range list {
		known := func(b bundle.Absent) bool { return b.Name == a.Name }
		if !slices.ContainsFunc(ix.Absent, known) {
			ix.Absent = append(ix.Absent, bundle.Absent{Name: a.Name, Why: a.Why})
		}
	}
}
