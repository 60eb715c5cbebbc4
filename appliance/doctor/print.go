package doctor

import (
	"fmt"
	"io"
	"strings"
)

// Write prints the report as text: a line for each check, three more for each trouble.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%-8s %-11s %s\n", c.State, c.Name, c.Text)
		for _, t := range c.Troubles {
			kind := ""
			if t.Warning {
				kind = " (warning)"
			}
			fmt.Fprintf(&b, "    seen:  %s%s\n    cause: %s\n", strings.Join(t.Seen, " | "), kind, t.Cause)
			for i, s := range t.Cure {
				label := "       "
				if i == 0 {
					label = "cure:  "
				}
				fmt.Fprintf(&b, "    %s%s\n", label, s)
			}
		}
	}
	if len(r.Unseen) > 0 {
		fmt.Fprintf(&b, "not read (needs root): %s\n", some(r.Unseen))
	}
	fmt.Fprintf(&b, "%s\n", r.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) summary() string {
	s := fmt.Sprintf("%d checks: %d failed, %d with warnings", len(r.Checks), r.Failed, r.Warnings)
	if r.Skipped > 0 {
		s += fmt.Sprintf(", %d skipped", r.Skipped)
	}
	return s
}

// printable replaces control characters, which could move a terminal's cursor, by '?': names in certificates and
// responses are untrusted.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
