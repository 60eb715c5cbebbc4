package cluster

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// stream is raft's way to the others: addresses are nodes' names.
type stream struct {
	net.Listener
	c *Cluster
}

var _ raft.StreamLayer = stream{}

// Dial implements raft.StreamLayer. To itself a node speaks through a pipe: see [Cluster.standAlone].
func (s stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node := string(address)
	if node != s.c.cfg.Node {
		s.c.awaitUp(node)
	}
	ctx, cancel := context.WithTimeout(s.c.life, timeout)
	defer cancel()
	return s.c.peers.DialStream(ctx, node)
}

// awaitUp keeps the leader from dialling a node in vain: after each failure raft waits twice as long as before, up to
// ten seconds, and a node that comes back would be without its log for that time. Whoever does not lead dials at once,
// since that is an election.
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
