package registry

import (
	"context"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxNamesakes is how many repositories with the same last path element are searched. With more it is unclear which was
// meant, and a scanner must not make one request cost a thousand look-ups.
const maxNamesakes = 32

// Values of Config.Namesakes.
const (
	NamesakesOff   = "off"
	NamesakesLocal = "local"
	NamesakesAll   = "all"
)

// tolerated yields groups of repositories that may answer where the exact ones lack a reference, the likeliest group
// first, and whether they have only the last path element in common with the requested name: then they are another
// publisher's. The order within a group has no meaning: different answers are ambiguous.
func (r *Registry) tolerated(p place) iter.Seq2[[]string, bool] {
	return func(yield func([]string, bool) bool) {
		if p.also != "" && !yield([]string{p.also}, false) {
			return
		}
		for _, path := range variants(p.path) {
			var group []string
			if p.origin != "" {
				if at := (place{origin: p.origin, known: p.known, path: path}).exactRepository(); at != "" {
					group = []string{at}
				}
			} else {
				for _, o := range r.read.origins.among(r.cfg.Origins()) {
					group = append(group, o+"/"+path)
				}
				group = append(group, path)
			}
			if !yield(group, false) {
				return
			}
		}
		last := lastElement(p.path)
		if p.origin != "" && r.cfg.LocalFallback() {
			if _, _, host := hostPart(p.path); !host && !yield([]string{p.path}, false) {
				return
			}
			if last != p.path && !yield([]string{last}, true) {
				return
			}
		}
		if p.origin == "" || p.exactRepository() != "" {
			yield(r.namesakes(p.origin, last), true)
		}
	}
}

// variants returns the other common spellings of a path: with or without library/, coredns for coredns/coredns.
func variants(path string) []string {
	var list []string
	if !strings.Contains(path, "/") {
		list = append(list, "library/"+path)
	} else if rest, ok := strings.CutPrefix(path, "library/"); ok && !strings.Contains(rest, "/") {
		list = append(list, rest)
	}
	if before, last := cutLast(path); last == "coredns" {
		if lastElement(before) == "coredns" {
			list = append(list, before)
		} else {
			list = append(list, path+"/coredns")
		}
	}
	return list
}

// namesakes returns the repositories of origin ("" for all) whose last path element is last, as far as Config.Namesakes
// lets them answer; none if they are too many.
func (r *Registry) namesakes(origin, last string) []string {
	allowed := r.cfg.Namesakes()
	if allowed != NamesakesAll && (allowed != NamesakesLocal || origin != "") {
		return nil
	}
	all := r.read.names.fresh().byLast[last]
	var list []string
	for _, repo := range all {
		// what is stored below a host belongs to that origin, whether or not it is enabled
		_, _, below := hostPart(repo)
		if origin == "" && (!below || allowed == NamesakesAll) || origin != "" && strings.HasPrefix(repo, origin+"/") {
			if list = append(list, repo); len(list) > maxNamesakes {
				return nil
			}
		}
	}
	return list
}

// names is an index of the repositories for queries that the tree cannot answer by name: the last path element, and the
// catalog.
//
// It reads the directories again when it is queried and the tree has changed since. Reading costs one look-up for each
// repository, so under a storm of pushes and misses it takes at most a tenth of the time (and a second at once): then
// the index is slightly out of date, and as every answer is looked up in the tree afterwards, that only causes a miss.
type names struct {
	tree    Tree
	changed <-chan struct{}
	stop    context.CancelFunc
	now     func() time.Time

	mu      sync.Mutex // held while the directories are read; guards the fields below
	dirty   bool
	current *catalog
	spent   time.Duration // time of reading not yet paid back
	last    time.Time     // when spent was updated
}

// catalog is an immutable list of the repositories.
type catalog struct {
	repos  []string            // sorted
	byLast map[string][]string // last path element → repositories, sorted
}

func newNames(tree Tree) *names {
	ctx, stop := context.WithCancel(context.Background())
	return &names{tree: tree, changed: tree.Watch(ctx, "."), stop: stop, now: time.Now, dirty: true,
		current: &catalog{}}
}

const (
	readAtOnce = time.Second // how long reading may take without a pause
	readShare  = 10          // and then one part in ten of the time
)

// fresh returns the catalog, after reading it again if that is necessary and allowed.
func (n *names) fresh() *catalog {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.changed:
		n.dirty = true
	default:
	}
	if !n.dirty {
		return n.current
	}
	begin := n.now()
	n.spent = max(0, n.spent-begin.Sub(n.last)/readShare)
	n.last = begin
	if n.spent >= readAtOnce {
		return n.current
	}
	n.dirty = false // before reading: a change meanwhile makes it dirty again
	n.current = readCatalog(n.tree)
	n.last = n.now()
	n.spent += n.last.Sub(begin)
	return n.current
}

// readCatalog walks the directories of the repositories, but not their content.
func readCatalog(tree Tree) *catalog {
	c := &catalog{byLast: map[string][]string{}}
	var read func(name string)
	read = func(name string) {
		dir := strings.TrimSuffix(repoDir(name), "/")
		list, err := tree.ReadDir(dir)
		if err != nil {
			return // it disappeared, or nothing was ever pushed
		}
		for _, e := range list {
			if e.Name() == "_manifests" || e.Name() == "_layers" {
				c.repos = append(c.repos, name)
				break
			}
		}
		for _, e := range list {
			if e.IsDir() && e.Name()[0] != '_' {
				read(strings.TrimPrefix(name+"/"+e.Name(), "/"))
			}
		}
	}
	read("")
	slices.Sort(c.repos)
	for _, name := range c.repos {
		last := lastElement(name)
		c.byLast[last] = append(c.byLast[last], name)
	}
	return c
}
