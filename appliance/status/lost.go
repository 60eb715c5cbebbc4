package status

import (
	"fmt"
	"strings"

	"casemate/cluster"
)

// maxLost is how many lost blobs status and the metrics list.
const maxLost = 3

// lostProblem returns the blobs that clients of this node cannot get, and a sentence about them; "" if there are
// none.
func (p *Page) lostProblem() (list []cluster.Lost, all int, sentence string) {
	if list, all = p.Cluster.Lost(maxLost); all == 0 {
		return []cluster.Lost{}, 0, ""
	}
	var named []string
	for _, l := range list {
		named = append(named, l.Digest+" is "+l.Why)
	}
	if all > len(list) {
		named = append(named, "…")
	}
	blobs := "1 blob is"
	if all > 1 {
		blobs = fmt.Sprintf("%d blobs are", all)
	}
	return list, all, fmt.Sprintf("%s damaged or lost here, and no reachable node has an intact copy, "+
		"so clients cannot get them: import or push them again (%s); casemate scrub lists all", blobs,
		strings.Join(named, "; "))
}

// scrubInfo is the state of the background scrub.
type scrubInfo struct {
	Interval string `json:"interval"` // the setting
	cluster.ScrubStatus
	Lost []cluster.Lost `json:"lost"` // the first of them
	All  int            `json:"lost_total"`
}

func (p *Page) scrubInfo() (info scrubInfo, problem string) {
	info.Interval, info.ScrubStatus = "off", p.Cluster.ScrubStatus()
	if every := p.Current.State().Settings.ScrubInterval; every > 0 {
		info.Interval = every.String()
	}
	info.Lost, info.All, problem = p.lostProblem()
	return info, problem
}
