// Package current holds the current state of the tree that requests are answered from: the settings, the origins and
// the nodes.
package current

import (
	"maps"
	"net/netip"
	"sync/atomic"

	"casemate/appliance/content"
	"casemate/appliance/nodes"
	"casemate/appliance/origin"
	"casemate/appliance/routing"
	"casemate/appliance/settings"
	"casemate/cluster"
	"casemate/cluster/share"
	"casemate/fileserver"
)

// A State is the content of the tree at one moment. It is immutable.
type State struct {
	Settings    *settings.Settings
	Origins     *origin.Set
	Hosts       *routing.Hosts
	CertNames   map[string]bool // names and addresses that get a certificate
	OriginHosts []string        // enabled origins, in order
	// Redirects are those of files: from the settings and, for other URLs, from imports. It stays the same map as
	// long as nothing changes.
	Redirects map[string]string
}

// A Reader reads States, and holds the last one.
type Reader struct {
	Tree *cluster.Tree
	Self nodes.Node
	// Addrs returns the addresses on which this node answers.
	Addrs func() []netip.Addr

	state atomic.Pointer[State]
}

// State returns the last state that was read, nil before the first Read.
func (r *Reader) State() *State { return r.state.Load() }

// Read reads the current state of the tree. On an error the last state stays.
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
	if s.Redirects, err = r.redirects(s); err != nil {
		return err
	}
	r.state.Store(s)
	return nil
}

// redirects returns those of the settings and, for other URLs, of imports.
func (r *Reader) redirects(s *State) (map[string]string, error) {
	all, err := content.Redirects(r.Tree)
	if err != nil {
		return nil, err
	}
	// URLs of imports are normalized like names of the tree.
	spelled := func(url string) string {
		key, _ := fileserver.KeyIn(url, s.Origins.Canonical) // "" if invalid
		return key
	}
	byKey := map[string]string{}
	for from := range all {
		byKey[spelled(from)] = from
	}
	for from, to := range s.Settings.Redirects {
		if other, ok := byKey[spelled(from)]; ok {
			delete(all, other)
		}
		all[from] = to
	}
	if old := r.State(); old != nil && maps.Equal(old.Redirects, all) {
		return old.Redirects, nil
	}
	return all, nil
}

// Nodes returns all nodes, this one first.
func (r *Reader) Nodes() ([]nodes.Node, error) { return nodes.List(r.Tree, r.Self) }
