package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"casemate/appliance/missing"
	"casemate/appliance/wanted"
)

// miss is an entry of the missing book.
type miss struct {
	Kind     string           `json:"kind"`
	Name     string           `json:"name"`
	Detail   string           `json:"detail"`
	Count    int64            `json:"count"`
	First    time.Time        `json:"first"`
	Last     time.Time        `json:"last"`
	Clients  []string         `json:"clients"`
	Nodes    []string         `json:"nodes"`
	Solved   bool             `json:"solved"`
	SolvedBy string           `json:"solved_by,omitempty"`
	Package  *missing.Package `json:"package,omitempty"`
	Cure     string           `json:"cure,omitempty"`
	Noise    string           `json:"noise,omitempty"`
	Waiting  int              `json:"waiting"` // clients that asked within the last ten minutes
	Mark     *missing.Mark    `json:"mark,omitempty"`
}

// note is the last column: what an operator has noted, who waits, and the detail.
func (m miss) note() string {
	var list []string
	if m.Mark != nil {
		list = append(list, fmt.Sprintf("%s (%s)", m.Mark.Note, m.Mark.By))
	}
	if m.Waiting > 0 {
		verb := "waits"
		if m.Waiting > 1 {
			verb = "wait"
		}
		list = append(list, count(m.Waiting, "client")+" "+verb+" for it now")
	}
	if m.Solved {
		list = append(list, "solved by "+m.SolvedBy)
	} else if m.Detail != "" {
		list = append(list, m.Detail)
	}
	return strings.Join(list, "; ")
}

// missingFlags are the flags of missing that are not about the output.
type missingFlags struct {
	reset, all          bool
	forget              []string
	mark, note          string
	kind, client, match string
	clearing            *deletion
}

// check refuses flags that do not fit together.
func (f *missingFlags) check(cmd *cobra.Command) error {
	changed := cmd.Flags().Changed
	switch {
	case f.reset && len(f.forget) > 0:
		return usageError{errors.New("--clear empties the book, --forget removes one entry: give one of them")}
	case changed("mark") && (f.reset || len(f.forget) > 0):
		return usageError{errors.New("--mark is not for --clear and --forget")}
	case changed("mark") != changed("note"):
		return usageError{errors.New("--mark names an entry and --note says what to note about it: give both")}
	case !f.reset && (f.clearing.yes || f.clearing.dryRun):
		return usageError{errors.New("--yes and --dry-run are for --clear")}
	}
	return nil
}

// query returns the filters.
func (f *missingFlags) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"kind": f.kind, "client": f.client, "q": f.match} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if f.all {
		query.Set("all", "true")
	}
	return query
}

func missingCommand(o *options) *cobra.Command {
	var flags missingFlags
	cmd := &cobra.Command{
		Use: "missing", Short: "list what clients asked for and did not get", Args: cobra.NoArgs,
		Long: `List what clients asked for and did not get (the missing book): images, files,
DNS names, TLS names and hosts. The column CURE shows how to supply each, NOTE how
many clients asked within the last ten minutes (at most eight of each bastion are
counted). Entries that would be answered now are called solved and come last.

--mark notes something about an entry for everybody who looks, until it is forgotten.

Requests that show no need (noise) are left out: names that a search list has
completed, and probes for optional content. --all lists them too, with the reason.

With -o images or -o files the open entries are printed as a list that "casemate
bundle create" and "casemate check" take. A comment above each shows who asked for
it. Entries that cannot be fetched by name are left out.

With -o packages the packages of apt and dnf repositories are printed as a list
that "casemate bundle create --packages" takes: NAME or NAME:ARCHITECTURE. The
comments show the version that was asked for, which may no longer be published.`,
		Example: `  casemate missing -o images > images.list
  casemate missing --forget quay.io/team/app:1.O
  casemate missing --mark quay.io/team/app:1.0 --note "ordered, arrives Tuesday"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(cmd); err != nil {
				return err
			}
			if flags.reset {
				if done, err := flags.clearing.call(cmd, "DELETE", "missing", nil, nil, nil); !done || err != nil {
					return err
				}
				return o.changed(cmd, "missing book", "", "cleared")
			}
			if cmd.Flags().Changed("mark") {
				body := map[string]string{"name": flags.mark, "note": flags.note}
				if err := o.client().call(cmd.Context(), "PUT", "missing/marks", nil, body, nil); err != nil {
					return err
				}
				done := "marked"
				if flags.note == "" {
					done = "unmarked"
				}
				return o.changed(cmd, "missing book entry", flags.mark, done)
			}
			if len(flags.forget) > 0 {
				query := url.Values{"name": flags.forget}
				if err := o.client().call(cmd.Context(), "DELETE", "missing/entries", query, nil, nil); err != nil {
					return err
				}
				return o.changed(cmd, "missing book entry", strings.Join(flags.forget, ", "), "forgotten")
			}
			if slices.Contains(wanted.Formats, o.output) {
				return o.printWanted(cmd, flags.query())
			}
			var book []miss
			if err := o.client().call(cmd.Context(), "GET", "missing", flags.query(), nil, &book); err != nil {
				return err
			}
			header := []any{"KIND", "NAME", "COUNT", "LAST", "CLIENTS", "CURE", "NOTE"}
			if flags.all {
				header = slices.Insert(header, 5, any("NOISE"))
			}
			none := "nothing is missing: clients got everything that they asked for"
			if flags.kind+flags.client+flags.match != "" {
				none = "no entry of the missing book is selected"
			}
			return o.printRows(cmd, book, none, header,
				func(t *table) {
					for _, m := range book {
						row := []any{m.Kind, m.Name, m.Count, t.when(m.Last), strings.Join(m.Clients, " "),
							m.Cure, m.note()}
						if flags.all {
							row = slices.Insert(row, 5, any(m.Noise))
						}
						t.row(row...)
					}
				})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&flags.all, "all", false, "list entries without need too, with the reason")
	f.BoolVar(&flags.reset, "clear", false, "clear the missing book, after a question")
	flags.clearing = o.deletes(cmd)
	f.StringArrayVar(&flags.forget, "forget", nil,
		"remove the entry called `NAME` on all nodes, until it is asked for again; may be repeated")
	f.StringVar(&flags.mark, "mark", "", "note something about the entry called `NAME`, see --note")
	f.StringVar(&flags.note, "note", "", "`TEXT` for --mark, at most 200 bytes; \"\" removes the mark")
	choice(cmd, &flags.kind, "kind", "", "only entries of this `KIND`", append([]string{""}, missing.Kinds...)...)
	f.StringVar(&flags.client, "client", "", "only what these clients asked for: `CIDR`, an address, or a "+
		"user as NAME@")
	f.StringVar(&flags.match, "match", "", "only entries with `TEXT` in the name, the note or a client")
	o.printsTimes(cmd, []miss{}, "images", "files", "packages")
	return cmd
}

// printWanted prints the open entries as a list. Those that cannot be in one are left out, with a note.
func (o *options) printWanted(cmd *cobra.Command, query url.Values) error {
	var book []missing.Listed
	if err := o.client().call(cmd.Context(), "GET", "missing", query, nil, &book); err != nil {
		return err
	}
	n, left, err := wanted.Write(cmd.OutOrStdout(), o.output, book)
	if err != nil {
		return err
	}
	for _, l := range left {
		fmt.Fprintf(cmd.ErrOrStderr(), "left out: %s\n", l)
	}
	refuses := "bundle create and check refuse"
	if o.output == "packages" {
		refuses = "bundle create refuses"
	}
	if n == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: no %s are missing; %s an empty list\n", o.output, refuses)
	}
	return nil
}
