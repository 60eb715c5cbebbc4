package cluster

import (
	"time"

	"github.com/hashicorp/raft"
)

// Status is a snapshot of a node's numbers, raw, for metrics too. It marshals to JSON.
type Status struct {
	Cluster string        `json:"cluster"` // identity, the same on all nodes
	Node    string        `json:"node"`
	Opened  time.Time     `json:"opened"`
	Uptime  time.Duration `json:"uptime_ns"`

	Leader  string   `json:"leader"` // its name; "" if there is none, and writes wait
	Role    string   `json:"role"`   // leader, follower, candidate, stopped
	Term    uint64   `json:"term"`
	Voters  []string `json:"voters"`
	Commit  uint64   `json:"commit_index"`  // newest entry that raft here knows to be committed
	Applied uint64   `json:"applied_index"` // newest entry in the state
	LastLog uint64   `json:"last_log_index"`

	Format     uint64 `json:"format"`
	Entries    int    `json:"entries"` // names
	Blobs      int    `json:"blobs"`
	Bytes      int64  `json:"bytes"` // of all blobs
	Pins       int    `json:"pins"`
	Claims     int    `json:"claims"`
	Stages     int    `json:"stages"`
	Tombstones int    `json:"tombstones"`

	DiskFree    int64 `json:"disk_free"`  // bytes, including the reserve
	DiskTotal   int64 `json:"disk_total"` // bytes
	DiskReserve int64 `json:"disk_reserve"`

	Failure string `json:"failure,omitempty"` // why the node cannot continue
}

// Index returns the log index of the newest command in the state that this node shows: it grows with each change of the
// tree.
func (c *Cluster) Index() uint64 { return c.machine.view.Load().Index() }

// Status returns the current numbers. It does not block and needs no leader.
func (c *Cluster) Status() Status {
	s := c.machine.view.Load()
	st := s.Stats()
	out := Status{
		Cluster: c.id.Cluster, Node: c.cfg.Node, Opened: c.opened, Uptime: c.cfg.Now().Sub(c.opened),
		Term: c.raft.CurrentTerm(), Commit: c.raft.CommitIndex(), LastLog: c.raft.LastIndex(),
		Applied: max(c.raft.AppliedIndex(), st.Index),
		Format:  st.Format, Entries: st.Entries, Blobs: st.Blobs, Bytes: st.Bytes,
		Pins: st.Pins, Claims: st.Claims, Stages: st.Stages, Tombstones: st.Tombstones,
		DiskReserve: c.cfg.Reserve,
	}
	switch c.raft.State() {
	case raft.Leader:
		out.Role = "leader"
	case raft.Candidate:
		out.Role = "candidate"
	case raft.Shutdown:
		out.Role = "stopped"
	default:
		out.Role = "follower"
	}
	_, leader := c.raft.LeaderWithID()
	out.Leader = string(leader)
	if f := c.raft.GetConfiguration(); f.Error() == nil {
		for _, s := range f.Configuration().Servers {
			if s.Suffrage == raft.Voter {
				out.Voters = append(out.Voters, string(s.ID))
			}
		}
	}
	out.DiskFree, out.DiskTotal, _ = c.blobs.Free()
	if err := c.Err(); err != nil {
		out.Failure = err.Error()
	}
	return out
}
