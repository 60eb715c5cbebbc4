package lists

import "io"

// Wanted holds the names in lists, normalised, in the order of the lists and each name once.
type Wanted struct {
	Images []Image `json:"images,omitempty"`
	Files  []File  `json:"files,omitempty"`
	Charts []Chart `json:"charts,omitempty"`

	Git []Repository `json:"git,omitempty"`
	// Redirects are URLs that lead elsewhere; nothing is fetched for them.
	Redirects []Redirect `json:"redirects,omitempty"`

	// Packages are packages of operating systems. Their repositories say which files they are: those are Files then.
	Packages []Package `json:"packages,omitempty"`
	// Unavailable are names of which it is known already that they cannot be fetched.
	Unavailable []Unavailable `json:"-"`
	// Unverified are repositories of packages that are taken although their signature is not good.
	Unverified []Unverified `json:"-"`
}

// Unverified is one repository of packages with a signature that is not good, or of an unknown key.
type Unverified struct {
	URL string // of the signed document
	Why string
}

// Unavailable is one requested name that cannot be fetched.
type Unavailable struct {
	Name, Where string
	Err         error
}

// Redirect is one URL that leads to another address.
type Redirect struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Where string `json:"where,omitempty"` // the flag that requested it
}

// Image is one image reference.
type Image struct {
	// Repository is host and path in canonical form: "docker.io/library/nginx" for "nginx", "index.docker.io/…" folded
	// to docker.io.
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`    // "latest" if neither tag nor digest was written
	Digest     string `json:"digest,omitempty"` // pinned
	// Where is "FILE:LINE" of the list that requested it first.
	Where string `json:"where,omitempty"`
	// Optional says that only some installations need it: if it cannot be fetched it is left out with a note, and a
	// check only mentions it.
	Optional bool `json:"optional,omitempty"`
}

// Ref returns the full reference: repository, then :tag and @digest if they are set.
func (w Image) Ref() string {
	s := w.Repository
	if w.Tag != "" {
		s += ":" + w.Tag
	}
	if w.Digest != "" {
		s += "@" + w.Digest
	}
	return s
}

// File is one URL.
type File struct {
	URL string `json:"url"`
	// From is where the bytes are fetched from, "" for URL itself. It requires a Digest.
	From string `json:"from,omitempty"`
	// Digest is the digest that the bytes must have ("sha256:<hex>" or "sha512:<hex>"), "" if it is not known.
	Digest string `json:"digest,omitempty"`
	// Known is the source of the digest, for messages ("checksums.yml: kubelet_checksums amd64 1.35.4").
	Known string `json:"known,omitempty"`
	// Size is the number of bytes, if Digest is set and a repository's index has the size too; otherwise 0.
	Size     int64  `json:"size,omitempty"`
	Where    string `json:"where,omitempty"`
	Optional bool   `json:"optional,omitempty"`
	// Check examines the content beyond its digest, such as a signature in it; nil: nothing more is asked of it.
	Check func(io.Reader) error `json:"-"`
}

// Chart is one Helm chart of a classic repository (one with an index.yaml); charts in OCI registries are Images.
type Chart struct {
	Repo    string `json:"repo"` // the repository's URL, without index.yaml
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // "": the newest that is not a pre-release
	Where   string `json:"where,omitempty"`

	Optional bool `json:"optional,omitempty"`
}

// Label returns the chart's name for messages.
func (w Chart) Label() string {
	s := "chart " + w.Name
	if w.Version != "" {
		s += " " + w.Version
	}
	return s + " of " + w.Repo
}
