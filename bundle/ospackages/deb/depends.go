package deb

import (
	"fmt"
	"regexp"
	"strings"

	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"
)

const maxRelation = 64 << 10 // bytes of one group of alternatives

// relation is one group of alternatives: any of them is enough.
type relation struct {
	text         string
	alternatives []alternative
}

// alternative is one package, real or virtual, of some versions.
type alternative struct {
	name string
	arch string // "": as the package that has the dependency; any, native, or an architecture
	op   string // "": any version
	than version.Version
}

// relations splits a field into its groups.
func relations(field string) []string {
	var list []string
	for text := range strings.SplitSeq(field, ",") {
		if text = strings.Join(strings.Fields(text), " "); text != "" {
			list = append(list, text)
		}
	}
	return list
}

// formerOperator matches < and >, which meant <= and >= (Debian policy, 7.1).
var formerOperator = regexp.MustCompile(`\(\s*([<>])\s*([^<>=\s])`)

// parseRelation reads one group.
func parseRelation(text string) (*relation, error) {
	if len(text) > maxRelation {
		return nil, fmt.Errorf("the dependency %.100q is too long", text)
	}
	d, err := dependency.Parse(formerOperator.ReplaceAllString(text, "($1= $2"))
	if err != nil {
		return nil, fmt.Errorf("the dependency %.200q cannot be read: %.100s", text, err)
	}
	r := &relation{text: text}
	for _, rel := range d.Relations {
		for _, p := range rel.Possibilities {
			name, arch, _ := strings.Cut(p.Name, ":")
			if p.Arch != nil {
				arch = p.Arch.String()
			}
			a := alternative{name: strings.TrimSpace(name), arch: arch}
			if p.Version != nil {
				a.op = p.Version.Operator
				if a.than, err = version.Parse(p.Version.Number); err != nil {
					return nil, fmt.Errorf("the dependency %.200q has no version that dpkg accepts: %.100s", text, err)
				}
			}
			if a.name == "" || p.Substvar {
				return nil, fmt.Errorf("the dependency %.200q names no package", text)
			}
			r.alternatives = append(r.alternatives, a)
		}
	}
	if len(r.alternatives) == 0 {
		return nil, fmt.Errorf("the dependency %.200q names no package", text)
	}
	return r, nil
}

// accepts reports whether a version satisfies the alternative.
func (a *alternative) accepts(v string) bool {
	if a.op == "" {
		return true
	}
	parsed, err := version.Parse(v)
	if err != nil {
		return false
	}
	c := version.Compare(parsed, a.than)
	switch a.op {
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	case "<=":
		return c <= 0
	case ">>":
		return c > 0
	case "<<":
		return c < 0
	}
	return false
}

// provided is one virtual package that a package provides, of one version if it has one.
type provided struct {
	name, version string
}

// providesOf reads a Provides field. What cannot be read provides nothing.
func providesOf(field string) (list []provided) {
	for _, text := range relations(field) {
		name, rest, _ := strings.Cut(text, "(")
		name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
		v := ""
		if rest, ok := strings.CutPrefix(strings.TrimSpace(rest), "="); ok {
			v = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), ")"))
		}
		if name != "" {
			list = append(list, provided{strings.Clone(name), v})
		}
	}
	return list
}

// compareVersions orders versions as dpkg does. One that dpkg refuses is before all others.
func compareVersions(a, b string) int {
	if a == b {
		return 0
	}
	x, errX := version.Parse(a)
	y, errY := version.Parse(b)
	switch {
	case errX != nil && errY != nil:
		return strings.Compare(a, b)
	case errX != nil:
		return -1
	case errY != nil:
		return 1
	}
	return version.Compare(x, y)
}
