package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	statuspage "casemate/appliance/status"
)

type status struct {
	Node      string    `json:"node"`
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	Domain    string    `json:"domain"`
	Advertise []string  `json:"advertise"`
	Serving   bool      `json:"serving"`
	Problems  []string  `json:"problems"`
	Leader    string    `json:"leader"`
	Role      string    `json:"role"`
	Term      uint64    `json:"term"`
	Applied   uint64    `json:"applied"`
	Commit    uint64    `json:"commit"`
	Members   []member  `json:"members"`
	Entries   int64     `json:"entries"`
	Images    int64     `json:"images"`
	Files     int64     `json:"files"`
	Blobs     int64     `json:"blobs"`
	Bytes     int64     `json:"bytes"`
	Imports   struct {
		Complete   int    `json:"complete"`
		Incomplete int    `json:"incomplete"`
		Staged     int    `json:"staged"`
		Running    string `json:"running"`
	} `json:"imports"`
	Disk struct {
		Total   int64 `json:"total"`
		Free    int64 `json:"free"`
		Reserve int64 `json:"reserve"`
	} `json:"disk"`
	Certificates []struct {
		Name      string    `json:"name"`
		NotBefore time.Time `json:"not_before"`
		NotAfter  time.Time `json:"not_after"`
	} `json:"certificates"`
	CA struct {
		Name    string   `json:"name"`
		Missing []string `json:"missing"`
	} `json:"ca"`
	Scrub struct {
		Interval string    `json:"interval"`
		Oldest   time.Time `json:"oldest,omitzero"`
		Due      int       `json:"due"`
		Faults   uint64    `json:"faults"`
		Repaired uint64    `json:"repaired"`
		Lost     []struct {
			Digest string `json:"digest"`
			Why    string `json:"why"`
		} `json:"lost"`
		All int `json:"lost_total"`
	} `json:"scrub"`
	Uploads struct {
		Open  int `json:"open"`
		Most  int `json:"most"`
		Share int `json:"share"`

		Limit        int `json:"limit"`          // most
		LimitPerUser int `json:"limit_per_user"` // share

		Users []struct {
			User  string    `json:"user"`
			Open  int       `json:"open"`
			Bytes int64     `json:"bytes"`
			Idle  time.Time `json:"idle_since"`
			Ended uint64    `json:"ended"`
		} `json:"users"`
	} `json:"uploads"`
	Repositories []struct {
		URL        string    `json:"url"`
		Suite      string    `json:"suite,omitempty"`
		ValidUntil time.Time `json:"valid_until"`
		Expired    bool      `json:"expired"`
	} `json:"repositories"`
	Expires  []statuspage.Expiry `json:"expires"`
	Warnings []string            `json:"warnings"`
	Misses   []struct {
		Kind  string    `json:"kind"`
		Name  string    `json:"name"`
		Count int64     `json:"count"`
		Last  time.Time `json:"last"`
	} `json:"misses"`
}

func statusCommand(o *options) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use: "status", Short: "show health, content, disk, certificates and the newest misses", Args: cobra.NoArgs,
		Long: `Show one page about this node and its cluster, problems first: health, leader,
content, disk, certificates, and what clients asked for last and did not get.

Exit code 0: this node serves. 1: it does not. With --check, for cron and
monitoring: 3 if it does not or there is a problem; warnings do not count.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s status
			if err := o.client().call(cmd.Context(), "GET", "status", nil, nil, &s); err != nil {
				return err
			}
			if !s.Serving {
				s.Problems = append(s.Problems, o.client().takenPorts()...)
			}
			explain(s.Members)
			s.Uploads.Limit, s.Uploads.LimitPerUser = s.Uploads.Most, s.Uploads.Share
			if err := o.print(cmd, s, s.page); err != nil {
				return err
			}
			if check && (!s.Serving || len(s.Problems) > 0) {
				return fmt.Errorf("%s: %w", strings.Join(s.Problems, "; "), errDiffers)
			}
			if !s.Serving {
				return fmt.Errorf("this node does not serve: %s", strings.Join(s.Problems, "; "))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "exit with 3 if there is a problem")
	o.printsTimes(cmd, status{})
	return cmd
}

// page prints problems first, because they are what an operator looks for.
func (s *status) page(t *table) {
	state := "serves"
	if !s.Serving {
		state = "DOES NOT SERVE"
	}
	up := t.now.Sub(s.Started).Round(time.Second)
	t.line(s.Node, fmt.Sprintf("%s, casemate %s, up %s", state, s.Version, up))
	for _, p := range s.Problems {
		t.line("PROBLEM", p)
	}
	for _, w := range s.Warnings {
		t.line("warning", w)
	}
	lag := ""
	if s.Commit > s.Applied {
		lag = ", " + count(s.Commit-s.Applied, "entry") + " behind"
	}
	leader := s.Leader
	if leader == "" {
		leader = "none: reading works, writing does not"
	}
	t.line("cluster", fmt.Sprintf("%s of term %d, leader %s, entry %d%s", s.Role, s.Term, leader, s.Applied, lag))
	if len(s.Members) > 1 {
		up := 0
		for _, m := range s.Members {
			if m.Up {
				up++
			}
		}
		t.line("nodes", fmt.Sprintf("%d of %d answer: casemate member list", up, len(s.Members)))
	}
	t.line("domain", fmt.Sprintf("%s at %s", s.Domain, strings.Join(s.Advertise, ", ")))
	t.line("content", fmt.Sprintf("%s, %s, %s with %s",
		count(s.Images, "image"), count(s.Files, "file"), count(s.Blobs, "blob"), size(s.Bytes)))
	t.line("disk", fmt.Sprintf("%s free of %s, writes are refused below %s",
		size(s.Disk.Free), size(s.Disk.Total), size(s.Disk.Reserve)))
	for _, m := range s.Members {
		if f := m.Forecast; f != nil && f.Days < forecastDays {
			t.line("forecast", fmt.Sprintf("the disk of %s is full %s, with %s more a day as since %s", m.Node,
				relative(t.now, f.Full), size(f.BytesPerDay), t.when(f.Since)))
		}
	}
	if u := s.Uploads; u.Open > 0 {
		var by []string
		for _, of := range u.Users {
			name := of.User
			if name == "" {
				name = "from before the last start"
			}
			by = append(by, fmt.Sprintf("%s %d with %s", name, of.Open, size(of.Bytes)))
		}
		t.line("uploads", fmt.Sprintf("%d unfinished: %s", u.Open, strings.Join(by, ", ")))
	}
	t.line("scrub", s.scrubbed(t))
	t.line("CA", s.shape())
	for _, c := range s.Certificates {
		note := relative(t.now, c.NotAfter)
		if c.NotAfter.Before(t.now) {
			note = "EXPIRED"
		}
		t.line("certificate", fmt.Sprintf("%s until %s (%s)", c.Name, t.when(c.NotAfter), note))
	}
	s.expiries(t)
	for _, m := range s.Misses {
		t.line("miss", fmt.Sprintf("%s %s, %s, last %s", m.Kind, m.Name, count(m.Count, "time"), t.when(m.Last)))
	}
	if len(s.Misses) > 0 {
		t.line("", "all of them: casemate missing")
	}
}

// shownExpiries is how many things that expire are printed.
const shownExpiries = 5

// expiries prints what expires next, without the certificates that have lines of their own.
func (s *status) expiries(t *table) {
	shown := 0
	for _, e := range s.Expires {
		if e.What == "root" || e.What == "intermediate" || shown == shownExpiries {
			continue
		}
		shown++
		t.line("expires", fmt.Sprintf("%s %s on %s (%s)", e.What, e.Name, t.when(e.At), relative(t.now, e.At)))
	}
}

// shape describes the CA certificate that signs.
func (s *status) shape() string {
	switch s.CA.Name {
	case "anchored":
		return "anchored: a constrained root below an anchor whose key was destroyed"
	case "enterprise":
		return "enterprise: a constrained root below the enterprise's CA certificate, whose key is not here"
	case "enterprise-key-kept":
		return "enterprise-key-kept: the enterprise's CA certificate, whose key is here"
	case "self-signed":
		return "self-signed: the root that clients trust, as made by earlier versions"
	}
	return s.CA.Name
}

// scrubbed describes which bytes on this node's disk were verified.
func (s *status) scrubbed(t *table) string {
	var list []string
	switch {
	case s.Scrub.Interval == "off":
		list = append(list, "off: casemate scrub reads everything")
	case s.Scrub.Oldest.IsZero():
		list = append(list, "begins")
	default:
		list = append(list, "all blobs verified since "+t.when(s.Scrub.Oldest))
	}
	if s.Scrub.Due > 0 {
		list = append(list, fmt.Sprintf("%d to read now", s.Scrub.Due))
	}
	if s.Scrub.Faults > 0 {
		list = append(list, fmt.Sprintf("%d were damaged, %d of them repaired", s.Scrub.Faults, s.Scrub.Repaired))
	}
	return strings.Join(list, ", ")
}
