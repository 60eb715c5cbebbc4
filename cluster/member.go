package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/peer"
	"casemate/cluster/state"
	"casemate/cluster/watch"
)

// Who is a member says raft's configuration. What one needs to know of a member stands in the tree:
//
//	cluster/members/NAME   member: where it is reached, its public key
//	cluster/removed/NAME   removal: a name that may not come back
//	cluster/tokens/ID      token: who may join
//	cluster/ca             authority
//	cluster/keys           rekey: the newest sealing key, wrapped for each member
const (
	membersDir = "cluster/members"
	removedDir = "cluster/removed"
	tokensDir  = "cluster/tokens"
)

// member is the record of a node.
type member struct {
	Addr    string    `json:"addr"`    // host:port of its peer port
	Key     []byte    `json:"key"`     // SubjectPublicKeyInfo of its certificate, DER; the same for the node's whole life
	Version string    `json:"version"` // of its program, for people
	Format  uint64    `json:"format"`  // the newest format of commands that it understands
	Joined  time.Time `json:"joined"`
}

// removal is the record of a node that was removed.
type removal struct {
	Key  []byte    `json:"key"`
	Time time.Time `json:"time"`
}

func recordOf[T any](s *state.State, name string) (v T, ok bool) {
	e, ok := s.Get(name)
	if !ok || json.Unmarshal([]byte(e.Data), &v) != nil {
		return v, false
	}
	return v, true
}

func putRecord(name string, v any) (*state.Put, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &state.Put{Name: name, Data: data}, nil
}

// member returns the record of a node.
func (c *Cluster) member(name string) (member, bool) {
	return recordOf[member](c.machine.view.Load(), membersDir+"/"+name)
}

// removed says that a node was a member and is one no more.
func (c *Cluster) removed(node string) bool {
	_, gone := c.machine.view.Load().Get(removedDir + "/" + node)
	return gone
}

// publicKey is the key of a record.
func publicKey(spki []byte) (*ecdsa.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a %T, not an ECDSA key", pub)
	}
	return ec, nil
}

// others are the names of all members in raft's configuration but this node, in its order, voters and learners.
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

// publishSelf writes this node's own record, if it says something else now. It returns when that is applied here.
func (c *Cluster) publishSelf(ctx context.Context) error {
	m, there := c.member(c.cfg.Node)
	want := c.self()
	if there {
		want.Joined = m.Joined
	}
	if there && m.Addr == want.Addr && string(m.Key) == string(want.Key) && m.Version == want.Version && m.Format == want.Format {
		return nil
	}
	put, err := putRecord(membersDir+"/"+c.cfg.Node, want)
	if err != nil {
		return err
	}
	_, err = c.propose(ctx, put)
	return err
}

// self is what this node's own record has to say.
func (c *Cluster) self() member {
	return member{Addr: c.cfg.PeerAddr, Key: c.node.spki, Version: c.cfg.Version, Format: state.MaxFormat, Joined: c.cfg.Now().UTC().Truncate(time.Second)}
}

// Member is one node as this node sees it now.
type Member struct {
	Node    string    `json:"node"`
	Role    string    `json:"role"` // leader, voter, learner
	Addr    string    `json:"addr"` // of its peer port
	Self    bool      `json:"self"`
	Up      bool      `json:"up"`      // it answers this node
	Applied uint64    `json:"applied"` // newest log entry in its state, as far as this node was told
	Lag     uint64    `json:"lag"`     // entries behind the node that is ahead of all
	Lacks   int       `json:"lacks"`   // blobs still to come; -1 while it counts
	Free    int64     `json:"disk_free"`
	Total   int64     `json:"disk_total"`
	Version string    `json:"version"`
	Format  uint64    `json:"format"` // newest that it understands
	Joined  time.Time `json:"joined"`
	Seen    time.Time `json:"seen,omitzero"`     // when it last answered
	Stopped string    `json:"stopped,omitempty"` // why it stopped, if it could say so
}

// Members lists the cluster's nodes as this node sees them. It neither waits nor needs a leader.
func (c *Cluster) Members() []Member {
	var list []Member
	_, leader := c.raft.LeaderWithID()
	newest := uint64(0)
	for _, s := range c.servers() {
		name := string(s.ID)
		r, _ := c.member(name)
		m := Member{Node: name, Role: "voter", Addr: r.Addr, Version: r.Version, Format: r.Format, Joined: r.Joined, Lacks: -1}
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
			m.Applied, m.Lacks, m.Free, m.Total, m.Stopped = b.Applied, b.Lacks, b.Free, b.Total, b.Stopped
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

// Up reports whether this node hears from the other now. A node hears itself.
func (c *Cluster) Up(node string) bool {
	if node == c.cfg.Node || c.peers == nil {
		return node == c.cfg.Node
	}
	return c.peers.Up(node)
}

// Roomier returns the node that is up and has the most room on its disk, if this one has none left for uploads; "" if
// it has, or if no other has.
func (c *Cluster) Roomier() string {
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

// RoundTrip asks another node's Config.Handler: the request's URL has the node's name as its host, and its path is the
// handler's. A path that has empty elements or dots is fs.ErrInvalid: it must mean the same to all who read it.
func (c *Cluster) RoundTrip(req *http.Request) (*http.Response, error) {
	if c.peers == nil {
		return nil, fmt.Errorf("node %s: %w", req.URL.Host, peer.ErrDown)
	}
	return c.peers.RoundTrip(req)
}

// TellAddress says where a member's peer port is, host:port, for the day on which no node finds the others any more.
// This node looks there too, also after a restart, until the member's record says the same. fs.ErrNotExist: there is no
// such member.
func (c *Cluster) TellAddress(node, addr string) error {
	if c.peers == nil {
		return fmt.Errorf("there is no node %s: %w", node, fs.ErrNotExist)
	}
	return c.peers.TellAddress(node, addr)
}
