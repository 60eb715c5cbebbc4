package missing

import (
	"strings"
	"time"

	"casemate/cluster/share"
)

// lately is how many minutes after its last question a client still waits: containerd and kubelet ask again after five
// minutes at the latest.
const lately = 10

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// align makes Asked as long as Clients, for entries of earlier versions.
func (e *Entry) align() {
	if len(e.Asked) != len(e.Clients) {
		e.Asked = make([]int64, len(e.Clients))
	}
}

// join adds the clients of another node's entry. Both are aligned.
func (e *Entry) join(other Entry) {
	if e.askers == nil {
		e.askers = make(map[string]int64, len(e.Clients)+len(other.Clients))
		for i, c := range e.Clients {
			e.askers[c] = e.Asked[i]
		}
	}
	for i, c := range other.Clients {
		at, known := e.askers[c]
		e.askers[c] = max(at, other.Asked[i])
		if !known && len(e.Clients) < maxClients {
			e.Clients, e.Asked = append(e.Clients, c), append(e.Asked, 0)
		}
	}
	for i, c := range e.Clients {
		e.Asked[i] = e.askers[c]
	}
}

// Waiting returns how many different clients have asked within the last ten minutes. An entry has at most eight clients
// of each bastion, so more than that number of one bastion's clients are not counted.
func (e Entry) Waiting(now time.Time) int {
	since := minuteOf(now) - lately
	recent := map[string]bool{}
	add := func(client string, minute int64) {
		if minute >= since && minute > 0 {
			recent[share.OfText(client[strings.LastIndexByte(client, '@')+1:])] = true
		}
	}
	for client, minute := range e.askers {
		add(client, minute)
	}
	if e.askers == nil {
		for i, client := range e.Clients[:min(len(e.Clients), len(e.Asked))] {
			add(client, e.Asked[i])
		}
	}
	return len(recent)
}
