package access

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"time"

	"casemate/cluster/tree"
)

const (
	// usedEvery is how often the last use of a key is recorded: it costs a write.
	usedEvery = time.Hour
	// idleParts is into how many parts the time is divided after which an idle login ends: its use is recorded at most
	// once in each part, so that the other nodes know it.
	idleParts = 10
	// lookEvery is how often it is looked for uses to record. It costs no write.
	lookEvery = 5 * time.Second
)

// use is when a key was last used on this node, and the use that is recorded.
type use struct{ at, recorded time.Time }

type unattended struct{}

// Unattended returns the context of a request that a program sends by itself while its user may be away, such as that
// of a page which keeps itself new. The login that it is sent with does not count as used.
func Unattended(ctx context.Context) context.Context {
	return context.WithValue(ctx, unattended{}, true)
}

// note remembers that a key is used.
func (a *Access) note(ctx context.Context, name string) {
	if ctx.Value(unattended{}) != nil {
		return
	}
	now := a.cfg.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.used[name]
	u.at = now
	a.used[name] = u
}

// lifetime is how long a login lasts.
func (a *Access) lifetime() time.Duration {
	if d := a.cfg.Lifetime(); d > 0 && d < LoginLife {
		return d
	}
	return LoginLife
}

// endOf returns when a key ends; zero: never. A shorter lifetime counts for logins that there are.
func (a *Access) endOf(k Key) time.Time {
	if k.Owner != "" {
		if end := k.Created.Add(a.lifetime()); end.Before(k.Expires) {
			return end
		}
	}
	return k.Expires
}

// isIdle reports whether a login has ended because nobody used it. What another node knows of its use, this one learns
// later, by a part of the idle time: so a login that is used elsewhere may end here that much too early, never too
// late.
func (a *Access) isIdle(k Key) bool {
	idle := a.cfg.Idle()
	if idle <= 0 || k.Owner == "" {
		return false
	}
	last := k.Created
	if k.Used.After(last) {
		last = k.Used
	}
	a.mu.Lock()
	if u := a.used[k.Name]; u.at.After(last) {
		last = u.at
	}
	a.mu.Unlock()
	return a.cfg.Now().Sub(last) >= idle
}

// Run records when keys were used, until ctx is done.
func (a *Access) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.flush(ctx)
		}
	}
}

// recordEvery is how often the last use of a key is recorded.
func (a *Access) recordEvery(k Key) time.Duration {
	if idle := a.cfg.Idle(); k.Owner != "" && idle > 0 {
		return min(usedEvery, idle/idleParts)
	}
	return usedEvery
}

// flush records the uses that are due. It forgets keys that are revoked, and those that are not used any more.
// Without a majority it tries again at the next time.
func (a *Access) flush(ctx context.Context) {
	if !a.cfg.MayStore() {
		return
	}
	a.mu.Lock()
	used := maps.Clone(a.used)
	a.mu.Unlock()
	most := usedEvery
	if idle := a.cfg.Idle(); idle > 0 {
		most = min(most, idle/idleParts)
	}
	for name, u := range used {
		if a.cfg.Now().Sub(u.at) > LoginLife {
			a.forget(name)
			continue
		}
		if u.at.Sub(u.recorded) < most {
			continue
		}
		k, version, err := a.key(name)
		if errors.Is(err, fs.ErrNotExist) {
			a.forget(name)
			continue
		}
		if err != nil {
			continue
		}
		if u.at.Sub(k.Used) < a.recordEvery(k.Key) {
			a.recorded(name, k.Used)
			continue
		}
		err = a.cfg.Tree.Update(ctx, func(b tree.Batch) error {
			b.Expect(keysDir+"/"+name, version)
			b.Put(usedDir+"/"+name, []byte(u.at.UTC().Format(time.RFC3339)))
			return nil
		})
		if errors.Is(err, fs.ErrExist) {
			continue // it was revoked meanwhile
		}
		if err != nil {
			a.cfg.Log.Debug("the last use of an API key is not recorded", "key", name, "err", err)
			return
		}
		a.recorded(name, u.at)
	}
}

func (a *Access) forget(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, name)
}

// recorded remembers which use of a key the tree has.
func (a *Access) recorded(name string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if u, ok := a.used[name]; ok {
		u.recorded = at
		a.used[name] = u
	}
}
