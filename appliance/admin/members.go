package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"casemate/appliance/config"
	"casemate/appliance/nodes"
	"casemate/appliance/usage"
	"casemate/cluster"
)

// getMembers is GET /v1/members.
func (a *API) getMembers(*http.Request) (any, error) {
	return append([]cluster.Member{}, a.Cluster.Members()...), nil
}

// format is what the cluster has agreed to, and what this node's program understands.
func (a *API) format() map[string]uint64 {
	agreed, newest := a.Cluster.Format()
	return map[string]uint64{"format": agreed, "newest": newest}
}

// postToken is POST /v1/tokens.
func (a *API) postToken(r *http.Request) (any, error) {
	var in struct{ TTL string }
	if err := read(r, &in); err != nil {
		return nil, err
	}
	ttl := time.Hour
	if in.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(in.TTL); err != nil {
			return nil, usage.Errorf("ttl must be a duration like 1h, got %q", in.TTL)
		}
	}
	token, err := a.Cluster.CreateToken(r.Context(), ttl)
	if err != nil {
		return nil, err
	}
	a.Log.Info("join token made", "id", token.ID, "ttl", ttl)
	return map[string]any{
		"token":   token.String(),
		"addr":    a.PeerAddr(),
		"expires": time.Now().Add(ttl).UTC().Truncate(time.Second),
	}, nil
}

// removeMember takes a node out of the cluster, its addresses out of DNS, and out of what the CA permits. Cut short,
// the same again does the rest; so it is not for the node itself, which stops in the middle.
func (a *API) removeMember(ctx context.Context, node string, force bool) (any, error) {
	if node == a.Node && len(a.Cluster.Members()) > 1 {
		return nil, usage.Errorf("node %s is this one, and stops when it is removed: run the command on a node that stays",
			node)
	}
	if err := a.Cluster.RemoveMember(ctx, node, force); err != nil {
		if errors.Is(err, cluster.ErrUnsafe) {
			return nil, fmt.Errorf("%w: %w", err, fs.ErrExist)
		}
		return nil, err
	}
	a.Log.Info("node removed", "peer", node, "force", force)
	err := a.Tree.Update(ctx, func(b cluster.Batch) error {
		b.Remove(nodes.Dir + "/" + node)
		b.Remove("missing/" + node)
		return nil
	})
	if err == nil {
		err = a.CA.ForgetNode(ctx, node)
	}
	if err != nil {
		return nil, fmt.Errorf("node %s is removed, but its addresses are not yet out of DNS and the CA (run the same "+
			"command again): %w", node, err)
	}
	return map[string]any{"removed": node, "left": len(a.Cluster.Members())}, nil
}

// tellAddress takes where a member's peer port is, from the operator.
func (a *API) tellAddress(node, addr string) error {
	addr, err := config.PeerAddr(addr)
	if err != nil {
		return err
	}
	if err := a.Cluster.TellAddress(node, addr); err != nil {
		return err
	}
	a.Log.Info("a node's address was set", "peer", node, "addr", addr)
	return nil
}
