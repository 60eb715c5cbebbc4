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

// sealUsersEvery is the interval for checking for user records that an earlier version wrote.
const sealUsersEvery = time.Minute

// sealUsers seals the user records that an earlier version wrote, as soon as every node supports sealed ones.
func (a *Appliance) sealUsers(ctx context.Context) error {
	tick := time.NewTicker(sealUsersEvery)
	defer tick.Stop()
	for said := false; ; {
		left, err := a.users.SealAll(ctx)
		if err != nil && ctx.Err() == nil && !said {
			a.log.Warn("password hashes could not be sealed, retrying", "in", sealUsersEvery, "err", err)
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

// upkeepEvery is the interval of the automatic collection of unreferenced blobs: of deleted images, abandoned pushes,
// and uploads idle for a day. `casemate gc` runs one at once.
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
			a.log.Warn("old incomplete imports could not be removed, retrying", "in", upkeepEvery, "err",
				err)
		}
		if r, err := a.cluster.GC(ctx, false); err != nil && ctx.Err() == nil {
			a.log.Warn("garbage collection failed, retrying", "in", upkeepEvery, "err", err)
		} else if r.Blobs > 0 {
			a.log.Info("unreferenced blobs deleted", "blobs", r.Blobs, "bytes", r.RemovedBytes)
		}
	}
}

// scrubInterval is called by the background scrub.
func (a *Appliance) scrubInterval() time.Duration { return a.current.State().Settings.ScrubInterval }
