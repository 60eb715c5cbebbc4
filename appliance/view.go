package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"casemate/appliance/content"
	"casemate/appliance/origin"
	"casemate/cluster"
	"casemate/cluster/share"
	"casemate/dnssrv"
	"casemate/dnssrv/process"
	"casemate/fileserver"
)

// view is what the tree says at one moment about how to answer. It is immutable.
type view struct {
	settings *Settings
	origins  *origin.Set
	hosts    *hosts
	known    map[string]bool // names and addresses that get a certificate
	hostList []string        // enabled origins, in order
	// redirects are those of files: of the settings and, where these say nothing, of imports. It stays the same map as
	// long as nothing changes.
	redirects map[string]string
}

// readView reads what the tree says now about how to answer.
func (a *Appliance) readView() error {
	texts, err := readSettings(a.tree.Sub("settings"))
	if err != nil {
		return err
	}
	settings, err := ParseSettings(texts)
	if err != nil {
		return err
	}
	origins, err := origin.Load(a.tree.Sub("origins"), settings.Origins)
	if err != nil {
		return err
	}
	v, err := a.viewOf(settings, origins)
	if err != nil {
		return err
	}
	if v.redirects, err = a.redirects(v); err != nil {
		return err
	}
	a.now.Store(v)
	a.hosts.Store(v.hosts)
	return nil
}

// redirects are those of the settings and, where they say nothing, of imports.
func (a *Appliance) redirects(v *view) (map[string]string, error) {
	all, err := content.Redirects(a.tree)
	if err != nil {
		return nil, err
	}
	// Imports' are spelled as the tree spells them.
	spelled := func(url string) string {
		key, _ := fileserver.KeyIn(url, func(host string) (string, bool) { return v.origins.Canonical(host) }) // refused: ""
		return key
	}
	byKey := map[string]string{}
	for from := range all {
		byKey[spelled(from)] = from
	}
	for from, to := range v.settings.Redirects {
		if other, ok := byKey[spelled(from)]; ok {
			delete(all, other)
		}
		all[from] = to
	}
	if old := a.now.Load(); old != nil && maps.Equal(old.redirects, all) {
		return old.redirects, nil
	}
	return all, nil
}

func (a *Appliance) viewOf(settings *Settings, origins *origin.Set) (*view, error) {
	nodes, err := a.nodes()
	if err != nil {
		return nil, err
	}
	h := &hosts{domain: settings.Domain, nodes: map[string]bool{}, homes: map[string]bool{}, origins: origins}
	for _, n := range nodes {
		h.nodes[n.Name] = true
		for _, addr := range n.Addrs {
			h.homes[share.Of(addr)] = true
		}
	}
	v := &view{settings: settings, origins: origins, hosts: h, known: map[string]bool{}, hostList: origins.Hosts()}
	for _, n := range h.names() {
		v.known[n] = true
	}
	for _, addr := range a.ownAddrs() {
		v.known[addr.String()] = true
	}
	return v, nil
}

// ownAddrs are the addresses at which this node can be asked: what is advertised, what is listened on, and behind a
// wildcard every interface.
func (a *Appliance) ownAddrs() []netip.Addr {
	list := slices.Clone(a.cfg.Advertise)
	for _, l := range a.socks.addrs().HTTPS {
		if !l.Addr().IsUnspecified() {
			list = append(list, l.Addr())
			continue
		}
		all, _ := net.InterfaceAddrs()
		for _, i := range all {
			if n, ok := i.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(n.IP); ok && !addr.IsLinkLocalUnicast() {
					list = append(list, addr.Unmap())
				}
			}
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// nodes are the members with their addresses; this one as its config says, whatever the tree knows.
func (a *Appliance) nodes() ([]dnssrv.Node, error) {
	list := []dnssrv.Node{{Name: a.cfg.Node, Addrs: a.cfg.Advertise, Healthy: true}}
	entries, err := a.tree.ReadDir("nodes")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	for _, e := range entries {
		if e.Name() == a.cfg.Node {
			continue
		}
		data, err := a.tree.ReadFile("nodes/" + e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var r nodeRecord
		if err := errors.Join(err, json.Unmarshal(data, &r)); err != nil {
			return nil, fmt.Errorf("node %s: %w", e.Name(), err)
		}
		list = append(list, dnssrv.Node{Name: e.Name(), Addrs: r.Addrs, Healthy: a.cluster.Up(e.Name())})
	}
	return list, nil
}

// answers is how far DNS has taken up what the tree says.
type answers struct {
	mu      sync.Mutex // held while the tree is read and DNS changed, so that nobody puts an older state over a newer one
	changed <-chan struct{}
	take    func() (names []string, all bool) // the names that changed, see cluster.Tree
	stop    context.CancelFunc

	rest    dnssrv.Update   // what was last taken up that is no name
	whole   bool            // all names must be read
	pending map[string]bool // the owners that changed and could not be taken up yet
}

// followNames lets the tree remember which names change, until stop.
func (a *Appliance) followNames() {
	ctx, stop := context.WithCancel(context.Background())
	changed, take := a.tree.Follow(ctx, "names")
	a.answers = answers{changed: changed, take: take, stop: stop, whole: true, pending: map[string]bool{}}
}

// refresh takes up what the tree says now. On an error what was there before stays in use.
func (a *Appliance) refresh() error {
	a.answers.mu.Lock()
	defer a.answers.mu.Unlock()
	if err := a.readView(); err != nil {
		return err
	}
	v := a.now.Load()
	nodes, err := a.nodes()
	if err != nil {
		return err
	}
	return a.answer(dnssrv.Update{
		Base: &dnssrv.Base{
			Domain: v.settings.Domain, Node: a.cfg.Node, TTL: v.settings.TTL, Forward: v.settings.Forward,
			Allow: v.settings.allow(), ResponseRate: v.settings.ResponseRate,
		},
		Nodes: nodes, Origins: append([]string{}, v.origins.Names()...),
	})
}

// refreshNames is refresh for a change of names alone: it costs what has changed.
func (a *Appliance) refreshNames() error {
	a.answers.mu.Lock()
	defer a.answers.mu.Unlock()
	return a.answer(dnssrv.Update{})
}

// answer changes DNS by u and the names that have changed. a.answers.mu is held.
func (a *Appliance) answer(u dnssrv.Update) error {
	s := &a.answers
	names, all := s.take()
	for _, name := range names {
		s.pending[ownerOf(name)] = true
	}
	// Beyond some thousand, names are cheaper to read all at once; and the tree does not remember more either.
	if s.whole = s.whole || all || len(s.pending) > partOfNames; s.whole {
		clear(s.pending)
	}
	for {
		s.whole = a.dnsNeedsAll.Swap(false) || s.whole
		if s.whole && u.Base == nil {
			u = s.rest
		}
		err := a.answerWith(u)
		if errors.Is(err, process.ErrReset) {
			a.dnsNeedsAll.Store(true)
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

// partOfNames is how many owners are read before DNS gets them: the tree may have any number.
const partOfNames = 4096

func (a *Appliance) answerWith(u dnssrv.Update) (err error) {
	u.Records = map[string][]dnssrv.Record{}
	if !a.answers.whole {
		for owner := range a.answers.pending {
			if u.Records[owner], err = readName(a.tree, owner); err != nil {
				return err
			}
		}
		_, err = a.dns.Apply(u)
		return err
	}
	u.Reset = true
	for rec, err := range allNames(a.tree) {
		if err != nil {
			return err
		}
		if _, more := u.Records[rec.Name]; !more && len(u.Records) == partOfNames {
			u.More = true
			if _, err := a.dns.Apply(u); err != nil {
				return err
			}
			u = dnssrv.Update{Records: map[string][]dnssrv.Record{}}
		}
		u.Records[rec.Name] = append(u.Records[rec.Name], rec)
	}
	_, err = a.dns.Apply(u)
	return err
}

// follow takes up what changes in the tree, here or on another node, and sees to it that the tree knows this node.
func (a *Appliance) follow(ctx context.Context) error {
	changes := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	watches := []<-chan struct{}{a.dnsNeeds, a.cluster.Changes(ctx)} // who answers: DNS must not name the others
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
	known, failed := false, false
	for refresh := a.refresh; ; {
		if err := refresh(); err != nil {
			a.log.Error("what the tree says cannot be taken up, the state before it stays in use", "error", err)
			a.problems.set("view", []string{fmt.Sprintf("what the tree says cannot be taken up, the state before it stays in use: %v", err)})
			failed = true
		} else {
			a.problems.set("view", nil)
			failed = false
		}
		if !known {
			err := a.enrol(ctx)
			known = err == nil
			if err != nil && !errors.Is(err, syscall.EAGAIN) && ctx.Err() == nil {
				a.log.Warn("this node cannot be entered in the tree", "error", err)
			}
		}
		tick := retry.C
		if known {
			tick = nil
		}
		refresh = a.refresh
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-a.answers.changed:
			if !failed { // what could not be taken up is tried again with any change
				refresh = a.refreshNames
			}
		case <-tick:
		}
	}
}

// enrol writes this node's addresses where the other nodes read them, if they are not there.
func (a *Appliance) enrol(ctx context.Context) error {
	var r nodeRecord
	if data, err := a.tree.ReadFile("nodes/" + a.cfg.Node); err == nil && json.Unmarshal(data, &r) == nil && slices.Equal(r.Addrs, a.cfg.Advertise) {
		return nil
	}
	return a.tree.Update(ctx, func(b cluster.Batch) error { return putNode(b, a.cfg) })
}
