package deb

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"casemate/bundle/ospackages/closure"
)

// universe is every package of every suite.
type universe struct {
	packages []*Package
	byName   map[string][]*Package // the candidate first
	virtual  map[string]*virtual
	tied     map[string][]*Package // packages of the base system that need one version of the key
	parsed   map[string]*relation
}

// virtual is a virtual package. Its providers are ordered when somebody asks for them: few of an index's are.
type virtual struct {
	providers []provider
	ordered   bool
}

// provider is a package that provides a virtual one.
type provider struct {
	*Package
	version string // of the virtual package; "" if it has none
}

func newUniverse() *universe {
	return &universe{byName: map[string][]*Package{}, virtual: map[string]*virtual{}, parsed: map[string]*relation{}}
}

func (u *universe) add(p *Package) error {
	if len(u.packages) >= maxPackages {
		return fmt.Errorf("more than %d packages", maxPackages)
	}
	u.packages = append(u.packages, p)
	return nil
}

// sort orders the versions of each package as apt prefers them: by the priority of their suite, then by version. One
// that two suites have is taken from the first.
func (u *universe) sort() {
	for _, p := range u.packages {
		u.byName[p.Name] = append(u.byName[p.Name], p)
		for _, v := range providesOf(p.provides) {
			of := u.virtual[v.name]
			if of == nil {
				of = &virtual{}
				u.virtual[v.name] = of
			}
			of.providers = append(of.providers, provider{p, v.version})
		}
	}
	for _, list := range u.byName {
		if len(list) > 1 {
			slices.SortStableFunc(list, prefer)
		}
	}
	u.tie()
}

// provided returns the providers of a virtual package, those that apt prefers first.
func (u *universe) provided(name string) []provider {
	v := u.virtual[name]
	if v == nil {
		return nil
	}
	if !v.ordered {
		v.ordered = true
		slices.SortStableFunc(v.providers, func(a, b provider) int {
			if c := rank(a.Package) - rank(b.Package); c != 0 {
				return c
			}
			return prefer(a.Package, b.Package)
		})
	}
	return v.providers
}

// prefer orders versions, the preferred first.
func prefer(a, b *Package) int {
	if c := b.suite.priority() - a.suite.priority(); c != 0 {
		return c
	}
	return compareVersions(b.Version, a.Version)
}

// rank orders providers of a virtual package as apt does, as far as the packages decide it.
func rank(p *Package) int {
	if p.essential {
		return -1
	}
	return p.priority
}

// machine is one kind of node: its architecture, and what is installed on it.
type machine struct {
	*universe
	native    string
	installed *Installed // nil: nothing is known of it
	// recommends says that recommended packages are installed too.
	recommends bool
}

// needs returns what a package needs, for the closure.
func (m *machine) needs(p *Package) []closure.Need[*Package] {
	var list []closure.Need[*Package]
	add := func(field string, weak bool) {
		for _, text := range relations(field) {
			if n, ok := m.need(p, text); ok {
				n.Weak = weak
				list = append(list, n)
			}
		}
	}
	add(p.depends, false)
	if m.recommends {
		add(p.recommends, true)
	}
	return append(list, m.upgrades(p)...)
}

// need finds the packages that satisfy one group of alternatives. It is false if something installed does.
func (m *machine) need(p *Package, text string) (n closure.Need[*Package], ok bool) {
	n.Text = text
	r, err := m.parse(text)
	if err != nil {
		n.Missing = err.Error()
		return n, true
	}
	arch := p.Arch
	if arch == "all" {
		arch = m.native
	}
	var missing []string
	for i := range r.alternatives {
		a := &r.alternatives[i]
		if m.installed.satisfies(a, m, arch) {
			return n, false
		}
		found := m.options(a, arch)
		if len(found) == 0 {
			missing = append(missing, m.missing(a, arch))
		}
		if len(n.Options) == 0 && len(found) > 0 {
			n.Ties = m.ties(a, found)
		}
		n.Options = append(n.Options, found...)
	}
	n.Missing = strings.Join(missing, ", ")
	return n, true
}

func (u *universe) parse(text string) (*relation, error) {
	if r := u.parsed[text]; r != nil {
		return r, nil
	}
	r, err := parseRelation(text)
	if err == nil {
		u.parsed[text] = r
	}
	return r, err
}

// options returns the packages that satisfy an alternative: those of its name, then those that provide it.
func (m *machine) options(a *alternative, arch string) (list []*Package) {
	var foreign []*Package
	take := func(p *Package) {
		switch m.fits(p.Arch, p.multiArch, a.arch, arch) {
		case same:
			list = append(list, p)
		case other:
			foreign = append(foreign, p)
		}
	}
	for _, p := range m.byName[a.name] {
		if a.accepts(p.Version) {
			take(p)
		}
	}
	list = append(list, foreign...)
	foreign = nil
	for _, p := range m.provided(a.name) {
		if a.op == "" || p.version != "" && a.accepts(p.version) {
			take(p.Package)
		}
	}
	return append(list, foreign...)
}

// ties returns how many of the options are equally good: of a virtual package apt takes any of the providers of the
// highest rank, in an order that depends on its cache.
func (m *machine) ties(a *alternative, found []*Package) int {
	n := 1
	if found[0].Name == a.name {
		return n
	}
	for n < len(found) && rank(found[n]) == rank(found[0]) {
		n++
	}
	return n
}

// How a package's architecture fits a dependency.
const (
	not   = iota
	same  // it is the architecture of the package that has the dependency
	other // it is another one, which is allowed
)

// fits compares architectures by the rules of multi-arch (Debian's wiki, Multiarch): have is that of
// the package with its Multi-Arch field, asked is the one that the dependency names after a colon, of is that of the
// package that has the dependency.
func (m *machine) fits(have, multi, asked, of string) int {
	switch asked {
	case "":
	case "any":
		if multi == "allowed" && have != of && have != "all" {
			return other
		}
	case "native":
		of = m.native
	default:
		of = asked
	}
	switch {
	case have == of || have == "all":
		return same
	case multi == "foreign":
		return other
	}
	return not
}

// missing says why an alternative has no options.
func (m *machine) missing(a *alternative, arch string) string {
	var versions, archs []string
	for _, p := range m.byName[a.name] {
		if m.fits(p.Arch, p.multiArch, a.arch, arch) == not {
			archs = append(archs, p.Arch)
		} else {
			versions = append(versions, p.Version)
		}
	}
	for _, p := range m.provided(a.name) {
		if p.version != "" {
			versions = append(versions, p.version+" of "+p.Name)
		}
	}
	switch {
	case len(versions) > 0:
		return fmt.Sprintf("%s is there in version %s only", a.name, some(versions))
	case len(archs) > 0:
		return fmt.Sprintf("%s is there for %s only", a.name, some(archs))
	case len(m.provided(a.name)) > 0:
		return fmt.Sprintf("%s is provided without a version", a.name)
	}
	return fmt.Sprintf("no source has %s", a.name)
}

// some joins the first few texts.
func some(list []string) string {
	list = slices.Compact(list)
	if len(list) > 3 {
		list = append(slices.Clone(list[:3]), "…")
	}
	return strings.Join(list, ", ")
}

// find returns the candidate of a name for an architecture and perhaps of a version.
func (m *machine) find(name, arch, v string) (*Package, error) {
	var versions, archs []string
	for _, p := range m.byName[name] {
		switch {
		case p.Arch != arch && p.Arch != "all":
			archs = append(archs, p.Arch)
		case v != "" && compareVersions(p.Version, v) != 0:
			versions = append(versions, p.Version)
		default:
			return p, nil
		}
	}
	switch providers := m.providers(name, arch); {
	case len(versions) > 0:
		return nil, fmt.Errorf("no source has this version, there is %s", some(versions))
	case len(providers) == 1 && v == "":
		return providers[0], nil
	case len(providers) > 1:
		var names []string
		for _, p := range providers {
			names = append(names, p.Name)
		}
		return nil, fmt.Errorf("it is a virtual package: write the name of one that provides it, such as %s",
			some(names))
	case len(archs) > 0:
		return nil, fmt.Errorf("it is there for %s, not for %s", some(archs), arch)
	}
	return nil, errUnknown
}

var errUnknown = errors.New("no source has it")

// providers are the packages that provide a name, each once.
func (m *machine) providers(name, arch string) (list []*Package) {
	for _, p := range m.provided(name) {
		if (p.Arch == arch || p.Arch == "all") &&
			!slices.ContainsFunc(list, func(q *Package) bool { return q.Name == p.Name }) {
			list = append(list, p.Package)
		}
	}
	return list
}

// names yields the names of all packages.
func (u *universe) names() iter.Seq[string] { return maps.Keys(u.byName) }
