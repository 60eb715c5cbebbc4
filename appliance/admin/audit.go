package admin

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/audit"
	"casemate/appliance/audit/proof"
	"casemate/appliance/usage"
)

// auditRoutes serves the audit log.
func (a *API) auditRoutes(on *routes) {
	on.json("GET /v1/audit", to(access.Inspect), a.getAudit)
	on.json("GET /v1/audit/checkpoint", to(access.Inspect), func(r *http.Request) (any, error) {
		return a.Audit.Checkpoint(r.Context())
	})
	on.json("GET /v1/audit/forward", to(access.Inspect), func(*http.Request) (any, error) {
		return a.Forwarder.Status(), nil
	})
	on.stream("GET /v1/audit/export", to(access.Inspect), a.getAuditExport)
}

// getAudit lists events.
func (a *API) getAudit(r *http.Request) (any, error) {
	f, err := auditFilter(r.URL.Query(), func(text string) (time.Time, error) { return a.since(r.Context(), text) })
	if err != nil {
		return nil, err
	}
	p, err := a.Audit.List(r.Context(), f)
	p.Events = append([]proof.Event{}, p.Events...)
	return p, err
}

// auditFilter parses the parameters of a list of events; since parses the parameter of that name.
func auditFilter(q url.Values, since func(string) (time.Time, error)) (f audit.Filter, err error) {
	f = audit.Filter{Actor: q.Get("actor"), Verb: q.Get("verb"), Object: q.Get("object")}
	if f.Since, err = since(q.Get("since")); err != nil {
		return f, err
	}
	if text := q.Get("until"); text != "" {
		if f.Until, err = parseTime(text); err != nil {
			return f, usage.Errorf("until must be a time (UTC) like 2026-01-31 or 2026-01-31T15:04:05Z, got %.80q",
				text)
		}
	}
	if text := q.Get("before"); text != "" {
		if f.Before, err = strconv.ParseUint(text, 10, 63); err != nil || f.Before == 0 {
			return f, usage.Errorf("before must be the number of an event, got %.80q", text)
		}
	}
	if text := q.Get("limit"); text != "" {
		if f.Limit, err = strconv.Atoi(text); err != nil || f.Limit < 1 || f.Limit > audit.MaxLimit {
			return f, usage.Errorf("limit must be between 1 and %d, got %.80q", audit.MaxLimit, text)
		}
	}
	return f, nil
}

// getAuditExport streams the whole log. An error in the middle aborts the connection.
func (a *API) getAuditExport(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &startedWriter{w: w}
	switch err := a.Audit.Export(r.Context(), out); {
	case err == nil:
	case out.started:
		a.Log.Error("audit export cut off", "err", err)
		panic(http.ErrAbortHandler)
	default:
		a.adminError(w, r, err)
	}
}

// parseTime parses a time in one of the forms that people type, in UTC.
func parseTime(text string) (t time.Time, err error) {
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err = time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	return t, err
}
