package admin

import (
	"net/http"

	"casemate/appliance/access"
	"casemate/appliance/nodeconf"
	"casemate/appliance/usage"
)

// enrollRoutes serves what nodes need.
func (a *API) enrollRoutes(on *routes) {
	on.json("GET /v1/site", to(access.List), func(*http.Request) (any, error) { return a.Site() })
	on.json("GET /v1/mirrors", to(access.List), a.getMirrors)
	on.json("GET /v1/kubespray", to(access.List), a.getKubespray)
	on.json("POST /v1/kubespray", to(access.List), a.postKubespray)
	on.json("GET /v1/executable", to(access.List), a.getExecutable)
	on.json("GET /v1/enroll", to(access.List), a.getEnroll)
}

func (a *API) getExecutable(*http.Request) (any, error) { return a.Executable.Info() }

// getEnroll is GET /v1/enroll: the script in one of its formats.
func (a *API) getEnroll(r *http.Request) (any, error) {
	s, err := a.Site()
	if err != nil {
		return nil, err
	}
	return s.Enroll(r.FormValue("format"), r.URL.Query()["repo"]...)
}

// getMirrors is GET /v1/mirrors?for=RUNTIME.
func (a *API) getMirrors(r *http.Request) (any, error) {
	s, err := a.Site()
	if err != nil {
		return nil, err
	}
	return asked(nodeconf.Mirrors(&s, r.URL.Query().Get("for"), r.URL.Query()["own"]...))
}

// getKubespray is GET /v1/kubespray?mode=MODE&version=VERSION, for a release that is known.
func (a *API) getKubespray(r *http.Request) (any, error) {
	k, err := nodeconf.KnownKubespray(r.URL.Query().Get("version"))
	if err != nil {
		return nil, usage.Errorf("%w", err)
	}
	return a.kubespray(r, k)
}

// postKubespray is POST /v1/kubespray?mode=MODE with what the command read from a checkout, which the daemon may not
// be able to open.
func (a *API) postKubespray(r *http.Request) (any, error) {
	var k nodeconf.KubesprayRelease
	if err := read(r, &k); err != nil {
		return nil, err
	}
	return a.kubespray(r, &k)
}

func (a *API) kubespray(r *http.Request, k *nodeconf.KubesprayRelease) (any, error) {
	s, err := a.Site()
	if err != nil {
		return nil, err
	}
	return asked(nodeconf.KubesprayVars(&s, r.URL.Query().Get("mode"), k))
}

// asked turns an error of the generator into an error of the request.
func asked(c *nodeconf.Conf, err error) (any, error) {
	if err != nil {
		return nil, usage.Errorf("%w", err)
	}
	return c, nil
}
