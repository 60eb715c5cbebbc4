package deb

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages"
	"casemate/bundle/ospackages/closure"
)

// maxUnmet is how many recommendations that no source has are named.
const maxUnmet = 20

// choose finds what the requested packages need on every kind of node, and adds it to the result.
func (c *Collector) choose(u *universe, res *ospackages.Result) {
	t := &chosen{Result: res, found: make([]bool, len(c.opt.Packages)), why: make([][]error, len(c.opt.Packages))}
	installed := c.opt.Installed
	if len(installed) == 0 {
		installed = []*Installed{nil}
	}
	for _, arch := range c.opt.Architectures {
		for _, have := range installed {
			m := &machine{universe: u, native: arch, installed: have, recommends: !c.opt.NoRecommends}
			t.on(m, c.opt.Packages)
		}
	}
	t.verdicts(c.opt, u)
	slices.Sort(res.Notes)
	res.Notes = slices.Compact(res.Notes)
}

// chosen collects what is chosen for several kinds of nodes.
type chosen struct {
	*ospackages.Result
	found []bool    // a kind of node can install the request, by its number
	why   [][]error // why others cannot
	unmet int
}

// on chooses for one kind of node.
func (t *chosen) on(m *machine, requests []lists.Package) {
	var roots []closure.Root[*Package]
	for n, r := range requests {
		if r.Name == "*" {
			t.everything(m, n, r)
			continue
		}
		list, err := m.requested(r)
		if err != nil {
			t.why[n] = append(t.why[n], err)
			continue
		}
		for _, p := range list {
			roots = append(roots, closure.Root[*Package]{Package: p, Request: n})
		}
	}
	result := closure.Resolve(roots, m.needs)
	for _, root := range roots {
		if _, broken := result.Broken[root.Package]; broken {
			t.why[root.Request] = append(t.why[root.Request], errors.New(result.Why(root.Package, (*Package).Label)))
		} else {
			t.found[root.Request] = true
		}
	}
	if len(result.Broken) > 0 { // without what only the broken ones need
		roots = slices.DeleteFunc(roots, func(r closure.Root[*Package]) bool {
			_, broken := result.Broken[r.Package]
			return broken
		})
		result = closure.Resolve(roots, m.needs)
	}
	for _, s := range result.Chosen {
		if m.installed.has(s.Package, m.native) {
			continue
		}
		why := "needed by " + label(s.By) + " (" + s.Text + ")"
		if s.By == nil {
			why = "requested"
		}
		t.take(s.Package, requests[s.Request].Where, why)
	}
	for _, b := range result.Unmet {
		if t.unmet++; t.unmet <= maxUnmet {
			why := b.Missing
			if b.By != nil {
				why = result.Why(b.By, (*Package).Label)
			}
			t.Notes = append(t.Notes, fmt.Sprintf("%s recommends %s, which is left out: %s", b.Package.Label(), b.Text,
				why))
		}
	}
}

func label(p *Package) string {
	if p == nil {
		return ""
	}
	return p.Name
}

// everything takes every package for a kind of node; nothing has to be looked for then.
func (t *chosen) everything(m *machine, n int, r lists.Package) {
	arch := r.Arch
	if arch == "" {
		arch = m.native
	}
	for _, p := range m.packages {
		if (p.Arch == arch || p.Arch == "all") && (r.Version == "" || r.Version == p.Version) {
			t.found[n] = true
			if !m.installed.has(p, m.native) {
				t.take(p, r.Where, "requested by *")
			}
		}
	}
	if !t.found[n] {
		t.why[n] = append(t.why[n], fmt.Errorf("the sources have no packages for %s", arch))
	}
}

// requested returns the packages that a line of a list means on a kind of node.
func (m *machine) requested(r lists.Package) (list []*Package, err error) {
	arch := r.Arch
	if arch == "" || arch == "any" || arch == "native" || arch == "all" {
		arch = m.native
	}
	if strings.HasPrefix(r.Name, "@") {
		return nil, errors.New("only RPM repositories have groups: write the names of packages")
	}
	if !strings.ContainsAny(r.Name, "*?") {
		p, err := m.find(r.Name, arch, r.Version)
		return []*Package{p}, err
	}
	for _, name := range slices.Sorted(maps.Keys(m.byName)) {
		if ok, _ := path.Match(r.Name, name); !ok {
			continue
		}
		if p, err := m.find(name, arch, r.Version); err == nil && p.Name == name {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		err = fmt.Errorf("no package for %s matches it", arch)
	}
	return list, err
}

// take adds a package's file. The first reason counts.
func (t *chosen) take(p *Package, where, why string) {
	at := p.URL()
	if _, again := t.Packages[at]; again {
		return
	}
	t.Packages[at] = ospackages.Package{Name: p.Name, Version: p.Version, Arch: p.Arch,
		Repository: p.suite.Source.String(), Why: why}
	t.Files = append(t.Files, lists.File{
		URL: at, Digest: p.digest, Known: "the Packages file of " + p.suite.Source.String(), Size: p.size, Where: where,
	})
}

// verdicts turns the reasons into failures of requests that no kind of node can install, and into notes of the others.
func (t *chosen) verdicts(opt Options, u *universe) {
	for n, r := range opt.Packages {
		for i, err := range t.why[n] {
			if t.found[n] {
				t.Notes = append(t.Notes, fmt.Sprintf("%s: %s is not for every kind of node: %v", r.Where, r.Label(),
					err))
				continue
			}
			if r.Optional {
				if i == 0 {
					t.Notes = append(t.Notes, fmt.Sprintf("%s: the package %s is left out, because %v", r.Where,
						r.Label(), err))
				}
				continue
			}
			if errors.Is(err, errUnknown) && opt.Near != nil {
				err = fmt.Errorf("%w%s", err, opt.Near(r.Name, u.names()))
			}
			if i == 0 {
				t.Unavailable = append(t.Unavailable, lists.Unavailable{
					Name: "package " + r.Label(), Where: r.Where, Err: err,
				})
			}
		}
	}
	if t.unmet > maxUnmet {
		t.Notes = append(t.Notes, fmt.Sprintf("and %d more recommended packages are left out", t.unmet-maxUnmet))
	}
}
