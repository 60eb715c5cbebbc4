package missing

import (
	"iter"
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

// Owners yields the different clients of the entry, as in share.Of, and whether they have asked within the last ten
// minutes before now. An entry has at most eight clients of each bastion.
func (e Entry) Owners(now time.Time) iter.Seq2[string, bool] {
	return func(yield func(client string, waits bool) bool) {
		since := minuteOf(now) - lately
		owners := make(map[string]bool, len(e.Clients))
		add := func(client string, minute int64) {
			client = share.OfText(client[strings.LastIndexByte(client, '@')+1:])
			owners[client] = owners[client] || minute >= since && minute > 0
		}
		for client, minute := range e.askers {
			add(client, minute)
		}
		if e.askers == nil {
			for i, client := range e.Clients {
				minute := int64(0)
				if i < len(e.Asked) {
					minute = e.Asked[i]
				}
				add(client, minute)
			}
		}
		for client, waits := range owners {
			if !yield(client, waits) {
				return
			}
		}
	}
}

// Waiting returns how many different clients have asked within the last ten minutes. More than eight clients of one
// bastion are not counted.
func (e Entry) Waiting(now time.Time) (n int) {
	for _, waits := range e.Owners(now) {
		if waits {
			n++
		}
	}
	return n
}
