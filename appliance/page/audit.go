package page

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
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

// auditPart is how many events a download asks for at once, which bounds its memory.
const auditPart = 1000

// downloadAudit answers with all events that match, the newest first, as CSV or JSON, and asks for them part by part.
func downloadAudit(c *call, name string, head []string, q url.Values) error {
	next := func(before uint64) (page auditAnswer, err error) {
		path := "/v1/audit?" + withValues(q, "limit", fmt.Sprint(auditPart))
		if before > 0 {
			path = with(path, "before", fmt.Sprint(before))
		}
		_, err = c.get(path, &page)
		return page, err
	}
	page, err := next(0)
	if err != nil {
		return err
	}
	var row func(event json.RawMessage) error
	var end func()
	if asCSV := c.query("format") == "csv"; asCSV {
		c.download(name+".csv", "text/csv; charset=utf-8")
		w := csv.NewWriter(c.w)
		end = w.Flush
		if err := w.Write(head); err != nil {
			return nil // the client has gone
		}
		row = func(event json.RawMessage) error {
			var e auditEvent
			if err := json.Unmarshal(event, &e); err != nil {
				return err
			}
			return w.Write(csvRecord(head, auditRow(e)))
		}
	} else {
		c.download(name+".json", "application/json")
		sep := `{"events": [`
		row = func(event json.RawMessage) error {
			_, err := fmt.Fprintf(c.w, "%s\n%s", sep, event)
			sep = ","
			return err
		}
		end = func() {
			if sep != "," {
				fmt.Fprint(c.w, sep)
			}
			fmt.Fprint(c.w, "]}\n")
		}
	}
	for last := uint64(0); ; {
		for _, e := range slices.Backward(page.Events) {
			if row(e) != nil {
				panic(http.ErrAbortHandler) // the client has gone
			}
		}
		if page.Before == 0 {
			end()
			return nil
		}
		if last > 0 && page.Before >= last { // else it would never end
			panic(http.ErrAbortHandler)
		}
		last = page.Before
		if page, err = next(last); err != nil {
			panic(http.ErrAbortHandler) // a cut answer must not look whole
		}
	}
}

// auditAnswer is a part of the log: GET /v1/audit.
type auditAnswer struct {
	Events []json.RawMessage
	Before uint64
}

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
	const name = "events"
	head := []string{"Time (UTC)", "Who", "What", "To what", "Change", "Outcome", "Node"}
	if format := c.query("format"); c.query("table") == name && (format == "csv" || format == "json") {
		if err := downloadAudit(c, name, head, q); err != nil {
			return view{}, err
		}
		return view{}, errDone
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
	t := Table{Name: name, Title: "Events, the newest first", Head: head, Empty: "No event matches.",
		CSV: here(c, "table", name, "format", "csv"), JSON: here(c, "table", name, "format", "json")}
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
