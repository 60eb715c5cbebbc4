// Package ospackages has what collecting from package repositories results in, whatever their format is.
package ospackages

import (
	"maps"
	"time"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages/openpgp"
)

// Result says which files nodes need to install the packages.
type Result struct {
	// Files are the signed documents and indices of all repositories, then the packages, the requested ones first.
	Files []lists.File
	// Why says why a package is there, by the URL of its file.
	Why map[string]string
	// Unavailable are the requested packages that nodes could not install.
	Unavailable []lists.Unavailable
	Suites      []Suite
	Notes       []string
}

// Suite describes one repository, or one suite of it, that was read.
type Suite struct {
	Name       string    // URL, and suite if repositories of its format have these
	Date       time.Time // of its signed document
	ValidUntil time.Time // zero: it does not expire
	Signers    []string  // names of the keys; none: its signature was not checked
	// Checked says that the signature of each package is checked.
	Checked  bool
	Packages int
}

// NamedKeyring is a keyring with the name of its file.
type NamedKeyring struct {
	Name string
	*openpgp.Keyring
}

// Join returns what several results say together. A package that one of them has is not unavailable: it is for other
// nodes.
func Join(results ...*Result) *Result {
	if len(results) == 1 {
		return results[0]
	}
	all, missed := &Result{Why: map[string]string{}}, map[string]int{}
	for _, r := range results {
		all.Files = append(all.Files, r.Files...)
		all.Suites = append(all.Suites, r.Suites...)
		all.Notes = append(all.Notes, r.Notes...)
		maps.Copy(all.Why, r.Why)
		for _, u := range r.Unavailable {
			if missed[u.Where+u.Name]++; missed[u.Where+u.Name] == len(results) {
				all.Unavailable = append(all.Unavailable, u)
			}
		}
	}
	return all
}
