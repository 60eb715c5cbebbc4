package cluster

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// stream connects raft to the other nodes; addresses are nodes' names.
type stream struct {
	net.Listener
	c *Cluster
}

var _ raft.StreamLayer = stream{}

// Dial implements raft.StreamLayer. A node connects to itself through a pipe: see [Cluster.standAlone].
func (s stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node := string(address)
	if node != s.c.cfg.Node {
		s.c.awaitUp(node)
	}
	ctx, cancel := context.WithTimeout(s.c.life, timeout)
	defer cancel()
	return s.c.peers.DialStream(ctx, node)
}

// awaitUp delays the leader's dials to a node that is down: after each failure raft doubles its delay, up to ten
// seconds, and a node that comes back would be without its log for that time. A node that does not lead dials at once,
// since it is for an election.
func (c *Cluster) awaitUp(node string) {
	ctx, done := context.WithCancel(c.life)
	defer done()
	changed := c.peers.Changes(ctx)
	for c.life.Err() == nil {
		leader, change := c.lead.get()
		if leader != c.cfg.Node || !c.peers.Follows(node) || c.peers.Up(node) {
			return
		}
		select {
		case <-changed:
		case <-change:
		case <-c.life.Done():
		}
	}
}
