package pki

// Shape says what a thief of the keys that the cluster holds is bound by.
type Shape struct {
	// Name is one of the constants below.
	Name string `json:"name"`
	// Missing says what does not bind them, a clause each; empty if nothing is missing.
	Missing []string `json:"missing"`
}

// The shapes of a CA. What signs is a constrained root in the first two, and nobody has the key of what is above it.
const (
	ShapeAnchored   = "anchored"            // below an anchor of our own
	ShapeEnterprise = "enterprise"          // below an enterprise's CA certificate
	ShapeSelfSigned = "self-signed"         // what clients trust signs itself: clusters of before
	ShapeKept       = "enterprise-key-kept" // the enterprise's CA certificate signs, and its key is here
)

// Shape returns the shape of the root that signs now.
func (c *CA) Shape() Shape {
	s, err := c.current()
	if err != nil {
		s = c.snap.Load()
	}
	switch ref := s.root.ref; {
	case ref.Below && ref.Enterprise:
		return Shape{ShapeEnterprise, []string{}}
	case ref.Below:
		return Shape{ShapeAnchored, []string{}}
	case ref.Enterprise:
		return Shape{ShapeKept, append([]string{}, s.root.missing()...)}
	}
	return Shape{ShapeSelfSigned, []string{
		"name constraints in Java clients, which ignore those of a root that they trust",
		"any constraint on mail addresses, URIs and TLS clients",
	}}
}
