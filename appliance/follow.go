package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/content"
	"casemate/appliance/nodes"
	"casemate/cluster"
)

// follow applies changes of the tree, made here or on another node, and publishes this node's addresses there.
func (a *Appliance) follow(ctx context.Context) error {
	changes := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	// health of the other nodes: DNS returns only healthy ones
	watches := []<-chan struct{}{a.dns.Needs(), a.cluster.Changes(ctx)}
	for _, dir := range []string{"settings", "origins", "nodes", content.RedirectsDir} {
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
	published, failed := false, false
	for refresh := a.dns.Refresh; ; {
		if err := refresh(); err != nil {
			const what = "a change in the tree cannot be applied, the state before it stays in use"
			a.log.Error(what, "err", err)
			a.problems.Set("tree", []string{fmt.Sprintf("%s: %v", what, err)})
			failed = true
		} else {
			a.problems.Set("tree", nil)
			failed = false
		}
		if !published {
			err := a.publishSelf(ctx)
			published = err == nil
			if err != nil && !errors.Is(err, syscall.EAGAIN) && ctx.Err() == nil {
				a.log.Warn("this node's addresses cannot be written to the tree", "err", err)
			}
		}
		tick := retry.C
		if published {
			tick = nil
		}
		refresh = a.dns.Refresh
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-a.dns.Changed():
			if !failed { // a change that could not be applied is retried with the next change
				refresh = a.dns.RefreshNames
			}
		case <-tick:
		}
	}
}

// publishSelf writes this node's addresses for the other nodes, if they differ.
func (a *Appliance) publishSelf(ctx context.Context) error {
	if addrs, err := nodes.Addrs(a.tree, a.cfg.Node); err == nil && slices.Equal(addrs, a.cfg.Advertise) {
		return nil
	}
	return a.tree.Update(ctx, func(b cluster.Batch) error { return nodes.Put(b, a.current.Self) })
}
