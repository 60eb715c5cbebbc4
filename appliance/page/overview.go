package page

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

// status is what the overview reads of GET /v1/status.
type status struct {
	Node     string
	Version  string
	Started  time.Time
	Serving  bool
	Problems []string
	Warnings []string
	Leader   string
	Members  []member
	Images   int
	Files    int
	Blobs    int
	Bytes    int64
	Imports  struct {
		Incomplete, Staged int
		Running            string
	}
	Expires []expiry
	Misses  []missed
}

// member is a node of the cluster: GET /v1/members.
type member struct {
	Node, Role, Addr, Version, Stopped string
	Self, Up                           bool
	Lag                                int64
	Missing                            int64     `json:"lacks"` // blobs
	DiskFree                           int64     `json:"disk_free"`
	DiskTotal                          int64     `json:"disk_total"`
	Seen                               time.Time `json:"seen"`
	ClockAhead                         float64   `json:"clock_ahead_seconds"`
	Forecast                           *struct {
		BytesPerDay int64 `json:"bytes_per_day"`
		Since, Full time.Time
		Days        float64
		Sure        bool
	}
}

// expiry is something that expires: GET /v1/status.
type expiry struct {
	What, Name, Cure string
	At               time.Time
}

// missed is one of the newest misses: GET /v1/status.
type missed struct {
	Kind, Name string
	Count      int64
	Last       time.Time
}

// originTotal is what is stored of an origin: GET /v1/content.
type originTotal struct {
	Origin        string
	Images, Files int
	Bytes         int64
}

// overview is the first page: for whoever has logged in the state of the bastions, for everybody else the front.
func overview(c *call) (view, error) {
	if c.who == nil || !c.may("list") {
		return frontPage(c)
	}
	if err := downloadTraffic(c); err != nil {
		return view{}, err
	}
	var s status
	if _, err := c.get("/v1/status", &s); err != nil {
		return view{}, err
	}
	now := c.p.cfg.Now()
	var parts []part
	for _, next := range []func() (part, error){
		func() (part, error) { return membersTable(c, s.Members, now) },
		func() (part, error) { return traffic(c, s.Node) },
		func() (part, error) { return expiresTable(c, s.Expires, now) },
		func() (part, error) { return contentTable(c) },
		func() (part, error) { return importsTable(c) },
		func() (part, error) { return missesTable(c, s.Misses) },
	} {
		p, err := next()
		if err != nil {
			return view{}, err
		}
		parts = append(parts, p)
	}
	data := struct {
		status
		Problems, Warnings [][]piece
		Since              string
	}{status: s, Problems: sentences(s.Problems), Warnings: sentences(s.Warnings), Since: sinceText(now.Sub(s.Started))}
	return view{Command: "casemate status", Live: []string{"tree", "missed", "traffic", "content"},
		Template: "overview", Data: data, Parts: parts}, nil
}

func membersTable(c *call, members []member, now time.Time) (part, error) {
	return table(c, list[member]{
		Name: "members", Title: "Bastions", Path: "/v1/members", Command: "casemate member list",
		Head: membersHead, Row: func(m member) []Cell { return memberRow(m, now) }, Items: members,
	})
}

func expiresTable(c *call, expires []expiry, now time.Time) (part, error) {
	return table(c, list[expiry]{
		Name: "expires", Title: "What expires next", Path: "/v1/status", Field: "expires", Command: "casemate status",
		Head: []string{"What", "Name", "At", "In", "What to do"}, Empty: "Nothing expires.", Most: 10, Items: expires,
		Row: func(e expiry) []Cell { return expiryRow(e, now) },
	})
}

func contentTable(c *call) (part, error) {
	return table(c, list[originTotal]{
		Name: "content", Title: "Content by origin", Path: "/v1/content?wait=false", Command: "casemate content",
		Head: []string{"Origin", "Images", "Files", "Size"}, Row: originRow, Empty: "Nothing is stored.", Most: 20,
	})
}

// importsTable shows the last imports; those that were interrupted have no time and come last.
func importsTable(c *call) (part, error) {
	l := list[imported]{
		Name: "imports", Title: "Last imports", Path: "/v1/imports", Command: "casemate import list",
		Head: []string{"Name", "State", "At", "Kind", "By", "Images", "Files", "New names", "New bytes"},
		Row:  importedRow, Empty: "Nothing was imported.", Most: 5,
	}
	if c.query("table") == "" {
		imports := []imported{}
		if _, err := c.get(l.Path, &imports); err != nil {
			return part{}, err
		}
		slices.SortStableFunc(imports, func(a, b imported) int { return b.Time.Compare(a.Time) })
		l.Items = imports
	}
	return table(c, l)
}

func missesTable(c *call, misses []missed) (part, error) {
	return table(c, list[missed]{
		Name: "misses", Title: "Newest misses", Path: "/v1/status", Field: "misses", Command: "casemate missing",
		Head: []string{"Kind", "Name", "Times", "Last"}, Row: missedRow, Empty: "Nothing is missing.", Most: 10,
		Items: misses,
	})
}

var membersHead = []string{"Node", "State", "Behind", "Blobs to come", "Disk free", "Disk full", "Version",
	"Last heard (UTC)"}

func memberRow(m member, now time.Time) []Cell {
	state := Cell{Text: m.Role, Class: "good"}
	switch {
	case !m.Up && !m.Self:
		state = Cell{Text: "down", Class: "bad", More: m.Stopped}
	case m.Lag > 0 || m.Missing > 0:
		state = Cell{Text: m.Role, Class: "warn", More: "catches up"}
	case m.ClockAhead > 1 || m.ClockAhead < -1:
		state = Cell{Text: m.Role, Class: "warn", More: fmt.Sprintf("its clock differs by %.1f s", m.ClockAhead)}
	}
	full := Cell{}
	if f := m.Forecast; f != nil {
		full = Cell{Text: "in " + sinceText(f.Full.Sub(now)), More: Bytes(f.BytesPerDay) + " a day"}
		switch {
		case f.Days < 14 && f.Sure:
			full.Class = "bad"
		case f.Days < 60:
			full.Class = "warn"
		}
	}
	const unknown = "not known"
	lag, toCome, disk := number(m.Lag), number(m.Missing), size(m.DiskFree)
	disk.More = "of " + Bytes(m.DiskTotal)
	if m.Missing < 0 {
		toCome = text(unknown)
	}
	if m.Seen.IsZero() {
		lag, toCome, disk = text(unknown), text(unknown), text(unknown)
	}
	return []Cell{text(m.Node), state, lag, toCome, disk, full, text(m.Version), at(m.Seen)}
}

func expiryRow(e expiry, now time.Time) []Cell {
	in := Cell{Text: sinceText(e.At.Sub(now))}
	if left := e.At.Sub(now); left < 0 {
		in = Cell{Text: "expired", Class: "bad"}
	} else if left < 14*24*time.Hour {
		in.Class = "warn"
	}
	return []Cell{text(e.What), text(e.Name), at(e.At), in, text(e.Cure)}
}

func originRow(s originTotal) []Cell {
	origin := text("(no origin)")
	switch {
	case s.Origin == "":
	case s.Images > 0:
		origin = linked(s.Origin, levelHref("image", s.Origin))
	default:
		origin = linked(s.Origin, levelHref("file", s.Origin))
	}
	return []Cell{origin, number(s.Images), number(s.Files), size(s.Bytes)}
}

func importedRow(i imported) []Cell {
	by := Cell{Text: i.Maker}
	if i.Approver != "" {
		by.More = "approved by " + i.Approver
	}
	return []Cell{linked(i.Name, i.at()), i.state(), at(i.Time), text(i.Kind), by, number(i.Images), number(i.Files),
		number(i.New + i.Changed), {Text: Bytes(i.BytesNew), Class: "num"}}
}

func missedRow(m missed) []Cell {
	return []Cell{text(m.Kind), text(m.Name), number(m.Count), at(m.Last)}
}

// piece is a part of a sentence: text, or a command to type.
type piece struct {
	Text    string
	Command bool
}

// commandInText finds the commands that sentences of the daemon name. It need not find their arguments: the sentence is
// shown whole.
var commandInText = regexp.MustCompile(`\bcasemate (?:` +
	`(?:apikey|audit|bundle|ca|cert|cluster|config|directory|file|image|import|member|name|origin|package|repo|role|` +
	`token|upstream|user) (?:add|address|approve|create|delete|diff|format|get|grant|issue|key|list|login|logout|` +
	`passwd|publish|put|reject|remove|revoke|rotate|set|show)|` +
	`backup|ca|check|content|doctor|egress|enroll|gc|import|missing|reload|scrub|sockets|status|traffic)\b` +
	`(?: --?[a-z][a-z-]*| [a-z]+\.[a-z_]+(?:=[^\s.,;:)]+)?)*`)

// sentences returns sentences in pieces, so that the commands in them stand out.
func sentences(list []string) (out [][]piece) {
	for _, s := range list {
		var pieces []piece
		at := 0
		for _, m := range commandInText.FindAllStringIndex(s, 20) {
			if m[0] > at {
				pieces = append(pieces, piece{Text: s[at:m[0]]})
			}
			pieces, at = append(pieces, piece{s[m[0]:m[1]], true}), m[1]
		}
		if at < len(s) {
			pieces = append(pieces, piece{Text: s[at:]})
		}
		out = append(out, pieces)
	}
	return out
}
