package content

import "casemate/fileserver"

// Answer is the stored content that a client gets for one reference or URL.
type Answer struct {
	// Repository and Digest are those of an image's manifest, and Tag its tag there, "" if it was requested by digest.
	Repository, Tag, Digest string
	// URL is that of a file as it was requested, and At what answers.
	URL string
	At  fileserver.Info
}

// count counts one item, and passes on what answers it.
func (c *Checker) count(r *Report, f *Finding, optional bool) {
	bad := r.Missing + r.Differs + r.Optional
	r.count(f, optional)
	for _, a := range c.answers {
		if c.Found != nil && r.Missing+r.Differs+r.Optional == bad {
			c.Found(a)
		}
	}
	c.answers = nil
}
