package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"casemate/appliance/content"
	"casemate/appliance/handover"
	"casemate/appliance/origin"
	"casemate/cluster"
	"casemate/pki"
)

// newImports makes the engine that imports into this node.
func (a *Appliance) newImports() *content.Engine {
	return content.New(content.Config{
		Tree: a.tree.Patient(), Images: a.registry, Node: a.cfg.Node, Log: a.log.With("room", "content"),
		Canonical: func(host string) string {
			host, _ = a.now.Load().origins.Canonical(host)
			return host
		},
		Policy: func() content.Policy {
			s := a.now.Load().settings
			return content.Policy{Require: s.RequireSignature, Keys: s.ImportKeys}
		},
		Origins: func(hosts []content.Host) (content.Origins, error) {
			p, err := a.planHosts(hosts)
			return p.became, err
		},
		Publish: a.publishImport,
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

// hostPlan is what an import makes of the hosts that its content comes from.
type hostPlan struct {
	set    *origin.Set     // with them
	write  []origin.Origin // records that are new or change
	became content.Origins
}

// planHosts says which hosts become origins: those that the root permits. What an operator decided about a host stays.
func (a *Appliance) planHosts(hosts []content.Host) (p hostPlan, err error) {
	v := a.now.Load()
	p.set = v.origins
	for _, h := range hosts {
		o, known := p.set.Get(h.Name)
		switch {
		case known && o.Disabled == "":
			continue
		case known && o.Disabled == origin.Removed:
			p.became.Removed = append(p.became.Removed, h.Name)
			continue
		case !known && (origin.Check(h.Name) != nil || overlaps(h.Name, v.settings.Domain)):
			p.became.Refused = append(p.became.Refused, h.Name)
			continue
		case !known:
			o = origin.Origin{Host: h.Name, Registry: h.Registry}
		}
		was := o.Disabled
		o.Disabled = ""
		for _, n := range o.Names() {
			if err := a.ca.Permits(n); errors.Is(err, pki.ErrNotPermitted) {
				o.Disabled = origin.NotPermitted
			} else if err != nil {
				return p, err
			}
		}
		if o.Disabled == "" {
			p.became.Enabled = append(p.became.Enabled, o.Host)
		} else {
			p.became.NotPermitted = append(p.became.NotPermitted, o.Host)
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

// overlaps reports whether a host lies in the own zone or the zone below the host.
func overlaps(host, domain string) bool {
	return host == domain || isBelow(host, domain) || isBelow(domain, host)
}

// publishImport commits the names of an import with what makes its hosts origins: records, and an intermediate for
// them.
func (a *Appliance) publishImport(ctx context.Context, hosts []content.Host, write func(cluster.Batch, content.Origins) error) error {
	if p, err := a.planHosts(hosts); err != nil {
		return err
	} else if len(p.write) == 0 {
		return a.tree.Patient().Update(ctx, func(b cluster.Batch) error { return write(b, p.became) })
	}
	var p hostPlan
	err := a.constrained(ctx, func() (*origin.Set, func(cluster.Batch) error, error) {
		var err error
		if p, err = a.planHosts(hosts); err != nil {
			return nil, nil, err
		}
		versions := map[string]uint64{}
		for _, o := range p.write {
			if versions[o.Host], err = a.version("origins/" + o.Host); err != nil {
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
			return write(b, p.became)
		}, nil
	})
	for _, o := range p.write {
		if err == nil {
			a.log.Info("origin added by an import", "origin", o.Host, "disabled", o.Disabled)
		}
	}
	return err
}

// postImport takes over the connection: the command hands over the files that it opened, and waits for the end.
func (a *Appliance) postImport(w http.ResponseWriter, r *http.Request) {
	a.sessions.Add(1)
	defer a.sessions.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.imports.Context(), cancel)()
	s, err := handover.Accept(w, r.WithContext(ctx))
	if err != nil {
		a.log.Info("an import could not begin", "error", err)
		return
	}
	res, err := a.runImport(s)
	status, text := http.StatusOK, error(nil)
	if err != nil {
		status, text = importStatus(err), errors.New(Sentence(err))
	}
	if err := s.Finish(res, text, status); err != nil {
		a.log.Info("the command that imported could not be told the result", "error", err)
	}
}

// importStatus is statusOf, except that what is wrong with the content is not wrong with the request.
func importStatus(err error) int {
	status := statusOf(err)
	if status == http.StatusBadRequest && !errors.As(err, new(*UsageError)) || status == http.StatusNotFound {
		return http.StatusUnprocessableEntity
	}
	return status
}

func (a *Appliance) runImport(s *handover.Session) (*content.Result, error) {
	q := s.Request()
	keys, err := content.ParseKeys(strings.Join(q.Keys, "\n"))
	if err != nil {
		return nil, &UsageError{err}
	}
	if q.Name != "" {
		if err := content.CheckName(q.Name); err != nil {
			return nil, &UsageError{err}
		}
	}
	return a.imports.Import(s.Context(), content.Request{
		Name: q.Name, Inputs: s.Inputs(), Keys: keys, Repository: q.Repository, DryRun: q.DryRun, Partial: q.Partial,
		Progress: func(p content.Progress) { s.Progress(p.Done, p.Total, p.Phase) },
	})
}

// importWarnings are sentences for status about imports that are not complete.
func importWarnings(list []content.Import) []string {
	var out []string
	for _, i := range list {
		switch {
		case i.State != content.Incomplete || i.Running:
		case len(i.Missing) > 0:
			out = append(out, fmt.Sprintf("import %s is not complete: of its %d parts, import %s as well; or casemate import remove %s", i.Name, i.Parts, strings.Trim(fmt.Sprint(i.Missing), "[]"), i.Name))
		default:
			out = append(out, fmt.Sprintf("import %s was interrupted: import %s again, it goes on where it was; "+
				"what was read of it, %s, is kept until %s or casemate import remove %s",
				i.Name, strings.Join(i.Sources[:min(len(i.Sources), 3)], " "), content.BytesText(i.BytesNew),
				i.KeptUntil.Format(time.DateOnly), i.Name))
		}
	}
	return out[:min(len(out), 20)]
}
