package rpm

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"

	"casemate/bundle/lists"
)

// universe is every candidate of every repository.
type universe struct {
	packages []*Package
	byName   map[string][]*Package // the preferred first
	// provided has the packages that provide a capability or have a file, for those that any package needs.
	provided  map[string][]provider
	obsoletes map[string][]provider // packages that obsolete the key
	bySource  map[string][]*Package // packages that were built together
	// conditional are packages that are installed if others are (Supplements).
	conditional []*Package
	paths       map[string]bool // that packages need
}

// provider is a package that provides a capability. Without a dep it has the file.
type provider struct {
	*Package
	dep *dep
}

// newUniverse indexes packages by what others need of them.
func newUniverse(packages []*Package, requests []lists.Package) *universe {
	u := &universe{packages: packages, byName: map[string][]*Package{}, provided: map[string][]provider{},
		obsoletes: map[string][]provider{}, bySource: map[string][]*Package{}, paths: map[string]bool{}}
	needed := map[string]bool{}
	for _, r := range requests {
		needed[r.Name] = true
	}
	for _, p := range packages {
		for _, list := range [][]*need{p.requires, p.recommends, p.suggests, p.supplements} {
			for _, n := range list {
				n.leaves(func(d *dep) {
					if needed[d.name] = true; d.name[0] == '/' {
						u.paths[d.name] = true
					}
				})
			}
		}
	}
	for _, p := range packages {
		u.byName[p.Name] = append(u.byName[p.Name], p)
		if p.source != "" {
			u.bySource[p.source] = append(u.bySource[p.source], p)
		}
		for _, d := range p.provides {
			if needed[d.name] {
				u.provided[d.name] = append(u.provided[d.name], provider{p, d})
			}
		}
		for _, f := range p.files {
			if u.paths[f] {
				u.provided[f] = append(u.provided[f], provider{Package: p})
			}
		}
		p.files = nil
		for _, d := range p.obsoletes {
			u.obsoletes[d.name] = append(u.obsoletes[d.name], provider{p, d})
		}
		if len(p.supplements) > 0 {
			u.conditional = append(u.conditional, p)
		}
	}
	return u
}

// unknownPaths are the paths that packages need and that no package is known to have.
func (u *universe) unknownPaths() map[string]bool {
	unknown := map[string]bool{}
	for path := range u.paths {
		if len(u.provided[path]) == 0 {
			unknown[path] = true
		}
	}
	return unknown
}

// sort orders packages as dnf prefers them: by the priority of their repository, then by version.
func (u *universe) sort() {
	for _, list := range u.byName {
		slices.SortStableFunc(list, prefer)
	}
	for _, m := range []map[string][]provider{u.provided, u.obsoletes} {
		for _, list := range m {
			slices.SortStableFunc(list, func(a, b provider) int { return prefer(a.Package, b.Package) })
		}
	}
}

// prefer orders versions, the preferred first.
func prefer(a, b *Package) int {
	return cmp.Or(cmp.Compare(a.repo.Priority, b.repo.Priority), b.evr.compare(a.evr))
}

// names are those of all packages.
func (u *universe) names() iter.Seq[string] { return maps.Keys(u.byName) }

// machine is one kind of node: its architecture, and what is installed on it.
type machine struct {
	*universe
	archs     []string   // that its packages may have, the preferred first
	installed *Installed // nil: nothing is known of it
	// recommends says that weak dependencies are installed too.
	recommends bool
}

// class orders architectures: 0 for the node's own and noarch, 1 for others that it can run, -1 for those it cannot.
func (m *machine) class(p *Package) int {
	switch i := slices.Index(m.archs, p.Arch); {
	case i < 0:
		return -1
	case i == 0 || p.Arch == "noarch" || strings.HasPrefix(p.Arch, "x86_64") && strings.HasPrefix(m.archs[0], "x86_64"):
		return 0
	}
	return 1
}

// options returns the packages that provide a capability, ordered as arrange does.
func (m *machine) options(d *dep) (list []*Package) {
	for _, v := range m.provided[d.name] {
		if d.meets(v.dep) && m.class(v.Package) >= 0 {
			list = append(list, v.Package)
		}
	}
	return list
}

// arrange orders options: those of the node's architecture first; of these the best of each name, of which dnf may take
// any; then the others. ties is how many these are.
func (m *machine) arrange(options []*Package) (list []*Package, ties int) {
	seen := map[*Package]bool{}
	unique := slices.DeleteFunc(slices.Clone(options), func(p *Package) bool {
		again := seen[p]
		seen[p] = true
		return again
	})
	slices.SortStableFunc(unique, func(a, b *Package) int {
		return cmp.Or(m.class(a)-m.class(b), prefer(a, b))
	})
	if len(unique) == 0 {
		return nil, 0
	}
	names := map[string]bool{}
	var rest []*Package
	for _, p := range unique {
		if m.class(p) == m.class(unique[0]) && !names[p.Name] {
			names[p.Name] = true
			list = append(list, p)
		} else {
			rest = append(rest, p)
		}
	}
	return append(list, rest...), len(list)
}
