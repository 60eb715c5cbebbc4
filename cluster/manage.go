package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"casemate/cluster/member"
	"casemate/cluster/peer"
)

// ErrUnsafe refuses the removal of a node that has bytes which the others do not have yet.
var ErrUnsafe = errors.New("not without --force")

const (
	upkeepEvery  = time.Second            // unless an event requires it earlier
	learnerEvery = 250 * time.Millisecond // while a learner is to become a voter, or after an error
)

// manage runs the node's periodic work: its record and certificate and, on the leader, the cluster's CA, voters and
// interrupted removals.
func (c *Cluster) manage() {
	c.learners = map[raft.ServerID]uint64{}
	tick := time.NewTimer(upkeepEvery)
	defer tick.Stop()
	keys := c.machine.hub.Watch(c.life, member.KeysName)
	changes := c.Changes(c.life)
	last := ""
	for {
		var errs []error
		if err := c.members.TakeKeys(); err != nil {
			errs = append(errs, err)
		}
		errs = append(errs, c.peers.ForgetTold())
		if leader, _ := c.lead.get(); leader != "" {
			ctx, cancel := context.WithTimeout(c.life, c.cfg.LeaderWait)
			if leader != c.cfg.Node {
				clear(c.learners)
			} else {
				errs = append(errs, c.leadOthers(ctx))
			}
			errs = append(errs, c.members.Renew())
			if c.members.Certificate() != nil {
				errs = append(errs, c.members.PublishSelf(ctx))
			}
			cancel()
		}
		err := errors.Join(errs...)
		switch {
		case err == nil:
			last = ""
		case c.life.Err() == nil && !errors.Is(err, syscall.EAGAIN) && err.Error() != last:
			last = err.Error()
			c.log.Warn("upkeep of the cluster failed and is retried", "err", err)
		}
		if tick.Reset(upkeepEvery); err != nil || len(c.learners) > 0 {
			tick.Reset(learnerEvery)
		}
		_, elected := c.lead.get()
		select {
		case <-c.life.Done():
			return
		case <-tick.C:
		case <-keys:
		case <-changes: // a node that came up may have to become a voter
		case <-elected:
		}
	}
}

// leadOthers does the leader's part of the work.
func (c *Cluster) leadOthers(ctx context.Context) error {
	if err := c.members.Bootstrap(ctx); err != nil {
		return err
	}
	servers := c.servers()
	in := map[string]bool{}
	for _, s := range servers {
		in[string(s.ID)] = true
	}
	maps.DeleteFunc(c.learners, func(id raft.ServerID, _ uint64) bool { return !in[string(id)] })
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			delete(c.learners, s.ID)
			continue
		}
		// A learner becomes a voter when it has the log and every named blob, up to this node's index at its last
		// check, so that a majority of voters also has a majority of the bytes.
		b, up, _ := c.peers.Last(string(s.ID))
		at, asked := c.learners[s.ID]
		if c.learners[s.ID] = c.machine.view.Load().Index(); !asked {
			continue
		}
		if up && b.Missing == 0 && b.Applied >= at {
			if err := c.answer(ctx, c.raft.AddVoter(s.ID, s.Address, 0, c.cfg.LeaderWait)); err != nil {
				return fmt.Errorf("node %s cannot become a voter: %w", s.ID, err)
			}
			delete(c.learners, s.ID)
			c.log.Info("node is a voter now", "peer", s.ID)
		}
	}
	// Finish a removal that was interrupted. (A joining node is in raft's configuration before it has a record.)
	s := c.machine.view.Load()
	for e := range s.ReadDir(member.MembersDir, "") {
		if !in[e.Name] && len(in) > 0 && e.Name != c.cfg.Node {
			return c.members.Reseal(ctx, e.Name)
		}
	}
	return nil
}

// RemoveMember removes a node permanently: its name cannot be used again, its certificate is no longer accepted, and
// the cluster's secrets that it knew do not open anything written from then on, because all secrets are sealed again.
// Keys that it could have copied while it was a member (those of the CA that clients trust) do not change.
//
// Without force the error is ErrUnsafe while the remaining nodes do not hold every blob on a majority of them. It is
// fs.ErrNotExist if there was no such node; removing a removed node again is no error.
func (c *Cluster) RemoveMember(ctx context.Context, node string, force bool) error {
	if c.peers == nil {
		return fmt.Errorf("node %s: this cluster has one node: %w", node, fs.ErrInvalid)
	}
	if err := c.changeMembership(ctx, membershipChange{Op: removeMember, Node: node, Force: force}); err != nil {
		return err
	}
	if node == c.cfg.Node {
		return nil // the leader does the rest
	}
	if _, left := c.members.Record(node); !left && c.members.Removed(node) {
		return nil // it was removed before, or the leader was faster
	}
	return c.members.Reseal(ctx, node)
}

// applyMembershipChange carries out a change; it runs on the leader.
func (c *Cluster) applyMembershipChange(ctx context.Context, o membershipChange) error {
	f := c.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	there := false
	for _, s := range f.Configuration().Servers {
		there = there || string(s.ID) == o.Node
	}
	switch o.Op {
	case addMember:
		if there {
			return nil
		}
		return c.answerSoon(ctx, c.raft.AddNonvoter(raft.ServerID(o.Node), raft.ServerAddress(o.Node), f.Index(),
			c.cfg.LeaderWait))
	case removeMember:
		if !there {
			if _, left := c.members.Record(o.Node); left || c.members.Removed(o.Node) {
				return nil // half removed, and Reseal follows; or removed completely
			}
			return fmt.Errorf("there is no node %s: %w", o.Node, fs.ErrNotExist)
		}
		if err := c.checkRemovable(o); err != nil {
			return err
		}
		if o.Node == c.cfg.Node {
			if err := c.answerSoon(ctx, c.raft.LeadershipTransfer()); err != nil {
				return fmt.Errorf("node %s is the leader and no other node can take over: %w", o.Node, err)
			}
			return raft.ErrNotLeader
		}
		return c.answerSoon(ctx, c.raft.RemoveServer(raft.ServerID(o.Node), f.Index(), c.cfg.LeaderWait))
	}
	return fmt.Errorf("membership change %q: %w", o.Op, fs.ErrInvalid)
}

// checkRemovable returns an error unless the other nodes hold everything.
func (c *Cluster) checkRemovable(o membershipChange) error {
	voters, _ := c.voters()
	delete(voters, o.Node)
	if len(voters) == 0 {
		return fmt.Errorf("node %s is the last voter and cannot be removed", o.Node)
	}
	if o.Force {
		return nil
	}
	whole, missing := 0, []string{}
	for n := range voters {
		var b peer.Beat
		up := true
		if n == c.cfg.Node {
			b = c.beat()
		} else {
			b, up, _ = c.peers.Last(n)
		}
		switch {
		case !up:
			missing = append(missing, n+" does not answer")
		case b.Missing != 0:
			missing = append(missing, fmt.Sprintf("%s is missing %d blobs", n, b.Missing))
		default:
			whole++
		}
	}
	if whole >= len(voters)/2+1 {
		return nil
	}
	return fmt.Errorf("without node %s some blobs might be on less than a majority of the remaining voters (%s): "+
		"wait until `casemate member list` shows no blobs to come: %w", o.Node, strings.Join(missing, ", "), ErrUnsafe)
}
