package admin

import (
	"net/http"

	"casemate/appliance/access"
	"casemate/appliance/search"
)

// searchRoutes serves the search.
func (a *API) searchRoutes(on *routes) {
	on.pages("GET /v1/search", to(access.List).toAnyone(), a.getSearch)
}

// getSearch is GET /v1/search?q=TEXT&kind=KIND. Who has no account that may list everything finds images and files
// only.
func (a *API) getSearch(r *http.Request, p page) (pagedAnswer, error) {
	s := subject(r)
	public := s.Name == "" || !s.May(access.List, access.Object{})
	q := r.URL.Query()
	hits := a.Search.Find(r.Context(), q.Get("q"), p.after, search.Filter{Kind: q.Get("kind"), Public: public})
	return pagedAnswer{list: listOf(hits, func(h search.Hit) (any, string, bool) { return h, h.At(), true })}, nil
}
