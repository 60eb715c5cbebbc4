package admin

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/address"
	"casemate/appliance/egress"
	"casemate/appliance/usage"
	"casemate/cluster/share"
)

// egressRoutes serves what clients used names for.
func (a *API) egressRoutes(on *routes) { on.json("GET /v1/egress", to(access.Inspect), a.getEgress) }

// Egress is the egress report.
type Egress struct {
	Entries []egress.Entry `json:"entries"` // the newest first
	Dropped uint64         `json:"dropped"` // entries that full books have dropped since they began
	Unseen  []string       `json:"unseen"`  // what it cannot show
}

func (a *API) getEgress(r *http.Request) (any, error) {
	q := r.URL.Query()
	var by egress.Filter
	var err error
	if by.Since, err = a.since(r.Context(), q.Get("since")); err != nil {
		return nil, err
	}
	if by.Clients, err = clients(q.Get("client")); err != nil {
		return nil, err
	}
	entries, dropped, err := a.Egress.List(by)
	return Egress{append([]egress.Entry{}, entries...), dropped, egress.Unseen}, err
}

// since parses a time, or the name of an import, whose time it is.
func (a *API) since(ctx context.Context, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := parseTime(text); err == nil {
		return t, nil
	}
	imports, err := a.Imports.ListFor(ctx)
	if err != nil {
		return time.Time{}, err
	}
	for _, i := range imports {
		if i.Name == text {
			return i.Time, nil
		}
	}
	return time.Time{}, usage.Errorf("since must be a time (UTC) like 2026-01-31, 2026-01-31T15:04 or "+
		"2026-01-31T15:04:05Z, or the name of an import, got %.80q", text)
}

// clients parses an address or a network; "" is the zero Prefix.
func clients(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	if a, err := address.Parse(text); err == nil {
		return share.Net(a), nil
	}
	p, err := address.ParsePrefix(text)
	if err != nil {
		return p, usage.Errorf("client must be an address or a network like 10.0.0.0/8, got %.80q", text)
	}
	return p.Masked(), nil
}
