package status

import (
	"fmt"
	"time"

	"casemate/appliance/forecast"
	"casemate/cluster"
)

// fullSoon is how many days before a disk is full an operator is warned.
const fullSoon = 14

// Member is a node, with when its disk will be full.
type Member struct {
	cluster.Member
	// Forecast is absent if the disk does not become fuller, or if too little is known.
	Forecast *forecast.Forecast `json:"forecast,omitempty"`
}

// Members lists the cluster's nodes as this node sees them.
func (p *Page) Members() []Member {
	list := []Member{}
	for _, m := range p.Cluster.Members() {
		list = append(list, Member{m, p.Forecast.Of(p.disk(m))})
	}
	return list
}

// Disks returns the disks of all members.
func (p *Page) Disks() (list []forecast.Disk) {
	for _, m := range p.Cluster.Members() {
		list = append(list, p.disk(m))
	}
	return list
}

// disk returns a member's disk. An older version does not tell its reserve, which is usually the same on all nodes.
func (p *Page) disk(m cluster.Member) forecast.Disk {
	d := forecast.Disk{Node: m.Node, Up: m.Up && !m.Seen.IsZero(), Free: m.Free, Total: m.Total, Reserve: m.Reserve}
	if d.Reserve == 0 {
		d.Reserve = p.Cluster.Status().DiskReserve
	}
	return d
}

// diskWarnings returns sentences about disks that will be full soon. One that is full is a problem already.
func diskWarnings(members []Member) (list []string) {
	for _, m := range members {
		f := m.Forecast
		if f == nil || !f.Sure || f.Days >= fullSoon || f.Days == 0 {
			continue
		}
		in := fmt.Sprintf("in %d days", int(f.Days))
		switch {
		case f.Days < 1:
			in = "within a day"
		case f.Days < 2:
			in = "in 1 day"
		}
		list = append(list, fmt.Sprintf("the disk of node %s will be full %s, on %s, at the rate since %s: casemate "+
			"content shows which origin has most; remove imports or images that nobody needs and run casemate gc "+
			"--now, or give it a larger disk", m.Node, in, f.Full.Format(time.DateOnly), f.Since.Format(time.DateOnly)))
	}
	return list
}
