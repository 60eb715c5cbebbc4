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
func (a *API) egressRoutes(on *routes) { on.pages("GET /v1/egress", to(access.Inspect), a.getEgress) }

// Egress is the egress report.
type Egress struct {
	Entries []egress.Entry `json:"entries"` // the newest first
	Dropped uint64         `json:"dropped"` // entries that full books have dropped since they began
	Unseen  []string       `json:"unseen"`  // what it cannot show
}

func (a *API) getEgress(r *http.Request, p page) (pagedAnswer, error) {
	q := r.URL.Query()
	var by egress.Filter
	var err error
	if by.Since, err = a.since(r.Context(), q.Get("since")); err != nil {
		return pagedAnswer{}, err
	}
	if by.Clients, err = clientsIn(q.Get("client")); err != nil {
		return pagedAnswer{}, err
	}
	var from egress.Entry
	var last string
	if err = positioned(p, &last, &from.Client, &from.Name, &from.Kind, &from.Verdict); err != nil {
		return pagedAnswer{}, err
	}
	if from.Last, err = timeAt(last); err != nil {
		return pagedAnswer{}, err
	}
	entries, dropped, err := a.Egress.List(by)
	behind := func(e egress.Entry) bool { return p.after == "" || egress.Order(e, from) > 0 }
	around := struct {
		Dropped uint64   `json:"dropped"`
		Unseen  []string `json:"unseen"`
	}{dropped, egress.Unseen}
	return pagedAnswer{around: around, field: "entries", list: slice(entries, behind, func(e egress.Entry) string {
		return position(e.Last.Format(time.RFC3339Nano), e.Client, e.Name, e.Kind, e.Verdict)
	})}, err
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

// clientsIn parses an address or a network; "" is the zero Prefix.
func clientsIn(text string) (netip.Prefix, error) {
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
