package resolver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"casemate/appliance/current"
	"casemate/appliance/names"
	"casemate/dnssrv"
	"casemate/dnssrv/process"
)

// answers records which changes of the tree were applied to DNS.
type answers struct {
	mu      sync.Mutex // held while the tree is read and DNS changed, so that an older state never replaces a newer one
	changed <-chan struct{}
	take    func() (names []string, all bool) // returns the names that changed, see cluster.Tree
	stop    context.CancelFunc

	rest    dnssrv.Update   // the last applied update apart from names
	whole   bool            // all names must be read
	pending map[string]bool // owners that changed and could not be applied yet
}

// followNames makes the tree record which names change, until stop.
func (r *Resolver) followNames() {
	ctx, stop := context.WithCancel(context.Background())
	changed, take := r.cfg.Tree.Follow(ctx, "names")
	r.answers = answers{changed: changed, take: take, stop: stop, whole: true, pending: map[string]bool{}}
}

// Refresh applies the current state of the tree. On an error the previous state stays in use.
func (r *Resolver) Refresh() error {
	r.answers.mu.Lock()
	defer r.answers.mu.Unlock()
	if err := r.cfg.Current.Read(); err != nil {
		return err
	}
	v := r.cfg.Current.State()
	list, err := r.cfg.Current.Nodes()
	if err != nil {
		return err
	}
	nodes := make([]dnssrv.Node, len(list))
	for i, n := range list {
		nodes[i] = dnssrv.Node{Name: n.Name, Addrs: n.Addrs, Healthy: i == 0 || r.cfg.Up(n.Name)} // this one is first
	}
	forward := v.Settings.Forward
	inRoot := func(f dnssrv.Forward) bool { return f.Zone == "." }
	if at := r.cfg.Unknown; at.IsValid() && !slices.ContainsFunc(forward, inRoot) {
		forward = append(slices.Clip(forward), dnssrv.Forward{Zone: ".", Resolvers: []netip.AddrPort{at}})
	}
	return r.answer(dnssrv.Update{
		Base: &dnssrv.Base{
			Site: siteOf(v.Settings.Domain, nodes), Domain: v.Settings.Domain,
			Node: r.cfg.Current.Self.Name, TTL: v.Settings.TTL, Forward: forward,
			Allow: v.Settings.AllowedNets(), ResponseRate: v.Settings.ResponseRate,
			Families: v.Settings.Families,
		},
		Nodes: nodes, Origins: append([]string{}, v.Origins.Names()...),
	})
}

// RefreshNames is Refresh for changes of names only: its cost depends on the number of changes.
func (r *Resolver) RefreshNames() error {
	r.answers.mu.Lock()
	defer r.answers.mu.Unlock()
	return r.answer(dnssrv.Update{})
}

// answer updates DNS by u and the names that have changed. The caller holds r.answers.mu.
func (r *Resolver) answer(u dnssrv.Update) error {
	s := &r.answers
	changed, all := s.take()
	for _, name := range changed {
		s.pending[names.Owner(name)] = true
	}
	// Beyond some thousand changes, reading all names is cheaper; and the tree does not record more either.
	if s.whole = s.whole || all || len(s.pending) > PartOfNames; s.whole {
		clear(s.pending)
	}
	for {
		s.whole = r.needsAll.Swap(false) || s.whole
		if s.whole && u.Base == nil {
			u = s.rest
		}
		err := r.answerWith(u)
		if errors.Is(err, process.ErrReset) {
			r.needsAll.Store(true)
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if u.Base != nil {
		s.rest = u
	}
	s.whole = false
	clear(s.pending)
	return nil
}

// PartOfNames is how many owners are read before they are sent to DNS: the tree may have any number.
const PartOfNames = 4096

func (r *Resolver) answerWith(u dnssrv.Update) (err error) {
	u.Records = map[string][]dnssrv.Record{}
	if !r.answers.whole {
		for owner := range r.answers.pending {
			if u.Records[owner], err = names.ReadOwner(r.cfg.Tree, owner); err != nil {
				return err
			}
		}
		_, err = r.link.Apply(u)
		return err
	}
	u.Reset = true
	for rec, err := range names.All(r.cfg.Tree) {
		if err != nil {
			return err
		}
		if _, more := u.Records[rec.Name]; !more && len(u.Records) == PartOfNames {
			u.More = true
			if _, err := r.link.Apply(u); err != nil {
				return err
			}
			u = dnssrv.Update{Records: map[string][]dnssrv.Record{}}
		}
		u.Records[rec.Name] = append(u.Records[rec.Name], rec)
	}
	_, err = r.link.Apply(u)
	return err
}

// Holds returns a function that reports whether a name is in the DNS table.
func (r *Resolver) Holds(v *current.State) func(name string) bool {
	return dnssrv.HeldBy(func(yield func(string) bool) {
		for _, name := range append(v.Hosts.Names(), "ns."+v.Settings.Domain) {
			if !yield(name) {
				return
			}
		}
		entries, _ := r.cfg.Tree.ReadDir("names")
		for _, e := range entries {
			if !yield(e.Name()) {
				return
			}
		}
	})
}
