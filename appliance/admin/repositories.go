package admin

import (
	"casemate/appliance/access"
	"net/http"
)

// repositoryRoutes serves the repositories of packages.
func (a *API) repositoryRoutes(on *routes) {
	on.json("GET /v1/repositories", to(access.List),
		func(r *http.Request) (any, error) { return a.Repositories.Counted(r.Context()) })
}
