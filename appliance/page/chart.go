package page

import (
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// report is GET /v1/series.
type report struct {
	Span        string
	StepSeconds int64 `json:"step_seconds"`
	Start       time.Time
	Series      []struct {
		Name, Unit string
		Values     []uint64
	}
}

// values returns the values of a line, the oldest first, and at most as many as a chart shows.
func (r report) values(name string) []uint64 {
	for _, s := range r.Series {
		if s.Name == name {
			return s.Values[max(0, len(s.Values)-maxSteps):]
		}
	}
	return nil
}

// maxSteps bounds the steps of a chart.
const maxSteps = 120

// A chart shows lines upon each other, a bar for each step.
type chart struct {
	Title, Most string
	From        time.Time // when the first step that fits begins
	Steps       int
	Lines       []chartLine
	Alt         string // what it shows, in words
}

// chartLine is one line of a chart: one path of bars.
type chartLine struct {
	Label, Sum string
	Class      string // of its color
	Path       string
}

// chartHeight is the height of a chart in the units of its paths. A step is one unit wide.
const chartHeight = 100

// kind is one of the charts.
type kind struct {
	title string
	lines [][2]string // names of lines, and labels
	also  [2]string   // a line that is counted in others, too: only its sum is shown
	text  func(n float64) string
}

var kinds = []kind{
	{title: "Requests", lines: [][2]string{{"image_requests", "images"}, {"file_requests", "files"}}, text: plain},
	{title: "Bytes sent", lines: [][2]string{{"image_bytes", "images"}, {"file_bytes", "files"}},
		text: func(n float64) string { return Bytes(int64(n)) }},
	{title: "Misses", lines: [][2]string{{"misses", "misses"}}, text: plain},
	{title: "Answers of DNS", lines: [][2]string{{"dns_answered", "answered"}, {"dns_unknown", "unknown name"},
		{"dns_refused", "refused"}, {"dns_failed", "failed"}}, also: [2]string{"dns_forwarded", "forwarded of them"},
		text: plain},
}

func plain(n float64) string { return strconv.FormatFloat(n, 'f', 0, 64) }

// spans are the spans of charts, with how many steps they have.
var spans = []struct {
	name, title, step string
	steps             int
}{{"hour", "last hour", "in a minute", 60}, {"day", "last day", "in 15 minutes", 96}}

// newChart draws a chart. Steps before the first that is known stay empty.
func newChart(k kind, r report, title, step string, steps int) chart {
	c := chart{Title: k.title + ", " + title, Steps: steps}
	heights := make([]float64, steps)
	lines := make([][]uint64, len(k.lines))
	known := 0
	for i, l := range k.lines {
		lines[i] = r.values(l[0])
		lines[i] = lines[i][max(0, len(lines[i])-steps):]
		known = max(known, len(lines[i]))
		for j, v := range lines[i] {
			heights[steps-len(lines[i])+j] += float64(v)
		}
	}
	most, highest := 0.0, 0
	for i, h := range heights {
		if h > most {
			most, highest = h, i
		}
	}
	if d := time.Duration(r.StepSeconds) * time.Second; !r.Start.IsZero() && d > 0 && d <= 24*time.Hour {
		c.From = r.Start.Add(time.Duration(known-steps) * d).UTC()
	}
	base := make([]float64, steps)
	sums := []string{}
	for i, l := range k.lines {
		var path strings.Builder
		sum := 0.0
		for j, v := range lines[i] {
			x := steps - len(lines[i]) + j
			sum += float64(v)
			if v == 0 {
				continue
			}
			from, to := y(base[x], most), y(base[x]+float64(v), most)
			base[x] += float64(v)
			fmt.Fprintf(&path, "M%d.1 %sV%sh.8V%sz", x, from, to, from)
		}
		text := k.text(sum)
		c.Lines = append(c.Lines, chartLine{l[1], text, "c" + strconv.Itoa(i+1), path.String()})
		sums = append(sums, text+" "+l[1])
	}
	if k.also[0] != "" {
		sum := 0.0
		for _, v := range r.values(k.also[0]) {
			sum += float64(v)
		}
		c.Lines = append(c.Lines, chartLine{Label: k.also[1], Sum: k.text(sum)})
		sums = append(sums, k.text(sum)+" "+k.also[1])
	}
	c.Alt = c.Title + ": " + strings.Join(sums, ", ") + "."
	if most > 0 {
		c.Most = k.text(most) + " " + step
		c.Alt += " At most " + c.Most
		if !c.From.IsZero() {
			at := c.From.Add(time.Duration(int64(highest)*r.StepSeconds) * time.Second)
			c.Alt += ", at " + at.Format("15:04")
		}
		c.Alt += "."
	}
	return c
}

// y is the coordinate of a value, with one decimal; the highest is a little below the edge.
func y(v, most float64) string {
	return strconv.FormatFloat(chartHeight-v/most*(chartHeight-2), 'f', 1, 64)
}

// traffic returns the charts of what clients asked the node for.
func traffic(c *call, node string) (part, error) {
	data := struct {
		Node   string
		Charts []chart
		Files  []link
	}{Node: node}
	reports := make([]report, len(spans))
	for i, s := range spans {
		if _, err := c.get("/v1/series?span="+s.name, &reports[i]); err != nil {
			return part{}, err
		}
		for _, format := range []string{"csv", "json"} {
			data.Files = append(data.Files, link{
				Href: here(c, "table", "traffic-"+s.name, "format", format),
				Text: strings.ToUpper(format) + " of the " + s.title,
			})
		}
	}
	for i, s := range spans {
		for _, k := range kinds {
			data.Charts = append(data.Charts, newChart(k, reports[i], s.title, s.step, s.steps))
		}
	}
	return part{"traffic", data}, nil
}

// downloadTraffic answers with the numbers of the charts, and returns errDone, if the request is for that.
func downloadTraffic(c *call) error {
	q := c.r.URL.Query()
	span, ok := strings.CutPrefix(q.Get("table"), "traffic-")
	if !ok || span != "hour" && span != "day" {
		return nil
	}
	path := "/v1/series?span=" + span
	var r report
	if _, err := c.get(path, &r); err != nil {
		return err
	}
	if q.Get("format") == "json" {
		if err := downloadJSON(c, list[report]{Name: "traffic-" + span, Path: path}); err != nil {
			return err
		}
		return errDone
	}
	c.download("traffic-"+span+".csv", "text/csv; charset=utf-8")
	w := csv.NewWriter(c.w)
	head, steps := []string{"from"}, 0
	for _, s := range r.Series {
		head = append(head, formula(string(inert([]byte(clip(s.Name))))))
		steps = max(steps, min(len(s.Values), maxSteps))
	}
	w.Write(head)
	for i := range steps {
		row := []string{r.Start.Add(time.Duration(int64(i)*r.StepSeconds) * time.Second).UTC().Format(time.RFC3339)}
		for _, s := range r.Series {
			value := ""
			if i < len(s.Values) {
				value = strconv.FormatUint(s.Values[i], 10)
			}
			row = append(row, value)
		}
		w.Write(row)
	}
	w.Flush()
	return errDone
}
