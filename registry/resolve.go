package registry

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// reader is the state of reads besides the tree.
type reader struct {
	origins   *originIndex
	names     *names
	manifests *manifests
	summaries summaries
	conflicts conflicts
}

func newReader(cfg Config) *reader {
	return &reader{origins: newOriginIndex(cfg.Tree), names: newNames(cfg.Tree), manifests: newManifests(cfg.Tree)}
}

func (rd *reader) close() {
	rd.origins.stop()
	rd.names.stop()
}

// originIndex caches which origins have any repository. Dozens are enabled and few have images, and a flat name would
// be looked up in each.
type originIndex struct {
	tree    Tree
	changed <-chan struct{} // notified before a write is answered, so that what was pushed is found at once
	stop    context.CancelFunc

	mu   sync.Mutex
	of   []string // the origins that were checked
	with []string // those that have a repository, in the same order; never changed, only replaced
}

func newOriginIndex(tree Tree) *originIndex {
	ctx, stop := context.WithCancel(context.Background())
	return &originIndex{tree: tree, changed: tree.Watch(ctx, "."), stop: stop}
}

// among returns those of origins that have a repository.
func (h *originIndex) among(origins []string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.changed:
	default:
		if slices.Equal(h.of, origins) {
			return h.with
		}
	}
	h.of, h.with = slices.Clone(origins), nil
	for _, o := range origins {
		if _, err := h.tree.Stat(repoDir(o)); err == nil {
			h.with = append(h.with, o)
		}
	}
	return h.with
}

// hit is the result of resolving a reference.
type hit struct {
	link
	repo        string // canonical repository that has it
	byTolerance bool   // a tolerance resolved it
	// namesake: it has only the last path element in common with the requested name
	namesake bool
}

// hitIn resolves rt in one repository.
func (r *Registry) hitIn(repo string, rt *route) (hit, bool) {
	if !rt.readable(repo) {
		return hit{}, false
	}
	l, err := statLink(r.tree, rt.link(repo))
	return hit{link: l, repo: repo}, err == nil
}

// repositories returns the canonical repositories that may answer a read of rt exactly, in the order of resolution,
// without tolerances. For referrers it adds the one where a tolerance finds their subject: a client got the subject
// through it under the same name.
func (r *Registry) repositories(rt route) []string {
	list := r.exactRepositories(rt.place)
	if rt.kind == kindReferrers {
		if repo, _, err := r.resolveManifest(rt, rt.digest); err == nil && !slices.Contains(list, repo) {
			list = append(list, repo)
		}
	}
	return rt.readableOf(list)
}

// exactRepositories returns the repositories that a place denotes literally, in the order of resolution.
func (r *Registry) exactRepositories(p place) []string {
	if p.origin != "" {
		if exact := p.exactRepository(); exact != "" {
			return []string{exact}
		}
		return nil
	}
	origins := r.read.origins.among(r.cfg.Origins())
	list := make([]string, 0, len(origins)+1)
	for _, o := range origins {
		list = append(list, o+"/"+p.path)
	}
	return append(list, p.path)
}

// link returns the path of the content of rt in repo.
func (rt *route) link(repo string) string {
	switch {
	case rt.kind == kindBlob:
		return layerPath(repo, rt.digest)
	case rt.digest != "":
		return revisionPath(repo, rt.digest)
	}
	return tagPath(repo, rt.reference)
}

// resolve resolves rt to a manifest or a blob: in the exact repositories, then through the tolerances. Resolution is by
// (repository, reference): a repository that does not have the reference is skipped, whatever else it has. Digests
// resolve in the same way as tags, because a client that got its manifest through a tolerance requests the blobs by the
// same name.
//
// Without a hit, ambiguous lists the repositories with different answers if that was the reason.
func (r *Registry) resolve(rt *route) (h hit, ok bool, ambiguous []string) {
	if h, ok = r.resolveExact(rt); ok {
		return h, true, nil
	}
	for repos, namesakes := range r.tolerated(rt.place) {
		var first hit
		var all []string
		differ := false
		for _, repo := range repos {
			h, ok := r.hitIn(repo, rt)
			if !ok {
				continue
			}
			h.byTolerance, h.namesake = true, namesakes
			if rt.digest != "" {
				return h, true, nil // the same bytes wherever they are
			}
			if all == nil {
				first = h
			} else if h.digest != first.digest {
				differ = true
			}
			all = append(all, repo)
		}
		if differ {
			return hit{}, false, all
		}
		if all != nil {
			return first, true, nil
		}
	}
	return hit{}, false, nil
}

// resolveExact returns the first exact repository that has the reference. In the flat view it also reads the others,
// whose answers may differ.
func (r *Registry) resolveExact(rt *route) (hit, bool) {
	if p := rt.place; p.origin != "" {
		if exact := p.exactRepository(); exact != "" {
			return r.hitIn(exact, rt)
		}
		return hit{}, false
	}
	var first hit
	var others []hit
	for _, repo := range r.exactRepositories(rt.place) {
		h, ok := r.hitIn(repo, rt)
		switch {
		case !ok:
		case rt.digest != "":
			return h, true
		case first.repo == "":
			first = h
		case h.digest != first.digest:
			others = append(others, h)
		}
	}
	if first.repo != "" {
		r.read.conflicts.record(rt.place.path+":"+rt.reference, first, others)
	}
	return first, first.repo != ""
}

// nameIn returns the name of rt in repo, as the missing book and the counters write it.
func (rt *route) nameIn(repo string) string {
	switch {
	case rt.digest != "":
		return repo + "@" + rt.digest.String()
	case rt.reference != "":
		return repo + ":" + rt.reference
	}
	return repo
}

// countTolerance counts that a tolerance answered, and tells the client if that is another publisher's repository: by
// the header Warning (OCI distribution specification, Warnings), which clients show.
func (r *Registry) countTolerance(w http.ResponseWriter, req *http.Request, rt *route, h hit) {
	if !h.byTolerance {
		return
	}
	asked, served := rt.nameIn(rt.place.canonical()), rt.nameIn(h.repo)
	if h.namesake {
		const text = `299 - "%s is not here, %s answers: only the last element of their names is the same"`
		w.Header().Set("Warning", fmt.Sprintf(text, asked, served))
		served += " of another publisher"
	}
	r.cfg.Luck(req, asked, served)
}

// miss answers a read that found nothing, and records it in the missing book. detail is the reason, or "".
func (r *Registry) miss(w http.ResponseWriter, req *http.Request, rt *route, e *apiError, detail string) {
	kind := "image"
	if rt.kind == kindBlob {
		kind = "blob"
	}
	r.cfg.Miss(req, kind, rt.nameIn(rt.place.canonical()), detail)
	said := rt.nameIn(rt.place.canonical()) + " is not here"
	if detail != "" {
		said += ": " + detail
	}
	writeError(w, req, e.with(said))
}

// ambiguity is the detail of a miss for which a tolerance had several answers.
func ambiguity(repos []string) string {
	if len(repos) == 0 {
		return ""
	}
	return "ambiguous, held with different content: " + strings.Join(repos, ", ")
}

// Conflict is a flat name that several repositories answer with different content. The first candidate is the one that
// is served.
type Conflict struct {
	// Name is the requested name, as path:tag.
	Name string `json:"name"`
	// Candidates are the answers as repo@digest, in the order of resolution.
	Candidates []string `json:"candidates"`
}

// maxConflicts bounds the remembered conflicts: as many as an operator would ever read.
const maxConflicts = 256

// conflicts remembers flat names with several answers, the newest for each.
type conflicts struct {
	mu     sync.Mutex
	byName map[string]Conflict
}

// record stores the answers of the exact repositories; without others it forgets the name.
func (c *conflicts) record(name string, first hit, others []hit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(others) == 0 {
		delete(c.byName, name)
		return
	}
	if _, known := c.byName[name]; !known && len(c.byName) >= maxConflicts {
		return
	}
	if c.byName == nil {
		c.byName = map[string]Conflict{}
	}
	list := []string{first.repo + "@" + first.digest.String()}
	for _, h := range others {
		list = append(list, h.repo+"@"+h.digest.String())
	}
	c.byName[name] = Conflict{name, list}
}

// Conflicts returns the flat names, requested since this process began, that several repositories answer with different
// content: at most 256, by name.
func (r *Registry) Conflicts() []Conflict {
	c := &r.read.conflicts
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.byName), func(a, b Conflict) int { return strings.Compare(a.Name, b.Name) })
}

// resolveManifest resolves the manifest d by the name of rt: it returns a repository that would answer, and the
// manifest's size; fs.ErrNotExist if none would.
func (r *Registry) resolveManifest(rt route, d digest.Digest) (repo string, size int64, err error) {
	rt.kind, rt.digest, rt.reference = kindManifest, d, d.String()
	h, ok, _ := r.resolve(&rt)
	if !ok {
		return "", 0, fmt.Errorf("manifest %s: %w", d, fs.ErrNotExist)
	}
	return h.repo, h.size, nil
}
