package page

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// overviewDocs are the documents of the overview of a small cluster.
func overviewDocs() map[string]any {
	minute := time.Date(2026, 11, 30, 11, 58, 0, 0, time.UTC)
	line := func(name, unit string, values ...int) map[string]any {
		return map[string]any{"name": name, "unit": unit, "values": values}
	}
	series := []any{line("image_requests", "requests", 3, 0, 5), line("file_requests", "requests", 1, 0, 0),
		line("image_bytes", "bytes", 4096, 0, 0), line("file_bytes", "bytes", 0, 0, 0),
		line("misses", "misses", 0, 1, 0),
		line("dns_answered", "answers", 7, 7, 7), line("dns_forwarded", "questions", 2, 0, 0)}
	return map[string]any{
		"GET /v1/status": map[string]any{
			"node": "n1", "serving": true, "leader": "n2", "images": 3, "bytes": 1 << 30,
			"started":  "2026-11-30T09:00:00Z",
			"problems": []string{"the disk is full: run casemate gc --now, or give it a larger disk"},
			"warnings": []string{"the format is old: casemate cluster format --raise (no way back)"},
			"members": []any{
				map[string]any{"node": "n1", "role": "voter", "self": true, "up": true, "lacks": 2, "lag": 9,
					"disk_free": 5 << 30, "disk_total": 10 << 30, "version": "1.0", "seen": "2026-11-30T12:00:00Z",
					"forecast": map[string]any{"bytes_per_day": 1 << 29, "full": "2026-12-10T12:00:00Z", "days": 10,
						"since": "2026-11-23T12:00:00Z", "sure": true}},
				map[string]any{"node": "n2", "role": "leader", "up": false, "stopped": "its disk failed", "lacks": -1}},
			"expires": []any{map[string]any{"what": "API key", "name": "robot", "at": "2026-12-02T12:00:00Z",
				"cure": "create another (casemate apikey create)"}},
			"misses": []any{map[string]any{"kind": "image", "name": "quay.io/a/b:1", "count": 4,
				"last": "2026-11-30T11:59:00Z"}},
		},
		"GET /v1/series?span=hour": map[string]any{"span": "hour", "step_seconds": 60, "start": minute,
			"series": series},
		"GET /v1/series?span=day":    map[string]any{"span": "day", "step_seconds": 900, "series": []any{}},
		"GET /v1/content?wait=false": []any{map[string]any{"origin": "", "images": 1, "bytes": 2048}},
		"GET /v1/members":            []any{},
		"GET /v1/imports": []any{map[string]any{"name": "old", "state": "imported", "time": "2026-01-02T03:04:05Z"},
			map[string]any{"name": "new", "state": "imported", "time": "2026-11-02T03:04:05Z", "maker": "ann",
				"approver": "bob", "bytes_new": 1024}},
	}
}

// The overview has what an operator looks for first, with the commands.
func TestOverview(t *testing.T) {
	p, _ := open(t, overviewDocs())
	w := p.ask("GET", "/", nil)
	body := w.Body.String()
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, body)
	}
	text := regexp.MustCompile(`\s+`).ReplaceAllString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(body, " "), " ")
	for _, want := range []string{
		"the disk is full: run casemate gc --now , or give it a larger disk", "Up for 3 hours",
		"n1 voter catches up 9 2 5.0 GiB of 10.0 GiB in 10 days 512.0 MiB a day 1.0",
		"n2 down its disk failed not known not known not known",
		"What clients asked n1 for", "Requests, last hour at most 5 in a minute 11:01 now images 8 files 1",
		"Bytes sent, last hour at most 4.0 KiB in a minute", "forwarded of them 2",
		"API key robot 2026-12-02 12:00:00 2 days create another", "(no origin) 1 0 2.0 KiB",
		"new imported 2026-11-02 03:04:05 ann approved by bob 0 0 0 1.0 KiB old imported",
		"image quay.io/a/b:1 4 2026-11-30 11:59:00",
		"casemate traffic", "casemate content", "casemate import list", "casemate missing", "casemate member list",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the overview does not have %q", want)
		}
	}
	for _, want := range []string{
		"<code>casemate gc --now</code>, or", "<code>casemate cluster format --raise</code> (no way back)",
		`aria-label="Requests, last hour: 8 images, 1 files. At most 5 in a minute, at 12:00."`,
		`aria-label="Misses, last day: 0 misses."`, `data-live="tree,missed,traffic,content"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the overview does not have %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// Whoever may not list sees what everybody may see.
func TestOverviewWithoutRoles(t *testing.T) {
	p, api := open(t, map[string]any{"GET /v1/whoami": map[string]any{"name": "new", "verbs": []string{}}})
	w := p.ask("GET", "/", nil)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Enrol a node") || len(api.asked) != 1 {
		t.Errorf("%d %q", w.Code, api.asked)
	}
}

// The charts' numbers download.
func TestTrafficDownloads(t *testing.T) {
	p, api := open(t, overviewDocs())
	w := p.ask("GET", "/?table=traffic-hour&format=csv", nil)
	want := "from,image_requests,file_requests,image_bytes,file_bytes,misses,dns_answered,dns_forwarded\n" +
		"2026-11-30T11:58:00Z,3,1,4096,0,0,7,2\n2026-11-30T11:59:00Z,0,0,0,0,1,7,0\n2026-11-30T12:00:00Z,5,0,0,0,0,7,0\n"
	if got := w.Body.String(); got != want {
		t.Errorf("%s", got)
	}
	if n := len(api.asked); n > 2 {
		t.Errorf("a download asks for more than it needs: %q", api.asked)
	}
	w = p.ask("GET", "/?table=traffic-day&format=json", nil)
	var r report
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil || r.Span != "day" {
		t.Errorf("%v %s", err, w.Body)
	}
	if w := p.ask("GET", "/?table=traffic-week&format=csv", nil); w.Header().Get("Content-Type") == "text/csv" {
		t.Errorf("%s", w.Body)
	}
}

// A chart is drawn for whatever numbers there are, within its frame.
func TestChart(t *testing.T) {
	for name, values := range map[string][2][]uint64{
		"nothing":   {nil, nil},
		"zeros":     {{0, 0}, {0}},
		"unequal":   {{1, 2, 3}, {9}},
		"huge":      {{math.MaxUint64, 1}, {math.MaxUint64}},
		"too many":  {make([]uint64, 5000), {1}},
		"two lines": {{5, 0, 5}, {5, 5, 0}},
	} {
		var r report
		data := fmt.Sprintf(`{"step_seconds": 60, "start": "2026-11-30T11:58:00Z", "series": [
			{"name": "image_requests", "values": %s}, {"name": "file_requests", "values": %s}]}`,
			list64(values[0]), list64(values[1]))
		if err := json.Unmarshal([]byte(data), &r); err != nil {
			t.Fatal(err)
		}
		c := newChart(kinds[0], r, "last hour", "in a minute", 60)
		var b strings.Builder
		if err := templates.ExecuteTemplate(&b, "chart", c); err != nil {
			t.Fatal(err)
		}
		for _, n := range regexp.MustCompile(`V([0-9.]+)`).FindAllStringSubmatch(b.String(), -1) {
			var y float64
			if _, err := fmt.Sscan(n[1], &y); err != nil || y < 0 || y > chartHeight {
				t.Errorf("%s: %s is outside", name, n[0])
			}
		}
		if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
			t.Errorf("%s: %s", name, b.String())
		}
		d := xml.NewDecoder(strings.NewReader(b.String()))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v: %s", name, err, b.String())
			}
		}
	}
	c := newChart(kinds[0], report{StepSeconds: 60}, "last hour", "in a minute", 60)
	if !c.From.IsZero() || c.Alt != "Requests, last hour: 0 images, 0 files." {
		t.Errorf("%+v", c)
	}
}

func list64(v []uint64) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// Lines stand on each other, at the end of the chart.
func TestChartStacks(t *testing.T) {
	var r report
	err := json.Unmarshal([]byte(`{"step_seconds": 60, "start": "2026-11-30T11:59:00Z", "series": [
		{"name": "image_requests", "values": [1, 0]}, {"name": "file_requests", "values": [1, 4]}]}`), &r)
	if err != nil {
		t.Fatal(err)
	}
	c := newChart(kinds[0], r, "last hour", "in a minute", 60)
	if got, want := c.Lines[0].Path, "M58.1 100.0V75.5h.8V100.0z"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := c.Lines[1].Path, "M58.1 75.5V51.0h.8V75.5zM59.1 100.0V2.0h.8V100.0z"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := c.From.Format(time.TimeOnly); got != "11:01:00" {
		t.Errorf("from %s", got)
	}
}

// The commands in sentences stand out, and no text is lost.
func TestSentences(t *testing.T) {
	for sentence, want := range map[string]string{
		"nothing to type": "nothing to type",
		"a casemate":      "a casemate",
		"node n2 does not answer this node: casemate member list shows since when": "node n2 does not answer this " +
			"node: [casemate member list] shows since when",
		"run casemate ca rotate, install it (casemate ca), then run casemate ca rotate --finish": "run [casemate ca " +
			"rotate], install it ([casemate ca]), then run [casemate ca rotate --finish]",
		"set casemate config set pki.issuer":    "set [casemate config set pki.issuer]",
		"casemate gc --now, or a larger disk":   "[casemate gc --now], or a larger disk",
		"casemate scrub lists all":              "[casemate scrub] lists all",
		"casemate replaces it by itself":        "casemate replaces it by itself",
		"or casemate import remove first":       "or [casemate import remove] first",
		"journalctl -u casemate; casemate cart": "journalctl -u casemate; casemate cart",
		"(casemate bundle create --apt, --packages) and import": "([casemate bundle create --apt], --packages) and " +
			"import",
	} {
		var b strings.Builder
		for _, p := range sentences([]string{sentence})[0] {
			if p.Command {
				fmt.Fprintf(&b, "[%s]", p.Text)
			} else {
				b.WriteString(p.Text)
			}
		}
		if b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
	}
}
