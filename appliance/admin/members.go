package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/config"
	"casemate/appliance/nodes"
	"casemate/appliance/usage"
	"casemate/cluster"
)

// memberRoutes serves the cluster's members.
func (a *API) memberRoutes(on *routes) {
	on.json("GET /v1/members", to(access.List), a.getMembers)
	on.json("GET /v1/format", to(access.List), func(*http.Request) (any, error) { return a.format(), nil })
	on.json("POST /v1/format", to(access.Administer), func(r *http.Request) (any, error) {
		_, newest := a.Cluster.Format()
		return a.format(), a.Cluster.RaiseFormat(r.Context(), newest)
	})
	on.json("POST /v1/tokens", to(access.Administer), a.postToken)
	on.removes("DELETE /v1/members/{name}", to(access.Administer).named("member", "name"), a.memberToRemove,
		func(r *http.Request) (any, error) {
			return a.removeMember(r.Context(), r.PathValue("name"), r.URL.Query().Get("force") == "1")
		})
	on.json("PUT /v1/members/{name}/address", to(access.Administer).named("member", "name"),
		func(r *http.Request) (any, error) {
			var in addressBody
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return nil, a.setAddress(r.PathValue("name"), in.Addr)
		})
}

// getMembers is GET /v1/members.
func (a *API) getMembers(*http.Request) (any, error) {
	return a.Status.Members(), nil
}

// format returns the format that the cluster has agreed on, and the one that this node's program supports.
func (a *API) format() map[string]uint64 {
	agreed, newest := a.Cluster.Format()
	return map[string]uint64{"format": agreed, "newest": newest}
}

// postToken is POST /v1/tokens.
func (a *API) postToken(r *http.Request) (any, error) {
	var in newTokenBody
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
	a.Log.Info("join token created", "id", token.ID, "ttl", ttl)
	addrs := append([]string{}, a.PeerAddrs()...)
	return Token{token.String(), addrs[0], addrs, time.Now().Add(ttl).UTC().Truncate(time.Second)}, nil
}

// Token is a join token, and where the member is that knows it.
type Token struct {
	Token   string    `json:"token"`
	Addr    string    `json:"addr"` // the first of Addrs
	Addrs   []string  `json:"addrs"`
	Expires time.Time `json:"expires"`
}

// removeMember removes a node from the cluster, its addresses from DNS and from the names that the CA permits. After
// an interruption, repeating it does the rest. A node cannot remove itself, because it would stop in the middle.
func (a *API) removeMember(ctx context.Context, node string, force bool) (any, error) {
	if node == a.Node && len(a.Cluster.Members()) > 1 {
		return nil, errRemovesItself(node)
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
		return nil, fmt.Errorf("node %s is removed, but its addresses are still in DNS and the CA (run the same "+
			"command again): %w", node, err)
	}
	return map[string]any{"removed": node, "left": len(a.Cluster.Members())}, nil
}

func errRemovesItself(node string) error {
	return usage.Errorf("node %s is this node, which stops when it is removed: run the command on another node", node)
}

// setAddress sets where a member's peer port is, as given by the operator.
func (a *API) setAddress(node, addr string) error {
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

// memberToRemove lists the node that a request would remove.
func (a *API) memberToRemove(r *http.Request) (*Removal, error) {
	name, members := r.PathValue("name"), a.Cluster.Members()
	i := slices.IndexFunc(members, func(m cluster.Member) bool { return m.Node == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no node %s: %w", name, fs.ErrNotExist)
	}
	if name == a.Node && len(members) > 1 {
		return nil, errRemovesItself(name)
	}
	out := &Removal{Notes: []string{fmt.Sprintf("%d of %d nodes stay; no node can have the name %s again",
		len(members)-1, len(members), name)}}
	out.add(members[i].Role, name, 0)
	return out, nil
}
