package rpm

import (
	"slices"

	"casemate/bundle/ospackages/closure"
)

type closureNeed = closure.Need[*Package]

// needs returns what a package needs, for the closure.
func (m *machine) needs(p *Package) (list []closureNeed) {
	for _, n := range p.requires {
		list = m.expand(list, p, n, false)
	}
	if m.recommends {
		for _, n := range p.recommends {
			list = m.expand(list, p, n, true)
		}
	}
	return append(list, m.replacing(p)...)
}

// expand adds the needs of a dependency.
func (m *machine) expand(list []closureNeed, p *Package, n *need, weak bool) []closureNeed {
	if n.err != nil {
		return append(list, closureNeed{Text: n.text(), Missing: n.err.Error(), Weak: weak})
	}
	return m.tree(list, p, n.text(), n.expr, weak)
}

// tree adds the needs of an expression. Of conditions every branch is taken, because whether one holds depends on the
// node; what a branch needs is weak then.
func (m *machine) tree(list []closureNeed, p *Package, text string, e *expr, weak bool) []closureNeed {
	switch e.op {
	case "and":
		for _, a := range e.args {
			list = m.tree(list, p, text, a, weak)
		}
		return list
	case "if", "unless":
		if e.op == "unless" || m.possible(e.args[1]) {
			list = m.tree(list, p, text, e.args[0], true)
		}
		if e.other != nil {
			list = m.tree(list, p, text, e.other, true)
		}
		return list
	case "or":
		var some []*expr
		for _, a := range e.args {
			if m.present(a) {
				return list
			}
			switch a.op {
			case "", "or", "with", "without":
				some = append(some, a)
			default:
				// A branch of several packages: what it needs comes along, if it is there.
				list = m.tree(list, p, text, a, true)
			}
		}
		if len(some) == 0 || len(some) < len(e.args) && len(m.anyOf(some)) == 0 {
			return list
		}
		e = &expr{op: "or", args: some}
	}
	if m.present(e) {
		return list
	}
	options, ties := m.arrange(m.set(e))
	n := closureNeed{Text: text, Options: options, Ties: ties, Weak: weak}
	if len(options) == 0 {
		n.Missing = m.missing(e)
	}
	if s := m.suggested(p, options[:ties]); s != nil {
		n.Options = append([]*Package{s}, slices.DeleteFunc(slices.Clone(options), func(o *Package) bool {
			return o == s
		})...)
		n.Ties = 1
	}
	return append(list, n)
}

// set returns the packages each of which satisfies an expression by itself.
func (m *machine) set(e *expr) (list []*Package) {
	switch e.op {
	case "":
		return m.options(e.dep)
	case "or":
		return m.anyOf(e.args)
	case "with", "without":
		list = m.set(e.args[0])
		for _, a := range e.args[1:] {
			other := m.set(a)
			list = slices.DeleteFunc(slices.Clone(list), func(p *Package) bool {
				return slices.Contains(other, p) != (e.op == "with")
			})
		}
	}
	return list
}

func (m *machine) anyOf(args []*expr) (list []*Package) {
	for _, a := range args {
		list = append(list, m.set(a)...)
	}
	return list
}

// present reports whether what is installed satisfies an expression.
func (m *machine) present(e *expr) bool {
	if m.installed == nil {
		return false
	}
	switch e.op {
	case "":
		return m.installed.satisfies(e.dep, m.universe)
	case "and":
		return !slices.ContainsFunc(e.args, func(a *expr) bool { return !m.present(a) })
	case "or":
		return slices.ContainsFunc(e.args, m.present)
	}
	return false
}

// possible reports whether a condition can hold: whether there is anything that satisfies it.
func (m *machine) possible(e *expr) bool {
	switch e.op {
	case "", "with", "without":
		return len(m.set(e)) > 0 || m.present(e)
	case "and":
		return !slices.ContainsFunc(e.args, func(a *expr) bool { return !m.possible(a) })
	case "or":
		return slices.ContainsFunc(e.args, m.possible)
	}
	return true
}

// suggested returns the one of several options that the package itself suggests, or recommends; nil if there is none.
func (m *machine) suggested(p *Package, options []*Package) *Package {
	if len(options) < 2 {
		return nil
	}
	for _, list := range [][]*need{p.recommends, p.suggests} {
		for _, n := range list {
			if n.err != nil || n.dep == nil {
				continue
			}
			for _, o := range options {
				if o.Name == n.dep.name {
					return o
				}
			}
		}
	}
	return nil
}

// replacing returns what has to come along because p replaces something: packages that obsolete p, which dnf installs
// instead of it; and, on a node that has p in another version, what was built together with p, because packages of one
// source often need each other in exactly one version.
func (m *machine) replacing(p *Package) (list []closureNeed) {
	var options []*Package
	for _, o := range m.obsoletes[p.Name] {
		if o.Name != p.Name && m.class(o.Package) >= 0 && o.dep.meets(&dep{p.Name, p.evr, equal}) {
			options = append(options, o.Package)
		}
	}
	if options, ties := m.arrange(options); ties > 0 {
		list = append(list, closureNeed{Text: "obsoletes " + p.Name, Options: options, Ties: ties, Weak: true})
	}
	if !m.installed.older(p) {
		return list
	}
	for _, q := range m.bySource[p.source] {
		if q != p && m.installed.older(q) {
			list = append(list, closureNeed{Text: "was built with it", Options: []*Package{q}, Weak: true})
		}
	}
	return list
}

// missing says why nothing satisfies an expression.
func (m *machine) missing(e *expr) string {
	text := ""
	e.leaves(func(d *dep) {
		if text != "" {
			return
		}
		switch have := m.byName[d.name]; {
		case len(have) > 0 && d.op != 0:
			text = "the repositories have " + have[0].Label() + " only"
		case len(m.provided[d.name]) > 0:
			text = "the repositories have it in other versions, or for other architectures, only"
		default:
			text = "no repository provides " + d.name
		}
	})
	return text
}
