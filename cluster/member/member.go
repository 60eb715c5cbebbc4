// Package member manages who belongs to the cluster, and the secrets that the members share: the nodes' CA, the sealing
// keys, tokens to join.
//
// All of it is in the tree below cluster/, where no service sees it, and in a few small files on each node's disk. The
// room changes the tree by ordinary proposals; its owner changes raft's configuration, which determines the voters.
//
// It implements promise 10 of the tree (package cluster).
package member

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"casemate/cluster/blob"
	"casemate/cluster/state"
)

// Cluster is the part of the replicated tree that this room needs.
type Cluster interface {
	// View is the newest state that is readable on this node.
	View() *state.State
	// CaughtUp waits briefly until this node has applied what was committed at the call; false: this could not be
	// determined.
	CaughtUp() bool
	// Propose carries out the edits at one log entry, as one command, and returns when they are applied here.
	Propose(ctx context.Context, ops ...state.Op) error
	// Commit is Propose for any number of edits of names.
	Commit(ctx context.Context, ops []state.Op) error
	// AddLearner makes a node a member that does not vote yet. It is no error if the node is a member already.
	AddLearner(ctx context.Context, node string) error
	// Voters are the names of the voters, and how many of them are a majority.
	Voters() (voters map[string]bool, majority int)
	// Others are the names of all members but this node.
	Others() []string
	// Watch receives after a name below dir has changed, until ctx is done.
	Watch(ctx context.Context, dir string) <-chan struct{}
}

// Config is the node's identity.
type Config struct {
	Node    string   // its name
	Addrs   []string // host:port of its peer port, at least one
	Cluster string   // the cluster's identity
	Version string   // of the program, for people
	Dir     string   // directory of the room's files
	FS      blob.FS
	Log     *slog.Logger
	Now     func() time.Time
	// AnyClock lets Join join although this machine's clock is far from the member's.
	AnyClock bool
	// CheckCSR checks that the sender of a certificate request has its key.
	CheckCSR func(*x509.CertificateRequest) error
	// Advertise are the node's addresses for clients, which Join tells the member.
	Advertise []string
	// Advise returns sentences for the operator of a node that joins with these Advertise; nil: none.
	Advise func(node string, advertise []string) []string
}

// addr is the first address of this node's peer port.
func (cfg Config) addr() string {
	if len(cfg.Addrs) == 0 {
		return ""
	}
	return cfg.Addrs[0]
}

// Members is one node's view of who belongs to the cluster. It is safe for concurrent use.
type Members struct {
	cfg     Config
	log     *slog.Logger
	cluster Cluster
	keys    atomic.Pointer[keyring]
	keyMu   sync.Mutex    // held while keys change
	epoch   atomic.Uint64 // of the newest key in use
	node    *nodeID       // nil in a cluster that no other node can join
}

// New returns the members of a cluster with these sealing keys.
func New(cfg Config, cluster Cluster, keys []byte) (*Members, error) {
	ring, err := newKeyring(keys)
	if err != nil {
		return nil, err
	}
	ms := &Members{cfg: cfg, log: cfg.Log, cluster: cluster}
	ms.keys.Store(ring)
	return ms, nil
}

// OpenNode reads this node's key and certificate, and makes what is missing. From then on the node can prove its
// identity.
func (ms *Members) OpenNode() (err error) {
	if ms.node, err = openNodeID(ms.cfg); err != nil {
		return err
	}
	if err := ms.checkKeys(); err != nil {
		return err
	}
	return ms.Renew()
}

// Others implements peer.Members.
func (ms *Members) Others() []string { return ms.cluster.Others() }

// Certificate implements peer.Members.
func (ms *Members) Certificate() *tls.Certificate { return ms.node.current() }

// Root implements peer.Members.
func (ms *Members) Root() []byte {
	a, err := ms.authority()
	if a == nil || err != nil {
		return nil
	}
	return a.Root
}

// Expected implements peer.Members: before the first entries of the log have come.
func (ms *Members) Expected() (nodes []string) {
	if ms.cluster.View().Index() > 0 {
		return nil
	}
	for n := range ms.node.seed.Members {
		if n != ms.cfg.Node {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Addresses implements peer.Members.
func (ms *Members) Addresses(node string) ([]string, bool) {
	r, known := ms.Record(node)
	return r.Addresses(), known
}

// JoinAddresses implements peer.Members.
func (ms *Members) JoinAddresses(node string) []string { return ms.node.seed.Members[node].Addresses() }

// Changed implements peer.Members. A removal changes the directory too; changes of raft's configuration alone are not
// reported.
func (ms *Members) Changed(ctx context.Context) <-chan struct{} {
	return ms.cluster.Watch(ctx, MembersDir)
}

// tries bounds the retries after the tree was changed concurrently.
const tries = 10
