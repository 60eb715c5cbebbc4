package page

import "time"

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
	Entries  int
	Images   int
	Files    int
	Blobs    int
	Bytes    int64
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
}

// overview is the first page: for whoever has logged in the state of the bastions, for everybody else the front.
func overview(c *call) (view, error) {
	if c.who == nil {
		return frontPage(c)
	}
	var s status
	if _, err := c.get("/v1/status", &s); err != nil {
		return view{}, err
	}
	nodes, err := table(c, list[member]{
		Name: "members", Title: "Bastions", Path: "/v1/members", Command: "casemate member list",
		Head: []string{"Node", "State", "Behind", "Disk free", "Version"}, Row: memberRow,
	})
	if err != nil {
		return view{}, err
	}
	return view{Command: "casemate status", Live: []string{"tree"}, Template: "overview", Data: s,
		Parts: []part{nodes}}, nil
}

func memberRow(m member) []Cell {
	state := Cell{Text: m.Role, Class: "good"}
	switch {
	case !m.Up && !m.Self:
		state = Cell{Text: "down", Class: "bad", More: m.Stopped}
	case m.Lag > 0 || m.Missing > 0:
		state = Cell{Text: m.Role, Class: "warn", More: "catches up"}
	}
	return []Cell{text(m.Node), state, number(m.Lag), text(Bytes(m.DiskFree) + " of " + Bytes(m.DiskTotal)),
		text(m.Version)}
}
