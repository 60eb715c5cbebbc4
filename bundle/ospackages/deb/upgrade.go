package deb

import (
	"strings"

	"casemate/bundle/ospackages/closure"
)

// Installing a package can force others that are installed already to a newer version: those that it breaks, and those
// that depend on exactly the version that it replaces. apt upgrades them in the same step, or refuses the whole. Which
// packages are on a node is known from its list; without one it is assumed of the base system, in any older version.

// base reports whether a package is on nodes that nothing is known of.
func (p *Package) base() bool { return p.essential || p.priority <= 2 }

// tie finds for each package those of the base system that depend on exactly one version of it.
func (u *universe) tie() {
	u.tied = map[string][]*Package{}
	for _, list := range u.byName {
		for i, p := range list {
			if p.base() && (i == 0 || list[i-1].Arch != p.Arch) {
				for _, name := range u.exact(p.depends) {
					u.tied[name] = append(u.tied[name], p)
				}
			}
		}
	}
}

// exact returns the names in a field that are needed in exactly one version.
func (u *universe) exact(field string) (names []string) {
	for _, text := range relations(field) {
		if !strings.Contains(text, "(=") && !strings.Contains(text, "( =") {
			continue
		}
		if r, err := u.parse(text); err == nil && len(r.alternatives) == 1 && r.alternatives[0].op == "=" {
			names = append(names, r.alternatives[0].name)
		}
	}
	return names
}

// upgrades returns the packages that have to become newer on a node together with p.
func (m *machine) upgrades(p *Package) (list []closure.Need[*Package]) {
	for _, text := range relations(p.breaks) {
		r, err := m.parse(text)
		if err != nil || len(r.alternatives) != 1 || r.alternatives[0].op == "" {
			continue
		}
		a := &r.alternatives[0]
		if n := m.newer(a.name, func(v string) bool { return !a.accepts(v) }); n != nil {
			list = append(list, closure.Need[*Package]{Text: "breaks " + text, Options: n, Weak: true})
		}
	}
	if m.installed == nil {
		for _, q := range m.tied[p.Name] {
			if q.Arch == m.native || q.Arch == "all" {
				list = append(list, closure.Need[*Package]{
					Text: "depends on its version", Options: []*Package{q}, Weak: true,
				})
			}
		}
		return list
	}
	for _, q := range m.installed.tiedTo(m, p) {
		options := m.newer(q, func(v string) bool { return m.fit(q, v, p) })
		if options != nil {
			list = append(list, closure.Need[*Package]{Text: "depends on its version", Options: options, Weak: true})
		}
	}
	return list
}

// newer returns the versions of a package that a node has, or may have, which are good; nil if the node does not have
// it, or in a version that is good already.
func (m *machine) newer(name string, good func(version string) bool) (list []*Package) {
	if m.installed != nil {
		have := m.installed.packages[name]
		if len(have) == 0 || good(have[0].version) {
			return nil
		}
	}
	for _, p := range m.byName[name] {
		if (p.Arch == m.native || p.Arch == "all") && good(p.Version) && (m.installed != nil || p.base()) {
			list = append(list, p)
		}
	}
	return list
}

// fit reports whether a version of a package can be installed beside p, as far as its own dependencies on p say.
func (m *machine) fit(name, v string, p *Package) bool {
	for _, q := range m.byName[name] {
		if q.Version == v {
			return m.allows(q.depends, p)
		}
	}
	have := m.installed.packages[name]
	return len(have) == 0 || have[0].version != v || m.allows(have[0].depends, p)
}

// allows reports whether a field's single dependencies on a package accept its version.
func (m *machine) allows(field string, p *Package) bool {
	for _, text := range relations(field) {
		if !strings.HasPrefix(text, p.Name) {
			continue
		}
		r, err := m.parse(text)
		if err == nil && len(r.alternatives) == 1 && r.alternatives[0].name == p.Name &&
			!r.alternatives[0].accepts(p.Version) {
			return false
		}
	}
	return true
}

// tiedTo returns the names of installed packages whose dependencies do not accept the version of p.
func (i *Installed) tiedTo(m *machine, p *Package) (names []string) {
	if have := i.packages[p.Name]; len(have) == 0 || compareVersions(have[0].version, p.Version) == 0 {
		return nil
	}
	for _, name := range i.names {
		if !m.fit(name, i.packages[name][0].version, p) {
			names = append(names, name)
		}
	}
	return names
}
