package page

import (
	"encoding/hex"
	"fmt"
	"strings"

	"rsc.io/qr"
)

// Front is what everybody may see, without an account: no more than the open pages say.
type Front struct {
	Ready     error // why this node does not serve; nil: it does
	Anonymous bool  // images and files can be read without an account
	OIDC      bool  // there is an OpenID provider to log in at
	Resolvers []string
	Origins   []string
	Enrol     string        // the line that enrols a node
	Roots     []Fingerprint // of the root certificates
}

// Fingerprint identifies a root certificate.
type Fingerprint struct {
	Name   string
	SHA256 [32]byte
}

// String returns the fingerprint as pairs of hexadecimal digits with colons, as openssl prints it.
func (f Fingerprint) String() string {
	digits := strings.ToUpper(hex.EncodeToString(f.SHA256[:]))
	var b strings.Builder
	for i := 0; i < len(digits); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(digits[i : i+2])
	}
	return b.String()
}

// qrCode is a QR code as the template draws it: one path of squares.
type qrCode struct {
	Size int
	Path string
	Alt  string
}

// newQR returns the QR code of a text; the zero qrCode if it is too long.
func newQR(s, alt string) qrCode {
	c, err := qr.Encode(s, qr.M)
	if err != nil {
		return qrCode{}
	}
	var b strings.Builder
	const margin = 4 // modules, ISO/IEC 18004 section 6.3.8
	for y := range c.Size {
		for x := 0; x < c.Size; x++ {
			run := 0
			for c.Black(x+run, y) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x+margin, y+margin, run, run)
				x += run
			}
		}
	}
	return qrCode{c.Size + 2*margin, b.String(), alt}
}

// frontPage is what everybody may see.
func frontPage(c *call) (view, error) {
	f := c.p.cfg.Front(c.r.Context())
	type root struct {
		Fingerprint
		QR qrCode
	}
	data := struct {
		Front
		Domain string
		Roots  []root
	}{Front: f, Domain: c.p.cfg.Domain}
	for _, r := range f.Roots {
		data.Roots = append(data.Roots, root{r, newQR("SHA256 "+r.String(), "QR code of the fingerprint of "+r.Name)})
	}
	return view{Title: "Casemate", Command: "casemate enroll", Template: "front", Data: data}, nil
}
