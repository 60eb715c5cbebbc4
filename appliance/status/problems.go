package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Problems are sentences for status, by source.
type Problems struct {
	mu sync.Mutex
	by map[string][]string
}

// Set replaces the sentences of one source.
func (p *Problems) Set(who string, sentences []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string][]string{}
	}
	p.by[who] = sentences
}

// List returns all sentences, by source.
func (p *Problems) List() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, who := range slices.Sorted(maps.Keys(p.by)) {
		all = append(all, p.by[who]...)
	}
	return all
}

// Luck counts responses found by a fallback, by name requested and name served. It is bounded: when it is full, new
// pairs are only counted in the metrics.
type Luck struct {
	mu sync.Mutex
	by map[[2]string]uint64
}

// Add counts a response.
func (l *Luck) Add(asked, served string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[[2]string]uint64{}
	}
	k := [2]string{strings.Clone(asked), strings.Clone(served)}
	if _, ok := l.by[k]; ok || len(l.by) < 1000 {
		l.by[k]++
	}
}

// sentences returns the most frequent pairs, at most n.
func (l *Luck) sentences(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	type pair struct {
		k [2]string
		n uint64
	}
	var list []pair
	for k, n := range l.by {
		list = append(list, pair{k, n})
	}
	slices.SortFunc(list, func(x, y pair) int {
		if x.n != y.n {
			return int(min(y.n, 1<<30)) - int(min(x.n, 1<<30))
		}
		return strings.Compare(x.k[0], y.k[0])
	})
	var out []string
	for _, p := range list[:min(n, len(list))] {
		times := "once"
		if p.n > 1 {
			times = fmt.Sprintf("%d times", p.n)
		}
		out = append(out, fmt.Sprintf("works by luck: %s answered by %s, %s", p.k[0], p.k[1], times))
	}
	return out
}
