package page

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// auditEvent is an event of the audit log: GET /v1/audit.
type auditEvent struct {
	N                                    uint64
	Time                                 time.Time
	Node, Actor, How, From, Verb, Object string
	Old, New, Outcome                    string
}

// auditFilters are the parameters of GET /v1/audit that the form has, with their labels.
var auditFilters = []formField{
	{Name: "actor", Label: "Who"}, {Name: "verb", Label: "What was done", Help: "image.push, or its first word"},
	{Name: "object", Label: "To what", Help: "a part of the name"},
	{Name: "since", Label: "Since (UTC)", Help: "2026-01-31, 2026-01-31T15:04:05Z, or an import"},
	{Name: "until", Label: "Until (UTC)"},
}

// auditDownload is how many events a download has: as many as the API returns at once.
const auditDownload = 10_000

// auditPage shows the audit log, with filters, and its checkpoint.
func auditPage(c *call) (view, error) {
	form := slices.Clone(auditFilters)
	q, command, filtered := url.Values{}, "casemate audit list", false
	for i := range form {
		v := strings.TrimSpace(c.query(form[i].Name))
		if form[i].Value = v; v != "" {
			q.Set(form[i].Name, v)
			command += " --" + form[i].Name + " " + shellWord(v)
			filtered = true
		}
	}
	l := list[auditEvent]{Name: "events", Field: "events", Row: auditRow,
		Head: []string{"Time (UTC)", "Who", "What", "To what", "Change", "Outcome", "Node"}}
	l.Path = "/v1/audit?" + withValues(q, "limit", fmt.Sprint(auditDownload))
	if c.r.URL.Query().Get("table") == l.Name {
		return downloads(c, l)
	}
	q.Set("limit", fmt.Sprint(pageSize))
	if before := c.query("before"); before != "" {
		q.Set("before", before)
	}
	data := map[string]any{"Form": form, "Filtered": filtered}
	v := view{Command: command, Live: []string{"tree"}, Template: "audit", Data: data}
	if q.Has("before") {
		v.Live = nil
	}
	var page struct {
		Events []auditEvent
		Before uint64
	}
	if _, err := c.get("/v1/audit?"+q.Encode(), &page); err != nil {
		e, ok := sentenceOf(err)
		if !ok {
			return view{}, err
		}
		data["Wrong"] = e
	}
	t := Table{Name: l.Name, Title: "Events, the newest first", Head: l.Head, Empty: "No event matches.",
		CSV: here(c, "table", l.Name, "format", "csv"), JSON: here(c, "table", l.Name, "format", "json")}
	for _, e := range slices.Backward(page.Events) {
		t.Rows = append(t.Rows, auditRow(e))
	}
	if page.Before > 0 {
		t.Next = here(c, "before", fmt.Sprint(page.Before))
	}
	if q.Has("before") {
		t.First = here(c, "before", "")
	}
	v.Parts = []part{{"table", t}}
	var check struct {
		Size            uint64
		Checkpoint, Key string
	}
	if _, err := c.get("/v1/audit/checkpoint", &check); err != nil {
		e, ok := sentenceOf(err)
		if !ok {
			return view{}, err
		}
		v.Parts = append(v.Parts, part{"sentence", "The checkpoint cannot be made now: " + e})
		return v, nil
	}
	v.Parts = append(v.Parts, part{"checkpoint", map[string]any{"Size": check.Size, "Checkpoint": check.Checkpoint,
		"Key": check.Key, "QR": newQR(check.Checkpoint, "QR code of the checkpoint")}})
	return v, nil
}

// withValues encodes parameters with one more.
func withValues(q url.Values, name, value string) string {
	out := url.Values{name: {value}}
	for k, v := range q {
		out[k] = v
	}
	return out.Encode()
}

func auditRow(e auditEvent) []Cell {
	who, change, outcome := e.Actor, e.New, Cell{Text: "done", Class: "good"}
	if who == "" {
		who = "not known"
	}
	if e.Old != "" {
		change = e.Old + " → " + e.New
	}
	if e.Outcome != "" {
		outcome = Cell{Text: e.Outcome, Class: "bad"}
	}
	how := e.How
	if e.From != "" {
		how = strings.TrimSpace(how + " from " + e.From)
	}
	return []Cell{at(e.Time), {Text: who, More: how}, {Text: e.Verb, Class: "word"}, code(e.Object), code(change),
		outcome, text(e.Node)}
}
