package cluster

import (
	"net/http"
	"path/filepath"

	"casemate/cluster/peer"
)

// Older reports a node that came back with less of the log than it had shown before.
type Older = peer.Older

// openPeers makes this node's peer port.
func (c *Cluster) openPeers() {
	cfg := c.cfg
	c.peers = peer.New(peer.Config{
		Node: cfg.Node, Cluster: c.id.Cluster, Version: cfg.Version, Log: c.log, Life: c.life, Now: cfg.Now,
		Listeners: cfg.Peer, Addrs: cfg.PeerAddrs, Dial: cfg.Dial, Peers: cfg.Peers,
		FS: cfg.FS, AddressFile: filepath.Join(cfg.Dir, addressFile), Stall: cfg.stall,
		Members: c.members, Host: host{c}, Handle: c.handle, Join: c.members.ServeJoin, Handler: cfg.Handler,
	})
}

// handle registers the requests of other nodes:
//
//	POST propose    an encoded command → answer; the leader only
//	GET  index      → answer: an index at which the state includes all earlier commits; the leader only. The query
//	                may have the requesting node's term: term=7. With ask=term each node answers with its term
//	POST member     membershipChange → answer; the leader only
//
// and the requests that replica.Store handles.
func (c *Cluster) handle(mux *http.ServeMux) {
	mux.HandleFunc("POST /propose", c.servePropose)
	mux.HandleFunc("GET /index", c.serveIndex)
	mux.HandleFunc("POST /member", c.serveMembershipChange)
	c.replica.Handle(mux)
}

// beat is the state that this node reports to all others.
func (c *Cluster) beat() peer.Beat {
	s := c.machine.view.Load()
	b := peer.Beat{
		Applied: c.shown(), Missing: c.replica.Missing(), Version: c.cfg.Version, Format: maxFormat,
		At: s.Index(), Sum: s.Sum().String(), Older: c.neighbours.self(c.cfg.Node),
	}
	b.Leader, _ = c.lead.get()
	b.Free, b.Total, _ = c.blobs.Free()
	b.Reserve = c.cfg.Reserve
	return b
}

// Beat is the state that this node reports to another one now.
func (h host) Beat(to string) peer.Beat {
	b := h.c.beat()
	b.Heard, b.Differs = h.c.neighbours.of(to)
	if err := h.c.Err(); err != nil {
		b.Stopped = err.Error()
	}
	return b
}

// Heard receives the beat of another node.
func (h host) Heard(from string, b peer.Beat) { h.c.judge(from, b) }

// CameUp reports a node that may have restarted and lost what it was sent.
func (h host) CameUp(node string) { h.c.followers.restarted(node) }

// Done is closed when the node stops permanently.
func (h host) Done() <-chan struct{} { return h.c.done }

// Fail stops the node permanently.
func (h host) Fail(err error) { h.c.fail(err) }
