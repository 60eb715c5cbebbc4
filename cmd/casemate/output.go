package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// prints adds the flag -o table|json to a command. v is a value of the type that the command prints as JSON, from which
// the schema in docs/admin-api.md is made.
func (o *options) prints(cmd *cobra.Command, v any, more ...string) {
	o.printsText(cmd, "table", v, more...)
}

// printsText is prints for a command whose default output is not a table but a text in a named format.
func (o *options) printsText(cmd *cobra.Command, format string, v any, more ...string) {
	o.schemas[cmd] = reflect.TypeOf(v)
	choice(cmd, &o.output, "output", "o", "output `FORMAT`", append([]string{format, "json"}, more...)...)
	o.output = "" // the default's name differs between commands
}

// printsTimes is prints for a command whose table has times.
func (o *options) printsTimes(cmd *cobra.Command, v any, more ...string) {
	o.prints(cmd, v, more...)
	cmd.Flags().BoolVar(&o.relative, "relative", false, "print times relative to now, like 3 days ago")
}

// json reports whether the command prints JSON.
func (o *options) json() bool { return o.output == "json" }

// print writes v as JSON, or the table that fill makes.
func (o *options) print(cmd *cobra.Command, v any, fill func(*table)) error {
	if o.json() {
		return printJSON(cmd.OutOrStdout(), v)
	}
	t := o.table(cmd)
	fill(t)
	return t.w.Flush()
}

// printRows is print for a list: its columns have headers. If there is no row, it prints the sentence none to standard
// error, where no script takes it for a row.
func (o *options) printRows(cmd *cobra.Command, v any, none string, header []any, rows func(*table)) error {
	if o.json() {
		return printJSON(cmd.OutOrStdout(), v)
	}
	t := o.table(cmd)
	t.header(header...)
	rows(t)
	if t.rows == 0 && none != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), printable(none))
	}
	return t.w.Flush()
}

// change is what a command without another result prints as JSON.
type change struct {
	Kind   string `json:"kind"`   // image, file, origin, user, …
	Name   string `json:"name"`   // name of the thing
	Action string `json:"action"` // added, changed, deleted, removed, …
}

// changed reports a change: a sentence on standard error, or JSON on standard output.
func (o *options) changed(cmd *cobra.Command, kind, name, action string) error {
	return o.changedTo(cmd, change{kind, name, action}, strings.TrimSpace(kind+" "+name)+" "+action)
}

// changedTo is changed with another result and sentence.
func (o *options) changedTo(cmd *cobra.Command, v any, lines ...string) error {
	if o.json() {
		return printJSON(cmd.OutOrStdout(), v)
	}
	for _, l := range lines {
		fmt.Fprintln(cmd.ErrOrStderr(), printable(l))
	}
	return nil
}

// printJSON writes v with each empty list as [], never as null, so that scripts handle one form.
func printJSON(w io.Writer, v any) error {
	p := reflect.New(reflect.TypeOf(v))
	p.Elem().Set(reflect.ValueOf(v))
	emptyLists(p.Elem())
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(p.Interface())
}

// emptyLists replaces nil slices by empty ones. Fields with omitempty are still omitted.
func emptyLists(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			emptyLists(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			emptyLists(v.Field(i))
		}
	case reflect.Slice:
		if v.IsNil() && v.CanSet() && v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		for i := range v.Len() {
			emptyLists(v.Index(i))
		}
	}
}

// table is aligned columns.
type table struct {
	w        *tabwriter.Writer
	heading  []any // until the first row
	rows     int
	relative bool
	now      time.Time
}

func (o *options) table(cmd *cobra.Command) *table {
	return o.tableTo(cmd.OutOrStdout())
}

func (o *options) tableTo(w io.Writer) *table {
	return &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), relative: o.relative, now: time.Now()}
}

// header sets the column headers of the rows that follow; it is printed with the first row.
func (t *table) header(cells ...any) { t.heading = cells }

// row adds a row below the header.
func (t *table) row(cells ...any) {
	if t.heading != nil {
		t.line(t.heading...)
		t.heading = nil
	}
	t.rows++
	t.line(cells...)
}

// line adds cells to the table, without a header.
func (t *table) line(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			io.WriteString(t.w, "\t")
		}
		io.WriteString(t.w, printable(fmt.Sprint(c)))
	}
	io.WriteString(t.w, "\n")
}

// when formats a time: RFC 3339 in the operator's time zone, to the second; or with --relative the time that has passed
// since or remains. An unknown time is "-".
func (t *table) when(at time.Time) string {
	switch {
	case at.IsZero():
		return "-"
	case t.relative:
		return relative(t.now, at)
	}
	return at.Local().Format(time.RFC3339)
}

// relative formats a time relative to now, in the largest unit of which there are at least two.
func relative(now, at time.Time) string {
	d := at.Sub(now)
	left := d > 0
	s := lasted(d.Abs())
	if left {
		return "in " + s
	}
	return s + " ago"
}

// lasted formats a duration in the largest unit of which there are at least two.
func lasted(d time.Duration) string {
	unit, name := time.Second, "second"
	switch {
	case d >= 48*time.Hour:
		unit, name = 24*time.Hour, "day"
	case d >= 2*time.Hour:
		unit, name = time.Hour, "hour"
	case d >= 2*time.Minute:
		unit, name = time.Minute, "minute"
	}
	return count(d/unit, name)
}

// count formats a number of things, with the right plural.
func count[N ~int | ~int64 | ~uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if noun, ok := strings.CutSuffix(thing, "ry"); ok { // entry
		noun += "r"
		return fmt.Sprintf("%d %sies", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// are returns the verb for a number of things.
func are[N ~int | ~int64](n N) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// printable replaces control characters, which could move a terminal's cursor, and those that change the direction of
// writing by '?'.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || unicode.Is(unicode.Bidi_Control, r) {
			return '?'
		}
		return r
	}, s)
}

// size formats bytes in binary units.
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
