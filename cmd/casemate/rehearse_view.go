package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"casemate/appliance"
)

// maxShown is how many hosts have a line of their own in the view; the others share the last one.
const maxShown = 20

// hostTraffic counts what one host was asked for.
type hostTraffic struct {
	name                        string
	requests, fetches, failures int
	sent, fetched               int64
}

func (h *hostTraffic) line() string {
	s := fmt.Sprintf("%-*s  %s, %s; %s fetched in %d", labelWidth, tail(h.name, labelWidth),
		count(h.requests, "request"), size(h.sent), size(h.fetched), h.fetches)
	if h.failures > 0 {
		s += fmt.Sprintf(", %d failed", h.failures)
	}
	return printable(s)
}

// rehearsalView shows the traffic of a rehearsal: on a terminal a line for each host, and in a log, if one is wanted,
// an event in each line, as JSON.
type rehearsalView struct {
	meter *meter

	close func() error // of the log

	mu     sync.Mutex
	log    io.Writer // nil: none
	broken bool      // the log cannot be written
	hosts  map[string]*hostTraffic
}

// newRehearsalView makes the view; end must be called. log is the log's file, - is standard output, "" none.
func newRehearsalView(cmd *cobra.Command, log string) (*rehearsalView, error) {
	v := &rehearsalView{hosts: map[string]*hostTraffic{}, close: func() error { return nil }}
	switch log {
	case "":
	case "-":
		v.log = cmd.OutOrStdout()
	default:
		f, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		v.log, v.close = f, f.Close
	}
	v.meter = newMeter(cmd, false)
	return v, nil
}

// live reports whether the view is painted: then nothing else may write to the terminal.
func (v *rehearsalView) live() bool { return v.meter.bars != nil }

// watch counts and logs one event.
func (v *rehearsalView) watch(t appliance.Traffic) {
	shown, err := v.count(t)
	if shown != nil && v.live() { // without the lock, which the painter takes
		v.paint(shown)
	}
	if err != nil {
		v.meter.say("the log of the rehearsal cannot be written: " + err.Error())
	}
}

// count returns a host that is to be shown from now on, and the first error of the log.
func (v *rehearsalView) count(t appliance.Traffic) (shown *hostTraffic, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	name, key := t.Host, t.Host
	if v.hosts[key] == nil && len(v.hosts) >= maxShown {
		name, key = "other hosts", ""
	}
	h := v.hosts[key]
	if h == nil {
		h = &hostTraffic{name: name}
		v.hosts[key], shown = h, h
	}
	switch {
	case !t.Fetch:
		h.requests++
		h.sent += t.Bytes
	default:
		h.fetches++
		h.fetched += t.Bytes
		if t.Error != "" {
			h.failures++
		}
	}
	if v.log == nil || v.broken {
		return shown, nil
	}
	text, err := json.Marshal(t)
	if err == nil {
		_, err = v.log.Write(append(text, '\n'))
	}
	v.broken = err != nil
	return shown, err
}

// paint adds the line of a host to the terminal, which is painted at the meter's rate.
func (v *rehearsalView) paint(h *hostTraffic) {
	line := decor.Any(func(s decor.Statistics) string {
		v.mu.Lock()
		defer v.mu.Unlock()
		return cut(h.line(), s.AvailableWidth)
	})
	bar := v.meter.bars.New(0, mpb.NopStyle(), mpb.BarFillerTrim(), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(line))
	v.meter.mu.Lock()
	defer v.meter.mu.Unlock()
	v.meter.running = append(v.meter.running, &gauge{meter: v.meter, bar: bar})
}

// cut is the beginning of a text, at most width wide.
func cut(s string, width int) string {
	if text := []rune(s); len(text) > width {
		return string(text[:max(width-1, 0)])
	}
	return s
}

// end removes the view, and closes the log.
func (v *rehearsalView) end() error {
	v.meter.close()
	return v.close()
}

// maxSaid is how many sentences about what is not recorded are printed at the end.
const maxSaid = 20

// summarize says what a rehearsal has recorded, and what not.
func (d rehearsalDir) summarize(out io.Writer) {
	s, _, err := d.show()
	if err != nil {
		fmt.Fprintln(out, "what was recorded is not known:", err)
		return
	}
	var lines []string
	for _, g := range s.Gaps {
		lines = append(lines, fmt.Sprintf("not in the transcript: %s, %s: %s", g.Name, times(g.Count), g.Why))
	}
	for _, n := range append(lines, s.Notes...)[:min(len(lines)+len(s.Notes), maxSaid)] {
		fmt.Fprintln(out, printable(n))
	}
	if more := len(lines) + len(s.Notes) - maxSaid; more > 0 {
		fmt.Fprintf(out, "and %s more: casemate rehearsal show %s\n", count(more, "sentence"), d)
	}
	fmt.Fprintf(out, "%s recorded; casemate rehearsal show %s lists them, casemate bundle create FILE --rehearsal %s "+
		"makes the bundle\n", count(len(s.Questions), "question"), d, d)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
