package appliance

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"

	"casemate/appliance/nodeconf"
	"casemate/appliance/nodes"
	"casemate/appliance/pages"
)

// site returns what the tree says about the bastions, for everything that is generated for nodes: the same on every
// node.
func (a *Appliance) site() (nodeconf.Site, error) {
	v := a.current.State()
	s := nodeconf.Site{Domain: v.Settings.Domain, Roots: string(a.ca.Roots())}
	list, err := a.current.Nodes()
	if err != nil {
		return s, err
	}
	for _, n := range list {
		s.Nodes = append(s.Nodes, nodeconf.Node{Name: n.Name, Addrs: n.Addrs})
	}
	slices.SortFunc(s.Nodes, func(x, y nodeconf.Node) int { return cmp.Compare(x.Name, y.Name) })
	if err := a.siteRepositories(&s); err != nil {
		return s, err
	}
	images, files := a.namesIn("registry/repositories"), a.namesIn("files")
	for _, o := range v.Origins.All() {
		if o.Disabled != "" {
			continue
		}
		// Whether an origin that an operator added is a registry is only known from its stored content.
		registry := images[o.Host] || o.Registry && (o.Builtin || !files[o.Host])
		s.Origins = append(s.Origins, nodeconf.Origin{Host: o.Host, Aliases: o.Aliases, Registry: registry})
	}
	return s, nil
}

// siteRepositories adds the repositories of packages of one's own, and the key that signs them.
func (a *Appliance) siteRepositories(s *nodeconf.Site) error {
	list, err := a.packages.All()
	if err != nil || len(list) == 0 {
		return err
	}
	for _, r := range list {
		s.Repositories = append(s.Repositories, nodeconf.Repository{Name: r.Name, Format: r.Format})
	}
	s.RepositoryKey, err = a.packages.PublicKey()
	return err
}

// namesIn returns the names in a directory of the tree, none if it cannot be listed.
func (a *Appliance) namesIn(dir string) map[string]bool {
	names := map[string]bool{}
	entries, err := a.tree.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("a directory of the tree cannot be listed", "directory", dir, "err", err)
	}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

// front returns the content of the page for people.
func (a *Appliance) front() pages.Front {
	v := a.current.State()
	p := pages.Front{Node: a.cfg.Node, Domain: v.Settings.Domain, Origins: v.OriginHosts}
	list, err := a.current.Nodes() // this node is first
	if err != nil {
		a.log.Warn("the front page shows only this node", "err", err)
		list = []nodes.Node{a.current.Self}
	}
	for _, n := range list {
		for _, addr := range n.Addrs {
			p.Resolvers = append(p.Resolvers, addr.String())
		}
	}
	return p
}
