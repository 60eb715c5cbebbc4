package admin

import (
	"net/http"
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
	on.json("GET /v1/certs", to(access.Inspect), a.getCerts)
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

func (a *API) getCerts(*http.Request) (any, error) {
	certs, err := a.CA.List()
	if err != nil {
		return nil, err
	}
	list := []Cert{}
	for _, c := range certs {
		list = append(list, Cert{c.Serial, c.Names, c.NotBefore, c.NotAfter, c.Revoked})
	}
	return list, nil
}

func (a *API) postCert(r *http.Request) (any, error) {
	var in struct {
		Names []string
		CSR   string
	}
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
