package admin

import (
	"errors"
	"net/url"
	"testing"
	"time"

	"casemate/appliance/audit"
	"casemate/appliance/audit/proof"
	"casemate/appliance/usage"
)

// FuzzAuditFilter: the parameters of a list of events are a filter within its bounds, which selects what they say, or
// one short sentence about the operator's mistake.
func FuzzAuditFilter(f *testing.F) {
	f.Add("actor=ada&verb=image&object=team&since=2026-01-02&until=2026-01-03T04:05&before=9&limit=100")
	f.Add("limit=10001")
	f.Add("before=-1&limit=1e3")
	f.Add("until=9999-99-99")
	f.Add("before=9223372036854775808&limit=%30")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		noted := errors.New("no import")
		got, err := auditFilter(q, func(text string) (time.Time, error) {
			if text == "" {
				return time.Time{}, nil
			}
			at, err := parseTime(text)
			if err != nil {
				err = noted
			}
			return at, err
		})
		var mistake *usage.Error
		switch {
		case errors.Is(err, noted):
			return
		case err != nil && (!errors.As(err, &mistake) || len(err.Error()) > 600):
			t.Fatalf("%q: %v", query, err)
		case err != nil:
			return
		case got.Limit < 0 || got.Limit > audit.MaxLimit || q.Has("limit") && q.Get("limit") != "" && got.Limit == 0:
			t.Fatalf("%q: the limit is %d", query, got.Limit)
		}
		e := proof.Event{N: 5, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Actor: q.Get("actor"),
			Verb: q.Get("verb") + ".push", Object: "a" + q.Get("object") + "b"}
		inTime := !e.Time.Before(got.Since) && (got.Until.IsZero() || e.Time.Before(got.Until))
		if want := inTime && (got.Before == 0 || got.Before > e.N); got.Match(e) != want {
			t.Errorf("%q selects its own event: %v, want %v", query, !want, want)
		}
		e.Actor += "x"
		if q.Get("actor") != "" && got.Match(e) {
			t.Errorf("%q selects events of %q", query, e.Actor)
		}
	})
}
