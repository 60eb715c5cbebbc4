package appliance

import (
	"context"
	"io/fs"

	"casemate/appliance/content"
	"casemate/cluster"
)

// claimsIn returns the function that lists the contents of a name of t in all imports.
func claimsIn(t *cluster.Tree) func(name string) []fs.FileInfo {
	return func(name string) (list []fs.FileInfo) {
		for _, c := range t.ClaimsOf(name) {
			list = append(list, c.FileInfo)
		}
		return list
	}
}

// newImports creates the engine that imports into this node.
func (a *Appliance) newImports() *content.Engine {
	return content.New(content.Config{
		Tree: a.tree.Patient(), Images: a.registry, Node: a.cfg.Node, Log: a.log.With("room", "content"),
		Canonical: func(host string) string {
			host, _ = a.current.State().Origins.Canonical(host)
			return host
		},
		Managed: a.files.Managed, Behind: a.access.Behind,
		Policy: func() content.Policy {
			s := a.current.State().Settings
			p := content.Policy{Require: s.RequireSignature, Keys: s.ImportKeys, MaxSize: s.ImportMaxSize,
				MinAge: s.ImportMinAge, ApproveWithin: s.ApproveWithin}
			for _, host := range s.ImportOrigins {
				host, _ = a.current.State().Origins.Canonical(host)
				p.Origins = append(p.Origins, host)
			}
			return p
		},
		Origins: func(hosts []content.Host) (content.Origins, error) {
			p, err := a.changes.PlanHosts(hosts)
			return p.Outcome, err
		},
		Publish: a.changes.PublishImport,
		Checkpoint: func(ctx context.Context) string {
			c, err := a.audit.Checkpoint(ctx)
			if err != nil || c.Size == 0 {
				return "" // the import is made all the same
			}
			return c.Checkpoint
		},
		Room: func() int64 {
			st := a.cluster.Status()
			return st.DiskFree - st.DiskReserve
		},
		Discard: func(ctx context.Context, digests []string) (int64, error) {
			r, err := a.cluster.Discard(ctx, digests)
			return r.RemovedBytes, err
		},
	})
}
