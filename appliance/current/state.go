// Package current is what the tree says now about how to answer: the settings, the origins and the nodes.
package current

import (
	"net/netip"
	"sync/atomic"

	"casemate/appliance/nodes"
	"casemate/appliance/origin"
	"casemate/appliance/routing"
	"casemate/appliance/settings"
	"casemate/cluster"
	"casemate/cluster/share"
)

// A State is what the tree said at one moment. It is immutable.
type State struct {
	Settings    *settings.Settings
	Origins     *origin.Set
	Hosts       *routing.Hosts
	CertNames   map[string]bool // names and addresses that get a certificate
	OriginHosts []string        // enabled origins, in order
}

// A Reader reads States, and holds the last one for everybody.
type Reader struct {
	Tree *cluster.Tree
	Self nodes.Node
	// Addrs are the addresses at which this node can be asked.
	Addrs func() []netip.Addr

	state atomic.Pointer[State]
}

// State returns what was read last, nil before the first Read.
func (r *Reader) State() *State { return r.state.Load() }

// Read reads what the tree says now. On an error the last state stays.
func (r *Reader) Read() error {
	texts, err := settings.Read(r.Tree.Sub("settings"))
	if err != nil {
		return err
	}
	set, err := settings.Parse(texts)
	if err != nil {
		return err
	}
	origins, err := origin.Load(r.Tree.Sub("origins"), set.Origins)
	if err != nil {
		return err
	}
	list, err := r.Nodes()
	if err != nil {
		return err
	}
	h := &routing.Hosts{Domain: set.Domain, Nodes: map[string]bool{}, NodeAddrs: map[string]bool{}, Origins: origins}
	for _, n := range list {
		h.Nodes[n.Name] = true
		for _, addr := range n.Addrs {
			h.NodeAddrs[share.Of(addr)] = true
		}
	}
	s := &State{Settings: set, Origins: origins, Hosts: h, CertNames: map[string]bool{}, OriginHosts: origins.Hosts()}
	for _, n := range h.Names() {
		s.CertNames[n] = true
	}
	for _, addr := range r.Addrs() {
		s.CertNames[addr.String()] = true
	}
	r.state.Store(s)
	return nil
}

// Nodes returns all nodes, this one first.
func (r *Reader) Nodes() ([]nodes.Node, error) { return nodes.List(r.Tree, r.Self) }
