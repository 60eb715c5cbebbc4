package appliance

import (
	"context"
	"slices"
	"time"

	"casemate/cluster"
)

// oneVersion reports whether all nodes run this program's version.
func (a *Appliance) oneVersion() bool {
	other := func(m cluster.Member) bool { return !m.Self && m.Version != a.opt.Version }
	return !slices.ContainsFunc(a.cluster.Members(), other)
}

// sealUsersEvery is how often records of users are looked at that a version of before wrote.
const sealUsersEvery = time.Minute

// sealUsers seals the records of users that a version of before wrote, as soon as every node understands sealed ones.
func (a *Appliance) sealUsers(ctx context.Context) error {
	tick := time.NewTicker(sealUsersEvery)
	defer tick.Stop()
	for said := false; ; {
		left, err := a.users.SealAll(ctx)
		if err != nil && ctx.Err() == nil && !said {
			a.log.Warn("password hashes could not be sealed, it is tried again", "in", sealUsersEvery, "err", err)
		} else if left > 0 && !said {
			a.log.Info("password hashes are not sealed until every node runs this version",
				"version", a.opt.Version, "users", left)
		}
		said = err != nil || left > 0
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// upkeepEvery is how often a node collects by itself what nothing names: what deleted images held, pushes that were
// given up, uploads idle for a day. `casemate gc` does the same at once.
const upkeepEvery = 6 * time.Hour

func (a *Appliance) upkeep(ctx context.Context) error {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := a.imports.Upkeep(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("old incomplete imports could not be removed, it is tried again", "in", upkeepEvery, "err",
				err)
		}
		if r, err := a.cluster.GC(ctx, false); err != nil && ctx.Err() == nil {
			a.log.Warn("garbage collection failed, it is tried again", "in", upkeepEvery, "err", err)
		} else if r.Blobs > 0 {
			a.log.Info("unreferenced blobs deleted", "blobs", r.Blobs, "bytes", r.RemovedBytes)
		}
	}
}

// scrubInterval is asked by the scrub that runs by itself.
func (a *Appliance) scrubInterval() time.Duration { return a.current.State().Settings.ScrubInterval }
