package rpm

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/closure"
)

// maxUnmet is how many weak dependencies that no repository has are named.
const maxUnmet = 20

// errUnknown says that no repository has a package of a name.
var errUnknown = errors.New("no repository has it")

// choose finds what the requested packages need on every kind of node, and adds it to the result.
func (c *Collector) choose(u *universe, res *ospackages.Result) {
	t := &chosen{Result: res, c: c, found: make([]bool, len(c.opt.Packages)), why: make([]error, len(c.opt.Packages))}
	installed := c.opt.Installed
	if len(installed) == 0 {
		installed = []*Installed{nil}
	}
	for _, arch := range c.opt.Architectures {
		for _, have := range installed {
			m := &machine{universe: u, archs: compatible(arch), installed: have, recommends: !c.opt.NoRecommends}
			t.on(m)
		}
	}
	t.verdicts(u)
	slices.Sort(res.Notes)
	res.Notes = slices.Compact(res.Notes)
}

// chosen collects what is chosen for several kinds of nodes.
type chosen struct {
	*ospackages.Result
	c     *Collector
	found []bool  // a kind of node can install the request, by its number
	why   []error // why another one cannot
	unmet int
}

// on chooses for one kind of node.
func (t *chosen) on(m *machine) {
	var roots []closure.Root[*Package]
	for n, r := range t.c.opt.Packages {
		if r.Name == "*" {
			t.everything(m, n, r)
			continue
		}
		list, err := m.requested(r)
		if err != nil {
			t.why[n] = err
		}
		for _, p := range list {
			roots = append(roots, closure.Root[*Package]{Package: p, Request: n})
		}
	}
	result := m.resolve(roots)
	for _, root := range roots {
		if _, broken := result.Broken[root.Package]; broken {
			t.why[root.Request] = errors.New(result.Why(root.Package, (*Package).Label))
		} else {
			t.found[root.Request] = true
		}
	}
	if len(result.Broken) > 0 { // without what only the broken ones need
		roots = slices.DeleteFunc(roots, func(r closure.Root[*Package]) bool {
			_, broken := result.Broken[r.Package]
			return broken
		})
		result = m.resolve(roots)
	}
	for _, s := range result.Chosen {
		if m.installed.has(s.Package) {
			continue
		}
		why := "requested"
		if s.By != nil {
			why = "needed by " + s.By.Name + " (" + s.Text + ")"
		}
		t.take(s.Package, t.c.opt.Packages[s.Request].Where, why)
	}
	for _, b := range result.Unmet {
		if t.unmet++; t.unmet <= maxUnmet {
			why := b.Missing
			if b.By != nil {
				why = result.Why(b.By, (*Package).Label)
			}
			t.Notes = append(t.Notes, fmt.Sprintf("%s can use %s, which is left out: %s", b.Package.Label(), b.Text,
				why))
		}
	}
}

// resolve finds the closure of roots; with packages whose condition (Supplements) holds among the chosen ones, which
// can make other conditions hold.
func (m *machine) resolve(roots []closure.Root[*Package]) closure.Result[*Package] {
	extra := map[*Package][]closureNeed{}
	needs := func(p *Package) []closureNeed { return append(m.needs(p), extra[p]...) }
	added := map[*Package]bool{}
	for {
		result := closure.Resolve(roots, needs)
		if !m.recommends || len(m.conditional) == 0 {
			return result
		}
		in := map[*Package]bool{}
		for _, s := range result.Chosen {
			in[s.Package] = true
		}
		more := false
		for _, p := range m.conditional {
			if added[p] || in[p] || m.class(p) != 0 || m.best(p) != p {
				continue
			}
			for _, n := range p.supplements {
				if by := m.holds(n, in); by != nil {
					added[p], more = true, true
					extra[by] = append(extra[by], closureNeed{Text: n.text(), Options: []*Package{p}, Weak: true})
					break
				}
			}
		}
		if !more {
			return result
		}
	}
}

// best is the preferred package of the same name and architecture.
func (m *machine) best(p *Package) *Package {
	for _, q := range m.byName[p.Name] {
		if q.Arch == p.Arch {
			return q
		}
	}
	return p
}

// holds returns a chosen package because of which a condition holds; nil if it does not.
func (m *machine) holds(n *need, in map[*Package]bool) *Package {
	if n.err != nil {
		return nil
	}
	var by *Package
	var check func(e *expr) bool
	check = func(e *expr) bool {
		switch e.op {
		case "and":
			return !slices.ContainsFunc(e.args, func(a *expr) bool { return !check(a) })
		case "or":
			return slices.ContainsFunc(e.args, check)
		case "if":
			return !check(e.args[1]) || check(e.args[0])
		case "unless":
			return !check(e.args[1]) && check(e.args[0])
		}
		for _, p := range m.set(e) {
			if in[p] {
				by = p
				return true
			}
		}
		return m.present(e)
	}
	if check(n.expr) {
		return by
	}
	return nil
}

// everything takes every package for a kind of node; nothing has to be looked for then.
func (t *chosen) everything(m *machine, n int, r lists.Package) {
	for _, p := range m.packages {
		if m.accepts(r, p) {
			t.found[n] = true
			if !m.installed.has(p) {
				t.take(p, r.Where, "requested by *")
			}
		}
	}
	if !t.found[n] {
		t.why[n] = fmt.Errorf("the repositories have no packages for %s", m.archs[0])
	}
}

// accepts reports whether a package has the architecture and the version of a request.
func (m *machine) accepts(r lists.Package, p *Package) bool {
	if m.class(p) < 0 || r.Arch != "" && r.Arch != p.Arch {
		return false
	}
	if r.Version == "" {
		return true
	}
	want := parseEVR(r.Version)
	if !strings.Contains(r.Version, ":") {
		want.epoch = p.evr.epoch
	}
	return want.compare(p.evr) == 0
}

// requested returns the packages that a line of a list means on a kind of node, as dnf reads an argument: a name, a
// name with an architecture or a version, or something that packages provide.
func (m *machine) requested(r lists.Package) (list []*Package, err error) {
	if strings.ContainsAny(r.Name, "*?") {
		for _, name := range slices.Sorted(maps.Keys(m.byName)) {
			if ok, _ := path.Match(r.Name, name); ok {
				list = append(list, m.named(name, r)...)
			}
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("no package for %s matches it", m.archs[0])
		}
		return list, nil
	}
	if list = m.named(r.Name, r); len(list) > 0 {
		return list, nil
	}
	if name, arch, ok := cutLast(r.Name, '.'); ok && r.Arch == "" && slices.Contains(m.archs, arch) {
		if list, err := m.requested(lists.Package{Name: name, Version: r.Version, Arch: arch}); err == nil {
			return list, nil
		}
	}
	for _, name := range m.splits(r.Name) {
		if list = m.named(name, lists.Package{Arch: r.Arch, Version: r.Name[len(name)+1:]}); len(list) > 0 {
			return list, nil
		}
	}
	var providers []*Package
	for _, p := range m.options(&dep{name: r.Name}) {
		if m.accepts(r, p) {
			providers = append(providers, p)
		}
	}
	if list, ties := m.arrange(providers); ties > 0 {
		return list[:ties], nil
	}
	if have := m.byName[r.Name]; len(have) > 0 {
		return nil, fmt.Errorf("the repositories have it only as %s", labels(have))
	}
	return nil, errUnknown
}

// splits are the names in NAME-VERSION and NAME-VERSION-RELEASE.
func (m *machine) splits(s string) (names []string) {
	for range 2 {
		i := strings.LastIndexByte(s, '-')
		if i <= 0 {
			break
		}
		if s = s[:i]; len(m.byName[s]) > 0 {
			names = append(names, s)
		}
	}
	return names
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func labels(list []*Package) string {
	var words []string
	for _, p := range list[:min(len(list), 5)] {
		words = append(words, p.EVR()+"."+p.Arch)
	}
	return strings.Join(words, ", ")
}

// named returns the best package of a name that a request accepts.
func (m *machine) named(name string, r lists.Package) []*Package {
	var found []*Package
	for _, p := range m.byName[name] {
		if m.accepts(r, p) {
			found = append(found, p)
		}
	}
	if list, ties := m.arrange(found); ties > 0 {
		return list[:1]
	}
	return nil
}

// take adds a package's file. The first reason counts.
func (t *chosen) take(p *Package, where, why string) {
	at := p.URL()
	if _, again := t.Packages[at]; again {
		return
	}
	t.Packages[at] = ospackages.Package{Name: p.Name, Version: p.EVR(), Arch: p.Arch,
		Repository: p.repo.Repo.String(), Why: why}
	f := lists.File{
		URL: at, Digest: p.digest, Known: "the index of " + p.repo.Repo.String(), Size: p.size, Where: where,
	}
	if p.repo.checked {
		now := t.c.opt.Now()
		f.Check = func(r io.Reader) error { return checkSignature(r, p, p.repo.keys, now) }
	}
	t.Files = append(t.Files, f)
}

// verdicts turns the reasons into failures of requests that no kind of node can install, and into notes of the others.
func (t *chosen) verdicts(u *universe) {
	for n, r := range t.c.opt.Packages {
		err := t.why[n]
		switch {
		case err == nil:
		case t.found[n]:
			t.Notes = append(t.Notes, fmt.Sprintf("%s: %s is not for every kind of node: %v", r.Where, r.Label(), err))
		case r.Optional:
			t.Notes = append(t.Notes, fmt.Sprintf("%s: the package %s is left out, because %v", r.Where,
				r.Label(), err))
		default:
			if errors.Is(err, errUnknown) && t.c.opt.Near != nil {
				err = fmt.Errorf("%w%s", err, t.c.opt.Near(r.Name, u.names()))
			}
			t.Unavailable = append(t.Unavailable, lists.Unavailable{
				Name: "package " + r.Label(), Where: r.Where, Err: err,
			})
		}
	}
	if t.unmet > maxUnmet {
		t.Notes = append(t.Notes, fmt.Sprintf("and %d more weak dependencies are left out", t.unmet-maxUnmet))
	}
}
