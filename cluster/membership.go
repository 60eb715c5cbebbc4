package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/peer"
)

// membershipChange is a change of raft's configuration, which only the leader can make.
type membershipChange struct {
	Op    string `json:"op"`
	Node  string `json:"node"`
	Force bool   `json:"force,omitempty"`
}

const (
	addMember    = "add"    // as a learner; no change if it is a member already
	removeMember = "remove" // no change if it is not a member

	maxMembershipChange = 64 << 10 // bytes
)

// changeMembership makes the leader, this node or another, carry out the change.
func (c *Cluster) changeMembership(ctx context.Context, o membershipChange) error {
	return c.atLeader(ctx, 2*c.cfg.LeaderWait, func(leader string, _ <-chan time.Time) (again bool, err error) {
		if leader == c.cfg.Node {
			err = c.applyMembershipChange(ctx, o)
		} else {
			err = c.forwardMembershipChange(ctx, leader, o)
		}
		return leadershipMoved(err) || errors.Is(err, peer.ErrSent), err
	})
}

// leadershipMoved reports whether an error of raft means that another node may be the leader.
func leadershipMoved(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) ||
		errors.Is(err, raft.ErrLeadershipTransferInProgress)
}

func (c *Cluster) forwardMembershipChange(ctx context.Context, leader string, o membershipChange) error {
	ctx, cancel, ok := c.peers.Alive(ctx, leader)
	if !ok {
		return raft.ErrNotLeader
	}
	defer cancel()
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	a, err := c.peers.Ask(ctx, http.MethodPost, leader, "/member", bytes.NewReader(body))
	switch {
	case err != nil:
		return err
	case a.Kind == peer.KindNotLeader:
		return raft.ErrNotLeader
	case a.Kind == peer.KindExist:
		return fmt.Errorf("%s: %w", a.Error, ErrUnsafe)
	case a.Kind == peer.KindNotExist:
		return fmt.Errorf("%s: %w", a.Error, fs.ErrNotExist)
	case a.Kind != "":
		return errors.New(a.Error)
	}
	return nil
}

func (c *Cluster) serveMembershipChange(w http.ResponseWriter, r *http.Request) {
	var o membershipChange
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMembershipChange)).Decode(&o); err != nil {
		peer.Reply(w, peer.Answer{Kind: peer.KindInvalid, Error: err.Error()})
		return
	}
	err := c.applyMembershipChange(r.Context(), o)
	switch {
	case err == nil:
		peer.Reply(w, peer.Answer{})
	case leadershipMoved(err):
		peer.Reply(w, c.notLeader(err))
	case errors.Is(err, ErrUnsafe):
		peer.Reply(w, peer.Answer{Kind: peer.KindExist, Error: err.Error()})
	case errors.Is(err, fs.ErrNotExist):
		peer.Reply(w, peer.Answer{Kind: peer.KindNotExist, Error: err.Error()})
	default:
		peer.Reply(w, peer.Answer{Kind: peer.KindFailed, Error: err.Error()})
	}
}
