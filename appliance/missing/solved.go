package missing

import (
	"time"
)

// ByHand is the value of Listed.SolvedBy for content that no import brought.
const ByHand = "hand"

// Listed is an entry, and whether the missing content is available now.
type Listed struct {
	Entry
	Solved bool `json:"solved"`
	// SolvedBy is the import that brought it, or ByHand; "" while it is missing.
	SolvedBy string `json:"solved_by,omitempty"`
	// Package is what the entry's URL names, if that is a package of a repository that is stored; otherwise nil.
	Package *Package `json:"package,omitempty"`
	// Cure is what would supply it; "" for entries that are solved or noise.
	Cure string `json:"cure,omitempty"`
	// Waiting is how many clients have asked within the last ten minutes, see Entry.Waiting; 0 for entries that are
	// solved.
	Waiting int `json:"waiting"`
}

// A Package is a package of an operating system, by the name of its file, which has no epoch.
type Package struct {
	Format     string `json:"format"` // "deb" or "rpm"
	Name       string `json:"name"`
	Version    string `json:"version"`
	Arch       string `json:"arch"`       // in the format's own names
	Repository string `json:"repository"` // URL
}

// Known is what Pages asks about entries; its functions answer from memory.
type Known struct {
	// Answered reports whether an entry would be answered now, and what brought its content.
	Answered func(Entry) (by string, ok bool)
	// Reach is that of Cure.
	Reach func(host string) string
	// Package returns the package that a file's URL names; nil: none.
	Package func(url string) *Package
	// Now is the time for Listed.Waiting.
	Now time.Time
}

// list returns an entry with what is known of it. by and ok are what Answered has returned.
func (k Known) list(e Entry, by string, ok bool) Listed {
	l := Listed{Entry: e, Solved: ok, SolvedBy: by}
	l.Asked = nil // what is of interest is Waiting
	if e.Kind == File {
		l.Package = k.Package(e.Name)
	}
	if !ok {
		l.Waiting = e.Waiting(k.Now)
	}
	if !ok && e.Noise == "" {
		l.SolvedBy, l.Cure = "", Cure(e, l.Package != nil, k.Reach)
	}
	return l
}

// Unsolved returns the first n of entries whose content is missing.
func Unsolved(entries []Entry, n int, answered func(Entry) (by string, ok bool)) []Entry {
	var list []Entry
	for _, e := range entries {
		if len(list) == n {
			break
		}
		if _, ok := answered(e); !ok {
			list = append(list, e)
		}
	}
	return list
}
