package admin

import (
	"net/http"
	"strconv"

	"casemate/appliance/usage"
)

// Removal is what a request that removes something will remove: the answer to the same request with ?dry-run=1.
type Removal struct {
	Removes []Removed `json:"removes"` // the first maxRemoved of them
	Count   int       `json:"count"`
	// Bytes is the size of the content that the names refer to, each blob of it once. Less becomes free if other names
	// refer to it too, and only gc frees it.
	Bytes int64    `json:"bytes"`
	Notes []string `json:"notes,omitempty"`
}

// Removed is one thing that will go.
type Removed struct {
	Kind  string `json:"kind"` // image, file, user, …
	Name  string `json:"name"`
	Bytes int64  `json:"bytes,omitempty"`
}

// maxRemoved is how many things a Removal lists. All are counted.
const maxRemoved = 200

func (r *Removal) add(kind, name string, bytes int64) {
	if r.Count++; r.Count <= maxRemoved {
		r.Removes = append(r.Removes, Removed{kind, name, bytes})
	}
	r.Bytes += bytes
}

// removes adds a request that removes something. With ?dry-run=1 it is answered with what plan returns, which changes
// nothing and fails where the request would.
func (on *routes) removes(pattern string, asks asks, plan func(*http.Request) (*Removal, error),
	do func(*http.Request) (any, error)) {
	on.json(pattern, asks, func(r *http.Request) (any, error) {
		dry, err := dryRun(r)
		if err != nil || !dry {
			if err == nil {
				return do(r)
			}
			return nil, err
		}
		out, err := plan(r)
		if err != nil {
			return nil, err
		}
		out.Removes = append([]Removed{}, out.Removes...)
		return out, nil
	})
	on.all[len(on.all)-1].planned = true
}

// dryRun reads the parameter dry-run: a misspelt value must not remove anything.
func dryRun(r *http.Request) (bool, error) {
	text := r.URL.Query().Get("dry-run")
	if text == "" {
		return false, nil
	}
	dry, err := strconv.ParseBool(text)
	if err != nil {
		return false, usage.Errorf("dry-run is 1 or 0, got %.20q", text)
	}
	return dry, nil
}
