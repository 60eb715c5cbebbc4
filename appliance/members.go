package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"casemate/cluster"
)

// joinPatience is how long a node that has just joined waits at its first start for what the others know.
const joinPatience = 60 * time.Second

// awaitTree waits, on a node that has just joined, until the tree is here: the settings, the CA, everything that this
// node answers with.
func (a *Appliance) awaitTree() error {
	ctx, cancel := context.WithTimeout(context.Background(), joinPatience)
	defer cancel()
	changed := a.tree.Watch(ctx, "pki")
	for said := false; ; said = true {
		if _, err := a.tree.Stat("pki/state"); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		members := a.cluster.Members()
		if len(members) == 1 && members[0].Self {
			return nil // the only node: whoever opens the CA says what is missing
		}
		if !said {
			a.log.Info("waiting for what the other nodes know", "for", joinPatience)
		}
		select {
		case <-changed:
		case <-a.cluster.Done():
			return a.cluster.Err()
		case <-ctx.Done():
			return fmt.Errorf("the other nodes have not sent what they know within %s: is the cluster's leader running, and can it reach this node at %s?", joinPatience, a.socks.addrs().Peer)
		}
	}
}

// startPatience is how long a node that starts waits to hear what was written while it was down. Without a majority it
// then serves what it has.
const startPatience = 3 * time.Second

func (a *Appliance) catchUp() {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	if !a.cluster.CaughtUp(ctx) {
		a.log.Warn("no majority can be asked what was written while this node was down: it serves what it has")
	}
}

// servePeer answers what another node passes on: a request of a client's push, whose upload is here or for which there
// is room here.
func (a *Appliance) servePeer(w http.ResponseWriter, r *http.Request) {
	h := a.peers.Load()
	if h == nil {
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}

// JoinOptions are what join is given besides the node's config.
type JoinOptions struct {
	// Token is what `casemate token create` printed.
	Token string
	// Addr is the peer address of any member, host or host:port.
	Addr string
	// Wait goes on trying, until the context ends, while the cluster has no majority.
	Wait bool
	// ConfigFile is where the config is written if there is no file; "" writes none.
	ConfigFile string
	// Log gets one line per change of state. nil: nothing is logged.
	Log *slog.Logger
}

// Join makes this node a member of the cluster to which the token belongs: its data directory, with its identity and
// the keys, and its config if there is none. It starts nothing: the content comes when the node is served. A Join that
// was cut short is taken up again by the next one, with the same token.
func Join(ctx context.Context, cfg Config, opt JoinOptions) (p Prepared, err error) {
	token, err := cluster.ParseToken(opt.Token)
	if err != nil {
		return p, &UsageError{err}
	}
	if cfg.peer().Port() == 0 {
		return p, usage("listen.peer must name a port: the other nodes have to find this one there")
	}
	addr, err := peerAddr(opt.Addr)
	if err != nil {
		return p, err
	}
	if err := checkDataDir(cfg.Data); err != nil {
		return p, err
	}
	log := orDiscard(opt.Log)
	cc := clusterConfig(cfg, log)
	cc.PeerAddr, cc.Version = cfg.dialled(cfg.peer()), Version
	return prepare(cfg, opt.ConfigFile, func() error {
		for {
			err := cluster.Join(ctx, cc, addr, token)
			if err == nil || !opt.Wait || !again(err) {
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(time.Second):
			}
		}
	})
}

func again(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ECONNREFUSED)
}

// peerAddr completes an address with the usual port.
func peerAddr(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 7443).String(), nil
	}
	if !strings.Contains(s, ":") {
		s += ":7443"
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || port == "" {
		return "", usage("the address of a member must be host, address or address:port, got %q", s)
	}
	return s, nil
}

// getMembers is GET /v1/members.
func (a *Appliance) getMembers(*http.Request) (any, error) {
	return append([]cluster.Member{}, a.cluster.Members()...), nil
}

// format is what the cluster has agreed to, and what this node's program understands.
func (a *Appliance) format() map[string]uint64 {
	agreed, newest := a.cluster.Format()
	return map[string]uint64{"format": agreed, "newest": newest}
}

// postToken is POST /v1/tokens.
func (a *Appliance) postToken(r *http.Request) (any, error) {
	var in struct{ TTL string }
	if err := read(r, &in); err != nil {
		return nil, err
	}
	ttl := time.Hour
	if in.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(in.TTL); err != nil {
			return nil, usage("ttl must be a duration like 1h, got %q", in.TTL)
		}
	}
	token, err := a.cluster.CreateToken(r.Context(), ttl)
	if err != nil {
		return nil, err
	}
	a.log.Info("join token made", "id", token.ID, "ttl", ttl)
	return map[string]any{"token": token.String(), "addr": a.Addrs().Peer.String(), "expires": time.Now().Add(ttl).UTC().Truncate(time.Second)}, nil
}

// removeMember takes a node out of the cluster, its addresses out of DNS, and out of what the CA permits. Cut short,
// the same again does the rest; so it is not for the node itself, which stops in the middle.
func (a *Appliance) removeMember(ctx context.Context, node string, force bool) (any, error) {
	if node == a.cfg.Node && len(a.cluster.Members()) > 1 {
		return nil, usage("node %s is this one, and stops when it is removed: run the command on a node that stays", node)
	}
	if err := a.cluster.RemoveMember(ctx, node, force); err != nil {
		if errors.Is(err, cluster.ErrUnsafe) {
			return nil, fmt.Errorf("%w: %w", err, fs.ErrExist)
		}
		return nil, err
	}
	a.log.Info("node removed", "peer", node, "force", force)
	err := a.tree.Update(ctx, func(b cluster.Batch) error {
		b.Remove("nodes/" + node)
		b.Remove("missing/" + node)
		return nil
	})
	if err == nil {
		err = a.ca.ForgetNode(ctx, node)
	}
	if err != nil {
		return nil, fmt.Errorf("node %s is removed, but its addresses are not yet out of DNS and the CA (run the same command again): %w", node, err)
	}
	return map[string]any{"removed": node, "left": len(a.cluster.Members())}, nil
}

// tellAddress takes where a member's peer port is, from the operator.
func (a *Appliance) tellAddress(node, addr string) error {
	addr, err := peerAddr(addr)
	if err != nil {
		return err
	}
	if err := a.cluster.TellAddress(node, addr); err != nil {
		return err
	}
	a.log.Info("a node is looked for at another address", "peer", node, "addr", addr)
	return nil
}

// noLeader says what an operator should know while nobody leads.
func noLeader(members []cluster.Member) string {
	const what = "there is no leader: reading works, writing does not"
	for _, m := range members {
		if m.Up && !m.Self {
			return what
		}
	}
	if len(members) < 2 {
		return what
	}
	return what + "; no other node answers: if their addresses have changed, casemate member address on each node says where the others are"
}

// clusterWarnings are what an operator should know of the other nodes.
func (a *Appliance) clusterWarnings() (list []string) {
	members := a.cluster.Members()
	voters := 0
	for _, m := range members {
		if m.Role != "learner" {
			voters++
		}
		switch {
		case !m.Up && m.Stopped != "":
			list = append(list, fmt.Sprintf("node %s does not answer this node, it has stopped: %s", m.Node, m.Stopped))
		case !m.Up:
			list = append(list, fmt.Sprintf("node %s does not answer this node: casemate member list tells since when", m.Node))
		case m.Lacks > 0 && len(members) > 1: // alone there is nobody to fetch from: that is a problem, see lostProblem
			list = append(list, fmt.Sprintf("node %s has yet to fetch %d blobs", m.Node, m.Lacks))
		}
	}
	list = append(list, a.cluster.Warnings()...)
	if agreed, newest := a.cluster.Format(); agreed < newest && !slices.ContainsFunc(members, func(m cluster.Member) bool { return m.Format < newest }) {
		list = append(list, fmt.Sprintf("the cluster is at format %d, and every node understands %d, with which nodes notice when what they hold "+
			"differs: casemate cluster format --raise (older versions do not start any more after it)", agreed, newest))
	}
	if voters > 1 && voters%2 == 0 {
		list = append(list, fmt.Sprintf("%d nodes vote, of which %d are a majority: as many losses are survived with one node less: add one or remove one", voters, voters/2+1))
	}
	return list
}
