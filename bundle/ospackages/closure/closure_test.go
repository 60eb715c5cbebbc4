package closure

import (
	"slices"
	"strings"
	"testing"
)

// graph is what packages, which are letters, need: "b|c" is one need with two options, "?b" a weak one, "b&c|d" one
// whose first two options are equally good, "!" one that nothing satisfies.
type graph map[byte][]string

func (g graph) needs(p byte) (list []Need[byte]) {
	for _, text := range g[p] {
		n := Need[byte]{Text: text, Missing: "nothing"}
		text, n.Weak = strings.CutPrefix(text, "?")
		n.Ties = strings.Count(text, "&") + 1
		for i := range len(text) {
			if 'a' <= text[i] && text[i] <= 'z' {
				n.Options = append(n.Options, text[i])
			}
		}
		list = append(list, n)
	}
	return list
}

func roots(names string) (list []Root[byte]) {
	for i := range len(names) {
		list = append(list, Root[byte]{names[i], i})
	}
	return list
}

func TestResolve(t *testing.T) {
	for _, x := range []struct {
		name          string
		graph         graph
		roots         string
		chosen        string
		broken, unmet string
	}{
		{"nothing", graph{}, "", "", "", ""},
		{"one", graph{}, "a", "a", "", ""},
		{"twice", graph{}, "aa", "a", "", ""},
		{"a chain", graph{'a': {"b"}, 'b': {"c"}}, "a", "abc", "", ""},
		{"breadth first", graph{'a': {"b", "c"}, 'b': {"d"}, 'c': {"e"}}, "a", "abcde", "", ""},
		{"a cycle", graph{'a': {"b"}, 'b': {"a"}}, "a", "ab", "", ""},
		{"the first option", graph{'a': {"b|c"}}, "a", "ab", "", ""},
		{"an option that is chosen anyway", graph{'a': {"c", "b|c"}}, "a", "acb", "", ""},
		{"equally good ones", graph{'a': {"b&c|d"}}, "a", "abc", "", ""},
		{"equally good ones, one broken", graph{'a': {"b&c|d"}, 'b': {"!"}}, "a", "ac", "b", ""},
		{"equally good ones, all broken", graph{'a': {"b&c|d"}, 'b': {"!"}, 'c': {"!"}}, "a", "ad", "bc", ""},
		{"a broken one", graph{'a': {"!"}}, "a", "a", "a", ""},
		{"one that needs a broken one", graph{'a': {"b"}, 'b': {"!"}}, "a", "a", "ab", ""},
		{"a broken first option", graph{'a': {"b|c"}, 'b': {"!"}}, "a", "ac", "b", ""},
		{"a first option that is broken deep below", graph{'a': {"b|c"}, 'b': {"d"}, 'd': {"e"}, 'e': {"!"}}, "a", "ac",
			"bde", ""},
		{"a broken cycle", graph{'a': {"b|c"}, 'b': {"d"}, 'd': {"b", "!"}}, "a", "ac", "bd", ""},
		{"a weak need", graph{'a': {"?b"}}, "a", "ab", "", ""},
		{"a weak need of a broken one", graph{'a': {"?b"}, 'b': {"!"}}, "a", "a", "b", "?b"},
		{"a weak need of nothing", graph{'a': {"?!"}}, "a", "a", "", "?!"},
		{"a broken root beside a good one", graph{'a': {"!"}, 'b': {"c"}}, "ab", "abc", "a", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			asked := map[byte]int{}
			r := Resolve(roots(x.roots), func(p byte) []Need[byte] {
				if asked[p]++; asked[p] > 1 {
					t.Errorf("asked for the needs of %c again", p)
				}
				return x.graph.needs(p)
			})
			var chosen, broken, unmet []byte
			for _, s := range r.Chosen {
				chosen = append(chosen, s.Package)
			}
			for p := range r.Broken {
				broken = append(broken, p)
			}
			slices.Sort(broken)
			for _, b := range r.Unmet {
				unmet = append(unmet, b.Text...)
			}
			if string(chosen) != x.chosen || string(broken) != x.broken || string(unmet) != x.unmet {
				t.Errorf("chosen %s, broken %s, unmet %s; want %s, %s, %s", chosen, broken, unmet, x.chosen, x.broken,
					x.unmet)
			}
		})
	}
}

// For any graph, what is chosen is complete: each need of a package that is not broken has a chosen option that is not
// broken, and each broken package has a need whose options are all broken.
func FuzzResolve(f *testing.F) {
	f.Add("b|c ?d;c;!;a&b|c", "ab")
	f.Fuzz(func(t *testing.T, text, wanted string) {
		g := graph{}
		for i, needs := range strings.Split(text, ";") {
			if i < 26 {
				g['a'+byte(i)] = strings.Fields(needs)
			}
		}
		r := Resolve(roots(wanted), g.needs)
		isBroken := func(p byte) bool { _, ok := r.Broken[p]; return ok }
		var chosen []byte
		for _, s := range r.Chosen {
			chosen = append(chosen, s.Package)
		}
		for _, p := range chosen {
			for _, n := range g.needs(p) {
				good := slices.ContainsFunc(n.Options, func(o byte) bool {
					return !isBroken(o) &&
						slices.Contains(chosen, o)
				})
				if !good && !n.Weak && !isBroken(p) {
					t.Errorf("%c is chosen without its need %s", p, n.Text)
				}
			}
		}
		for p := range r.Broken {
			if !slices.ContainsFunc(g.needs(p), func(n Need[byte]) bool {
				return !n.Weak && !slices.ContainsFunc(n.Options, func(o byte) bool { return !isBroken(o) })
			}) {
				t.Errorf("%c is broken for no reason", p)
			}
		}
	})
}
