package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxCatalog is the most repositories in one answer of the catalog; the Link header leads to the rest.
const maxCatalog = 1000

// page is what a client asked of a list: at most n (-1: all) entries behind last (distribution-spec, "Listing Tags").
type page struct {
	n    int
	last string
}

var errPage = &apiError{status: 400, code: "PAGINATION_NUMBER_INVALID", message: "invalid number of results requested"}

func pageOf(query url.Values) (page, *apiError) {
	p := page{n: -1, last: query.Get("last")}
	if v := query.Get("n"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return p, errPage.with(fmt.Sprintf("n is a number from 0 on, got %.100q", v))
		}
		p.n = n
	}
	return p, nil
}

// cut returns the page of a sorted list and whether there is more behind it.
func (p page) cut(list []string) ([]string, bool) {
	if p.last != "" {
		i, found := slices.BinarySearch(list, p.last)
		if found {
			i++
		}
		list = list[i:]
	}
	if p.n < 0 || p.n >= len(list) {
		return list, false
	}
	return list[:p.n], p.n > 0
}

// link sets the Link header to the page behind last. It keeps what else the client asked with (ns), and like distribution's it is relative to the host.
func (p page) link(w http.ResponseWriter, req *http.Request, last string) {
	query := url.Values{"n": {strconv.Itoa(p.n)}, "last": {last}}
	if ns := req.URL.Query().Get("ns"); ns != "" {
		query.Set("ns", ns)
	}
	w.Header().Set("Link", "<"+req.URL.EscapedPath()+"?"+query.Encode()+`>; rel="next"`)
}

// serveTags lists the tags of every repository that would answer a pull by this name exactly, under the name that the client used.
// A name that only a tolerance knows lists what the tolerance finds.
func (r *Registry) serveTags(w http.ResponseWriter, req *http.Request, rt route) {
	p, fail := pageOf(req.URL.Query())
	if fail != nil {
		writeError(w, req, fail)
		return
	}
	tags, found := r.tagsOf(r.exact(rt.place))
	if !found {
		for repos, namesakes := range r.tolerated(rt.place) {
			var have []string
			for _, repo := range repos {
				if r.isRepository(repo) {
					have = append(have, repo)
				}
			}
			if len(have) > 1 {
				r.miss(w, req, &rt, errNameUnknown, "ambiguous: "+strings.Join(have, ", "))
				return
			}
			if tags, found = r.tagsOf(have); found {
				r.lucky(w, req, &rt, hit{repo: have[0], lucky: true, namesake: namesakes})
				break
			}
		}
	}
	if !found {
		r.miss(w, req, &rt, errNameUnknown, "")
		return
	}
	tags, more := p.cut(tags)
	if more {
		p.link(w, req, tags[len(tags)-1])
	}
	answerJSON(w, req, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{rt.asked, tags})
}

// isRepository reports whether anything is held under the canonical name repo itself.
func (r *Registry) isRepository(repo string) bool {
	for _, dir := range []string{"/_manifests", "/_layers"} {
		if _, err := r.tree.Stat(repoDir(repo) + dir); err == nil {
			return true
		}
	}
	return false
}

// tagsOf returns the tags of all repos, sorted by bytes and without repetition, and whether any of them exists. The list is never nil: JSON wants [].
func (r *Registry) tagsOf(repos []string) (tags []string, found bool) {
	tags = []string{}
	for _, repo := range repos {
		list, err := r.tree.ReadDir(tagsDir(repo))
		if err != nil {
			found = found || r.isRepository(repo)
			continue
		}
		found = true
		for _, e := range list {
			tags = append(tags, e.Name())
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags), found
}

// serveCatalog lists repositories: on the appliance's own names all, by canonical name; on an origin's host and with ns only that origin's,
// as the origin calls them.
func (r *Registry) serveCatalog(w http.ResponseWriter, req *http.Request, rt route) {
	p, fail := pageOf(req.URL.Query())
	if fail != nil {
		writeError(w, req, fail)
		return
	}
	if p.n < 0 || p.n > maxCatalog {
		p.n = maxCatalog
	}
	origin := rt.view.Origin
	if origin == "" && rt.ns != "" && !r.own(rt.ns, rt.view) {
		origin, _ = r.fold(rt.ns)
	}
	repos := r.read.names.fresh().repos
	if origin != "" {
		i, _ := slices.BinarySearch(repos, origin+"/")
		j, _ := slices.BinarySearch(repos, origin+"0") // '0' is the byte behind '/'
		below := repos[i:j]
		repos = make([]string, len(below))
		for k := range below {
			repos[k] = below[k][len(origin)+1:]
		}
	}
	repos, more := p.cut(repos)
	if more {
		p.link(w, req, repos[len(repos)-1])
	}
	if repos == nil {
		repos = []string{}
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
