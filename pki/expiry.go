package pki

import (
	"slices"
	"strings"
	"time"
)

// Expiry is the end of a certificate.
type Expiry struct {
	Kind      string    // "root", "intermediate", "leaf" (this node's own), "issued"
	Name      string    // subject, host name, or the serial number of an issued one
	NotBefore time.Time // zero for an issued one
	NotAfter  time.Time
}

// Expiries returns when the certificates in use end, the earliest first. It is for status and metrics; revoked and
// expired issued ones are left out.
func (c *CA) Expiries() []Expiry {
	s := c.latest()
	var out []Expiry
	for _, a := range s.anchors() {
		out = append(out, Expiry{"root", a.Subject.CommonName, a.NotBefore, a.NotAfter})
	}
	for _, i := range s.issuer.chain {
		// Certificates that end together with the root that clients trust are replaced together with it.
		if !i.NotAfter.Equal(s.root.anchor.NotAfter) {
			out = append(out, Expiry{"intermediate", i.Subject.CommonName, i.NotBefore, i.NotAfter})
		}
	}
	c.leaves.mu.RLock()
	for name, f := range c.leaves.ready {
		out = append(out, Expiry{"leaf", name, f.cert.Leaf.NotBefore, f.cert.Leaf.NotAfter})
	}
	c.leaves.mu.RUnlock()
	if live, err := c.liveIssued(); err == nil {
		for _, r := range live {
			if end := time.Unix(r.To, 0).UTC(); r.Revoked == 0 && end.After(c.now()) {
				out = append(out, Expiry{"issued", r.Serial, time.Time{}, end})
			}
		}
	}
	slices.SortFunc(out, func(a, b Expiry) int {
		if d := a.NotAfter.Compare(b.NotAfter); d != 0 {
			return d
		}
		return strings.Compare(a.Kind+a.Name, b.Kind+b.Name)
	})
	return out
}
