package admin

import (
	"net/http"

	"casemate/appliance/access"
	"casemate/appliance/content"
	"casemate/appliance/usage"
	"casemate/bundle"
)

// checkRoutes serves what is here: checks and the inventory.
func (a *API) checkRoutes(on *routes) {
	on.json("POST /v1/check", to(access.List), a.postCheck)
	on.stream("GET /v1/inventory", to(access.List), a.getInventory)
	on.stream("GET /v1/inventory/key", to(access.List), a.getInventoryKey)
}

// MaxCheckBody limits the body of a check request, in bytes: about half a million names.
const MaxCheckBody = 64 << 20

func (a *API) postCheck(r *http.Request) (any, error) {
	var req content.CheckRequest
	if err := readUpTo(r, &req, MaxCheckBody); err != nil {
		return nil, err
	}
	for _, p := range req.Platforms {
		if !bundle.KnownPlatform(p) {
			return nil, usage.Errorf("a platform is a system and an architecture, like linux/amd64 or "+
				"linux/arm64/v8, got %q",
				p)
		}
	}
	return a.Lookup.Check(r.Context(), req)
}
