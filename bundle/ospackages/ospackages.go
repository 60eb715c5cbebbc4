// Package ospackages has what collecting from package repositories results in, whatever their format is.
package ospackages

import (
	"fmt"
	"maps"
	"time"

	"casemate/bundle/lists"
	"casemate/bundle/ospackages/openpgp"
)

// Result says which files nodes need to install the packages.
type Result struct {
	// Files are the signed documents and indices of all repositories, then the packages, the requested ones first.
	Files []lists.File
	// Redirects are URLs that lead to documents that bastions generate.
	Redirects []lists.Redirect
	// Packages are the packages among the files, by the URL of the file.
	Packages map[string]Package
	// Unavailable are the requested packages that nodes could not install.
	Unavailable []lists.Unavailable
	// Unverified are repositories that AllowUnsigned names although they are signed.
	Unverified []lists.Unverified
	Suites     []Suite
	Notes      []string
}

// Package is one chosen package.
type Package struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Arch       string `json:"architecture"`
	Repository string `json:"repository"` // the Name of its Suite
	Why        string `json:"why"`        // "requested", or which package needs it
}

// Label returns NAME VERSION ARCHITECTURE.
func (p Package) Label() string { return p.Name + " " + p.Version + " " + p.Arch }

// SourceError says why one repository cannot be used.
type SourceError struct {
	Where string // FILE:LINE of the source
	Name  string // as in Suite
	Err   error
}

func (e *SourceError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Where, e.Name, e.Err) }
func (e *SourceError) Unwrap() error { return e.Err }

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
	all, missed := &Result{Packages: map[string]Package{}}, map[string]int{}
	for _, r := range results {
		all.Files = append(all.Files, r.Files...)
		all.Redirects = append(all.Redirects, r.Redirects...)
		all.Unverified = append(all.Unverified, r.Unverified...)
		all.Suites = append(all.Suites, r.Suites...)
		all.Notes = append(all.Notes, r.Notes...)
		maps.Copy(all.Packages, r.Packages)
		for _, u := range r.Unavailable {
			if missed[u.Where+u.Name]++; missed[u.Where+u.Name] == len(results) {
				all.Unavailable = append(all.Unavailable, u)
			}
		}
	}
	return all
}
