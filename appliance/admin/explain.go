package admin

import (
	"context"
	"net/http"

	"casemate/appliance/access"
	"casemate/appliance/explain"
	"casemate/dnssrv"
)

// DNS is this node's DNS: see dnssrv.Server.
type DNS interface {
	// Explain returns what a client would be answered, and why. A question that is wrong is a usage error.
	Explain(context.Context, dnssrv.Inquiry) (dnssrv.Explanation, error)
	// Resolvers returns how the resolvers of dns.forward are.
	Resolvers(context.Context) ([]dnssrv.Resolver, error)
}

// explainRoutes serves explanations of DNS answers.
func (a *API) explainRoutes(on *routes) {
	on.json("GET /v1/explain", to(access.Inspect), a.explain)
	on.json("GET /v1/forwarders", to(access.Inspect), func(r *http.Request) (any, error) {
		list, err := a.DNS.Resolvers(r.Context())
		if err != nil {
			return nil, err
		}
		return explain.Forwarders(list), nil
	})
}

func (a *API) explain(r *http.Request) (any, error) {
	q := r.URL.Query()
	in, err := explain.Inquiry(q.Get("name"), q.Get("type"), q.Get("client"))
	if err != nil {
		return nil, err
	}
	texts, err := a.getSettings()
	if err != nil {
		return nil, err
	}
	known := explain.Known{State: a.Current.State(), Reach: a.Lookup.Enabling}
	for _, s := range texts {
		if s.Key == "dns.allow" {
			known.Allow = s.Value
		}
	}
	e, err := a.DNS.Explain(r.Context(), in)
	if err != nil {
		return nil, err
	}
	list, err := a.DNS.Resolvers(r.Context())
	if err != nil {
		return nil, err
	}
	return explain.Of(in, e, list, known), nil
}
