package bundle

// Wanted is what lists ask for, normalised, in the order of the lists and each name once.
type Wanted struct {
	Images []WantedImage `json:"images,omitempty"`
	Files  []WantedFile  `json:"files,omitempty"`
	Charts []WantedChart `json:"charts,omitempty"`
}

// WantedImage is one image reference.
type WantedImage struct {
	// Repository is host and path in canonical form: "docker.io/library/nginx" for "nginx", "index.docker.io/…" folded to docker.io.
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`    // "latest" if neither tag nor digest was written
	Digest     string `json:"digest,omitempty"` // pinned
	// Where is "FILE:LINE" of the list that asked for it first.
	Where string `json:"where,omitempty"`
	// Optional says that only some installations need it: if it cannot be had it is left out with a note, and a check only mentions it.
	Optional bool `json:"optional,omitempty"`
}

// Ref is the reference in its full form: repository, then :tag and @digest as far as there are.
func (w WantedImage) Ref() string {
	s := w.Repository
	if w.Tag != "" {
		s += ":" + w.Tag
	}
	if w.Digest != "" {
		s += "@" + w.Digest
	}
	return s
}

// WantedFile is one URL.
type WantedFile struct {
	URL string `json:"url"`
	// Digest is what its bytes must have ("sha256:<hex>" or "sha512:<hex>"), "" if nobody knows.
	Digest string `json:"digest,omitempty"`
	// Known says who knows the digest, for messages ("checksums.yml: kubelet_checksums amd64 1.35.4").
	Known    string `json:"known,omitempty"`
	Where    string `json:"where,omitempty"`
	Optional bool   `json:"optional,omitempty"`
}

// WantedChart is one Helm chart of a classic repository (one with an index.yaml); charts in OCI registries are WantedImages.
type WantedChart struct {
	Repo    string `json:"repo"` // the repository's URL, without index.yaml
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // "": the newest that is no pre-release
	Where   string `json:"where,omitempty"`

	Optional bool `json:"optional,omitempty"`
}
