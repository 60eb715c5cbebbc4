package appliance

import (
	"context"
	"net/netip"
	"time"

	"casemate/appliance/content"
	"casemate/appliance/upstream"
	"casemate/cluster"
	"casemate/fileserver"
)

// upstreamConfig connects what fetches from origins with the tree and the services.
func (a *Appliance) upstreamConfig() upstream.Config {
	return upstream.Config{
		Settings:  func() *upstream.Settings { return (*upstream.Settings)(&a.current.State().Settings.Upstream) },
		Canonical: func(host string) (string, bool) { return a.current.State().Origins.Canonical(host) },
		Own:       a.bastions,
		Images:    func() upstream.Images { return a.registry }, Files: func() upstream.Files { return a.files },
		Held: func(url string) string {
			info, err := a.files.Stat(url)
			if err != nil {
				return ""
			}
			return info.Digest
		},
		Queries:  func(url string) (path, all int) { return a.files.Queries(url) },
		Redirect: a.recordRedirect, Redirects: func() int { return len(a.current.State().Redirects) },
		Tree: a.tree.Sub("upstream"), Sealer: a.cluster,
		Free: func() int64 {
			st := a.cluster.Status()
			return st.DiskFree - st.DiskReserve
		},
		Observe: a.rehearsal.fetched,
		Log:     a.log.With("room", "upstream"), Now: a.opt.Now,
		Dial: a.opt.Dial, Resolve: a.opt.Resolve,
	}
}

// bastions returns the addresses of all nodes.
func (a *Appliance) bastions() []netip.Addr {
	list, err := a.current.Nodes()
	if err != nil {
		return a.cfg.Advertise
	}
	var addrs []netip.Addr
	for _, n := range list {
		addrs = append(addrs, n.Addrs...)
	}
	return addrs
}

// recordRedirect records where an origin redirects a URL to, as an import does, or that it no longer does.
func (a *Appliance) recordRedirect(ctx context.Context, from, to string) error {
	key, err := a.files.Key(from)
	if err != nil {
		return err
	}
	if to != "" {
		if err := fileserver.CheckRedirect(from, to); err != nil {
			return err
		}
	}
	err = a.tree.Update(ctx, func(b cluster.Batch) error {
		if to == "" {
			b.Remove(content.RedirectsDir + "/" + key)
		} else {
			b.Put(content.RedirectsDir+"/"+key, []byte(to))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.current.Read() // before the request is answered
}

// probeEvery is how often the resolvers for fetching are checked for giving our own answers.
const probeEvery = 10 * time.Minute

// probeUpstream checks the resolvers for fetching at the start, after each change of the settings, and now and then. It
// forgets what depends on a login when one changes.
func (a *Appliance) probeUpstream(ctx context.Context) error {
	changed, logins := a.tree.Watch(ctx, "settings"), a.tree.Watch(ctx, "upstream/logins")
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		host := ""
		for _, o := range a.current.State().OriginHosts {
			if a.upstream.For(o) {
				host = o
				break
			}
		}
		a.upstream.Probe(ctx, host)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-logins: // changed by another node
			a.upstream.Forget()
		case <-tick.C:
		}
	}
}
