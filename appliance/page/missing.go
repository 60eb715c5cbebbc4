package page

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// missingPages are the pages about what nodes asked for and did not get.
var missingPages = []entry{
	{path: "/missing", title: "Missing", nav: true, verb: "list", view: missingPage},
	{path: "/missing/list", title: "A list for the next bundle", verb: "list", view: missingListPage},
}

// missingActions are the actions of the missing book.
var missingActions = map[string]action{
	"missing-mark": {
		title: "Mark an entry of the missing book", button: "Save the mark", verb: "operate", method: http.MethodPut,
		path: "/v1/missing/marks", back: "/missing", command: "casemate missing --mark {name} --note {note}",
		note: "Every bastion shows the mark, and lists have it as a comment. It goes with the entry.",
		fields: []field{{name: "name", label: "Entry"},
			{name: "note", label: "Note", optional: true,
				help: "Like: ordered, arrives Tuesday. At most 200 bytes; empty removes the mark."}},
	},
	"missing-forget": {
		title: "Forget an entry of the missing book", button: "Forget it", verb: "operate", method: http.MethodDelete,
		path: "/v1/missing/entries", back: "/missing", command: "casemate missing --forget {name}",
		note:   "It is removed on all bastions until a client asks for it again.",
		fields: []field{{name: "name", label: "Entry", in: "query"}},
	},
	"missing-clear": {
		title: "Clear the missing book", button: "Clear the book", verb: "operate", method: http.MethodDelete,
		path: "/v1/missing", back: "/missing", removes: true, command: "casemate missing --clear",
		note: "Entries come back when clients ask for them again; marks do not.",
	},
}

// miss is an entry of the missing book: GET /v1/missing.
type miss struct {
	Kind, Name, Detail, Cure, Noise string
	Count                           uint64
	First, Last                     time.Time
	Clients, Nodes                  []string
	Solved                          bool
	SolvedBy                        string `json:"solved_by"`
	Waiting                         int
	Mark                            *struct {
		Note, By string
		At       time.Time
	}
}

// missKinds are the kinds of entries with the titles of their tables.
var missKinds = []struct{ Kind, Title string }{
	{"image", "Images"}, {"file", "Files"}, {"blob", "Layers and configs by themselves"}, {"dns", "DNS names"},
	{"tls", "Names in TLS handshakes"}, {"host", "Hosts of requests"},
}

// ofKind is how many rows of each kind the page shows, if it shows all kinds.
const ofKind = 12

// missFilter is the data of the form that selects entries, and the query of the API and the flags that it stands for.
type missFilter struct {
	Kind, Client, Text string
	All                bool
	Kinds              []struct{ Kind, Title string }
	Lists              []link
}

func missFilterOf(c *call) missFilter {
	return missFilter{Kind: c.query("kind"), Client: strings.TrimSpace(c.query("client")), Text: c.query("q"),
		All: c.query("all") != "", Kinds: missKinds}
}

// query returns the parameters for the API; kind replaces that of the form.
func (f missFilter) query(kind string) url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"kind": kind, "client": f.Client, "q": f.Text} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.All {
		q.Set("all", "true")
	}
	return q
}

// command returns the command for the same entries.
func (f missFilter) command(kind string) string {
	s := "casemate missing"
	for _, flag := range [][2]string{{" --kind ", kind}, {" --client ", f.Client}, {" --match ", f.Text}} {
		if flag[1] != "" {
			s += flag[0] + shellWord(flag[1])
		}
	}
	if f.All {
		s += " --all"
	}
	return s
}

func (f missFilter) path(path, kind string) string {
	if q := f.query(kind).Encode(); q != "" {
		path += "?" + q
	}
	return path
}

// missingPage shows the missing book, by kind and by client.
func missingPage(c *call) (view, error) {
	f := missFilterOf(c)
	for _, format := range []string{"images", "files", "packages"} {
		q := f.query(f.Kind)
		q.Set("format", format)
		f.Lists = append(f.Lists, link{Href: "/missing/list?" + q.Encode(), Text: format})
	}
	v := view{Command: f.command(f.Kind), Live: []string{"missed", "tree"}, Template: "missing", Data: f}
	all := 0
	for _, k := range missKinds {
		if f.Kind != "" && f.Kind != k.Kind {
			continue
		}
		l := list[miss]{Name: k.Kind, Title: k.Title, Path: f.path("/v1/missing", k.Kind), Paged: true,
			Command: f.command(k.Kind),
			Head:    []string{"Name", "State", "Asked", "Last (UTC)", "Clients", "What supplies it"},
			Row:     func(m miss) []Cell { return missRow(c, m) }, Empty: "No entry is selected.", Most: ofKind}
		if f.Kind != "" {
			l.Most = 0
		}
		t, err := table(c, l)
		if err != nil {
			return view{}, err
		}
		if n := len(t.Data.(Table).Rows); n > 0 || f.Kind != "" {
			all += n
			v.Parts = append(v.Parts, t)
		}
	}
	if all == 0 && f.Kind == "" {
		v.Parts = append(v.Parts, part{"sentence", "Nothing is missing: clients got everything that they asked " +
			"for, or nothing matches the form above."})
	}
	clients, err := table(c, list[missClient]{
		Name: "clients", Title: "By node", Path: f.path("/v1/missing/clients", f.Kind), Most: ofKind,
		Head: []string{"Node", "Entries", "Waits for", "Last (UTC)"},
		Row:  missClientRow, Empty: "No node has asked for one of these entries.", Command: f.command(f.Kind),
	})
	if err != nil {
		return view{}, err
	}
	v.Parts = append(v.Parts, clients, c.offers(actionLink("Clear the book", "missing-clear")))
	return v, nil
}

// missClient is GET /v1/missing/clients.
type missClient struct {
	Client          string
	Misses, Waiting int
	Last            time.Time
}

func missClientRow(m missClient) []Cell {
	waiting := number(m.Waiting)
	if m.Waiting > 0 {
		waiting.Class = "num warn"
	}
	return []Cell{toClient(m.Client, "/missing", m.Client), number(m.Misses), waiting,
		at(m.Last)}
}

func missRow(c *call, m miss) []Cell {
	name := code(m.Name)
	name.More = m.Detail
	state := text("missing")
	switch {
	case m.Noise != "":
		state = Cell{Text: m.Noise, More: "shows no need"}
	case m.Solved:
		state = Cell{Text: "solved", Class: "good", More: "by " + m.SolvedBy}
	case m.Waiting == 1:
		state = Cell{Text: "1 node waits for it now", Class: "warn"}
	case m.Waiting > 1:
		state = Cell{Text: fmt.Sprintf("%d nodes wait for it now", m.Waiting), Class: "warn"}
	}
	if m.Mark != nil {
		state.More = strings.TrimSpace(state.More + " " + m.Mark.Note + " (" + m.Mark.By + ", " +
			m.Mark.At.UTC().Format("2006-01-02 15:04") + ")")
	}
	row := []Cell{name, state, number(m.Count), at(m.Last), code(strings.Join(m.Clients, " ")), text(m.Cure)}
	note := ""
	if m.Mark != nil {
		note = m.Mark.Note
	}
	offers := c.offer(actionLink("Mark", "missing-mark", "name", m.Name, "note", note),
		actionLink("Forget", "missing-forget", "name", m.Name))
	if len(offers.Links) > 0 {
		row = append(row, offers)
	}
	return row
}

// missingList is GET /v1/missing/lists, as the page shows it.
type missingList struct {
	Format, Text string
	Count        int
	LeftOut      []string `json:"left_out"`
	Flag         string
	Cut          int // entries that are left out and not shown
	File         string
	Long         bool // the text is not all that there is
}

// maxList is how many bytes of a list the page shows; the download has all of it.
const maxList = 100 << 10

// missingListPage shows a list for bundle create, to be copied or downloaded.
func missingListPage(c *call) (view, error) {
	f := missFilterOf(c)
	f.All = false
	format := c.query("format")
	q := f.query(f.Kind)
	q.Set("format", format)
	var l missingList
	if _, err := c.get("/v1/missing/lists?"+q.Encode(), &l); err != nil {
		return view{}, err
	}
	if c.query("download") != "" {
		c.download("missing-"+fileName(l.Format)+".list", "text/plain; charset=utf-8")
		c.w.Write(inert([]byte(l.Text)))
		return view{}, errDone
	}
	l.Flag, l.File = "--"+l.Format, here(c, "download", "1")
	if len(l.Text) > maxList {
		l.Text, l.Long = strings.ToValidUTF8(l.Text[:maxList], ""), true
	}
	if n := len(l.LeftOut) - ofKind; n > 0 {
		l.LeftOut, l.Cut = l.LeftOut[:ofKind], n
	}
	return view{Command: f.command(f.Kind) + " -o " + shellWord(l.Format), Template: "missinglist", Data: l}, nil
}

// fileName keeps letters of a word that is in the name of a file.
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, s)
}
