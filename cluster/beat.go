package cluster

import (
	"net/http"
	"path/filepath"

	"casemate/cluster/peer"
)

// Older is a node that came back with less of the log than it had shown before.
type Older = peer.Older

// openPeers makes this node's peer port.
func (c *Cluster) openPeers() {
	cfg := c.cfg
	c.peers = peer.New(peer.Config{
		Node: cfg.Node, Cluster: c.id.Cluster, Version: cfg.Version, Log: c.log, Life: c.life, Now: cfg.Now,
		Listener: cfg.Peer, Addr: cfg.PeerAddr, Dial: cfg.Dial, Peers: cfg.Peers,
		FS: cfg.FS, AddressFile: filepath.Join(cfg.Dir, addressFile), Stall: cfg.stall,
		Members: c.members, Host: host{c}, Handle: c.handle, Join: c.members.ServeJoin, Handler: cfg.Handler,
	})
}

// handle registers what other nodes ask of this one:
//
//	POST propose    an encoded command → answer; the leader only
//	GET  index      → answer: an index at which the state holds all that was committed before; the leader only
//	POST member     membershipChange → answer; the leader only
//
// and what replica.Store answers.
func (c *Cluster) handle(mux *http.ServeMux) {
	mux.HandleFunc("POST /propose", c.servePropose)
	mux.HandleFunc("GET /index", c.serveIndex)
	mux.HandleFunc("POST /member", c.serveMembershipChange)
	c.replica.Handle(mux)
}

// beat is what this node says of itself to all others.
func (c *Cluster) beat() peer.Beat {
	s := c.machine.view.Load()
	b := peer.Beat{
		Applied: c.shown(), Lacks: c.replica.Missing(), Version: c.cfg.Version, Format: maxFormat,
		At: s.Index(), Sum: s.Sum().String(), Older: c.neighbours.self(c.cfg.Node),
	}
	b.Leader, _ = c.lead.get()
	b.Free, b.Total, _ = c.blobs.Free()
	return b
}

// Beat is what this node has to tell another one now.
func (h host) Beat(to string) peer.Beat {
	b := h.c.beat()
	b.Heard, b.Differs = h.c.neighbours.of(to)
	if err := h.c.Err(); err != nil {
		b.Stopped = err.Error()
	}
	return b
}

// Heard takes what another node says.
func (h host) Heard(from string, b peer.Beat) { h.c.judge(from, b) }

// CameUp takes a node that may have forgotten what it was told.
func (h host) CameUp(node string) { h.c.followers.restarted(node) }

// Done is closed when the node stops for good.
func (h host) Done() <-chan struct{} { return h.c.done }

// Fail stops the node for good.
func (h host) Fail(err error) { h.c.fail(err) }
