package admin

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"casemate/appliance/access"
	"casemate/appliance/reply"
	"casemate/pki"
)

// certRoutes serves the CA and its certificates.
func (a *API) certRoutes(on *routes) {
	on.stream("GET /v1/ca", to(access.List),
		func(w http.ResponseWriter, r *http.Request) { reply.Send(w, r, "application/x-pem-file", a.CA.Roots()) })
	on.removes("POST /v1/ca/rotate", to(access.Administer), a.rootToRemove, func(r *http.Request) (any, error) {
		var in rotateRequest
		if err := read(r, &in); err != nil {
			return nil, err
		}
		return a.rotate(r.Context(), in)
	})
	on.pages("GET /v1/certs", to(access.Inspect), a.getCerts)
	on.json("POST /v1/certs", to(access.Operate), a.postCert)
	on.removes("POST /v1/certs/{serial}/revoke", to(access.Operate).named("certificate", "serial"), a.certToRevoke,
		func(r *http.Request) (any, error) {
			return nil, a.CA.Revoke(r.Context(), r.PathValue("serial"))
		})
}

type Cert struct {
	Serial    string    `json:"serial"`
	Names     []string  `json:"names"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Revoked   time.Time `json:"revoked,omitzero"`
}

func (a *API) getCerts(_ *http.Request, p page) (pagedAnswer, error) {
	var since, serial string
	if err := positioned(p, &since, &serial); err != nil {
		return pagedAnswer{}, err
	}
	from, err := timeAt(since)
	if err != nil {
		return pagedAnswer{}, err
	}
	certs, err := a.CA.List()
	if err != nil {
		return pagedAnswer{}, err
	}
	all := []Cert{}
	for _, c := range certs {
		all = append(all, Cert{c.Serial, c.Names, c.NotBefore, c.NotAfter, c.Revoked})
	}
	slices.SortStableFunc(all, byAge)
	behind := func(c Cert) bool {
		return p.after == "" || byAge(c, Cert{NotBefore: from, Serial: serial}) > 0
	}
	return pagedAnswer{list: slice(all, behind, func(c Cert) string {
		return position(c.NotBefore.Format(time.RFC3339Nano), c.Serial)
	})}, nil
}

// byAge sorts certificates, the newest first.
func byAge(x, y Cert) int {
	return cmp.Or(y.NotBefore.Compare(x.NotBefore), strings.Compare(x.Serial, y.Serial))
}

func (a *API) postCert(r *http.Request) (any, error) {
	var in newCertBody
	if err := read(r, &in); err != nil {
		return nil, err
	}
	req := pki.Request{Names: in.Names}
	if in.CSR != "" {
		req.CSR = []byte(in.CSR)
	}
	c, err := a.CA.Issue(r.Context(), req)
	if err != nil {
		return nil, err
	}
	return NewCert{c.Serial, string(c.Cert), string(c.Chain), string(c.Key)}, nil
}

// NewCert is a certificate that was issued, PEM. Key is absent for a CSR.
type NewCert struct {
	Serial      string `json:"serial"`
	Certificate string `json:"certificate"`
	Chain       string `json:"chain"`
	Key         string `json:"key,omitempty"`
}

// certToRevoke lists the certificate that a request would revoke.
func (a *API) certToRevoke(r *http.Request) (*Removal, error) {
	cert, err := a.CA.Find(r.PathValue("serial"))
	if err != nil {
		return nil, err
	}
	out := &Removal{}
	out.add("certificate", cert.Serial+" ("+strings.Join(cert.Names, " ")+")", 0)
	if !cert.Revoked.IsZero() {
		out.Notes = []string{"it is revoked already"}
	}
	return out, nil
}
