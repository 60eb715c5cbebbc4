package appliance

import (
	"fmt"
	"strings"
	"time"

	"casemate/cluster"
)

// maxLost is how many lost blobs status and the metrics name.
const maxLost = 3

// lostProblem says which blobs clients of this node do not get, "" if there are none.
func (a *Appliance) lostProblem() (list []cluster.Lost, all int, sentence string) {
	if list, all = a.cluster.Lost(maxLost); all == 0 {
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
	return list, all, fmt.Sprintf("%s damaged or lost here and whole on no other node that answers, "+
		"clients do not get them: import or push them again (%s); casemate scrub lists all", blobs, strings.Join(named, "; "))
}

// scrubInfo is how the scrub that runs by itself stands.
type scrubInfo struct {
	Interval string `json:"interval"` // the setting
	cluster.ScrubStatus
	Lost []cluster.Lost `json:"lost"` // the first of them
	All  int            `json:"lost_total"`
}

func (a *Appliance) scrubInfo() (info scrubInfo, problem string) {
	info.Interval, info.ScrubStatus = "off", a.cluster.ScrubStatus()
	if every := a.now.Load().settings.ScrubInterval; every > 0 {
		info.Interval = every.String()
	}
	info.Lost, info.All, problem = a.lostProblem()
	return info, problem
}

// scrubInterval is asked by the scrub that runs by itself.
func (a *Appliance) scrubInterval() time.Duration { return a.now.Load().settings.ScrubInterval }
