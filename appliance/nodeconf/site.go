// Package nodeconf generates what nodes and inventories need to use the bastions: the enrol script, mirror
// configurations of container runtimes, Kubespray's variables.
//
// It promises: all output is a pure function of a Site, so every bastion writes the same bytes; all bastions are
// listed, each as <node>.<domain>; and no output weakens a node's security (no unverified TLS, no plain HTTP for
// content).
package nodeconf

import (
	"net/netip"
	"slices"
	"strings"
)

// A Site is what a node needs to know about the bastions.
type Site struct {
	// Domain is the bastions' own zone: registry.<Domain>, files.<Domain> and <node>.<Domain> are names of the
	// bastions.
	Domain string `json:"domain"`
	// Nodes are all bastions, sorted by name; at least one.
	Nodes []Node `json:"nodes"`
	// Roots are the root certificates, PEM.
	Roots string `json:"roots"`
	// Origins are the public hosts that the bastions serve.
	Origins []Origin `json:"origins"`
	// Repositories are those of packages of one's own, sorted by name.
	Repositories []Repository `json:"repositories,omitempty"`
	// RepositoryKey is the OpenPGP key that signs them, in ASCII armor; two keys while it is being rotated.
	RepositoryKey string `json:"repository_key,omitempty"`
}

// A Node is one bastion.
type Node struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs"` // at least one; DNS at port 53, HTTP at 80, HTTPS at 443
}

// An Origin is a public host that the bastions serve.
type Origin struct {
	Host     string   `json:"host"`
	Aliases  []string `json:"aliases,omitempty"`
	Registry bool     `json:"registry,omitempty"` // it mainly serves images
}

// A Repository is one of packages of one's own, https://packages.<Domain>/<Name>/.
type Repository struct {
	Name   string `json:"name"`
	Format string `json:"format"` // deb or rpm
}

// Host returns the node's own name.
func (s *Site) Host(n Node) string { return n.Name + "." + s.Domain }

// Addrs returns the addresses of all bastions: the first address of each, then the second ones.
func (s *Site) Addrs() (list []netip.Addr) {
	for i := 0; ; i++ {
		found := false
		for _, n := range s.Nodes {
			if i < len(n.Addrs) {
				list, found = append(list, n.Addrs[i]), true
			}
		}
		if !found {
			return list
		}
	}
}

// Registries returns the names, aliases included, from which nodes pull images; sorted.
func (s *Site) Registries() (list []string) {
	for _, o := range s.Origins {
		if o.Registry {
			list = append(append(list, o.Host), o.Aliases...)
		}
	}
	slices.SortFunc(list, strings.Compare)
	return slices.Compact(list)
}
