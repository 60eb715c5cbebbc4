package cluster

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/peer"
	"casemate/cluster/watch"
)

// others are the names of all members in raft's configuration except this node, in its order, voters and learners.
func (c *Cluster) others() (names []string) {
	for _, s := range c.servers() {
		if string(s.ID) != c.cfg.Node {
			names = append(names, string(s.ID))
		}
	}
	return names
}

func (c *Cluster) servers() []raft.Server {
	f := c.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// voters returns the names of the voters, and how many of them are a majority.
func (c *Cluster) voters() (voters map[string]bool, majority int) {
	voters = map[string]bool{}
	for _, s := range c.servers() {
		if s.Suffrage == raft.Voter {
			voters[string(s.ID)] = true
		}
	}
	return voters, len(voters)/2 + 1
}

// ErrRemoved reports that a node was removed and stops permanently: Cluster.Err wraps it.
var ErrRemoved = peer.ErrRemoved

// Member is one node as this node sees it now.
type Member struct {
	Node    string    `json:"node"`
	Role    string    `json:"role"`  // leader, voter, learner
	Addr    string    `json:"addr"`  // of its peer port, the first of Addrs
	Addrs   []string  `json:"addrs"` // all of its peer port
	Self    bool      `json:"self"`
	Up      bool      `json:"up"`      // this node receives its beats
	Applied uint64    `json:"applied"` // newest log entry in its state, by its last beat
	Lag     uint64    `json:"lag"`     // entries behind the most advanced node
	Missing int       `json:"lacks"`   // blobs still to come; -1 while it counts
	Free    int64     `json:"disk_free"`
	Total   int64     `json:"disk_total"`
	Reserve int64     `json:"disk_reserve,omitempty"` // of Free, for no writes; 0: its version does not say
	Version string    `json:"version"`
	Format  uint64    `json:"format"` // newest that it understands
	Joined  time.Time `json:"joined"`
	Seen    time.Time `json:"seen,omitzero"`     // when it last answered
	Stopped string    `json:"stopped,omitempty"` // why it stopped, if it reported a reason
	// ClockAhead is by how many seconds its clock is ahead of this node's, negative: behind; nil: it is unknown.
	ClockAhead *float64 `json:"clock_ahead_seconds,omitempty"`
	// RunsAt are the addresses of the processes that run with this node's identity, if there is more than one.
	RunsAt []string `json:"runs_at,omitempty"`
}

// Members lists the cluster's nodes as this node sees them. It does not block and needs no leader.
func (c *Cluster) Members() []Member {
	var list []Member
	_, leader := c.raft.LeaderWithID()
	newest, twice := uint64(0), c.twice()
	for _, s := range c.servers() {
		name := string(s.ID)
		r, _ := c.members.Record(name)
		m := Member{Node: name, Role: "voter", Addr: r.Addr, Addrs: append([]string{}, r.Addresses()...),
			Version: r.Version, Format: r.Format, Joined: r.Joined, Missing: -1}
		if s.Suffrage != raft.Voter {
			m.Role = "learner"
		} else if s.ID == leader {
			m.Role = "leader"
		}
		var b peer.Beat
		if m.Self = name == c.cfg.Node; m.Self {
			b, m.Up, m.Seen = c.beat(), true, c.cfg.Now()
		} else if c.peers != nil {
			b, m.Up, m.Seen = c.peers.Last(name)
		}
		if !m.Seen.IsZero() {
			m.Applied, m.Missing, m.Stopped = b.Applied, b.Missing, b.Stopped
			m.Free, m.Total, m.Reserve = b.Free, b.Total, b.Reserve
		}
		m.RunsAt = twice[name]
		if c.peers != nil {
			if by, known := c.peers.Skew(name); known {
				seconds := by.Round(time.Millisecond).Seconds()
				m.ClockAhead = &seconds
			}
		}
		list = append(list, m)
		newest = max(newest, m.Applied)
	}
	for i := range list {
		if !list[i].Seen.IsZero() {
			list[i].Lag = newest - list[i].Applied
		}
	}
	return list
}

// Up reports whether this node receives beats from the other now; true for itself.
func (c *Cluster) Up(node string) bool {
	if node == c.cfg.Node || c.peers == nil {
		return node == c.cfg.Node
	}
	return c.peers.Up(node)
}

// MostFree returns the node that is up and has the most free space, if this node has none left for uploads; "" if it
// has, or if no other node has.
func (c *Cluster) MostFree() string {
	if c.peers == nil || c.blobs.Room(0) == nil {
		return ""
	}
	best, most := "", c.cfg.Reserve
	for _, n := range c.peers.UpNodes() {
		if b, _, _ := c.peers.Last(n); b.Free > most {
			best, most = n, b.Free
		}
	}
	return best
}

// Changes receives (capacity 1) after Up of any node has changed, until ctx is done; then it is closed.
func (c *Cluster) Changes(ctx context.Context) <-chan struct{} {
	if c.peers == nil {
		return new(watch.Hub).Watch(ctx, ".") // nothing changes
	}
	return c.peers.Changes(ctx)
}

// RoundTrip sends a request to another node's Config.Handler: the host of the request's URL is the node's name, its
// path is the handler's. A path with empty elements or dots is fs.ErrInvalid: all that read it must interpret it the
// same.
func (c *Cluster) RoundTrip(req *http.Request) (*http.Response, error) {
	if c.peers == nil {
		return nil, fmt.Errorf("node %s: %w", req.URL.Host, peer.ErrDown)
	}
	return c.peers.RoundTrip(req)
}

// TellAddress sets the address of a member's peer port, host:port, for when the nodes cannot find each other any more.
// This node dials it, also after a restart, until the member's record has the same address. The error is fs.ErrNotExist
// if there is no such member.
func (c *Cluster) TellAddress(node, addr string) error {
	if c.peers == nil {
		return fmt.Errorf("there is no node %s: %w", node, fs.ErrNotExist)
	}
	return c.peers.TellAddress(node, addr)
}
