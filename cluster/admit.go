package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
)

// members tells the peer port who belongs to the cluster.
type members struct{ c *Cluster }

// Admit implements peer.Members.
func (m members) Admit(chain []*x509.Certificate) (string, error) { return m.c.admit(chain) }

// Removed implements peer.Members.
func (m members) Removed(node string) bool { return m.c.removed(node) }

// Certificate implements peer.Members.
func (m members) Certificate() *tls.Certificate { return m.c.node.current() }

// Root implements peer.Members.
func (m members) Root() []byte {
	a, err := m.c.authority()
	if a == nil || err != nil {
		return nil
	}
	return a.Root
}

// Others implements peer.Members.
func (m members) Others() []string { return m.c.others() }

// Expected implements peer.Members: before the first entries of the log have come.
func (m members) Expected() (nodes []string) {
	if m.c.machine.view.Load().Index() > 0 {
		return nil
	}
	for n := range m.c.node.seed.Members {
		if n != m.c.cfg.Node {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Address implements peer.Members.
func (m members) Address(node string) (string, bool) {
	r, known := m.c.member(node)
	return r.Addr, known
}

// JoinAddress implements peer.Members.
func (m members) JoinAddress(node string) string { return m.c.node.seed.Members[node].Addr }

// Changed implements peer.Members. A removal changes the directory too; raft's configuration changes without a word to
// the tree.
func (m members) Changed(ctx context.Context) <-chan struct{} {
	return m.c.machine.hub.Watch(ctx, membersDir)
}
