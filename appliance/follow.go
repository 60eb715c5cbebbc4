package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/nodes"
	"casemate/cluster"
)

// follow takes up what changes in the tree, here or on another node, and sees to it that the tree knows this node.
func (a *Appliance) follow(ctx context.Context) error {
	changes := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	watches := []<-chan struct{}{a.dns.Needs(), a.cluster.Changes(ctx)} // who answers: DNS must not name the others
	for _, dir := range []string{"settings", "origins", "nodes"} {
		watches = append(watches, a.tree.Watch(ctx, dir))
	}
	for _, ch := range watches {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case _, ok := <-ch:
					if !ok {
						return
					}
				}
				select {
				case changes <- struct{}{}:
				default:
				}
			}
		})
	}
	retry := time.NewTicker(10 * time.Second)
	defer retry.Stop()
	known, failed := false, false
	for refresh := a.dns.Refresh; ; {
		if err := refresh(); err != nil {
			a.log.Error("the settings, origins or nodes in the tree cannot be applied, the previous ones stay in use", "err", err)
			a.problems.Set("view",
				[]string{fmt.Sprintf("the settings, origins or nodes in the tree cannot be applied, the previous ones stay in use: %v", err)})
			failed = true
		} else {
			a.problems.Set("view", nil)
			failed = false
		}
		if !known {
			err := a.publishSelf(ctx)
			known = err == nil
			if err != nil && !errors.Is(err, syscall.EAGAIN) && ctx.Err() == nil {
				a.log.Warn("this node's addresses cannot be written to the tree", "err", err)
			}
		}
		tick := retry.C
		if known {
			tick = nil
		}
		refresh = a.dns.Refresh
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-a.dns.Changed():
			if !failed { // what could not be taken up is tried again with any change
				refresh = a.dns.RefreshNames
			}
		case <-tick:
		}
	}
}

// publishSelf writes this node's addresses where the other nodes read them, if they are not there.
func (a *Appliance) publishSelf(ctx context.Context) error {
	if addrs, err := nodes.Addrs(a.tree, a.cfg.Node); err == nil && slices.Equal(addrs, a.cfg.Advertise) {
		return nil
	}
	return a.tree.Update(ctx, func(b cluster.Batch) error { return nodes.Put(b, a.current.Self) })
}
