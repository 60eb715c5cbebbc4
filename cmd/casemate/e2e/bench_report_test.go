//go:build bench

package e2e

import (
	"fmt"
	"strings"
)

// row is one line of the table at the end of a run.
type row struct {
	what, unit string
	ours       float64
	peer       string // the peer that was best; "" if the wanted value is an absolute one
	best       float64
	factor     float64 // ours is wanted to be at most (or at least) factor times best
	atLeast    bool
}

var rows []row

func init() { atEnd = append(atEnd, printRows) }

// report adds a line to the table.
func report(r row) { rows = append(rows, r) }

// medians returns the medians of the measurements, by server.
func medians(values map[string][]float64) map[string]float64 {
	m := make(map[string]float64, len(values))
	for name, v := range values {
		m[name] = median(v)
	}
	return m
}

// best is the peer with the lowest value.
func best(values map[string]float64) (peer string, value float64) {
	for name, v := range values {
		if name != "casemate" && (peer == "" || v < value || v == value && name < peer) {
			peer, value = name, v
		}
	}
	return peer, value
}

// less reports a row in which less is better: ours against the best peer's, at most factor times as much.
func less(what, unit string, values map[string]float64, factor float64) {
	peer, value := best(values)
	report(row{what: what, unit: unit, ours: values["casemate"], peer: peer, best: value, factor: factor})
}

// limit reports a row that is wanted to be at most most.
func limit(what, unit string, ours, most float64) {
	report(row{what: what, unit: unit, ours: ours, best: most, factor: 1})
}

func (r row) reached() bool {
	if r.atLeast {
		return r.ours >= r.factor*r.best
	}
	return r.ours <= r.factor*r.best
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r row) String() string {
	verb, verdict := "at most", "reached"
	if r.atLeast {
		verb = "at least"
	}
	if !r.reached() {
		verdict = "**missed**"
	}
	peer, ratio, wanted := "–", "–", fmt.Sprintf("%s %s", verb, number(r.best))
	if r.peer != "" {
		peer = r.peer + " " + number(r.best)
		ratio = number(r.ours / r.best)
		wanted = fmt.Sprintf("%s %.2g×", verb, r.factor)
	}
	return fmt.Sprintf("| %s, %s | %s | %s | %s | %s | %s |", r.what, r.unit, number(r.ours), peer, ratio,
		wanted, verdict)
}

func printRows() {
	if len(rows) == 0 {
		return
	}
	missed := 0
	var b strings.Builder
	b.WriteString("\n| what | Casemate | best peer | ratio | wanted | |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		if !r.reached() {
			missed++
		}
		fmt.Fprintln(&b, r)
	}
	fmt.Printf("%s\n%d of %d reached, %d missed\n", b.String(), len(rows)-missed, len(rows), missed)
}
