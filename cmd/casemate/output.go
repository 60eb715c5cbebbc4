package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// printable gives a command -o table|json.
func (o *options) printable(cmd *cobra.Command, more ...string) {
	formats := append([]string{"table", "json"}, more...)
	o.output = "table"
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "output format: "+strings.Join(formats, ", "))
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(formats, o.output) {
			return usageError{fmt.Errorf("output format must be one of %s, got %q", strings.Join(formats, ", "), o.output)}
		}
		return run(cmd, args)
	}
}

// print writes v as JSON, or what fill puts into the table.
func (o *options) print(cmd *cobra.Command, v any, fill func(*table)) error {
	if o.output == "json" {
		return printJSON(cmd.OutOrStdout(), v)
	}
	t := &table{w: tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)}
	fill(t)
	return t.w.Flush()
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table is aligned columns.
type table struct{ w *tabwriter.Writer }

// line adds a row.
func (t *table) line(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			io.WriteString(t.w, "\t")
		}
		io.WriteString(t.w, printable(fmt.Sprint(c)))
	}
	io.WriteString(t.w, "\n")
}

// printable shows control characters, which could move a terminal's cursor, as '?'.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// size prints bytes in binary units.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// when prints a time in the operator's own zone, to the second.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}
