package clients

import (
	"slices"
	"time"
)

// Whether a client is enrolled.
const (
	Yes     = "yes"
	No      = "no"
	Unknown = "unknown"
)

// evidence is what shows whether a client trusts the bastions' root; the newest time of each, the zero Time if it was
// never seen.
type evidence struct {
	// Trusted is a request over TLS that the registry or the file server has answered. A request to a bastion's own
	// pages does not count: a browser's user can accept any certificate.
	Trusted time.Time `json:"trusted,omitzero"`
	// Untrusting is a handshake that the client has ended with an alert about the certificate.
	Untrusting time.Time `json:"untrusting,omitzero"`
	// Fetched is a download of the root certificates or of the script that enrols nodes.
	Fetched time.Time `json:"fetched,omitzero"`
}

// judge returns whether a client is enrolled, and why, as one sentence.
func (e evidence) judge(protocols []string) (enrolled, why string) {
	switch {
	case e.Untrusting.After(e.Trusted) && e.Trusted.IsZero():
		return No, "it ends TLS handshakes because it does not trust the bastions' root"
	case e.Untrusting.After(e.Trusted):
		return No, "its newest TLS handshake has failed because it does not trust the bastions' root; earlier ones " +
			"succeeded, so the root was removed, or another program there has its own list of roots"
	case !e.Trusted.IsZero() && !e.Untrusting.IsZero():
		return Yes, "it gets content over TLS; an earlier handshake has failed because it did not trust the root"
	case !e.Trusted.IsZero():
		return Yes, "it gets content over TLS, so it trusts the bastions' root or checks no certificates"
	case !e.Fetched.IsZero():
		return Unknown, "it has fetched the root or the enrol script, and has not asked for content over TLS"
	case slices.Contains(protocols, HTTPS):
		return Unknown, "over TLS it has asked for no content"
	case slices.Contains(protocols, HTTP):
		return Unknown, "it asks over plain http only"
	}
	return Unknown, "it asks for names only"
}
