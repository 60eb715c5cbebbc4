package pki

// Shape describes how a thief of the cluster's keys is restricted.
type Shape struct {
	// Name is one of the constants below.
	Name string `json:"name"`
	// Missing lists the restrictions that are missing, a clause each.
	Missing []string `json:"missing"`
}

// The shapes of a CA. In the first two, the signer is a constrained root, and the keys above it were destroyed or are
// not here.
const (
	ShapeAnchored   = "anchored"            // below an anchor of our own
	ShapeEnterprise = "enterprise"          // below an enterprise's CA certificate
	ShapeSelfSigned = "self-signed"         // the root that clients trust signs: clusters made by earlier versions
	ShapeKept       = "enterprise-key-kept" // the enterprise's CA certificate signs, and its key is here
)

// Shape returns the shape of the root that signs now.
func (c *CA) Shape() Shape {
	s := c.latest()
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
