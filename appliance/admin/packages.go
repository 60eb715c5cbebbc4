package admin

import (
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/packages"
)

// packageRoutes serves repositories of one's own packages.
func (a *API) packageRoutes(on *routes) {
	on.json("PUT /v1/repositories/{name}", to(access.Operate).named("package repository", "name"),
		func(r *http.Request) (any, error) {
			var in repositoryBody
			if err := read(r, &in); err != nil {
				return nil, err
			}
			return a.Packages.Add(r.Context(), r.PathValue("name"), in.Format)
		})
	on.removes("DELETE /v1/repositories/{name}", to(access.Operate).named("package repository", "name"),
		a.packagesToRemove,
		func(r *http.Request) (any, error) {
			return nil, a.Packages.Remove(r.Context(), r.PathValue("name"), r.FormValue("force") == "true")
		})
	on.json("GET /v1/repositories/key", to(access.List), a.getRepositoryKey)
	on.json("POST /v1/repositories/key", to(access.Operate), func(r *http.Request) (any, error) {
		var in repositoryKeyBody
		if err := read(r, &in); err != nil {
			return nil, err
		}
		change := a.Packages.Rotate
		if in.Finish {
			change = a.Packages.Finish
		}
		if err := change(r.Context()); err != nil {
			return nil, err
		}
		return a.repositoryKey()
	})
	on.pages("GET /v1/packages", to(access.List), a.getPackages)
	on.json("GET /v1/packages/repositories", to(access.List),
		func(*http.Request) (any, error) { return a.Packages.All() })
	on.json("POST /v1/packages/{repository}", to(access.Push).on(a.packages), func(r *http.Request) (any, error) {
		next, err := packages.Multipart(r)
		if err != nil {
			return nil, err
		}
		return a.Packages.Put(r.Context(), r.PathValue("repository"), r.URL.Query().Get("force") == "true", next)
	})
	on.removes("DELETE /v1/packages/{repository}", to(access.Delete).on(a.packages), a.packagesToRemove,
		func(r *http.Request) (any, error) {
			return a.Packages.RemovePackages(r.Context(), r.PathValue("repository"), r.FormValue("package"))
		})
}

// RepositoryKey is the key that signs the repositories.
type RepositoryKey struct {
	Keys   []packages.Key `json:"keys"`   // the newest first; two while it is being rotated
	Public string         `json:"public"` // all of them, in one armor
}

// getRepositoryKey is GET /v1/repositories/key?repository=NAME; all repositories have the same key.
func (a *API) getRepositoryKey(r *http.Request) (any, error) {
	if name := r.FormValue("repository"); name != "" {
		if _, err := a.Packages.Get(name); err != nil {
			return nil, err
		}
	}
	return a.repositoryKey()
}

func (a *API) repositoryKey() (any, error) {
	keys, err := a.Packages.Keys()
	if err != nil {
		return nil, err
	}
	public, err := a.Packages.PublicKey()
	return RepositoryKey{keys, public}, err
}

// getPackages is GET /v1/packages?repository=NAME; without one, the packages of all repositories.
func (a *API) getPackages(r *http.Request, p page) (pagedAnswer, error) {
	var from packages.Package
	var put string
	err := positioned(p, &from.Repository, &from.Name, &put, &from.Version, &from.Arch)
	if err == nil {
		from.Time, err = timeAt(put)
	}
	if err != nil {
		return pagedAnswer{}, err
	}
	repos := []string{r.FormValue("repository")}
	if repos[0] == "" {
		all, err := a.Packages.All()
		if err != nil {
			return pagedAnswer{}, err
		}
		repos = nil
		for _, repo := range all {
			repos = append(repos, repo.Name)
		}
		slices.Sort(repos)
	}
	return pagedAnswer{list: func(yield func(element, error) bool) {
		for _, repo := range repos {
			if repo < from.Repository {
				continue
			}
			all, err := a.Packages.List(r.Context(), repo)
			if err != nil {
				yield(element{}, err)
				return
			}
			behind := func(q packages.Package) bool { return p.after == "" || packages.Compare(q, from) > 0 }
			for e := range slice(all, behind, func(q packages.Package) string {
				return position(q.Repository, q.Name, q.Time.Format(time.RFC3339Nano), q.Version, q.Arch)
			}) {
				if !yield(e, nil) {
					return
				}
			}
		}
	}}, nil
}

// packages is the object of a request about the packages of a repository.
func (a *API) packages(r *http.Request) access.Object {
	return access.File(a.Current.State().Settings.PackagesHost() + "/" + r.PathValue("repository"))
}

// packagesToRemove lists the packages that a request would remove: some of a repository, or all of it.
func (a *API) packagesToRemove(r *http.Request) (*Removal, error) {
	out := &Removal{}
	repo, what := r.PathValue("repository"), r.FormValue("package")
	if repo == "" {
		repo, what = r.PathValue("name"), ""
		out.add("package repository", repo, 0)
	}
	list, err := a.Packages.List(r.Context(), repo)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		if what == "" || packages.Matches(what, p) {
			out.add("package", p.Name+" "+p.Version+" "+p.Arch, p.Size)
		}
	}
	if out.Count == 0 {
		return nil, fmt.Errorf("the repository %s has no package %s: %w", repo, what, fs.ErrNotExist)
	}
	return out, nil
}
