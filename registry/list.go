package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"casemate/cluster/tree"
)

const (
	// maxCatalog is the largest number of repositories in one answer of the catalog; the Link header leads to the rest.
	maxCatalog = 1000
	// maxTagPage is the largest number of tags in one answer. It is high because some clients do not follow the Link
	// header.
	maxTagPage = 10_000
)

// listed is a directory of a repository that contributes to a list.
type listed struct {
	repo, dir string
	after     string // the name in the tree after which the list begins, "" for all
}

// merged yields the names below the directories, relative to them, in one order, each with its repository. A name that
// two directories have is yielded twice. It reads only as far as it is consumed, so the cost of a page depends on its
// size.
func (r *Registry) merged(dirs []listed) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		type source struct {
			repo, head string
			next       func() (string, bool)
		}
		names := func(d listed) iter.Seq[string] {
			return func(yield func(string) bool) {
				for name, fi := range r.tree.Walk(d.dir, d.after) {
					if tree.DigestOf(fi) != "" && !yield(name[len(d.dir)+1:]) {
						return
					}
				}
			}
		}
		if len(dirs) == 1 { // the usual case: nothing to merge
			for name := range names(dirs[0]) {
				if !yield(name, dirs[0].repo) {
					return
				}
			}
			return
		}
		var sources []*source
		for _, d := range dirs {
			next, stop := iter.Pull(names(d))
			defer stop()
			if head, ok := next(); ok {
				sources = append(sources, &source{d.repo, head, next})
			}
		}
		for len(sources) > 0 {
			// One source for each origin with content: a few.
			first := slices.MinFunc(sources, func(a, b *source) int { return compareNames(a.head, b.head) })
			if !yield(first.head, first.repo) {
				return
			}
			var ok bool
			if first.head, ok = first.next(); !ok {
				sources = slices.DeleteFunc(sources, func(s *source) bool { return s == first })
			}
		}
	}
}

// compareNames compares names of the tree in the order of Walk: element by element.
func compareNames(a, b string) int {
	for a != b {
		x, restA, moreA := strings.Cut(a, "/")
		y, restB, moreB := strings.Cut(b, "/")
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
		if !moreA || !moreB {
			return strings.Compare(restA, restB)
		}
		a, b = restA, restB
	}
	return 0
}

// page is the part of a list that a client requested: at most n entries after last (distribution-spec,
// "Listing Tags").
type page struct {
	n    int
	last string
}

var errPage = &apiError{status: 400, code: "PAGINATION_NUMBER_INVALID", message: "invalid number of results requested"}

// pageOf returns the page that a client asked for, of at most that many names.
func pageOf(query url.Values, most int) (page, *apiError) {
	p := page{n: most, last: query.Get("last")}
	if v := query.Get("n"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return p, errPage.with(fmt.Sprintf("n is a number from 0 on, got %.100q", v))
		}
		p.n = min(n, most)
	}
	return p, nil
}

// cut returns the page of a sorted list of names with a common prefix, which the client omits, and whether more names
// follow.
func (p page) cut(list []string, prefix string) ([]string, bool) {
	if p.last != "" {
		i, found := slices.BinarySearch(list, prefix+p.last)
		if found {
			i++
		}
		list = list[i:]
	}
	if p.n >= len(list) {
		return list, false
	}
	return list[:p.n], p.n > 0
}

// link sets the Link header to the page behind last. It keeps what else the client asked with (ns), and like
// distribution's it is relative to the host.
func (p page) link(w http.ResponseWriter, req *http.Request, last string) {
	query := url.Values{"n": {strconv.Itoa(p.n)}, "last": {last}}
	if ns := req.URL.Query().Get("ns"); ns != "" {
		query.Set("ns", ns)
	}
	w.Header().Set("Link", "<"+req.URL.EscapedPath()+"?"+query.Encode()+`>; rel="next"`)
}

// serveTags lists the tags of every repository that would answer a pull by this name exactly, under the name that the
// client used. For a name that only a tolerance resolves, it lists the tags that the tolerance finds. Where content is
// fetched from the origin, it lists what the origin has too: all of them can be pulled.
func (r *Registry) serveTags(w http.ResponseWriter, req *http.Request, rt route) {
	p, fail := pageOf(req.URL.Query(), maxTagPage)
	if fail != nil {
		writeError(w, req, fail)
		return
	}
	theirs, err := r.fetchTags(req, &rt, p.last)
	tags, more, found := r.tagsOf(rt.readableOf(r.exactRepositories(rt.place)), p)
	if err == nil && theirs != nil {
		tags, more, found = p.merge(tags, theirs, more)
	}
	if !found && err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.refused(w, req, &rt, errNameUnknown, err)
		return
	}
	if !found {
		for repos, namesakes := range r.tolerated(rt.place) {
			var have []string
			for _, repo := range repos {
				if rt.readable(repo) && r.isRepository(repo) {
					have = append(have, repo)
				}
			}
			if len(have) > 1 {
				r.miss(w, req, &rt, errNameUnknown, "ambiguous: "+strings.Join(have, ", "))
				return
			}
			if tags, more, found = r.tagsOf(have, p); found {
				r.countTolerance(w, req, &rt, hit{repo: have[0], byTolerance: true, namesake: namesakes})
				break
			}
		}
	}
	if !found {
		r.miss(w, req, &rt, errNameUnknown, "")
		return
	}
	if more {
		p.link(w, req, tags[len(tags)-1])
	}
	answerJSON(w, req, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{rt.asked, tags})
}

// merge adds the tags that an origin has to a page of those that are here, both sorted, and returns whether more
// follow.
func (p page) merge(ours, theirs []string, more bool) (tags []string, follow, found bool) {
	tags = append(ours, theirs...)
	slices.Sort(tags)
	if tags = slices.Compact(tags); len(tags) > p.n {
		return tags[:p.n], p.n > 0, true
	}
	return tags, more, true
}

// isRepository reports whether anything is stored under the canonical name repo itself.
func (r *Registry) isRepository(repo string) bool {
	for _, dir := range []string{"/_manifests", "/_layers"} {
		if _, err := r.tree.Stat(repoDir(repo) + dir); err == nil {
			return true
		}
	}
	return false
}

// tagsOf returns a page of the tags of all repos, sorted by bytes and without duplicates, whether more follow, and
// whether any of repos exists. The list is never nil: JSON needs [].
func (r *Registry) tagsOf(repos []string, p page) (tags []string, more, found bool) {
	tags = []string{}
	var dirs []listed
	for _, repo := range repos {
		if !r.isRepository(repo) {
			continue
		}
		found = true
		l := listed{repo: repo, dir: tagsDir(repo)}
		if validTag(p.last) {
			l.after = tagPath(repo, p.last)
		}
		dirs = append(dirs, l)
	}
	for name := range r.merged(dirs) {
		tag, rest, _ := strings.Cut(name, "/")
		if rest != "current/link" || tag <= p.last || len(tags) > 0 && tags[len(tags)-1] == tag {
			continue
		}
		if len(tags) == p.n {
			return tags, p.n > 0, found
		}
		tags = append(tags, tag)
	}
	return tags, false, found
}

// serveCatalog lists repositories: on the appliance's own names all, by canonical name; on an origin's host and with ns
// only those of that origin, by the origin's names.
func (r *Registry) serveCatalog(w http.ResponseWriter, req *http.Request, rt route) {
	p, fail := pageOf(req.URL.Query(), maxCatalog)
	if fail != nil {
		writeError(w, req, fail)
		return
	}
	origin := rt.view.Origin
	if origin == "" && rt.ns != "" && !r.own(rt.ns, rt.view) {
		origin, _ = r.fold(rt.ns)
	}
	repos := rt.readableOf(r.read.names.fresh().repos)
	prefix := ""
	if origin != "" {
		prefix = origin + "/"
		i, _ := slices.BinarySearch(repos, prefix)
		j, _ := slices.BinarySearch(repos, origin+"0") // '0' is the byte after '/'
		repos = repos[i:j]
	}
	below, more := p.cut(repos, prefix)
	repos = make([]string, len(below)) // of this page only
	for k := range below {
		repos[k] = below[k][len(prefix):]
	}
	if more {
		p.link(w, req, repos[len(repos)-1])
	}
	answerJSON(w, req, struct {
		Repositories []string `json:"repositories"`
	}{repos})
}

func answerJSON(w http.ResponseWriter, req *http.Request, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeError(w, req, asAPI(err, errNameUnknown))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if req.Method != http.MethodHead {
		w.Write(body)
	}
}
