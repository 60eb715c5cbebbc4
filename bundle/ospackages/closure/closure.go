package closure

import (
	"fmt"
	"strings"
)

// Need is one thing that a package needs.
type Need[P comparable] struct {
	// Text is the need as the package writes it, for messages: "libc6 (>= 2.36) | musl".
	Text string
	// Options are the packages each of which satisfies it, the preferred first.
	Options []P
	// Ties is the number of options at the beginning that are equally good: an installer may take any of them, so all
	// are chosen. 0 and 1: only one is.
	Ties int
	// Weak says that the package can be used without it.
	Weak bool
	// Missing says why there are no options, for messages.
	Missing string
}

// Root is one requested package.
type Root[P comparable] struct {
	Package P
	Request int // number of the request, for the caller
}

// Step says why a package was chosen: because another one needs it, or because it was requested.
type Step[P comparable] struct {
	Package P
	By      P      // the package that needs it; the zero value for a root
	Text    string // that need
	Request int    // the request at the beginning of the chain
}

// Broken is a need that nothing satisfies.
type Broken[P comparable] struct {
	Package P      // the package that has it
	Text    string // the need
	Missing string // why nothing satisfies it; "" if packages would, but each of them is broken
	By      P      // the first of these
}

// Result is what was found.
type Result[P comparable] struct {
	// Chosen are all packages, each once, in the order in which they were reached: roots first, then what they need.
	Chosen []Step[P]
	// Broken has the packages that cannot be installed, each with its first need that nothing satisfies.
	Broken map[P]Broken[P]
	// Unmet are weak needs of chosen packages that nothing satisfies.
	Unmet []Broken[P]
}

// Why says why a package cannot be installed, down to the dependency that nothing satisfies; "" if it can be. It names
// at most eight packages.
func (r *Result[P]) Why(p P, label func(P) string) string {
	var none P
	var words []string
	seen := map[P]bool{}
	for p != none && !seen[p] && len(words) < 8 {
		seen[p] = true
		b, ok := r.Broken[p]
		if !ok {
			break
		}
		words = append(words, fmt.Sprintf("%s needs %s", label(p), b.Text))
		if b.By == none {
			words = append(words, b.Missing)
		}
		p = b.By
	}
	return strings.Join(words, ", ")
}

// Resolve finds the closure of roots. needs is called at most once for each package.
//
// Of each need the first option is chosen that can be installed itself. The result is a superset of what an installer
// chooses: needs that another chosen package satisfies too get their own first option all the same, because an
// installer goes through them in an order of its own.
//
// A package is broken if one of its needs, unless that is weak, has no option that is not broken. That is the largest
// set of packages that can be installed: packages that need each other are not broken by it. A broken root is chosen
// with whatever can be found of its needs, for the caller who goes on without the rest.
func Resolve[P comparable](roots []Root[P], needs func(P) []Need[P]) Result[P] {
	r := &resolver[P]{needs: needs, known: map[P][]Need[P]{}, broken: map[P]Broken[P]{}}
	for {
		before := len(r.broken)
		result := r.walk(roots)
		// A package that was found to be broken may have been the choice of others: choose again. The set of broken
		// packages only grows, so this ends.
		if len(r.broken) == before {
			result.Broken = r.broken
			return result
		}
	}
}

type resolver[P comparable] struct {
	needs  func(P) []Need[P]
	known  map[P][]Need[P]
	broken map[P]Broken[P]
}

func (r *resolver[P]) of(p P) []Need[P] {
	list, ok := r.known[p]
	if !ok {
		list = r.needs(p)
		r.known[p] = list
	}
	return list
}

// walk goes through everything that roots need, breadth first, so that the chains of reasons are short.
func (r *resolver[P]) walk(roots []Root[P]) Result[P] {
	var result Result[P]
	seen := map[P]bool{}
	reach := func(s Step[P]) {
		if !seen[s.Package] {
			seen[s.Package] = true
			result.Chosen = append(result.Chosen, s)
		}
	}
	for _, root := range roots {
		reach(Step[P]{Package: root.Package, Request: root.Request})
	}
	for i := 0; i < len(result.Chosen); i++ {
		s := result.Chosen[i]
		for _, need := range r.of(s.Package) {
			options := r.choose(need)
			for _, o := range options {
				reach(Step[P]{Package: o, By: s.Package, Text: need.Text, Request: s.Request})
			}
			if len(options) > 0 {
				continue
			}
			b := Broken[P]{Package: s.Package, Text: need.Text, Missing: need.Missing}
			if len(need.Options) > 0 {
				b.Missing, b.By = "", need.Options[0]
			}
			if need.Weak {
				result.Unmet = append(result.Unmet, b)
			} else if _, again := r.broken[s.Package]; !again {
				r.broken[s.Package] = b
			}
		}
	}
	return result
}

// choose returns the first option that is not broken, and those that are as good.
func (r *resolver[P]) choose(need Need[P]) (chosen []P) {
	for i, option := range need.Options {
		if _, broken := r.broken[option]; broken {
			continue
		}
		if chosen = append(chosen, option); i+1 >= need.Ties {
			break
		}
	}
	return chosen
}
