package status

import (
	"time"

	"casemate/appliance/repositories"
)

// Expiration is a repository of packages that apt refuses, or will soon.
type Expiration struct {
	URL        string    `json:"url"`
	Suite      string    `json:"suite,omitempty"`
	ValidUntil time.Time `json:"valid_until"`
	Expired    bool      `json:"expired"`
}

func expirations(list []repositories.Repository, now time.Time) []Expiration {
	out := []Expiration{}
	for _, r := range list {
		out = append(out, Expiration{r.URL, r.Suite, r.ValidUntil, r.ValidUntil.Before(now)})
	}
	return out
}
