package registry

import "net/http"

// name returns the canonical repository that asked says when taken literally in view v; ns is the query parameter, "" without.
// Writes go there. An unknown origin (a first element with a dot) is errDenied for writes and names "origin add".
// PROVISIONAL, thinnest version: the views' engineer owns this file.
func (r *Registry) name(asked, ns string, v View) (string, *apiError) {
	if v.Origin != "" {
		return v.Origin + "/" + asked, nil
	}
	return asked, nil
}

// repositories returns the canonical repositories that may answer a read of rt exactly, in the order of resolution, without tolerances.
// Tags and referrers are read from them too.
func (r *Registry) repositories(rt route) []string { return []string{rt.repo} }

var _ = http.MethodGet
