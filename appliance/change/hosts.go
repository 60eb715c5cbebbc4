package change

import (
	"context"
	"errors"

	"casemate/appliance/content"
	"casemate/appliance/hostname"
	"casemate/appliance/origin"
	"casemate/cluster"
	"casemate/pki"
)

// HostPlan is what an import changes about the hosts of its content.
type HostPlan struct {
	set     *origin.Set     // including the new ones
	write   []origin.Origin // records that are new or changed
	Outcome content.Origins
}

// PlanHosts decides which hosts become origins: those that the root permits. An operator's decision about a host
// stays.
func (c *Changes) PlanHosts(hosts []content.Host) (p HostPlan, err error) {
	v := c.Current.State()
	p.set = v.Origins
	for _, h := range hosts {
		if h.Name == v.Settings.PackagesHost() {
			continue // packages without an origin: every cluster answers for this name
		}
		o, known := p.set.Get(h.Name)
		switch {
		case known && o.Disabled == "":
			continue
		case known && o.Disabled == origin.Removed:
			p.Outcome.Removed = append(p.Outcome.Removed, h.Name)
			continue
		case !known && (origin.Check(h.Name) != nil || hostname.Overlap(h.Name, v.Settings.Domain)):
			p.Outcome.Refused = append(p.Outcome.Refused, h.Name)
			continue
		case !known:
			o = origin.Origin{Host: h.Name, Registry: h.Registry}
		}
		was := o.Disabled
		o.Disabled = ""
		for _, n := range o.Names() {
			if err := c.CA.Permits(n); errors.Is(err, pki.ErrNotPermitted) {
				o.Disabled = origin.NotPermitted
			} else if err != nil {
				return p, err
			}
		}
		if o.Disabled == "" {
			p.Outcome.Enabled = append(p.Outcome.Enabled, o.Host)
		} else {
			p.Outcome.NotPermitted = append(p.Outcome.NotPermitted, o.Host)
		}
		if known && o.Disabled == was {
			continue
		}
		if p.set, err = p.set.With(o); err != nil {
			return p, err
		}
		p.write = append(p.write, o)
	}
	return p, nil
}

// PublishImport commits the names of an import together with the records that make its hosts origins, and an
// intermediate for them.
func (c *Changes) PublishImport(ctx context.Context, hosts []content.Host,
	write func(cluster.Batch, content.Origins) error) error {
	if p, err := c.PlanHosts(hosts); err != nil {
		return err
	} else if len(p.write) == 0 {
		err := c.Tree.Patient().Update(ctx, func(b cluster.Batch) error { return write(b, p.Outcome) })
		if err != nil {
			return err
		}
		return c.Refresh() // redirects
	}
	var p HostPlan
	err := c.Commit(ctx, func() (*origin.Set, func(cluster.Batch) error, error) {
		var err error
		if p, err = c.PlanHosts(hosts); err != nil {
			return nil, nil, err
		}
		versions := map[string]uint64{}
		for _, o := range p.write {
			if versions[o.Host], err = c.version("origins/" + o.Host); err != nil {
				return nil, nil, err
			}
		}
		return p.set, func(b cluster.Batch) error {
			for _, o := range p.write {
				data, err := origin.Record(o)
				if err != nil {
					return err
				}
				b.Expect("origins/"+o.Host, versions[o.Host])
				b.Put("origins/"+o.Host, data)
			}
			return write(b, p.Outcome)
		}, nil
	})
	for _, o := range p.write {
		if err == nil {
			c.Log.Info("origin added by an import", "origin", o.Host, "disabled", o.Disabled)
		}
	}
	return err
}
